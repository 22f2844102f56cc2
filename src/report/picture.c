/* Pictures in the page itself. */
#include "report/report.h"

#include <openssl/evp.h>

#define PICTURE_LIMIT ((size_t)64 << 20)

/* The type of a picture that browsers show, by its first bytes; NULL: it is none. */
static const char *picture_type(const char *data, size_t size)
{
    if (size >= 24 && memcmp(data, "\x89PNG\r\n\x1a\n", 8) == 0)
        return "image/png";
    if (size >= 3 && memcmp(data, "\xFF\xD8\xFF", 3) == 0)
        return "image/jpeg";
    if (size >= 12 && memcmp(data, "RIFF", 4) == 0 && memcmp(data + 8, "WEBP", 4) == 0)
        return "image/webp";
    return NULL;
}

/* Whether it is a PNG of few pixels, which are shown as such. */
static bool picture_is_small(const char *data, size_t size)
{
    const unsigned char *bytes = (const unsigned char *)data;
    if (size < 24 || bytes[0] != 0x89)
        return false;
    return !bytes[16] && !bytes[17] && !bytes[18] && bytes[19] <= 96;
}

static sara_status put_base64(sara_buffer *out, const char *data, size_t size)
{
    unsigned char text[4 * 1024 + 1];
    sara_status status = SARA_OK;
    for (size_t at = 0, part; at < size && status == SARA_OK; at += part) {
        part = size - at < 3 * 1024 ? size - at : 3 * 1024;
        int length = EVP_EncodeBlock(text, (const unsigned char *)data + at, (int)part);
        status = sara_buffer_add(out, (const char *)text, (size_t)length);
    }
    return status;
}

/* The element alone, of a picture in memory; alt is two texts, one of which may be "". */
static sara_status put_picture_data(sara_page *page, const char *data, size_t size, const char *alt,
                                    const char *more)
{
    sara_buffer *p = &page->text;
    sara_status status;
    TRY(sara_put_format(p, "<img%s alt=\"",
                        picture_is_small(data, size) ? " class=\"small\"" : ""));
    TRY(sara_put_escaped(p, alt));
    TRY(sara_buffer_put(p, *more ? ", " : ""));
    TRY(sara_put_escaped(p, more));
    TRY(sara_put_format(p, "\" src=\"data:%s;base64,", picture_type(data, size)));
    TRY(put_base64(p, data, size));
    TRY(sara_buffer_put(p, "\">"));
done:
    return status;
}

/* Nothing is put after an error. */
static sara_status put_picture(sara_page *page, const char *path, const char *alt, const char *more)
{
    char *data = NULL;
    size_t size = 0;
    sara_status status;
    TRY(sara_file_read(page->ctx, &data, &size, path, PICTURE_LIMIT));
    if (!picture_type(data, size))
        TRY(sara_fail(page->ctx, SARA_ERROR_INPUT, "%s: is no PNG, JPEG or WebP picture", path));
    TRY(put_picture_data(page, data, size, alt, more));
done:
    sara_free(page->ctx, data);
    return status;
}

sara_status sara_page_picture(sara_page *page, const char *path, const char *alt,
                              const char *caption)
{
    sara_status status;
    TRY(sara_buffer_put(&page->text, "<figure>"));
    TRY(put_picture(page, path, alt, ""));
    TRY(sara_buffer_put(&page->text, "<figcaption dir=\"auto\">"));
    TRY(sara_put_escaped(&page->text, caption ? caption : ""));
    TRY(sara_buffer_put(&page->text, "</figcaption></figure>\n"));
done:
    return status;
}

static sara_status put_grid_cell(sara_page *page, const char *path, const char *row,
                                 const char *column)
{
    sara_status status;
    TRY(sara_buffer_put(&page->text, "<td>"));
    if (path)
        status = put_picture(page, path, row, column);
    if (status == SARA_ERROR_INPUT || status == SARA_ERROR_IO)
        sara_log(page->ctx, SARA_LOG_WARNING, "the page lacks a picture: %s",
                 sara_context_error(page->ctx));
    else if (status != SARA_OK)
        goto done;
    TRY(sara_buffer_put(&page->text, path && status == SARA_OK ? "</td>" : "–</td>"));
done:
    return status;
}

static sara_status put_grid_head(sara_page *page, const sara_picture_grid *grid)
{
    sara_buffer *p = &page->text;
    sara_status status;
    TRY(sara_buffer_put(p, "<div class=\"wide\" tabindex=\"0\"><table class=\"grid\"><caption "
                           "dir=\"auto\">"));
    TRY(sara_put_escaped(p, grid->caption));
    TRY(sara_buffer_put(p, "</caption><thead><tr><th scope=\"col\">"));
    TRY(sara_put_escaped(p, grid->corner));
    TRY(sara_buffer_put(p, "</th>"));
    for (size_t i = 0; i < grid->column_count; i++) {
        TRY(sara_buffer_put(p, "<th scope=\"col\" dir=\"auto\">"));
        TRY(sara_put_escaped(p, grid->columns[i]));
        TRY(sara_buffer_put(p, "</th>"));
    }
    TRY(sara_buffer_put(p, "</tr></thead><tbody>\n"));
done:
    return status;
}

sara_status sara_page_pictures(sara_page *page, const sara_picture_grid *grid)
{
    sara_buffer *p = &page->text;
    sara_status status;
    TRY(put_grid_head(page, grid));
    for (size_t row = 0; row < grid->row_count; row++) {
        TRY(sara_buffer_put(p, "<tr><th scope=\"row\" dir=\"auto\">"));
        TRY(sara_put_escaped(p, grid->rows[row]));
        TRY(sara_buffer_put(p, "</th>"));
        for (size_t i = 0; i < grid->column_count; i++)
            TRY(put_grid_cell(page, grid->paths[row * grid->column_count + i], grid->rows[row],
                              grid->columns[i]));
        TRY(sara_buffer_put(p, "</tr>\n"));
    }
    TRY(sara_buffer_put(p, "</tbody></table></div>\n"));
done:
    return status;
}

/* ---------------------------------------------------------------------------------------- sheet */

sara_status sara_page_sheet_begin(sara_page *page)
{
    return sara_buffer_put(&page->text, "<div class=\"sheet\">\n");
}

/* What of the picture is used, as a frame over it. */
static sara_status put_frame(sara_page *page, const sara_sheet_item *item)
{
    if (!(item->width > 0 && item->height > 0))
        return SARA_OK;
    return sara_put_format(
        &page->text, "<span style=\"left:%.2f%%;top:%.2f%%;width:%.2f%%;height:%.2f%%\"></span>",
        100 * item->left, 100 * item->top, 100 * item->width, 100 * item->height);
}

static sara_status put_sheet_lines(sara_page *page, const char *class, const char *const *lines,
                                   size_t count)
{
    sara_status status = SARA_OK;
    for (size_t i = 0; i < count; i++) {
        TRY(sara_put_format(&page->text, "<p class=\"%s\" dir=\"auto\">", class));
        TRY(sara_put_escaped(&page->text, lines[i]));
        TRY(sara_buffer_put(&page->text, "</p>"));
    }
done:
    return status;
}

sara_status sara_page_sheet_item(sara_page *page, const sara_sheet_item *item)
{
    sara_status status;
    TRY(sara_buffer_put(&page->text, "<figure><div class=\"shot\">"));
    if (item->data) {
        TRY(sara_buffer_put(&page->text, "<div>"));
        TRY(put_picture_data(page, item->data, item->size, item->name, ""));
        TRY(put_frame(page, item));
        TRY(sara_buffer_put(&page->text, "</div>"));
    } else {
        TRY(sara_buffer_put(&page->text, "–"));
    }
    TRY(sara_buffer_put(&page->text, "</div><figcaption>"));
    TRY(put_sheet_lines(page, "name", &item->name, 1));
    TRY(put_sheet_lines(page, "bad", item->faults, item->fault_count));
    TRY(put_sheet_lines(page, "warn", item->warnings, item->warning_count));
    TRY(put_sheet_lines(page, "fact", item->facts, item->fact_count));
    TRY(put_sheet_lines(page, "said", &item->caption, item->caption != NULL));
    TRY(sara_buffer_put(&page->text, "</figcaption></figure>\n"));
done:
    return status;
}

sara_status sara_page_sheet_end(sara_page *page)
{
    return sara_buffer_put(&page->text, "</div>\n");
}

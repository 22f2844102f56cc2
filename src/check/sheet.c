/* The contact sheet: what would be trained, what is refused of it, what is worth a look. */
#include "check/check.h"
#include "report/report.h"

#define SHEET_SIDE 240 /* of a picture that was not kept */
#define MOST_LINES 16  /* of an image */
#define MOST_BARS  40

typedef enum sheet_part { SHEET_REFUSED, SHEET_WARNED, SHEET_OTHERS, SHEET_PARTS } sheet_part;

/* ---------------------------------------------------------------------------------------- whole */

static sara_status put_group_line(sara_page *page, const sara_data_group *group, const char *what)
{
    const sara_order *order = &group->order;
    int64_t batches = 0;
    if (!group->count)
        return SARA_OK;
    for (size_t i = 0; i < order->shape_count; i++)
        batches +=
            (order->shapes[i].elements + order->shapes[i].batch - 1) / order->shapes[i].batch;
    const sara_name line =
        sara_name_of("%zu %s, %lld in an epoch with their repeats, in %lld micro-batches.",
                     group->count, what, (long long)order->elements, (long long)batches);
    return sara_page_paragraph(page, line.text);
}

static sara_status put_sheet_head(const sara_check *c, sara_page *page)
{
    const size_t refused = sara_check_count(c, true), warned = sara_check_count(c, false);
    const char *const limits[] = {"CLIP", "T5"};
    sara_status status;
    TRY(put_group_line(page, &c->data.instance, "images"));
    TRY(put_group_line(page, &c->data.class, "class images"));
    const sara_name sizes = sara_name_of("Resolution %dx%d%s.", c->width, c->height,
                                         c->model ? "" : ", as no model was named");
    TRY(sara_page_paragraph(page, sizes.text));
    for (int t5 = 0; t5 < 2 && c->data.count; t5++)
        if (c->looks[0].most[t5]) {
            const sara_name line = sara_name_of(
                "Captions are cut at %zu tokens for %s, with those that begin and end them.",
                c->looks[0].most[t5], limits[t5]);
            TRY(sara_page_paragraph(page, line.text));
        }
    const sara_name found =
        sara_name_of("%zu would be refused; %zu more worth a look.", refused, warned);
    TRY(sara_page_paragraph(page, refused + warned ? found.text : "Nothing stands out."));
done:
    return status;
}

/* ---------------------------------------------------------------------------------------- sizes */

static sara_status put_size_bars(sara_page *page, const sara_data_group *group)
{
    double x[MOST_BARS], y[MOST_BARS];
    sara_name names[MOST_BARS];
    const char *labels[MOST_BARS];
    const size_t all = group->order.shape_count, count = all < MOST_BARS ? all : MOST_BARS;
    const sara_series series = {.mark = SARA_MARK_BAR, .x = x, .y = y, .count = count};
    const sara_plot plot = {.title = "Sizes that are trained on",
                            .alt = "How many images of an epoch have which size.",
                            .x = {.label = "images of an epoch", .whole = true, .zero = true},
                            .y = {.names = labels, .name_count = count},
                            .series = &series,
                            .series_count = 1};
    if (all < 2)
        return SARA_OK;
    for (size_t i = 0; i < count; i++) {
        names[i] = sara_name_of("%dx%d", group->shapes[i].width, group->shapes[i].height);
        labels[i] = names[i].text;
        x[i] = (double)group->order.shapes[i].elements;
        y[i] = (double)i;
    }
    return sara_page_plot(page, &plot);
}

static sara_status put_size_table(const sara_check *c, sara_page *page,
                                  const sara_data_group *group, const char *caption)
{
    static const sara_column columns[] = {
        {.name = "size"}, {.name = "images"}, {.name = "in an epoch"}, {.name = "micro-batches"}};
    const size_t count = group->order.shape_count, wide = sizeof(columns) / sizeof(*columns);
    sara_cell *cells = NULL;
    sara_name *names = NULL;
    sara_status status;
    TRY(sara_alloc(c->ctx, &cells, count * wide, sizeof(*cells)));
    TRY(sara_alloc(c->ctx, &names, count, sizeof(*names)));
    for (size_t i = 0; i < count; i++) {
        const sara_order_shape *shape = &group->order.shapes[i];
        names[i] = sara_name_of("%dx%d", group->shapes[i].width, group->shapes[i].height);
        cells[i * wide] = SARA_CELL_TEXT(names[i].text);
        cells[i * wide + 1] = SARA_CELL_NUMBER((double)shape->count);
        cells[i * wide + 2] = SARA_CELL_NUMBER((double)shape->elements);
        cells[i * wide + 3] =
            SARA_CELL_NUMBER((double)((shape->elements + shape->batch - 1) / shape->batch));
    }
    const sara_table table = {caption, columns, wide, cells, count};
    TRY(sara_page_table(page, &table));
done:
    sara_free(c->ctx, cells);
    sara_free(c->ctx, names);
    return status;
}

static sara_status put_sizes(const sara_check *c, sara_page *page)
{
    const sara_data_group *instance = &c->data.instance, *class = &c->data.class;
    sara_status status = SARA_OK;
    if (instance->count || class->count)
        TRY(sara_page_heading(page, "Sizes"));
    if (instance->count) {
        TRY(put_size_bars(page, instance));
        TRY(put_size_table(c, page, instance, "Images"));
    }
    if (class->count)
        TRY(put_size_table(c, page, class, "Class images"));
done:
    return status;
}

/* --------------------------------------------------------------------------------------- images */

static sheet_part sheet_part_of(const sara_check *c, const sara_data_image *image)
{
    size_t count;
    const sara_check_note *notes = sara_check_notes_of(c, image->path, &count);
    for (size_t i = 0; i < count; i++)
        if (notes[i].kind == SARA_CHECK_REFUSED)
            return SHEET_REFUSED;
    return count ? SHEET_WARNED : SHEET_OTHERS;
}

/* Shares of the picture that are left after the crop. */
static void frame_crop(sara_sheet_item *item, const sara_fit *fit)
{
    if (!fit->width || (fit->resized_width == fit->width && fit->resized_height == fit->height))
        return;
    item->width = (double)fit->width / fit->resized_width;
    item->height = (double)fit->height / fit->resized_height;
    item->left = (double)sara_fit_center(fit->resized_width, fit->width) / fit->resized_width;
    item->top = (double)sara_fit_center(fit->resized_height, fit->height) / fit->resized_height;
}

/* The line is without the path that stands above it already. */
static const char *without_path(const char *line, const char *path)
{
    const size_t length = strlen(path);
    return strncmp(line, path, length) == 0 && strncmp(line + length, ": ", 2) == 0
               ? line + length + 2
               : line;
}

typedef struct sheet_lines {
    const char *faults[MOST_LINES], *warnings[MOST_LINES], *facts[3];
    sara_name texts[3];
} sheet_lines;

static void fill_facts(const sara_check *c, sara_sheet_item *item, sheet_lines *lines,
                       const sara_data_image *image, const sara_check_look *look)
{
    const sara_subset *subset = &c->config.subsets[image->subset];
    const sara_fit *fit = &image->fit;
    const bool cropped = item->width > 0;
    size_t count = 0;
    if (image->width)
        lines->texts[count++] =
            sara_name_of("%dx%d, used at %dx%d%s%s", image->width, image->height, fit->width,
                         fit->height, cropped && subset->random_crop ? ", cropped at random" : "",
                         subset->flip_aug ? ", also mirrored" : "");
    if (image->repeats != 1 || subset->is_reg || image->mask)
        lines->texts[count++] = sara_name_of("%lld in an epoch%s%s", (long long)image->repeats,
                                             subset->is_reg ? ", a class image" : "",
                                             image->mask ? ", with a mask" : "");
    if (look->most[0] && !image->refused)
        lines->texts[count++] = sara_name_of("%zu tokens%s", look->tokens[0],
                                             image->varies ? ", the caption varies" : "");
    for (size_t i = 0; i < count; i++)
        lines->facts[i] = lines->texts[i].text;
    item->facts = lines->facts;
    item->fact_count = count;
}

static void fill_notes(const sara_check *c, sara_sheet_item *item, sheet_lines *lines,
                       const sara_data_image *image)
{
    size_t count;
    const sara_check_note *notes = sara_check_notes_of(c, image->path, &count);
    for (size_t i = 0; i < count; i++) {
        const char *text = without_path(notes[i].text, image->path);
        if (notes[i].kind == SARA_CHECK_REFUSED && item->fault_count < MOST_LINES)
            lines->faults[item->fault_count++] = text;
        else if (notes[i].kind != SARA_CHECK_REFUSED && item->warning_count < MOST_LINES)
            lines->warnings[item->warning_count++] = text;
    }
    item->faults = lines->faults;
    item->warnings = lines->warnings;
}

/* A picture that was not kept is made again; one that cannot be read is a dash. */
static sara_status make_picture(const sara_check *c, char **out, size_t *size,
                                const sara_data_image *image)
{
    sara_image pixels = {0};
    sara_status status = SARA_OK;
    *out = NULL;
    if (image->width && sara_image_read(c->ctx, &pixels, image->path) == SARA_OK)
        status = sara_image_thumbnail(c->ctx, out, size, &pixels, SHEET_SIDE);
    sara_image_clear(c->ctx, &pixels);
    return status;
}

static sara_status put_sheet_image(const sara_check *c, sara_page *page, size_t index)
{
    const sara_data_image *image = &c->data.images[index];
    const sara_check_look *look = &c->looks[index];
    sara_sheet_item item = {.data = look->thumbnail,
                            .size = look->thumbnail_size,
                            .name = image->path,
                            .caption = look->caption};
    sheet_lines lines;
    char *made = NULL;
    sara_status status;
    if (!item.data) {
        TRY(make_picture(c, &made, &item.size, image));
        item.data = made;
    }
    frame_crop(&item, &image->fit);
    fill_facts(c, &item, &lines, image, look);
    fill_notes(c, &item, &lines, image);
    TRY(sara_page_sheet_item(page, &item));
done:
    sara_free(c->ctx, made);
    return status;
}

static sara_status put_sheet_part(const sara_check *c, sara_page *page, sheet_part part,
                                  const char *heading, size_t *left)
{
    size_t count = 0, shown = 0;
    sara_status status = SARA_OK;
    for (size_t i = 0; i < c->data.count; i++)
        count += sheet_part_of(c, &c->data.images[i]) == part;
    if (!count)
        return SARA_OK;
    TRY(sara_page_heading(page, heading));
    if (count > *left) {
        const sara_name line = sara_name_of("The first %zu of %zu.", *left, count);
        TRY(sara_page_paragraph(page, line.text));
    }
    TRY(sara_page_sheet_begin(page));
    for (size_t i = 0; i < c->data.count && shown < *left; i++)
        if (sheet_part_of(c, &c->data.images[i]) == part) {
            TRY(put_sheet_image(c, page, i));
            shown++;
        }
    TRY(sara_page_sheet_end(page));
    *left -= shown;
done:
    return status;
}

static bool is_an_image(const sara_check *c, const char *path)
{
    for (size_t i = 0; i < c->data.count; i++)
        if (strcmp(c->data.images[i].path, path) == 0)
            return true;
    return false;
}

/* Notes of no image that is shown. */
static sara_status put_other_notes(const sara_check *c, sara_page *page)
{
    sara_status status = SARA_OK;
    for (size_t i = 0; i < c->note_count; i++)
        if (!is_an_image(c, c->notes[i].path))
            TRY(sara_page_paragraph(page, c->notes[i].text));
done:
    return status;
}

sara_status sara_check_page(const sara_check *c)
{
    const sara_train_options *o = c->options.train;
    const char *what = o->dataset_config ? o->dataset_config : o->train_data_dir;
    const sara_name title = sara_name_of("What would be trained on: %.180s", what);
    size_t left = SARA_CHECK_SHOWN;
    sara_page page = {.ctx = c->ctx};
    sara_status status;
    TRY(sara_page_begin(&page, c->ctx, title.text));
    TRY(put_sheet_head(c, &page));
    TRY(put_other_notes(c, &page));
    TRY(put_sizes(c, &page));
    TRY(put_sheet_part(c, &page, SHEET_REFUSED, "Would be refused", &left));
    TRY(put_sheet_part(c, &page, SHEET_WARNED, "Worth a look", &left));
    TRY(put_sheet_part(c, &page, SHEET_OTHERS, "The others", &left));
    TRY(sara_page_write(&page, c->options.page));
done:
    sara_page_free(&page);
    return status;
}

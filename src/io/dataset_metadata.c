/* metadata.jsonl and metadata.csv as Hugging Face's imagefolder has them: a row for each image,
 * with `file_name` and the captions' column; other columns are not looked at. */
#include "io/dataset_names.h"
#include "io/dataset_scan.h"

#include <stdlib.h>

#define MAX_METADATA_FILE ((size_t)1 << 30)
#define NAME_COLUMN       "file_name"

/* An image that a row names, from the dataset folder. */
typedef struct named_file {
    const char *below;
    size_t line;
} named_file;

typedef struct metadata_reader {
    sara_dataset_scan_state *scan;
    sara_dataset_folder *folder;
    const char *path;
    sara_dataset_names names;
    named_file *files;
    size_t count, capacity;
} metadata_reader;

static sara_status metadata_check_name(metadata_reader *reader, const char *where, const char *name)
{
    const char *base = name;
    for (const char *at = name; *at; at++)
        if (*at == '/' || *at == '\\')
            base = at + 1;
    if (!sara_dataset_is_downward(name))
        return sara_fail(reader->scan->ctx, SARA_ERROR_INPUT,
                         "%s: file_name \"%s\", expected a path inside the folder", where, name);
    if (sara_file_kind_of(base) != SARA_FILE_IMAGE)
        return sara_fail(reader->scan->ctx, SARA_ERROR_INPUT,
                         "%s: file_name \"%s\", expected .png, .jpg, .jpeg or .webp", where, name);
    return SARA_OK;
}

static sara_status add_row(metadata_reader *reader, size_t line, const char *name,
                           const char *caption)
{
    sara_dataset_scan_state *scan = reader->scan;
    named_file file = {.line = line};
    char *where = NULL, *trimmed = NULL, *found = NULL;
    sara_status status = SARA_OK;

    TRY(sara_format(scan->ctx, &where, "%s: line %zu", reader->path, line));
    TRY(sara_dataset_trim(scan->ctx, &trimmed, name));
    TRY(metadata_check_name(reader, where, trimmed));
    TRY(sara_dataset_names_find(&reader->names, &found, where, name, trimmed));
    TRY(sara_dataset_below(scan, &file.below, reader->folder, found));
    TRY(sara_grow(scan->ctx, &reader->files, &reader->capacity, reader->count + 1, sizeof(file)));
    reader->files[reader->count++] = file;
    TRY(sara_dataset_add(scan, reader->folder, found, caption));
done:
    sara_free(scan->ctx, where);
    sara_free(scan->ctx, trimmed);
    sara_free(scan->ctx, found);
    return status;
}

/* ---------------------------------------------------------------------------------------- jsonl */

/* A string column of a row; the error lists the columns that there are. */
static sara_status get_column(metadata_reader *reader, const char **out, const char *where,
                              json_t *row, const char *column)
{
    sara_context *ctx = reader->scan->ctx;
    const json_t *value = json_object_get(row, column);
    char *columns = NULL, *longer = NULL;
    const char *key;
    json_t *other;
    sara_status status = SARA_OK;

    *out = json_string_value(value);
    if (*out)
        return SARA_OK;
    if (value)
        return sara_fail(ctx, SARA_ERROR_INPUT, "%s: column %s: expected a string", where, column);
    json_object_foreach(row, key, other)
    {
        TRY(sara_format(ctx, &longer, "%s%s%s", columns ? columns : "", columns ? ", " : "", key));
        sara_free(ctx, columns);
        columns = longer;
    }
    status = sara_fail(ctx, SARA_ERROR_INPUT, "%s: no column %s, the row has: %s", where, column,
                       columns ? columns : "none");
done:
    sara_free(ctx, columns);
    return status;
}

static sara_status read_object(metadata_reader *reader, size_t line, const char *text, size_t size)
{
    sara_context *ctx = reader->scan->ctx;
    const char *name = NULL, *caption = NULL;
    char *where = NULL, *source = NULL;
    json_t *row = NULL;
    sara_status status = SARA_OK;

    TRY(sara_format(ctx, &where, "%s: line %zu", reader->path, line));
    if (memchr(text, '\0', size))
        TRY(sara_fail(ctx, SARA_ERROR_INPUT,
                      "%s: a NUL byte, which no text has: save the file as UTF-8", where));
    TRY(sara_format(ctx, &source, "%s, within the row", where));
    TRY(sara_json_parse(ctx, &row, text, size, source, true));
    if (!json_is_object(row))
        TRY(sara_fail(ctx, SARA_ERROR_INPUT, "%s: expected a JSON object", where));
    TRY(get_column(reader, &name, where, row, NAME_COLUMN));
    TRY(get_column(reader, &caption, where, row, reader->scan->column));
    TRY(add_row(reader, line, name, caption));
done:
    json_decref(row);
    sara_free(ctx, where);
    sara_free(ctx, source);
    return status;
}

static bool is_blank(const char *text, size_t size)
{
    for (size_t i = 0; i < size; i++)
        if (text[i] != ' ' && text[i] != '\t' && text[i] != '\r')
            return false;
    return true;
}

static sara_status read_jsonl(metadata_reader *reader, const char *text, const char *end)
{
    sara_status status = SARA_OK;
    for (size_t line = 1; text < end; line++) {
        const char *stop = memchr(text, '\n', (size_t)(end - text));
        stop = stop ? stop : end;
        if (!is_blank(text, (size_t)(stop - text)))
            TRY(sara_dataset_hear(reader->scan, reader->path,
                                  read_object(reader, line, text, (size_t)(stop - text))));
        text = stop < end ? stop + 1 : end;
    }
    if (!reader->count)
        status = sara_fail(reader->scan->ctx, SARA_ERROR_INPUT,
                           "%s: no rows, expected a line {\"file_name\": ..., \"%s\": ...} for "
                           "each image",
                           reader->path, reader->scan->column);
done:
    return status;
}

/* ------------------------------------------------------------------------------------------ csv */

/* The column of that name, white space around it apart; the error lists those that there are. */
static sara_status find_csv_column(metadata_reader *reader, size_t *out, const sara_csv *csv,
                                   const char *column)
{
    sara_context *ctx = reader->scan->ctx;
    char *trimmed = NULL, *columns = NULL, *longer = NULL;
    sara_status status = SARA_OK;
    for (*out = 0; *out < csv->count; ++*out) {
        const char *name = csv->text.data + csv->fields[*out];
        TRY(sara_dataset_trim(ctx, &trimmed, name));
        bool same = strcmp(trimmed, column) == 0;
        sara_free(ctx, trimmed);
        trimmed = NULL;
        if (same)
            goto done;
        TRY(sara_format(ctx, &longer, "%s%s%s", columns ? columns : "", columns ? ", " : "", name));
        sara_free(ctx, columns);
        columns = longer;
    }
    const char *hint = csv->count == 1 && strpbrk(columns, ";\t")
                           ? "; the fields have to be separated by commas"
                           : "";
    status = sara_fail(ctx, SARA_ERROR_INPUT, "%s: line %zu: no column %s, the first row has: %s%s",
                       reader->path, csv->line, column, columns, hint);
done:
    sara_free(ctx, trimmed);
    sara_free(ctx, columns);
    return status;
}

/* The next row with anything in it: spreadsheets leave rows of commas alone. */
static sara_status next_filled_row(metadata_reader *reader, bool *more, sara_csv *csv)
{
    sara_status status;
    for (;;) {
        TRY(sara_csv_next(reader->scan->ctx, more, csv, reader->path));
        if (!*more)
            return SARA_OK;
        for (size_t i = 0; i < csv->count; i++) {
            const char *field = csv->text.data + csv->fields[i];
            if (!is_blank(field, strlen(field)))
                return SARA_OK;
        }
    }
done:
    return status;
}

static sara_status read_csv_rows(metadata_reader *reader, sara_csv *csv)
{
    sara_context *ctx = reader->scan->ctx;
    size_t name, caption, columns;
    bool more;
    sara_status status;
    TRY(next_filled_row(reader, &more, csv));
    if (!more)
        TRY(sara_fail(ctx, SARA_ERROR_INPUT,
                      "%s: the file is empty, expected a row of names with %s and %s, then one for "
                      "each image",
                      reader->path, NAME_COLUMN, reader->scan->column));
    TRY(find_csv_column(reader, &name, csv, NAME_COLUMN));
    TRY(find_csv_column(reader, &caption, csv, reader->scan->column));
    columns = csv->count;
    for (;;) {
        TRY(next_filled_row(reader, &more, csv));
        if (!more)
            break;
        if (csv->count > columns || name >= csv->count || caption >= csv->count)
            TRY(sara_fail(
                ctx, SARA_ERROR_INPUT, "%s: line %zu: %zu fields, the first row has %zu%s",
                reader->path, csv->line, csv->count, columns,
                csv->count > columns ? ": a caption with commas has to stand in \" \"" : ""));
        TRY(sara_dataset_hear(reader->scan, reader->path,
                              add_row(reader, csv->line, csv->text.data + csv->fields[name],
                                      csv->text.data + csv->fields[caption])));
    }
    if (!reader->count)
        status = sara_fail(ctx, SARA_ERROR_INPUT,
                           "%s: no rows, expected one for each image below the line of names",
                           reader->path);
done:
    return status;
}

static sara_status read_csv(metadata_reader *reader, const char *text, const char *end)
{
    sara_csv csv = {.text = {.ctx = reader->scan->ctx}, .at = text, .end = end, .next_line = 1};
    sara_status status;
    TRY(sara_dataset_check_text(reader->scan->ctx, reader->path, text, (size_t)(end - text)));
    TRY(read_csv_rows(reader, &csv));
done:
    sara_csv_free(reader->scan->ctx, &csv);
    return status;
}

/* --------------------------------------------------------------------------------------- names */

static int compare_files(const void *a, const void *b)
{
    const named_file *one = a, *other = b;
    int order = strcmp(one->below, other->below);
    return order ? order : (one->line > other->line) - (one->line < other->line);
}

static int compare_named(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

bool sara_dataset_is_named(const sara_dataset_scan_state *scan, const char *below)
{
    return scan->named_count &&
           bsearch(&below, scan->named, scan->named_count, sizeof(*scan->named), compare_named);
}

/* Sorts the files. */
static sara_status refuse_duplicates(metadata_reader *reader)
{
    named_file *files = reader->files;
    qsort(files, reader->count, sizeof(*files), compare_files);
    for (size_t i = 0; i < reader->count; i++) {
        if (i > 0 && strcmp(files[i - 1].below, files[i].below) == 0)
            return sara_fail(reader->scan->ctx, SARA_ERROR_INPUT,
                             "%s: line %zu names the image of line %zu again: %s", reader->path,
                             files[i].line, files[i - 1].line, files[i].below);
        if (sara_dataset_is_named(reader->scan, files[i].below))
            return sara_fail(reader->scan->ctx, SARA_ERROR_INPUT,
                             "%s: line %zu names an image again that the metadata of a folder "
                             "above names: %s",
                             reader->path, files[i].line, files[i].below);
    }
    return SARA_OK;
}

/* Merges the sorted files into the sorted names of the scan, from the end. */
static sara_status keep_names(metadata_reader *reader)
{
    sara_dataset_scan_state *scan = reader->scan;
    size_t old = scan->named_count, added = reader->count, place = old + added;
    sara_status status;
    TRY(sara_grow(scan->ctx, &scan->named, &scan->named_capacity, place, sizeof(*scan->named)));
    scan->named_count = place;
    while (added > 0)
        if (old > 0 && strcmp(scan->named[old - 1], reader->files[added - 1].below) > 0)
            scan->named[--place] = scan->named[--old];
        else
            scan->named[--place] = reader->files[--added].below;
done:
    return status;
}

sara_status sara_dataset_read_metadata(sara_dataset_scan_state *scan, sara_dataset_folder *folder,
                                       size_t file)
{
    metadata_reader reader = {.scan = scan, .folder = folder};
    char *path = NULL, *text = NULL;
    const char *from;
    size_t size = 0;
    bool csv = folder->names[file][strlen(folder->names[file]) - 1] == 'v';
    sara_status status = SARA_OK;

    sara_dataset_names_init(&reader.names, scan, folder);
    TRY(sara_path_join(scan->ctx, &path, folder->path, folder->names[file]));
    reader.path = path;
    TRY(sara_file_read(scan->ctx, &text, &size, path, MAX_METADATA_FILE));
    from = size >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0 ? text + 3 : text;
    TRY(csv ? read_csv(&reader, from, text + size) : read_jsonl(&reader, from, text + size));
    TRY(refuse_duplicates(&reader));
    TRY(keep_names(&reader));
done:
    sara_dataset_names_free(&reader.names);
    sara_free(scan->ctx, path);
    sara_free(scan->ctx, text);
    sara_free(scan->ctx, reader.files);
    return status;
}

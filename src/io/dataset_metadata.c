/* metadata.jsonl as Hugging Face's imagefolder has it: one JSON object a line, with `file_name` and
 * the captions' column; other columns are not looked at. */
#include "io/dataset_scan.h"

#include <stdlib.h>

#define MAX_METADATA_FILE ((size_t)1 << 30)

/* An image that a row names, links resolved. */
typedef struct named_file {
    const char *path;
    size_t line;
} named_file;

typedef struct metadata_reader {
    sara_dataset_scan_state *scan;
    const char *path;
    named_file *files;
    size_t count, capacity;
    sara_arena arena; /* the files' paths */
} metadata_reader;

static int compare_files(const void *a, const void *b)
{
    const named_file *one = a, *other = b;
    int order = strcmp(one->path, other->path);
    return order ? order : (one->line > other->line) - (one->line < other->line);
}

static int compare_path(const void *path, const void *file)
{
    return strcmp(path, ((const named_file *)file)->path);
}

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

/* Relative, and down from the folder. */
static bool is_downward(const char *name)
{
    if (!*name || *name == '/')
        return false;
    for (const char *part = name; part; part = strchr(part, '/')) {
        part += *part == '/';
        if (strncmp(part, "..", 2) == 0 && (part[2] == '/' || part[2] == '\0'))
            return false;
    }
    return true;
}

static sara_status check_name(metadata_reader *reader, const char *where, const char *name)
{
    const char *base = strrchr(name, '/');
    if (!is_downward(name))
        return sara_fail(reader->scan->ctx, SARA_ERROR_INPUT,
                         "%s: file_name \"%s\", expected a path inside the folder", where, name);
    if (sara_file_kind_of(base ? base + 1 : name) != SARA_FILE_IMAGE)
        return sara_fail(reader->scan->ctx, SARA_ERROR_INPUT,
                         "%s: file_name \"%s\", expected .png, .jpg, .jpeg or .webp", where, name);
    return SARA_OK;
}

static sara_status add_row(metadata_reader *reader, const char *where, size_t line, json_t *row)
{
    char resolved[PATH_MAX];
    const char *name = NULL, *caption = NULL;
    named_file file = {.line = line};
    sara_status status = SARA_OK;

    TRY(get_column(reader, &name, where, row, "file_name"));
    TRY(get_column(reader, &caption, where, row, reader->scan->column));
    TRY(check_name(reader, where, name));
    TRY(sara_dataset_resolve(reader->scan, resolved, where, name));
    TRY(sara_arena_strdup(&reader->arena, &file.path, resolved));
    TRY(sara_grow(reader->scan->ctx, &reader->files, &reader->capacity, reader->count + 1,
                  sizeof(file)));
    reader->files[reader->count++] = file;
    TRY(sara_dataset_add(reader->scan, name, caption));
done:
    return status;
}

static sara_status read_line(metadata_reader *reader, size_t line, const char *text, size_t size)
{
    sara_context *ctx = reader->scan->ctx;
    char *where = NULL, *source = NULL;
    json_t *row = NULL;
    sara_status status = SARA_OK;

    TRY(sara_format(ctx, &where, "%s: line %zu", reader->path, line));
    TRY(sara_format(ctx, &source, "%s, within the row", where));
    TRY(sara_json_parse(ctx, &row, text, size, source, true));
    if (!json_is_object(row))
        TRY(sara_fail(ctx, SARA_ERROR_INPUT, "%s: expected a JSON object", where));
    TRY(add_row(reader, where, line, row));
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

static sara_status read_lines(metadata_reader *reader, const char *text, size_t size)
{
    const char *end = text + size;
    sara_status status = SARA_OK;

    if (size >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0)
        text += 3;
    for (size_t line = 1; text < end; line++) {
        const char *stop = memchr(text, '\n', (size_t)(end - text));
        stop = stop ? stop : end;
        if (!is_blank(text, (size_t)(stop - text)))
            TRY(read_line(reader, line, text, (size_t)(stop - text)));
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

/* Sorts the files, which also serves the search for images that no row names. */
static sara_status refuse_duplicates(metadata_reader *reader)
{
    named_file *files = reader->files;
    qsort(files, reader->count, sizeof(*files), compare_files);
    for (size_t i = 1; i < reader->count; i++)
        if (strcmp(files[i - 1].path, files[i].path) == 0)
            return sara_fail(reader->scan->ctx, SARA_ERROR_INPUT,
                             "%s: line %zu names the image of line %zu again: %s", reader->path,
                             files[i].line, files[i - 1].line, files[i].path);
    return SARA_OK;
}

static sara_status warn_of_unnamed(metadata_reader *reader)
{
    sara_dataset_scan_state *scan = reader->scan;
    char **names = NULL, resolved[PATH_MAX];
    size_t count = 0, unnamed = 0;
    char *path = NULL;
    sara_status status = SARA_OK;

    TRY(sara_directory_list(scan->ctx, &names, &count, scan->folder));
    for (size_t i = 0; i < count; i++) {
        if (sara_file_kind_of(names[i]) == SARA_FILE_OTHER)
            continue;
        TRY(sara_path_join(scan->ctx, &path, scan->folder, names[i]));
        unnamed += realpath(path, resolved) && !bsearch(resolved, reader->files, reader->count,
                                                        sizeof(*reader->files), compare_path);
        sara_free(scan->ctx, path);
        path = NULL;
    }
    if (unnamed)
        sara_log(scan->ctx, SARA_LOG_WARNING,
                 "%s: %zu images of the folder have no row and are "
                 "not used",
                 reader->path, unnamed);
done:
    sara_directory_free(scan->ctx, names, count);
    sara_free(scan->ctx, path);
    return status;
}

sara_status sara_dataset_read_metadata(sara_dataset_scan_state *scan, const char *path)
{
    metadata_reader reader = {.scan = scan, .path = path};
    char *text = NULL;
    size_t size = 0;
    sara_status status = SARA_OK;

    sara_arena_init(&reader.arena, scan->ctx);
    TRY(sara_file_read(scan->ctx, &text, &size, path, MAX_METADATA_FILE));
    TRY(read_lines(&reader, text, size));
    TRY(refuse_duplicates(&reader));
    TRY(warn_of_unnamed(&reader));
done:
    sara_free(scan->ctx, text);
    sara_free(scan->ctx, reader.files);
    sara_arena_free(&reader.arena);
    return status;
}

/* Captions in files beside the images. */
#include "io/dataset_scan.h"

#include <stdlib.h>
#include <utf8proc.h>

#define MAX_CAPTION_FILE ((size_t)1 << 20)
#define WHITE_SPACE      " \t\n\v\f\r"

static const char *const known_extensions[] = {".txt", ".caption"};
static const char several_lines[] =
    "of several lines, all of which are taken (kohya's scripts take the first)";
#define KNOWN_COUNT (sizeof(known_extensions) / sizeof(*known_extensions))

sara_status sara_dataset_check_text(sara_context *ctx, const char *path, const char *text,
                                    size_t size)
{
    utf8proc_int32_t code;
    for (size_t at = 0; at < size;) {
        utf8proc_ssize_t used = utf8proc_iterate((const utf8proc_uint8_t *)text + at,
                                                 (utf8proc_ssize_t)(size - at), &code);
        if (used > 0 && code == 0)
            return sara_fail(ctx, SARA_ERROR_INPUT,
                             "%s: byte %zu is a NUL byte, which no text has: save it as UTF-8",
                             path, at);
        if (used < 1)
            return sara_fail(ctx, SARA_ERROR_INPUT,
                             "%s: byte %zu is not UTF-8 text: save it as UTF-8", path, at);
        at += (size_t)used;
    }
    return SARA_OK;
}

/* White space at both ends is no part of the caption. All lines are, where kohya's scripts take the
 * first alone. *out is to be freed. */
static sara_status read_caption(sara_context *ctx, char **out, const char *path)
{
    char *data = NULL, *from;
    size_t size = 0;
    sara_status status = SARA_OK;

    TRY(sara_file_read(ctx, &data, &size, path, MAX_CAPTION_FILE));
    TRY(sara_dataset_check_text(ctx, path, data, size));
    from = strncmp(data, "\xef\xbb\xbf", 3) == 0 ? data + 3 : data;
    from += strspn(from, WHITE_SPACE);
    size = strlen(from);
    while (size > 0 && strchr(WHITE_SPACE, from[size - 1]))
        size--;
    memmove(data, from, size);
    data[size] = '\0';
    *out = data;
    data = NULL;
done:
    sara_free(ctx, data);
    return status;
}

/* Which file holds the caption; SIZE_MAX: none. */
static sara_status choose_caption_file(const sara_dataset_scan_state *scan, size_t *out,
                                       sara_dataset_folder *folder, const char *image)
{
    size_t found[KNOWN_COUNT];
    sara_status status = SARA_OK;
    if (scan->extension)
        return sara_dataset_folder_find_beside(scan->ctx, out, folder, image, scan->extension);
    for (size_t i = 0; i < KNOWN_COUNT; i++)
        TRY(sara_dataset_folder_find_beside(scan->ctx, &found[i], folder, image,
                                            known_extensions[i]));
    if (found[0] != SIZE_MAX && found[1] != SIZE_MAX)
        TRY(sara_fail(scan->ctx, SARA_ERROR_INPUT,
                      "%s: image %s has two captions, %s and %s: choose with --caption_extension "
                      ".txt or .caption",
                      folder->path, image, folder->names[found[0]], folder->names[found[1]]));
    *out = found[0] != SIZE_MAX ? found[0] : found[1];
done:
    return status;
}

static bool holds_captions(const char *name)
{
    static const char *const extensions[] = {".json",    ".jsonl", ".csv",  ".tsv",
                                             ".parquet", ".xlsx",  ".toml", ".yaml"};
    const char *dot = strrchr(name, '.');
    for (size_t i = 0; dot && dot > name && i < sizeof(extensions) / sizeof(*extensions); i++)
        if (sara_text_same(dot, extensions[i]))
            return true;
    return false;
}

/* A file that may be meant for the image's caption: a.json or a.png.txt for a.png, else one that
 * may hold those of all. */
static const char *find_similar(const sara_dataset_folder *folder, const char *image)
{
    size_t stem = (size_t)(strrchr(image, '.') - image);
    const char *table = NULL;
    for (size_t i = 0; i < folder->count; i++) {
        const char *name = folder->names[i];
        if (folder->is_folder[i] || sara_file_kind_of(name) == SARA_FILE_IMAGE)
            continue;
        if (strncmp(name, image, stem + 1) == 0)
            return name;
        table = table || !holds_captions(name) ? table : name;
    }
    return table;
}

/* The last part of the folder's path; of its real path where that is "." or "..". */
static sara_status find_last_part(sara_context *ctx, char **out, const char *path)
{
    size_t end = strlen(path), from;
    while (end > 1 && (path[end - 1] == '/' ||
                       (path[end - 1] == '.' && path[end - 2] == '/'))) /* "a/", "a/." */
        end--;
    for (from = end; from > 0 && path[from - 1] != '/'; from--)
        ;
    bool dots = end - from == strspn(path + from, ".") && end - from <= 2;
    char *real = dots ? realpath(path, NULL) : NULL;
    sara_status status = real ? sara_strdup(ctx, out, strrchr(real, '/') + 1)
                              : sara_format(ctx, out, "%.*s", (int)(end - from), path + from);
    free(real);
    return status;
}

/* *out: "10_ink" where that is the given folder's own name and says what kohya would take, else
 * NULL; sara_free(). */
static sara_status find_own_name(sara_context *ctx, char **out, const sara_dataset_folder *folder)
{
    const char *caption = "";
    char *name = NULL;
    sara_status status = SARA_OK;
    *out = NULL;
    if (folder->parent)
        return SARA_OK;
    TRY(find_last_part(ctx, &name, folder->path));
    if (sara_dataset_parse_repeats(&caption, name) > 0 && *caption) {
        *out = name;
        name = NULL;
    }
done:
    sara_free(ctx, name);
    return status;
}

static sara_status refuse_without_caption(const sara_dataset_scan_state *scan,
                                          const sara_dataset_folder *folder, const char *image)
{
    const char *similar = find_similar(folder, image), *instead = scan->options->instead;
    int stem = (int)(strrchr(image, '.') - image);
    char *own = NULL;
    sara_status status;
    TRY(find_own_name(scan->ctx, &own, folder));
    status = sara_fail(
        scan->ctx, SARA_ERROR_INPUT,
        "%s: image %s has no caption: expected %.*s%s beside it, metadata.jsonl or "
        "metadata.csv in the folder, or %s%s%s%s%s",
        folder->path, image, stem, image, scan->extension ? scan->extension : ".txt or .caption",
        instead ? instead : "one caption for all by --instance_prompt",
        similar ? "; what lies there is " : "", similar ? similar : "",
        own ? "; for that of the folder's name give the folder above " : "", own ? own : "");
done:
    sara_free(scan->ctx, own);
    return status;
}

sara_status sara_dataset_add_captioned(sara_dataset_scan_state *scan, sara_dataset_folder *folder,
                                       size_t image)
{
    sara_context *ctx = scan->ctx;
    const char *name = folder->names[image], *below;
    char *path = NULL, *caption = NULL;
    size_t file;
    sara_status status = SARA_OK;

    TRY(choose_caption_file(scan, &file, folder, name));
    if (file == SIZE_MAX && !folder->caption)
        TRY(refuse_without_caption(scan, folder, name));
    if (file != SIZE_MAX) {
        TRY(sara_path_join(ctx, &path, folder->path, folder->names[file]));
        folder->used[file] = true;
        TRY(read_caption(ctx, &caption, path));
        if (strpbrk(caption, "\n\r")) {
            TRY(sara_dataset_below(scan, &below, folder, name));
            TRY(sara_dataset_note_add(scan, &scan->captions, several_lines, below));
        }
    }
    TRY(sara_dataset_add(scan, folder, name, caption ? caption : folder->caption));
done:
    sara_free(ctx, path);
    sara_free(ctx, caption);
    return status;
}

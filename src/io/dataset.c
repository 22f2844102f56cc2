/* Dataset folders: which images, and what each one's caption is. */
#include "io/dataset_scan.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <utf8proc.h>

#define MAX_CAPTION_FILE ((size_t)1 << 20)
#define WHITE_SPACE " \t\n\v\f\r"

sara_file_kind sara_file_kind_of(const char *name)
{
    static const char *const read[] = {".png", ".jpg", ".jpeg", ".webp"};
    static const char *const other[] = {".gif",  ".bmp", ".tif", ".tiff", ".avif", ".heic",
                                        ".heif", ".jxl", ".jp2", ".jfif", ".tga",  ".psd"};
    const char *dot = strrchr(name, '.');
    if (!dot || name[0] == '.')
        return SARA_FILE_OTHER;
    for (size_t i = 0; i < sizeof(read) / sizeof(*read); i++)
        if (sara_text_same(dot, read[i]))
            return SARA_FILE_IMAGE;
    for (size_t i = 0; i < sizeof(other) / sizeof(*other); i++)
        if (sara_text_same(dot, other[i]))
            return SARA_FILE_UNREADABLE_IMAGE;
    return SARA_FILE_OTHER;
}

static bool inside(const char *root, const char *path)
{
    size_t length = strlen(root);
    if (strcmp(root, "/") == 0)
        return true;
    return strncmp(root, path, length) == 0 && path[length] == '/';
}

sara_status sara_dataset_resolve(const sara_dataset_scan_state *scan, char resolved[PATH_MAX],
                                 const char *where, const char *name)
{
    sara_context *ctx = scan->ctx;
    char *path = NULL;
    struct stat info;
    sara_status status = SARA_OK;

    TRY(sara_path_join(ctx, &path, scan->folder, name));
    if (!realpath(path, resolved) || stat(resolved, &info) != 0) {
        char reason[128];
        const char *why = sara_errno_text(reason, errno);
        TRY(sara_fail(ctx, SARA_ERROR_INPUT, "%s: image %s: %s", where, name, why));
    }
    if (!inside(scan->root, resolved))
        TRY(sara_fail(ctx, SARA_ERROR_INPUT,
                      "%s: image %s is %s, expected a file inside the folder %s", where, name,
                      resolved, scan->root));
    if (!S_ISREG(info.st_mode))
        TRY(sara_fail(ctx, SARA_ERROR_INPUT, "%s: image %s is not a regular file", where, name));
done:
    sara_free(ctx, path);
    return status;
}

sara_status sara_dataset_add(sara_dataset_scan_state *scan, const char *name, const char *caption)
{
    sara_context *ctx = scan->ctx;
    sara_dataset_item item = {0};
    char *path = NULL, *text = NULL;
    sara_status status = SARA_OK;

    TRY(sara_path_join(ctx, &path, scan->folder, name));
    TRY(sara_format(ctx, &text, "%s%s", scan->prefix, caption));
    TRY(sara_arena_strdup(&scan->arena, &item.path, path));
    TRY(sara_arena_strdup(&scan->arena, &item.caption, text));
    TRY(sara_grow(ctx, &scan->items, &scan->capacity, scan->count + 1, sizeof(item)));
    scan->items[scan->count++] = item;
done:
    sara_free(ctx, path);
    sara_free(ctx, text);
    return status;
}

/* Valid UTF-8 without NUL; *bad is the first byte that is neither. */
static bool is_text(const char *data, size_t size, size_t *bad)
{
    utf8proc_int32_t code;
    size_t at = 0;
    while (at < size) {
        utf8proc_ssize_t used = utf8proc_iterate((const utf8proc_uint8_t *)data + at,
                                                 (utf8proc_ssize_t)(size - at), &code);
        if (used < 1 || code == 0) {
            *bad = at;
            return false;
        }
        at += (size_t)used;
    }
    return true;
}

/* A caption file as kohya's: white space at both ends is no part of it. Further lines are kept, as
 * white space within the caption. *out is to be freed. */
static sara_status read_caption(sara_context *ctx, char **out, const char *path)
{
    char *data = NULL, *from;
    size_t size = 0, bad = 0;
    sara_status status = SARA_OK;

    TRY(sara_file_read(ctx, &data, &size, path, MAX_CAPTION_FILE));
    if (!is_text(data, size, &bad))
        TRY(sara_fail(ctx, SARA_ERROR_INPUT, "%s: byte %zu is not UTF-8 text", path, bad));
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

/* The caption beside the image: its name with .txt instead of the extension. */
static sara_status add_with_caption_file(sara_dataset_scan_state *scan, const char *name)
{
    sara_context *ctx = scan->ctx;
    char *file = NULL, *path = NULL, *caption = NULL;
    int stem = (int)(strrchr(name, '.') - name);
    sara_status status = SARA_OK;

    TRY(sara_format(ctx, &file, "%.*s.txt", stem, name));
    TRY(sara_path_join(ctx, &path, scan->folder, file));
    if (!sara_path_exists(path))
        TRY(sara_fail(ctx, SARA_ERROR_INPUT,
                      "%s: image %s has no caption: expected " SARA_METADATA_FILE
                      " or %s in the folder, or one caption for all by instance_prompt",
                      scan->folder, name, file));
    TRY(read_caption(ctx, &caption, path));
    TRY(sara_dataset_add(scan, name, caption));
done:
    sara_free(ctx, file);
    sara_free(ctx, path);
    sara_free(ctx, caption);
    return status;
}

static sara_status add_listed(sara_dataset_scan_state *scan, const char *name, const char *prompt)
{
    char resolved[PATH_MAX];
    sara_status status = SARA_OK;

    switch (sara_file_kind_of(name)) {
    case SARA_FILE_IMAGE:
        TRY(sara_dataset_resolve(scan, resolved, scan->folder, name));
        TRY(prompt ? sara_dataset_add(scan, name, prompt) : add_with_caption_file(scan, name));
        break;
    case SARA_FILE_UNREADABLE_IMAGE:
        status = sara_fail(scan->ctx, SARA_ERROR_INPUT,
                           "%s: image %s is not .png, .jpg, .jpeg or .webp: convert or remove it",
                           scan->folder, name);
        break;
    case SARA_FILE_OTHER:
        break;
    }
done:
    return status;
}

static sara_status list_images(sara_dataset_scan_state *scan, const char *prompt)
{
    sara_context *ctx = scan->ctx;
    char **names = NULL;
    size_t count = 0;
    sara_status status = SARA_OK;

    TRY(sara_directory_list(ctx, &names, &count, scan->folder));
    for (size_t i = 0; i < count; i++)
        TRY(add_listed(scan, names[i], prompt));
    if (!scan->count)
        TRY(sara_fail(ctx, SARA_ERROR_INPUT,
                      "%s: no images in the folder (subfolders are not searched), expected .png, "
                      ".jpg, .jpeg or .webp files with " SARA_METADATA_FILE
                      " or a .txt caption beside each",
                      scan->folder));
done:
    sara_directory_free(ctx, names, count);
    return status;
}

static sara_status publish(sara_dataset_scan_state *scan, sara_dataset *out)
{
    sara_dataset_item *items = NULL;
    sara_status status = SARA_OK;

    TRY(sara_arena_alloc(&scan->arena, &items, scan->count, sizeof(*items)));
    memcpy(items, scan->items, scan->count * sizeof(*items));
    *out = (sara_dataset){.items = items, .count = scan->count, .arena = scan->arena};
    sara_arena_init(&scan->arena, scan->ctx);
done:
    return status;
}

sara_status sara_dataset_scan(sara_context *ctx, sara_dataset *out, const char *folder,
                              const char *caption_column, const char *caption_prefix,
                              const char *instance_prompt)
{
    sara_dataset_scan_state scan = {.ctx = ctx,
                                    .folder = folder,
                                    .column = caption_column ? caption_column : "text",
                                    .prefix = caption_prefix ? caption_prefix : ""};
    char *metadata = NULL;
    sara_status status = SARA_OK;

    sara_arena_init(&scan.arena, ctx);
    if (!realpath(folder, scan.root))
        TRY(sara_fail_errno(ctx, folder, "dataset folder"));
    TRY(sara_path_join(ctx, &metadata, folder, SARA_METADATA_FILE));
    if (!instance_prompt && sara_path_exists(metadata))
        TRY(sara_dataset_read_metadata(&scan, metadata));
    else
        TRY(list_images(&scan, instance_prompt));
    TRY(publish(&scan, out));
done:
    sara_free(ctx, metadata);
    sara_free(ctx, scan.items);
    sara_arena_free(&scan.arena);
    return status;
}

void sara_dataset_free(sara_dataset *dataset)
{
    if (!dataset)
        return;
    sara_arena_free(&dataset->arena);
    *dataset = (sara_dataset){0};
}

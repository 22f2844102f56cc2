/* Dataset folders: which images, and what each one's caption is. */
#include "io/dataset_scan.h"

static bool is_extension_of(const char *extension, const char *const *list, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (sara_text_same(extension, list[i]))
            return true;
    return false;
}

sara_file_kind sara_file_kind_of(const char *name)
{
    static const char *const read[] = {".png", ".jpg", ".jpeg", ".webp"};
    static const char *const other[] = {".gif",  ".bmp", ".tif", ".tiff", ".avif", ".heic",
                                        ".heif", ".jxl", ".jp2", ".jfif", ".tga",  ".psd"};
    static const char *const captions[] = {".txt", ".caption"};
    const char *dot = strrchr(name, '.');
    if (!dot || name[0] == '.')
        return SARA_FILE_OTHER;
    if (is_extension_of(dot, read, sizeof(read) / sizeof(*read)))
        return SARA_FILE_IMAGE;
    if (is_extension_of(dot, other, sizeof(other) / sizeof(*other)))
        return SARA_FILE_UNREADABLE_IMAGE;
    return is_extension_of(dot, captions, sizeof(captions) / sizeof(*captions)) ? SARA_FILE_CAPTION
                                                                                : SARA_FILE_OTHER;
}

bool sara_path_is_image(const char *path)
{
    const char *name = strrchr(path, '/');
    return sara_file_kind_of(name ? name + 1 : path) == SARA_FILE_IMAGE;
}

sara_status sara_dataset_hear(const sara_dataset_scan_state *scan, const char *path,
                              sara_status status)
{
    if (!scan->options->refused || (status != SARA_ERROR_INPUT && status != SARA_ERROR_IO))
        return status;
    scan->options->refused(scan->options->user, path, sara_context_error(scan->ctx));
    return SARA_OK;
}

sara_status sara_dataset_add(sara_dataset_scan_state *scan, const sara_dataset_folder *folder,
                             const char *name, const char *caption)
{
    sara_context *ctx = scan->ctx;
    sara_dataset_item item = {.repeats = folder->repeats, .refused = !caption};
    char *path = NULL;
    sara_status status = SARA_OK;

    TRY(sara_path_join(ctx, &path, folder->path, name));
    TRY(sara_arena_strdup(&scan->arena, &item.path, path));
    TRY(sara_arena_strdup(&scan->arena, &item.caption, caption ? caption : ""));
    TRY(sara_dataset_below(scan, &item.name, folder, name));
    TRY(sara_grow(ctx, &scan->items, &scan->capacity, scan->count + 1, sizeof(item)));
    scan->items[scan->count++] = item;
    if (caption && !*caption)
        TRY(sara_dataset_note_add(scan, &scan->captions, "empty", item.name));
done:
    sara_free(ctx, path);
    return status;
}

static sara_status refuse_without_images(sara_dataset_scan_state *scan)
{
    char *unused = NULL, *passed = NULL;
    sara_status status;
    TRY(sara_dataset_notes_text(scan->ctx, &unused, &scan->unused));
    TRY(sara_dataset_notes_text(scan->ctx, &passed, &scan->passed));
    TRY(sara_fail(scan->ctx, SARA_ERROR_INPUT,
                  "%s: no images in the folder: expected .png, .jpg, .jpeg or .webp files, here or "
                  "in folders below; what lies there: %s%s%s",
                  scan->options->folder, unused,
                  scan->passed.total ? "; folders passed over: " : "",
                  scan->passed.total ? passed : ""));
done:
    sara_free(scan->ctx, unused);
    sara_free(scan->ctx, passed);
    return status;
}

/* With its dot, as kohya takes it with or without. */
static sara_status set_extension(sara_dataset_scan_state *scan)
{
    const char *extension = scan->options->caption_extension;
    if (!extension)
        return SARA_OK;
    if (!extension[extension[0] == '.'] || strchr(extension, '/'))
        return sara_fail(scan->ctx, SARA_ERROR_USAGE,
                         "--caption_extension %s: expected a file's extension, e.g. .caption",
                         extension);
    return sara_format(scan->ctx, &scan->extension, "%s%s", extension[0] == '.' ? "" : ".",
                       extension);
}

static sara_status publish_items(sara_dataset_scan_state *scan, sara_dataset *out)
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

static void free_scan(sara_dataset_scan_state *scan)
{
    sara_free(scan->ctx, scan->items);
    sara_free(scan->ctx, scan->extension);
    sara_free(scan->ctx, scan->named);
    sara_free(scan->ctx, scan->passed.list);
    sara_free(scan->ctx, scan->unused.list);
    sara_free(scan->ctx, scan->left_out.list);
    sara_free(scan->ctx, scan->repeats.list);
    sara_free(scan->ctx, scan->captions.list);
    sara_arena_free(&scan->arena);
}

sara_status sara_dataset_scan(sara_context *ctx, sara_dataset *out,
                              const sara_dataset_options *options)
{
    sara_dataset_scan_state scan = {.ctx = ctx,
                                    .options = options,
                                    .column =
                                        options->caption_column ? options->caption_column : "text"};
    sara_status status = SARA_OK;

    sara_arena_init(&scan.arena, ctx);
    TRY(set_extension(&scan));
    TRY(sara_dataset_walk(&scan));
    if (!scan.count)
        TRY(refuse_without_images(&scan));
    TRY(sara_dataset_tell_notes(&scan));
    TRY(publish_items(&scan, out));
done:
    free_scan(&scan);
    return status;
}

void sara_dataset_free(sara_dataset *dataset)
{
    if (!dataset)
        return;
    sara_arena_free(&dataset->arena);
    *dataset = (sara_dataset){0};
}

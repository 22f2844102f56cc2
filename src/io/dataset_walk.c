/* The folders of a data set, from the top down: which are read, and which images of them. */
#include "io/dataset_scan.h"

#include <stdlib.h>
#include <sys/stat.h>

/* Repeats beyond it are not meant as such: the folder of a day or a number of its own. */
#define MOST_REPEATS 9999

static const char *const metadata_names[] = {"metadata.jsonl", "metadata.csv"};

/* ---------------------------------------------------------------------------- kinds of folders */

int64_t sara_dataset_parse_repeats(const char **name, const char *folder)
{
    size_t digits = strspn(folder, "0123456789");
    if (digits < 1 || folder[digits] != '_' || digits > 9)
        return -1;
    long long repeats = strtoll(folder, NULL, 10);
    *name = folder + digits + 1;
    return repeats <= MOST_REPEATS ? repeats : -1;
}

static bool is_hidden(const char *name)
{
    return name[0] == '.' || strncmp(name, "__", 2) == 0 || strcmp(name, "@eaDir") == 0;
}

static bool is_checkpoint(const char *name)
{
    size_t digits = strncmp(name, "checkpoint-", 11) == 0 ? strspn(name + 11, "0123456789") : 0;
    return digits > 0 && name[11 + digits] == '\0';
}

static bool has_extension(const char *name, const char *extension)
{
    size_t length = strlen(name), end = strlen(extension);
    return length > end && sara_text_same(name + length - end, extension);
}

static bool has_images(const sara_dataset_folder *folder)
{
    for (size_t i = 0; i < folder->count; i++)
        if (!folder->is_folder[i] && sara_file_kind_of(folder->names[i]) == SARA_FILE_IMAGE)
            return true;
    return false;
}

/* Images, or folders that repeats in their names tell to be of a data set. */
static bool holds_data(const sara_dataset_folder *folder)
{
    const char *name;
    for (size_t i = 0; i < folder->count; i++)
        if (folder->is_folder[i] && sara_dataset_parse_repeats(&name, folder->names[i]) > 0)
            return true;
    return has_images(folder);
}

/* What a run leaves in a folder. A single mark may be stray; a log with checkpoints or samples is
 * sara's own output. */
typedef struct run_marks {
    bool checkpoint, samples, log, adapter, index;
} run_marks;

static run_marks find_marks(const sara_dataset_folder *folder)
{
    run_marks marks = {0};
    for (size_t i = 0; i < folder->count; i++) {
        const char *name = folder->names[i];
        if (folder->is_folder[i]) {
            marks.checkpoint = marks.checkpoint || is_checkpoint(name);
            marks.samples = marks.samples || strcmp(name, "samples") == 0;
        } else {
            marks.log = marks.log || strcmp(name, "log.jsonl") == 0;
            marks.adapter = marks.adapter || strcmp(name, "adapter.safetensors") == 0;
            marks.index = marks.index || strcmp(name, "model_index.json") == 0;
        }
    }
    return marks;
}

/* "a run" or "a model" by what lies in the folder; NULL. Weights alone say nothing: they may be
 * stray in a data set. */
static const char *find_product(const sara_dataset_folder *folder)
{
    run_marks marks = find_marks(folder);
    if (marks.log && (marks.checkpoint || marks.samples))
        return "a run";
    if ((marks.checkpoint || marks.adapter) && !holds_data(folder))
        return "a run";
    return marks.index ? "a model" : NULL;
}

/* Whether the folder is what a run wrote into the folder above, which holds images besides. */
static bool is_of_run(const sara_dataset_folder *above, const char *name)
{
    if (is_checkpoint(name))
        return true;
    if (strcmp(name, "samples") != 0)
        return false;
    run_marks marks = find_marks(above);
    return marks.checkpoint || marks.adapter || marks.log;
}

static bool is_this_folder(const sara_dataset_folder *folder, const char *path)
{
    struct stat info;
    return path && stat(path, &info) == 0 && info.st_dev == folder->device &&
           info.st_ino == folder->inode;
}

static bool is_output(const sara_dataset_scan_state *scan, const sara_dataset_folder *folder)
{
    return is_this_folder(folder, scan->options->output_dir);
}

/* Whether a folder with repeats and images lies in this one: kohya reads such folders alone. */
static sara_status find_numbered(sara_dataset_scan_state *scan, bool *out,
                                 const sara_dataset_folder *folder)
{
    sara_dataset_folder inner = {0};
    const char *name;
    sara_status status = SARA_OK;
    *out = false;
    for (size_t i = 0; i < folder->count && !*out; i++) {
        if (!folder->is_folder[i] || sara_dataset_parse_repeats(&name, folder->names[i]) < 1)
            continue;
        TRY(sara_dataset_folder_open(scan, &inner, folder, folder->names[i]));
        *out = has_images(&inner) && !is_output(scan, &inner) && !find_product(&inner);
        sara_dataset_folder_close(scan->ctx, &inner);
    }
done:
    sara_dataset_folder_close(scan->ctx, &inner);
    return status;
}

/* --------------------------------------------------------------------------------------- files */

static sara_status note_dataset_file(sara_dataset_scan_state *scan,
                                     const sara_dataset_folder *folder, const char *label,
                                     const char *name)
{
    const char *below;
    sara_status status;
    TRY(sara_dataset_below(scan, &below, folder, name));
    TRY(sara_dataset_note_add(scan, &scan->unused, label, below));
done:
    return status;
}

/* Why a caption file serves no image. */
static const char *caption_label(const sara_dataset_scan_state *scan,
                                 const sara_dataset_folder *folder, const char *name)
{
    if (scan->options->instance_prompt)
        return "captions in files, as --instance_prompt is given";
    if (folder->is_listed)
        return "captions in files, as there is metadata";
    return scan->extension && !has_extension(name, scan->extension)
               ? "captions of another extension than --caption_extension"
               : "captions without an image";
}

static bool is_caption(const sara_dataset_scan_state *scan, const char *name)
{
    return sara_file_kind_of(name) == SARA_FILE_CAPTION ||
           (scan->extension && has_extension(name, scan->extension));
}

static sara_status note_unused(sara_dataset_scan_state *scan, const sara_dataset_folder *folder,
                               const char *name)
{
    const char *dot = strrchr(name, '.');
    if (scan->options->captions_aside &&
        (is_caption(scan, name) || strncmp(name, "metadata.", 9) == 0))
        return SARA_OK;
    if (name[0] == '.') /* a hidden image, but not what macOS puts beside each file */
        return sara_file_kind_of(name + 1) == SARA_FILE_IMAGE && name[1] != '_'
                   ? note_dataset_file(scan, folder, "hidden images", name)
                   : SARA_OK;
    if (is_caption(scan, name))
        return note_dataset_file(scan, folder, caption_label(scan, folder, name), name);
    if (sara_file_kind_of(name) == SARA_FILE_UNREADABLE_IMAGE)
        return note_dataset_file(scan, folder, "images to be converted to PNG, JPEG or WebP", name);
    return note_dataset_file(scan, folder, dot && strlen(dot) < 16 ? dot : "other files", name);
}

/* With its caption; one that has none is refused. */
static sara_status add_scanned(sara_dataset_scan_state *scan, sara_dataset_folder *folder,
                               size_t file, const char *path)
{
    const char *name = folder->names[file], *prompt = scan->options->instance_prompt;
    const size_t before = scan->count;
    sara_status status = prompt ? sara_dataset_add(scan, folder, name, prompt)
                                : sara_dataset_add_captioned(scan, folder, file);
    TRY(sara_dataset_hear(scan, path, status));
    if (scan->count == before)
        TRY(sara_dataset_add(scan, folder, name, NULL));
done:
    return status;
}

static sara_status read_image(sara_dataset_scan_state *scan, sara_dataset_folder *folder,
                              size_t file)
{
    const char *name = folder->names[file];
    char *path = NULL;
    sara_status status;
    TRY(sara_path_join(scan->ctx, &path, folder->path, name));
    status = sara_dataset_check_file(scan->ctx, folder->path, path, name);
    if (status != SARA_OK) {
        status = sara_dataset_hear(scan, path, status);
        goto done;
    }
    TRY(add_scanned(scan, folder, file, path));
    if (folder->is_numbered) {
        const char *below, *label;
        char *text = NULL;
        TRY(sara_dataset_below(scan, &below, folder, name));
        TRY(sara_format(scan->ctx, &text, "%s, %lld times each", folder->name,
                        (long long)folder->repeats));
        status = sara_arena_strdup(&scan->arena, &label, text);
        sara_free(scan->ctx, text);
        TRY(status);
        TRY(sara_dataset_note_add(scan, &scan->repeats, label, below));
    }
done:
    sara_free(scan->ctx, path);
    return status;
}

/* An image that is not read on its own account; *named: a row of metadata names it. */
static sara_status note_image(sara_dataset_scan_state *scan, const sara_dataset_folder *folder,
                              const char *name)
{
    const char *below;
    sara_status status;
    TRY(sara_dataset_below(scan, &below, folder, name));
    if (!folder->is_listed)
        TRY(sara_dataset_note_add(scan, &scan->left_out,
                                  "images beside folders with repeats in their names", below));
    else if (!sara_dataset_is_named(scan, below))
        TRY(sara_dataset_note_add(scan, &scan->unused, "images without a row in the metadata",
                                  below));
done:
    return status;
}

/* only_folders: repeats in folders' names leave this one's own images out. */
static sara_status read_files(sara_dataset_scan_state *scan, sara_dataset_folder *folder,
                              bool only_folders)
{
    sara_status status = SARA_OK;
    for (size_t i = 0; i < folder->count; i++) {
        if (folder->is_folder[i] || sara_file_kind_of(folder->names[i]) != SARA_FILE_IMAGE)
            continue;
        TRY(folder->is_listed || only_folders ? note_image(scan, folder, folder->names[i])
                                              : read_image(scan, folder, i));
        folder->used[i] = true;
    }
    for (size_t i = 0; i < folder->count; i++)
        if (!folder->is_folder[i] && !folder->used[i])
            TRY(note_unused(scan, folder, folder->names[i]));
done:
    return status;
}

/* -------------------------------------------------------------------------------------- folders */

static sara_status find_metadata(const sara_dataset_scan_state *scan, size_t *out,
                                 sara_dataset_folder *folder)
{
    size_t found[2] = {SIZE_MAX, SIZE_MAX};
    sara_status status = SARA_OK;
    *out = SIZE_MAX;
    if (scan->options->instance_prompt)
        return SARA_OK;
    for (size_t i = 0; i < 2; i++) {
        TRY(sara_dataset_folder_find(scan->ctx, &found[i], folder, metadata_names[i]));
        if (found[i] != SIZE_MAX && folder->is_folder[found[i]])
            found[i] = SIZE_MAX;
    }
    if (found[0] != SIZE_MAX && found[1] != SIZE_MAX)
        TRY(sara_fail(scan->ctx, SARA_ERROR_INPUT,
                      "%s: holds %s and %s: remove the one that is not meant", folder->path,
                      metadata_names[0], metadata_names[1]));
    *out = found[0] != SIZE_MAX ? found[0] : found[1];
done:
    return status;
}

/* Notes every image in the folder and below as left out. Whatever cannot be opened there is no
 * matter, as nothing of it is read. */
static sara_status leave_out(sara_dataset_scan_state *scan, const sara_dataset_folder *folder)
{
    sara_dataset_folder inner = {0};
    sara_status status = SARA_OK;
    for (size_t i = 0; i < folder->count; i++) {
        const char *name = folder->names[i];
        if (!folder->is_folder[i] && sara_file_kind_of(name) == SARA_FILE_IMAGE)
            TRY(note_image(scan, folder, name));
        if (!folder->is_folder[i] || is_hidden(name) || is_of_run(folder, name))
            continue;
        status = sara_dataset_folder_open(scan, &inner, folder, name);
        if (status == SARA_OK && !is_output(scan, &inner) && !find_product(&inner))
            status = leave_out(scan, &inner);
        sara_dataset_folder_close(scan->ctx, &inner);
        TRY(status == SARA_ERROR_MEMORY ? status : SARA_OK);
    }
done:
    return status;
}

static const char without_repeats[] = "no repeats in the name, beside folders with repeats";

/* Why the folder is not read; NULL: it is. `beside`: others of its parent have repeats. */
static const char *find_reason(const sara_dataset_scan_state *scan, sara_dataset_folder *folder,
                               const char *name, bool beside)
{
    const char *caption = NULL, *product = find_product(folder);
    int64_t repeats =
        folder->is_numbered || folder->is_listed ? -1 : sara_dataset_parse_repeats(&caption, name);
    if (is_output(scan, folder))
        return "the output folder";
    if (is_this_folder(folder, scan->options->masks_dir))
        return "the masks";
    if (product)
        return product;
    if (is_of_run(folder->parent, name))
        return "of a run";
    if (repeats == 0)
        return "0 repeats";
    if (repeats < 0)
        return beside ? without_repeats : NULL;
    folder->is_numbered = true;
    folder->repeats = repeats;
    folder->caption = *caption ? caption : NULL;
    return NULL;
}

static sara_status walk_folder(sara_dataset_scan_state *scan, sara_dataset_folder *folder);

static sara_status walk_inner(sara_dataset_scan_state *scan, const sara_dataset_folder *folder,
                              const char *name, bool beside)
{
    sara_dataset_folder inner = {0};
    const char *reason = "hidden", *below;
    sara_status status = SARA_OK;
    if (strcmp(name, SARA_DATASET_CACHE) == 0) /* sara's own; not worth a word */
        return SARA_OK;
    if (!is_hidden(name)) {
        TRY(sara_dataset_folder_open(scan, &inner, folder, name));
        reason = find_reason(scan, &inner, name, beside);
    }
    if (reason) {
        TRY(sara_dataset_below(scan, &below, folder, name));
        TRY(sara_dataset_note_add(scan, &scan->passed, reason, below));
        if (reason == without_repeats)
            TRY(leave_out(scan, &inner));
    } else {
        TRY(walk_folder(scan, &inner));
    }
done:
    sara_dataset_folder_close(scan->ctx, &inner);
    return status;
}

static sara_status walk_folder(sara_dataset_scan_state *scan, sara_dataset_folder *folder)
{
    bool beside = false;
    size_t metadata;
    sara_status status;
    TRY(find_metadata(scan, &metadata, folder));
    if (metadata != SIZE_MAX) {
        TRY(sara_dataset_read_metadata(scan, folder, metadata));
        folder->used[metadata] = true;
        folder->is_listed = true;
    }
    if (!folder->is_listed && !folder->is_numbered && !scan->options->flat)
        TRY(find_numbered(scan, &beside, folder));
    TRY(read_files(scan, folder, beside));
    for (size_t i = 0; i < folder->count && !scan->options->flat; i++)
        if (folder->is_folder[i])
            TRY(walk_inner(scan, folder, folder->names[i], beside));
done:
    return status;
}

sara_status sara_dataset_walk(sara_dataset_scan_state *scan)
{
    sara_dataset_folder top = {0};
    const char *product;
    size_t metadata;
    sara_status status;
    TRY(sara_dataset_folder_open(scan, &top, NULL, NULL));
    product = find_product(&top);
    TRY(find_metadata(scan, &metadata, &top));
    if (product && metadata == SIZE_MAX && !holds_data(&top))
        TRY(sara_fail(scan->ctx, SARA_ERROR_INPUT, "%s: holds %s, expected a folder of images",
                      top.path, product));
    TRY(walk_folder(scan, &top));
done:
    sara_dataset_folder_close(scan->ctx, &top);
    return status;
}

/* A folder of a data set: what lies in it, and which name was meant. */
#include "io/dataset_scan.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include <utf8proc.h>

#define MOST_FOLDERS   100000
#define DEEPEST_FOLDER 64
#define LONGEST_NAME   255 /* of a file, in Linux */

/* ------------------------------------------------------------------------------------- opening */

static sara_status check_way(sara_dataset_scan_state *scan, const sara_dataset_folder *folder)
{
    int depth = 0;
    for (const sara_dataset_folder *up = folder->parent; up; up = up->parent, depth++)
        if (up->device == folder->device && up->inode == folder->inode)
            return sara_fail(scan->ctx, SARA_ERROR_INPUT,
                             "%s: a link that leads back to the folder %s, in which it lies: "
                             "remove it",
                             folder->path, up->path);
    if (depth > DEEPEST_FOLDER)
        return sara_fail(scan->ctx, SARA_ERROR_INPUT, "%s: folders more than %d deep", folder->path,
                         DEEPEST_FOLDER);
    if (++scan->folders > MOST_FOLDERS)
        return sara_fail(scan->ctx, SARA_ERROR_INPUT, "%s: more than %d folders in the data set",
                         folder->path, MOST_FOLDERS);
    return SARA_OK;
}

sara_status sara_dataset_below(sara_dataset_scan_state *scan, const char **out,
                               const sara_dataset_folder *folder, const char *name)
{
    char *below = NULL;
    sara_status status;
    TRY(sara_format(scan->ctx, &below, "%s%s%s", folder->name, *folder->name ? "/" : "", name));
    TRY(sara_arena_strdup(&scan->arena, out, below));
done:
    sara_free(scan->ctx, below);
    return status;
}

/* Which of the names are folders. A link that leads nowhere is none, one in a circle an error. */
static sara_status find_folders(sara_context *ctx, sara_dataset_folder *folder)
{
    struct stat info;
    char *path = NULL;
    sara_status status = SARA_OK;
    for (size_t i = 0; i < folder->count; i++) {
        TRY(sara_path_join(ctx, &path, folder->path, folder->names[i]));
        if (stat(path, &info) == 0)
            folder->is_folder[i] = S_ISDIR(info.st_mode);
        else if (errno == ELOOP)
            TRY(sara_fail(ctx, SARA_ERROR_INPUT, "%s: links that lead in a circle: remove them",
                          path));
        sara_free(ctx, path);
        path = NULL;
    }
done:
    sara_free(ctx, path);
    return status;
}

sara_status sara_dataset_folder_open(sara_dataset_scan_state *scan, sara_dataset_folder *out,
                                     const sara_dataset_folder *parent, const char *name)
{
    sara_context *ctx = scan->ctx;
    struct stat info;
    char *path = NULL;
    sara_status status;
    *out = (sara_dataset_folder){.parent = parent, .path = scan->options->folder, .name = ""};
    out->repeats = parent ? parent->repeats : 1;
    out->caption = scan->options->class_tokens;
    if (parent) {
        out->caption = parent->caption;
        out->is_numbered = parent->is_numbered;
        out->is_listed = parent->is_listed;
        TRY(sara_path_join(ctx, &path, parent->path, name));
        TRY(sara_arena_strdup(&scan->arena, &out->path, path));
        TRY(sara_dataset_below(scan, &out->name, parent, name));
    }
    if (stat(out->path, &info) != 0)
        TRY(sara_fail_errno(ctx, out->path, "dataset folder"));
    out->device = info.st_dev;
    out->inode = info.st_ino;
    TRY(check_way(scan, out));
    TRY(sara_directory_list(ctx, &out->names, &out->count, out->path));
    TRY(sara_alloc_zero(ctx, &out->is_folder, out->count, sizeof(*out->is_folder)));
    TRY(sara_alloc_zero(ctx, &out->used, out->count, sizeof(*out->used)));
    TRY(find_folders(ctx, out));
done:
    sara_free(ctx, path);
    return status;
}

void sara_dataset_folder_close(sara_context *ctx, sara_dataset_folder *folder)
{
    sara_directory_free(ctx, folder->names, folder->count);
    for (size_t i = 0; folder->keys && i < folder->count; i++)
        sara_free(ctx, folder->keys[i]);
    sara_free(ctx, folder->keys);
    sara_free(ctx, folder->order);
    sara_free(ctx, folder->is_folder);
    sara_free(ctx, folder->used);
    *folder = (sara_dataset_folder){0};
}

sara_status sara_dataset_check_file(sara_context *ctx, const char *where, const char *path,
                                    const char *name)
{
    struct stat info;
    char target[256], reason[128];
    if (stat(path, &info) == 0)
        return S_ISREG(info.st_mode) ? SARA_OK
                                     : sara_fail(ctx, SARA_ERROR_INPUT,
                                                 "%s: image %s is not a regular file", where, name);
    const char *why = sara_errno_text(reason, errno);
    ssize_t length = readlink(path, target, sizeof(target) - 1);
    if (length < 0)
        return sara_fail(ctx, SARA_ERROR_INPUT, "%s: image %s: %s", where, name, why);
    target[length] = '\0';
    return sara_fail(ctx, SARA_ERROR_INPUT, "%s: image %s is a link to %s: %s", where, name, target,
                     why);
}

/* ------------------------------------------------------------------------------------- finding */

/* The name in NFC; as it is where it is ASCII or no UTF-8. Backslashes become slashes, which is
 * how a name with both is found that an archive from Windows left in one. */
static sara_status make_key(sara_context *ctx, char **out, const char *name)
{
    utf8proc_uint8_t *composed = utf8proc_NFC((const utf8proc_uint8_t *)name);
    sara_status status = sara_strdup(ctx, out, composed ? (const char *)composed : name);
    free(composed);
    for (char *at = status == SARA_OK ? *out : NULL; at && *at; at++)
        if (*at == '\\')
            *at = '/';
    return status;
}

static int compare_folder_keys(const void *a, const void *b, void *user)
{
    char *const *keys = user;
    const size_t i = *(const size_t *)a, j = *(const size_t *)b;
    int order = strcmp(keys[i], keys[j]);
    return order ? order : (i > j) - (i < j);
}

static sara_status make_keys(sara_context *ctx, sara_dataset_folder *folder)
{
    sara_status status = SARA_OK;
    if (folder->order || !folder->count)
        return SARA_OK;
    TRY(sara_alloc_zero(ctx, &folder->keys, folder->count, sizeof(*folder->keys)));
    for (size_t i = 0; i < folder->count; i++)
        TRY(make_key(ctx, &folder->keys[i], folder->names[i]));
    TRY(sara_alloc(ctx, &folder->order, folder->count, sizeof(*folder->order)));
    for (size_t i = 0; i < folder->count; i++)
        folder->order[i] = i;
    qsort_r(folder->order, folder->count, sizeof(*folder->order), compare_folder_keys,
            folder->keys);
done:
    return status;
}

static size_t find_exactly(const sara_dataset_folder *folder, const char *name)
{
    size_t low = 0, high = folder->count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        int order = strcmp(folder->names[middle], name);
        if (order == 0)
            return middle;
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return SIZE_MAX;
}

/* The first in the keys' order that is not below the key. */
static size_t folder_lower_bound(const sara_dataset_folder *folder, const char *key)
{
    size_t low = 0, high = folder->count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (strcmp(folder->keys[folder->order[middle]], key) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static bool has_key(const sara_dataset_folder *folder, size_t place, const char *key)
{
    return place < folder->count && strcmp(folder->keys[folder->order[place]], key) == 0;
}

sara_status sara_dataset_folder_find(sara_context *ctx, size_t *out, sara_dataset_folder *folder,
                                     const char *name)
{
    char *key = NULL;
    sara_status status = SARA_OK;
    *out = find_exactly(folder, name);
    if (*out != SIZE_MAX)
        return SARA_OK;
    TRY(make_keys(ctx, folder));
    TRY(make_key(ctx, &key, name));
    size_t place = folder_lower_bound(folder, key);
    if (has_key(folder, place + 1, key))
        TRY(sara_fail(ctx, SARA_ERROR_INPUT,
                      "%s: %s could be either of two files whose names look the same, in other "
                      "code points (Unicode's NFC and NFD): rename one",
                      folder->path, name));
    if (has_key(folder, place, key))
        *out = folder->order[place];
done:
    sara_free(ctx, key);
    return status;
}

/* stem: a key that ends with the dot, with which names begin next to each other in the order. */
static sara_status find_extension(sara_context *ctx, size_t *out, const sara_dataset_folder *folder,
                                  const char *stem, const char *extension)
{
    size_t length = strlen(stem);
    for (size_t place = folder_lower_bound(folder, stem); place < folder->count; place++) {
        size_t file = folder->order[place];
        if (strncmp(folder->keys[file], stem, length) != 0)
            break;
        if (folder->is_folder[file] || !sara_text_same(folder->keys[file] + length - 1, extension))
            continue;
        if (*out != SIZE_MAX)
            return sara_fail(ctx, SARA_ERROR_INPUT,
                             "%s: two captions of one image, %s and %s: remove the one that is "
                             "not meant",
                             folder->path, folder->names[*out], folder->names[file]);
        *out = file;
    }
    return SARA_OK;
}

sara_status sara_dataset_folder_find_beside(sara_context *ctx, size_t *out,
                                            sara_dataset_folder *folder, const char *image,
                                            const char *extension)
{
    int size = (int)(strrchr(image, '.') - image);
    char *name = NULL, *stem = NULL, *key = NULL, *ending = NULL;
    sara_status status;
    TRY(sara_format(ctx, &name, "%.*s%s", size, image, extension));
    TRY(sara_dataset_folder_find(ctx, out, folder, name));
    if (*out != SIZE_MAX && !folder->is_folder[*out])
        goto done;
    *out = SIZE_MAX;
    TRY(make_keys(ctx, folder));
    TRY(sara_format(ctx, &stem, "%.*s.", size, image));
    TRY(make_key(ctx, &key, stem));
    TRY(make_key(ctx, &ending, extension));
    TRY(find_extension(ctx, out, folder, key, ending));
done:
    sara_free(ctx, name);
    sara_free(ctx, stem);
    sara_free(ctx, key);
    sara_free(ctx, ending);
    return status;
}

/* ------------------------------------------------------------------------------------- nearest */

static char fold(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
}

/* How many bytes have to be put in, left out or changed, capitals apart; `limit` where it is no
 * less (Levenshtein, of the diagonals near the middle alone). */
static size_t edit_distance(const char *a, const char *b, size_t limit)
{
    size_t row[LONGEST_NAME + 1], m = strlen(a), n = strlen(b);
    if (m > LONGEST_NAME || n > LONGEST_NAME || (m > n ? m - n : n - m) >= limit)
        return limit;
    for (size_t j = 0; j <= n; j++)
        row[j] = j;
    for (size_t i = 1; i <= m; i++) {
        size_t from = i > limit ? i - limit : 1, to = i + limit < n ? i + limit : n;
        size_t corner = row[from - 1], least = limit;
        row[from - 1] = from == 1 ? i : limit;
        for (size_t j = from; j <= to; j++) {
            size_t best = corner + (fold(a[i - 1]) != fold(b[j - 1]));
            if (row[j] + 1 < best)
                best = row[j] + 1;
            if (row[j - 1] + 1 < best)
                best = row[j - 1] + 1;
            corner = row[j];
            row[j] = best;
            least = best < least ? best : least;
        }
        if (to < n)
            row[to + 1] = limit; /* the next row's edge */
        if (least >= limit)
            return limit;
    }
    return row[n] < limit ? row[n] : limit;
}

sara_status sara_dataset_folder_nearest(sara_context *ctx, const char **out,
                                        sara_dataset_folder *folder, const char *name, bool images)
{
    size_t best = 2 * LONGEST_NAME;
    char *key = NULL;
    sara_status status;
    *out = NULL;
    TRY(make_keys(ctx, folder));
    TRY(make_key(ctx, &key, name));
    for (size_t i = 0; i < folder->count && best > 0; i++) {
        bool image =
            !folder->is_folder[i] && sara_file_kind_of(folder->names[i]) == SARA_FILE_IMAGE;
        if (images ? !image : !folder->is_folder[i])
            continue;
        size_t distance = edit_distance(key, folder->keys[i], best);
        if (distance < best) {
            best = distance;
            *out = folder->names[i];
        }
    }
done:
    sara_free(ctx, key);
    return status;
}

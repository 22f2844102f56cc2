#include "train/cache_files.h"

#include "nn/simd/simd.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define LAYOUT "2" /* of the files; another is another scope */

/* --------------------------------------------------------------------------------------- where */

sara_status sara_cache_folder(sara_context *ctx, char **out, const sara_train_options *options,
                              const char *images)
{
    sara_status status;
    *out = NULL;
    if (options->cache_dir) {
        TRY(sara_strdup(ctx, out, options->cache_dir));
        TRY(sara_directory_make_writable(ctx, *out));
        return SARA_OK;
    }
    TRY(sara_path_join(ctx, out, images, SARA_DATASET_CACHE));
    if (sara_directory_make_writable(ctx, *out) == SARA_OK)
        return SARA_OK;
    sara_free(ctx, *out);
    *out = NULL;
    TRY(sara_path_join(ctx, out, options->output_dir, "cache"));
    sara_log(ctx, SARA_LOG_INFO, "%s; encoded images and captions are kept in %s instead",
             sara_context_error(ctx), *out);
    TRY(sara_directory_make_writable(ctx, *out));
done:
    if (status != SARA_OK) {
        sara_free(ctx, *out);
        *out = NULL;
    }
    return status;
}

/* --------------------------------------------------------------------------------------- names */

static sara_status add_text(sara_sha256 *hash, const char *text)
{
    return sara_sha256_add(hash, text, strlen(text) + 1);
}

/* Hash and settings of a part, as the run's identity has them, and what these do not tell: what its
 * weights are rounded to, and the id at which a text ends. */
static sara_status cache_add_part(const sara_model *model, sara_sha256 *hash,
                                  const json_t *identity, int part)
{
    static const char *const endings[] = {"_sha256", "_settings"};
    const sara_network *network = model->parts[part].network; /* NULL: it is left out */
    const char *folder = model->family->parts[part].folder;
    sara_context *ctx = model->ctx;
    sara_status status;
    TRY(add_text(hash, folder));
    if (network && sara_params_are_rounded(&network->params))
        TRY(add_text(hash, sara_storage_name(&network->params)));
    if (network && (model->family->parts[part].stages & SARA_STAGE_TEXT)) {
        const int32_t end = network->info.text.eos_token_id;
        TRY(sara_sha256_add(hash, &end, sizeof(end)));
    }
    for (size_t i = 0; i < sizeof(endings) / sizeof(*endings); i++) {
        const json_t *value =
            json_object_get(identity, sara_name_of("%s%s", folder, endings[i]).text);
        char *text = sara_json_dump(value ? value : json_null(),
                                    JSON_ENCODE_ANY | JSON_COMPACT | JSON_SORT_KEYS);
        status = text ? add_text(hash, text)
                      : sara_fail(ctx, SARA_ERROR_MEMORY, "out of memory: options");
        free(text);
        TRY(status);
    }
done:
    return status;
}

sara_status sara_cache_files_open(sara_cache_files *out, const char *folder, const char *kind,
                                  const sara_model *model, sara_stage stage, const json_t *identity)
{
    sara_sha256 *hash = NULL;
    sara_status status;
    *out = (sara_cache_files){.ctx = model->ctx};
    TRY(sara_path_join(out->ctx, &out->folder, folder, kind));
    TRY(sara_directory_make_writable(out->ctx, out->folder));
    TRY(sara_partial_sweep(out->ctx, out->folder));
    TRY(sara_sha256_new(out->ctx, &hash));
    TRY(add_text(hash, LAYOUT));
    TRY(add_text(hash, model->device->name)); /* sums in another order are other bits */
    TRY(add_text(hash, sara_simd_best()->name));
    TRY(add_text(hash, model->family->name ? model->family->name : ""));
    for (int i = 0; i < model->family->part_count; i++)
        if (model->family->parts[i].stages & stage)
            TRY(cache_add_part(model, hash, identity, i));
    TRY(sara_sha256_end(&hash, out->scope));
done:
    sara_sha256_abort(&hash);
    return status;
}

void sara_cache_files_close(sara_cache_files *files)
{
    if (files->ctx)
        sara_free(files->ctx, files->folder);
    *files = (sara_cache_files){.folder = NULL};
}

sara_status sara_cache_files_name(const sara_cache_files *files, char name[65], const char *key)
{
    sara_sha256 *hash = NULL;
    sara_status status;
    TRY(sara_sha256_new(files->ctx, &hash));
    TRY(add_text(hash, files->scope));
    TRY(add_text(hash, key));
    TRY(sara_sha256_end(&hash, name));
done:
    sara_sha256_abort(&hash);
    return status;
}

/* *out: sara_free() */
static sara_status cached_path(const sara_cache_files *files, char **out, const char *name)
{
    return sara_format(files->ctx, out, "%s/%s.safetensors", files->folder, name);
}

/* --------------------------------------------------------------------------------------- files */

static sara_status hash_tensors(sara_context *ctx, char out[65], const sara_tensor_source *tensors,
                                size_t count)
{
    sara_sha256 *hash = NULL;
    sara_status status;
    TRY(sara_sha256_new(ctx, &hash));
    for (size_t i = 0; i < count; i++)
        TRY(sara_sha256_add(hash, tensors[i].data,
                            (size_t)sara_shape_count(&tensors[i].shape) * sizeof(float)));
    TRY(sara_sha256_end(&hash, out));
done:
    sara_sha256_abort(&hash);
    return status;
}

/* That the file is the one of this name, has these tensors, and their hash is what it says. */
static sara_status check_cached(sara_context *ctx, const char *path, const char *name,
                                const sara_tensor_source *tensors, size_t count)
{
    sara_safetensors *file = NULL;
    sara_sha256 *hash = NULL;
    sara_tensor tensor = {0};
    char digits[65];
    sara_status status;
    TRY(sara_safetensors_open(ctx, &file, path));
    const char *of = sara_safetensors_metadata(file, "name");
    if (!of || strcmp(of, name) != 0)
        TRY(sara_fail(ctx, SARA_ERROR_INPUT, "%s: is not the file that was written there", path));
    TRY(sara_sha256_new(ctx, &hash));
    for (size_t i = 0; i < count; i++) {
        TRY(sara_safetensors_load(file, &tensor, tensors[i].name, SARA_F32, &tensors[i].shape));
        TRY(sara_sha256_add(hash, tensor.data,
                            (size_t)sara_shape_count(&tensor.shape) * sizeof(float)));
        sara_tensor_free(ctx, &tensor);
    }
    TRY(sara_sha256_end(&hash, digits));
    const char *said = sara_safetensors_metadata(file, "sha256");
    if (!said || strcmp(said, digits) != 0)
        status = sara_fail(ctx, SARA_ERROR_INPUT, "%s: its values are not those that were written",
                           path);
done:
    sara_tensor_free(ctx, &tensor);
    sara_sha256_abort(&hash);
    sara_safetensors_close(file);
    return status;
}

sara_status sara_cache_files_find(sara_cache_files *files, bool *there, const char *name,
                                  const sara_tensor_source *tensors, size_t count)
{
    char *path = NULL;
    sara_status status;
    *there = false;
    TRY(cached_path(files, &path, name));
    if (!sara_path_is_named(path))
        goto done;
    status = check_cached(files->ctx, path, name, tensors, count);
    if (status == SARA_ERROR_MEMORY)
        goto done;
    *there = status == SARA_OK;
    files->found += *there;
    if (status != SARA_OK)
        sara_log(files->ctx, SARA_LOG_WARNING, "%s; it is made anew",
                 sara_context_error(files->ctx));
    status = SARA_OK;
done:
    sara_free(files->ctx, path);
    return status;
}

/* Makes room for a file: an empty folder, a pipe or a link to no file goes. */
static sara_status clear_place(sara_context *ctx, const char *path)
{
    struct stat named, meant;
    if (lstat(path, &named) != 0 || S_ISREG(named.st_mode) ||
        (S_ISLNK(named.st_mode) && stat(path, &meant) == 0 && S_ISREG(meant.st_mode)))
        return SARA_OK;
    if ((S_ISDIR(named.st_mode) ? rmdir(path) : unlink(path)) == 0 || errno == ENOENT)
        return SARA_OK;
    return sara_fail_errno(ctx, path, "in the place of a cached file; remove it");
}

sara_status sara_cache_files_write(sara_cache_files *files, const char *name,
                                   const sara_tensor_source *tensors, size_t count)
{
    char *path = NULL, digits[65];
    const sara_metadata metadata[] = {{"name", name}, {"sha256", digits}};
    sara_status status;
    TRY(cached_path(files, &path, name));
    TRY(clear_place(files->ctx, path));
    TRY(hash_tensors(files->ctx, digits, tensors, count));
    TRY(sara_safetensors_save(files->ctx, path, tensors, count, metadata, 2));
    files->made++;
done:
    sara_free(files->ctx, path);
    return status;
}

sara_status sara_cache_files_read(const sara_cache_files *files, const char *name,
                                  const char *tensor, float *out, size_t count)
{
    sara_safetensors *file = NULL;
    char *path = NULL;
    sara_status status;
    TRY(cached_path(files, &path, name));
    TRY(sara_safetensors_open(files->ctx, &file, path));
    const sara_tensor_info *info = sara_safetensors_find(file, tensor);
    if (!info || (size_t)sara_shape_count(&info->shape) != count)
        TRY(sara_fail(files->ctx, SARA_ERROR_INPUT, "%s: changed while it was in use", path));
    TRY(sara_safetensors_read_f32(file, out, info));
done:
    sara_safetensors_close(file);
    sara_free(files->ctx, path);
    return status;
}

void sara_cache_files_tell(const sara_cache_files *files, const char *what)
{
    if (files->folder)
        sara_log(files->ctx, SARA_LOG_INFO, "%s: %zu %s found, %zu made", files->folder,
                 files->found, what, files->made);
}

/* Writing a model folder: the U-Net from memory, everything else from the source folder. */
#include "pipeline/pipeline.h"

#include <math.h>
#include <stdlib.h>
#include <unistd.h>

#define DEEPEST_FOLDER 8

static sara_status parse_dtype(sara_context *ctx, sara_dtype *out, bool *given, const char *name)
{
    *given = name != NULL;
    if (!name || sara_dtype_parse(out, name))
        return SARA_OK;
    return sara_fail(ctx, SARA_ERROR_USAGE, "dtype %s: expected fp32, fp16 or bf16", name);
}

static bool is_float(sara_dtype dtype)
{
    return dtype == SARA_F32 || dtype == SARA_F16 || dtype == SARA_BF16 || dtype == SARA_F64;
}

static void sources_free(sara_context *ctx, sara_tensor_source *sources, bool *owned, size_t count)
{
    for (size_t i = 0; sources && owned && i < count; i++)
        if (owned[i])
            sara_free(ctx, (void *)(uintptr_t)sources[i].data);
    sara_free(ctx, sources);
    sara_free(ctx, owned);
}

/* Between files: what there is of the copy is removed. */
static sara_status check_interrupted(sara_context *ctx)
{
    return sara_interrupted(ctx) ? sara_fail(ctx, SARA_INTERRUPTED, "interrupted; nothing is saved")
                                 : SARA_OK;
}

static sara_status write_sources(sara_context *ctx, const char *folder, const char *stem,
                                 const sara_tensor_source *sources, size_t count)
{
    const sara_metadata format = {"format", "pt"};
    char *name = NULL, *path = NULL;
    sara_status status;
    TRY(check_interrupted(ctx));
    TRY(sara_format(ctx, &name, "%s.safetensors", stem));
    TRY(sara_path_join(ctx, &path, folder, name));
    TRY(sara_safetensors_save(ctx, path, sources, count, &format, 1));
done:
    sara_free(ctx, name);
    sara_free(ctx, path);
    return status;
}

/* The values, entries from `first` on, as they are stored. A value that fp16 cannot hold would
 * become infinite. */
static sara_status store(sara_context *ctx, void *out, sara_dtype dtype, const float *values,
                         size_t first, size_t count, const char *name)
{
    char *to = (char *)out + first * sara_dtype_size(dtype);
    double *doubles = out;
    for (size_t i = 0; dtype == SARA_F16 && i < count; i++)
        if (isfinite(values[i]) && fabsf(values[i]) >= 65520.0f)
            return sara_fail(ctx, SARA_ERROR_USAGE,
                             "%s: entry %zu is %g, fp16 ends at 65504; save as bf16 or fp32", name,
                             first + i, (double)values[i]);
    if (dtype != SARA_F64)
        sara_convert_from_f32(to, dtype, values, count);
    else
        for (size_t i = 0; i < count; i++)
            doubles[first + i] = values[i];
    return SARA_OK;
}

static sara_status store_param(sara_context *ctx, void *out, sara_dtype dtype,
                               const sara_param *param)
{
    size_t count = (size_t)sara_shape_count(&param->value.shape);
    float buffer[SARA_PARAM_BLOCK];
    sara_status status = SARA_OK;
    for (size_t at = 0, part; at < count; at += part) {
        part = sara_param_part(count, at);
        TRY(store(ctx, out, dtype, sara_param_block(param, buffer, at, part), at, part,
                  param->name));
    }
done:
    return status;
}

static sara_status save_params(sara_context *ctx, const char *folder, const char *stem,
                               const sara_params *params, const sara_dtype *dtype)
{
    sara_tensor_source *sources = NULL;
    bool *owned = NULL;
    sara_status status;
    TRY(sara_alloc_zero(ctx, &sources, params->count, sizeof(*sources)));
    TRY(sara_alloc_zero(ctx, &owned, params->count, sizeof(*owned)));
    for (size_t i = 0; i < params->count; i++) {
        const sara_param *param = &params->items[i];
        sara_dtype wanted = dtype ? *dtype : param->stored;
        size_t count = (size_t)sara_shape_count(&param->value.shape);
        sources[i] =
            (sara_tensor_source){param->name, wanted, param->value.shape, param->value.data};
        if (wanted == param->value.dtype)
            continue;
        void *data;
        TRY(sara_alloc(ctx, &data, count, sara_dtype_size(wanted)));
        sources[i].data = data;
        owned[i] = true;
        TRY(store_param(ctx, data, wanted, param));
    }
    TRY(write_sources(ctx, folder, stem, sources, params->count));
done:
    sources_free(ctx, sources, owned, params->count);
    return status;
}

/* One tensor as stored, or converted where it is floating and a dtype is wanted. */
static sara_status read_tensor(sara_context *ctx, sara_tensor_source *out,
                               const sara_weights *weights, const sara_tensor_info *info,
                               const sara_dtype *dtype)
{
    size_t count = (size_t)sara_shape_count(&info->shape);
    bool convert = dtype && is_float(info->dtype) && *dtype != info->dtype;
    float *values = NULL;
    void *data = NULL;
    sara_status status;
    *out = (sara_tensor_source){info->name, convert ? *dtype : info->dtype, info->shape, NULL};
    TRY(sara_alloc(ctx, &data, count, sara_dtype_size(out->dtype)));
    if (convert) {
        TRY(sara_alloc(ctx, &values, count, sizeof(*values)));
        TRY(sara_weights_read_f32(weights, values, info));
        TRY(store(ctx, data, out->dtype, values, 0, count, info->name));
    } else {
        TRY(sara_weights_read(weights, data, info));
    }
    out->data = data;
    data = NULL;
done:
    sara_free(ctx, values);
    sara_free(ctx, data);
    return status;
}

/* The component's own tensors, those that sara does not use among them, in one file. */
static sara_status save_weights(sara_context *ctx, const char *to, const char *from,
                                const char *stem, const char *variant, const sara_dtype *dtype)
{
    sara_weights *weights = NULL;
    sara_tensor_source *sources = NULL;
    bool *owned = NULL;
    size_t count = 0;
    sara_status status;
    TRY(sara_weights_open(ctx, &weights, from, stem, variant));
    count = sara_weights_count(weights);
    TRY(sara_alloc_zero(ctx, &sources, count, sizeof(*sources)));
    TRY(sara_alloc_zero(ctx, &owned, count, sizeof(*owned)));
    for (size_t i = 0; i < count; i++) {
        TRY(read_tensor(ctx, &sources[i], weights, sara_weights_at(weights, i), dtype));
        owned[i] = true;
    }
    TRY(write_sources(ctx, to, stem, sources, count));
done:
    sources_free(ctx, sources, owned, count);
    sara_weights_close(weights);
    return status;
}

static bool ends_with(const char *text, const char *ending)
{
    size_t length = strlen(text), tail = strlen(ending);
    return length >= tail && strcmp(text + length - tail, ending) == 0;
}

/* Weights under any name: what is written anew, or would no longer be the model's. */
static bool is_weights(const char *name)
{
    static const char *const endings[] = {".safetensors", ".safetensors.index.json",
                                          ".bin",         ".bin.index.json",
                                          ".ckpt",        ".pt",
                                          ".pth",         ".msgpack",
                                          ".h5",          ".onnx",
                                          ".gguf"};
    for (size_t i = 0; i < sizeof(endings) / sizeof(*endings); i++)
        if (ends_with(name, endings[i]))
            return true;
    return strstr(name, ".safetensors.index.") != NULL;
}

/* What is written anew; the folders of others (safety checker, ...) keep their weights. */
static bool is_component(const char *name)
{
    return strcmp(name, "unet") == 0 || strcmp(name, "vae") == 0 ||
           strcmp(name, "text_encoder") == 0;
}

/* Copies the tree but for hidden entries; weights only where keep_weights. depth bounds symbolic
 * links that lead in circles. */
static sara_status carry_along(sara_context *ctx, const char *to, const char *from, int depth,
                               bool keep_weights)
{
    char **names = NULL, *source = NULL, *target = NULL;
    size_t count = 0;
    sara_status status;
    if (depth > DEEPEST_FOLDER)
        return sara_fail(ctx, SARA_ERROR_INPUT, "%s: folders more than %d deep", from,
                         DEEPEST_FOLDER);
    TRY(sara_directory_make(ctx, to));
    TRY(sara_directory_list(ctx, &names, &count, from));
    for (size_t i = 0; i < count; i++) {
        if (names[i][0] == '.')
            continue;
        TRY(check_interrupted(ctx));
        TRY(sara_path_join(ctx, &source, from, names[i]));
        TRY(sara_path_join(ctx, &target, to, names[i]));
        if (sara_path_is_directory(source)) {
            bool keep = depth > 0 ? keep_weights : !is_component(names[i]);
            TRY(carry_along(ctx, target, source, depth + 1, keep));
        } else if (keep_weights || !is_weights(names[i])) {
            TRY(sara_file_copy(ctx, source, target));
        }
        sara_free(ctx, source);
        sara_free(ctx, target);
        source = target = NULL;
    }
done:
    sara_free(ctx, source);
    sara_free(ctx, target);
    sara_directory_free(ctx, names, count);
    return status;
}

static sara_status save_component(sara_context *ctx, const char *to, const sara_model *model,
                                  const char *name, const char *stem, const sara_dtype *dtype)
{
    char *source = NULL, *target = NULL;
    sara_status status;
    TRY(sara_path_join(ctx, &source, model->path, name));
    TRY(sara_path_join(ctx, &target, to, name));
    TRY(save_weights(ctx, target, source, stem, model->variant, dtype));
done:
    sara_free(ctx, source);
    sara_free(ctx, target);
    return status;
}

static sara_status save_tree(sara_context *ctx, const char *to, const sara_model *model,
                             const sara_dtype *dtype)
{
    char *unet = NULL;
    const sara_params *params = sara_unet_params(model->unet);
    sara_status status;
    TRY(carry_along(ctx, to, model->path, 0, false));
    if (model->unet_only)
        return save_params(ctx, to, SARA_DIFFUSERS_STEM, params, dtype);
    TRY(sara_path_join(ctx, &unet, to, "unet"));
    TRY(save_params(ctx, unet, SARA_DIFFUSERS_STEM, params, dtype));
    TRY(save_component(ctx, to, model, "vae", SARA_DIFFUSERS_STEM, dtype));
    TRY(save_component(ctx, to, model, "text_encoder", SARA_TRANSFORMERS_STEM, dtype));
done:
    sara_free(ctx, unet);
    return status;
}

/* -------------------------------------------------------------------------------------- report */

typedef struct loss {
    const sara_dtype *dtype;
    int64_t changed, rounded_away;
    double change, error; /* sums of squares */
} loss;

static float rounded(float value, sara_dtype dtype)
{
    uint16_t half;
    if (dtype != SARA_F16 && dtype != SARA_BF16)
        return value;
    sara_convert_from_f32(&half, dtype, &value, 1);
    sara_convert_to_f32(&value, &half, dtype, 1);
    return value;
}

static void count_loss(void *user, const sara_param *param, uint32_t position, float original,
                       float current)
{
    loss *sum = user;
    sara_dtype dtype = sum->dtype ? *sum->dtype : param->stored;
    (void)position;
    if (memcmp(&original, &current, sizeof(original)) == 0)
        return;
    float stored = rounded(current, dtype);
    double change = (double)current - original, kept = (double)stored - original;
    sum->changed++;
    sum->rounded_away += stored == rounded(original, dtype);
    sum->change += change * change;
    sum->error += (kept - change) * (kept - change);
}

static void fill_report(sara_save_report *report, const sara_model *model, const sara_dtype *dtype)
{
    loss sum = {.dtype = dtype};
    if (model->applied)
        sara_applied_visit(model->applied, count_loss, &sum);
    *report = (sara_save_report){sum.changed, sum.rounded_away, sqrt(sum.change),
                                 sum.change > 0 ? sqrt(sum.error / sum.change) : 0};
}

static sara_status check_target(sara_context *ctx, const char *out_dir)
{
    char **names = NULL;
    size_t count = 0;
    if (!sara_path_exists(out_dir))
        return SARA_OK;
    if (!sara_path_is_directory(out_dir))
        return sara_fail(ctx, SARA_ERROR_USAGE, "%s: exists and is no folder", out_dir);
    sara_status status = sara_directory_list(ctx, &names, &count, out_dir);
    sara_directory_free(ctx, names, count);
    if (status == SARA_OK && count > 0)
        status = sara_fail(ctx, SARA_ERROR_USAGE,
                           "%s: exists and holds %zu entries; name a new folder", out_dir, count);
    return status;
}

/* The folder that out_dir will be in, or the nearest above that exists already; free(). */
static sara_status real_parent(sara_context *ctx, char **out, const char *out_dir)
{
    char *path = NULL;
    sara_status status;
    *out = NULL;
    TRY(sara_strdup(ctx, &path, out_dir));
    while (!*out && strcmp(path, "/") != 0 && strcmp(path, ".") != 0) {
        char *slash = strrchr(path, '/');
        if (!slash)
            memcpy(path, ".", 2);
        else
            slash[slash == path] = '\0';
        *out = realpath(path, NULL);
    }
    if (!*out)
        status = sara_fail_errno(ctx, out_dir, "cannot resolve");
done:
    sara_free(ctx, path);
    return status;
}

/* A folder inside the model's own would be copied into itself. */
static sara_status check_outside(sara_context *ctx, const char *out_dir, const char *source)
{
    char *parent = NULL, *own = realpath(source, NULL);
    sara_status status;
    if (!own) {
        status = sara_fail_errno(ctx, source, "cannot resolve");
        goto done;
    }
    TRY(real_parent(ctx, &parent, out_dir));
    size_t length = strlen(own);
    if (strncmp(parent, own, length) == 0 && (parent[length] == '/' || parent[length] == '\0'))
        status = sara_fail(ctx, SARA_ERROR_USAGE,
                           "%s: lies inside the model's own folder %s; name another place", out_dir,
                           source);
done:
    free(own);
    free(parent);
    return status;
}

void sara_folder_discard(sara_context *ctx, const char *path)
{
    char line[2048];
    if (!sara_path_exists(path))
        return;
    snprintf(line, sizeof(line), "%s", sara_context_error(ctx));
    sara_status status = sara_directory_remove(ctx, path);
    if (status != SARA_OK)
        sara_log(ctx, SARA_LOG_WARNING, "%s: could not be removed", path);
    sara_fail(ctx, status, "%s", line);
}

/* Frozen weights would be written as they were rounded. */
static sara_status check_rounded(sara_context *ctx, const sara_model *model)
{
    if (!sara_model_is_rounded(model))
        return SARA_OK;
    return sara_fail(ctx, SARA_ERROR_USAGE,
                     "%s: was loaded with weight_dtype %s, which rounded its weights; load it with "
                     "fp32 or auto to save it",
                     model->path, sara_storage_name(sara_unet_params(model->unet)));
}

sara_status sara_model_save(sara_context *ctx, sara_save_report *report, const sara_model *model,
                            const char *out_dir, const char *dtype_name)
{
    char *target = NULL, *partial = NULL;
    sara_dtype dtype = SARA_F32;
    bool given;
    size_t length = out_dir ? strlen(out_dir) : 0;
    sara_status status;
    if (length == 0)
        return sara_fail(ctx, SARA_ERROR_USAGE, "no output folder given");
    while (length > 1 && out_dir[length - 1] == '/')
        length--;
    TRY(sara_format(ctx, &target, "%.*s", (int)length, out_dir));
    TRY(parse_dtype(ctx, &dtype, &given, dtype_name));
    TRY(check_rounded(ctx, model));
    TRY(check_target(ctx, target));
    TRY(check_outside(ctx, target, model->path));
    TRY(sara_format(ctx, &partial, "%s.partial-%ld", target, (long)getpid()));
    status = save_tree(ctx, partial, model, given ? &dtype : NULL);
    if (status == SARA_OK)
        status = sara_rename_durably(ctx, partial, target);
    if (status != SARA_OK)
        sara_folder_discard(ctx, partial);
    else if (report)
        fill_report(report, model, given ? &dtype : NULL);
done:
    sara_free(ctx, target);
    sara_free(ctx, partial);
    return status;
}

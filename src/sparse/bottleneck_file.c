/* The file of bottlenecks. */
#include "sparse/adapter.h"
#include "sparse/bottleneck.h"

#include <math.h>

#define DOWN ".ff.down.weight"

/* -------------------------------------------------------------------------------------- saving */

sara_status sara_bottlenecks_save(const sara_bottlenecks *b, const char *path,
                                  const sara_metadata *metadata, size_t metadata_count)
{
    sara_tensor_source *tensors = NULL;
    sara_params copy = {0};
    sara_status status;
    TRY(sara_params_read(b->ctx, &copy, &b->params));
    TRY(sara_alloc(b->ctx, &tensors, copy.count, sizeof(*tensors)));
    for (size_t i = 0; i < copy.count; i++) {
        const sara_tensor *value = &copy.items[i].value;
        tensors[i] = (sara_tensor_source){copy.items[i].name, SARA_F32, value->shape, value->data};
    }
    TRY(sara_safetensors_save(b->ctx, path, tensors, copy.count, metadata, metadata_count));
done:
    sara_free(b->ctx, tensors);
    sara_params_read_end(b->ctx, &copy, &b->params);
    return status;
}

/* ------------------------------------------------------------------------------------- loading */

static bool is_down(const char *name)
{
    size_t length = strlen(name), tail = strlen(DOWN);
    return length > tail && strcmp(name + length - tail, DOWN) == 0;
}

bool sara_bottlenecks_are(const sara_safetensors *file)
{
    const char *method = sara_safetensors_metadata(file, "sara.method");
    return method && strcmp(method, SARA_BOTTLENECK_METHOD) == 0;
}

static sara_status read_bottleneck_metadata(const sara_safetensors *file, sara_bottlenecks *out)
{
    const char *path = sara_safetensors_path(file), *text;
    char *end = NULL;
    size_t count;
    const sara_metadata *all = sara_safetensors_metadata_all(file, &count);
    sara_status status = SARA_OK;
    for (size_t i = 0; i < count; i++)
        TRY(sara_metadata_list_set(&out->metadata, all[i].key, all[i].value));
    text = sara_safetensors_metadata(file, "sara.adapter_scale");
    out->scale = text ? sara_parse_double(text, &end) : NAN;
    if (!text || end == text || *end || !isfinite(out->scale))
        status = sara_fail(out->ctx, SARA_ERROR_INPUT,
                           "%s: metadata sara.adapter_scale is %.40s, expected a number", path,
                           text ? text : "missing");
done:
    return status;
}

/* Of one layer: down.weight [width,channels] tells the sizes. */
static sara_status read_bottleneck_width(sara_context *ctx, const sara_safetensors *file,
                                         const sara_tensor_info *down, int64_t *width)
{
    const sara_shape *shape = &down->shape;
    sara_shape_text text;
    if (shape->rank != 2 || shape->dims[0] < 1 || shape->dims[1] < 1)
        return sara_fail(ctx, SARA_ERROR_INPUT, "%s: %s: shape %s, expected [width,channels]",
                         sara_safetensors_path(file), down->name, sara_shape_format(&text, shape));
    if (*width && shape->dims[0] != *width)
        return sara_fail(ctx, SARA_ERROR_INPUT, "%s: %s: width %lld, others have %lld",
                         sara_safetensors_path(file), down->name, (long long)shape->dims[0],
                         (long long)*width);
    *width = shape->dims[0];
    return SARA_OK;
}

static sara_status check_numbers(sara_context *ctx, const sara_param *param)
{
    const float *values = param->value.data;
    size_t count = (size_t)sara_shape_count(&param->value.shape);
    for (size_t i = 0; i < count; i++)
        if (!isfinite(values[i]))
            return sara_fail(ctx, SARA_ERROR_INPUT, "%s: value %zu is %s", param->name, i,
                             isnan(values[i]) ? "NaN" : "infinite");
    return SARA_OK;
}

static sara_status read_param(sara_context *ctx, const sara_safetensors *file, sara_param *param)
{
    const char *path = sara_safetensors_path(file);
    const sara_tensor_info *info = sara_safetensors_find(file, param->name);
    const sara_shape *shape = &param->value.shape;
    sara_param copy = {0};
    sara_shape_text got, expected;
    sara_status status;
    if (!info)
        return sara_fail(ctx, SARA_ERROR_INPUT, "%s: %s is missing", path, param->name);
    if (!sara_shape_equal(&info->shape, shape))
        return sara_fail(ctx, SARA_ERROR_INPUT, "%s: %s: shape %s, expected %s", path, param->name,
                         sara_shape_format(&got, &info->shape),
                         sara_shape_format(&expected, shape));
    TRY(sara_param_stage(ctx, &copy, param));
    TRY(sara_safetensors_read_f32(file, copy.value.data, info));
    status = check_numbers(ctx, &copy);
    if (status != SARA_OK) {
        sara_fail_in(ctx, status, path);
        goto done;
    }
    TRY(sara_param_write(param, &copy));
done:
    sara_param_read_end(ctx, &copy, param);
    return status;
}

/* How many layers there are, of which width. */
static sara_status count_layers(sara_context *ctx, const sara_safetensors *file, size_t *count,
                                int64_t *width)
{
    size_t tensors = sara_safetensors_count(file);
    sara_status status = SARA_OK;
    *count = 0;
    *width = 0;
    for (size_t i = 0; i < tensors; i++) {
        const sara_tensor_info *info = sara_safetensors_at(file, i);
        if (!is_down(info->name))
            continue;
        TRY(read_bottleneck_width(ctx, file, info, width));
        ++*count;
    }
    if (*count == 0 || tensors != 4 * *count)
        status = sara_fail(ctx, SARA_ERROR_INPUT,
                           "%s: %zu tensors, expected four for each of its %zu feed-forwards",
                           sara_safetensors_path(file), tensors, *count);
done:
    return status;
}

static sara_status hash_values(sara_bottlenecks *b)
{
    sara_sha256 *hash = NULL;
    sara_params copy = {0};
    sara_status status;
    TRY(sara_params_read(b->ctx, &copy, &b->params));
    TRY(sara_sha256_new(b->ctx, &hash));
    TRY(sara_sha256_add(hash, &b->scale, sizeof(b->scale)));
    for (size_t i = 0; i < copy.count; i++) {
        const sara_tensor *value = &copy.items[i].value;
        size_t count = (size_t)sara_shape_count(&value->shape);
        TRY(sara_sha256_add(hash, copy.items[i].name, strlen(copy.items[i].name) + 1));
        TRY(sara_sha256_add(hash, value->data, count * sizeof(float)));
    }
    TRY(sara_sha256_end(&hash, b->sha256));
done:
    sara_sha256_abort(&hash);
    sara_params_read_end(b->ctx, &copy, &b->params);
    return status;
}

static sara_status read_layers(sara_device *device, const sara_safetensors *file,
                               sara_bottlenecks *out)
{
    size_t tensors = sara_safetensors_count(file), next = 0;
    sara_status status = SARA_OK;
    for (size_t i = 0; i < tensors; i++) {
        const sara_tensor_info *info = sara_safetensors_at(file, i);
        if (is_down(info->name))
            TRY(sara_bottlenecks_place(out, next++, info->name,
                                       strlen(info->name) - strlen(".down.weight"),
                                       info->shape.dims[1], device));
    }
    for (size_t i = 0; i < out->params.count; i++)
        TRY(read_param(out->ctx, file, &out->params.items[i]));
done:
    return status;
}

sara_status sara_bottlenecks_read(sara_device *device, sara_bottlenecks *out,
                                  const sara_safetensors *file)
{
    sara_adapter_entry all = {0};
    int64_t width;
    size_t count;
    sara_status status;
    TRY(count_layers(device->ctx, file, &count, &width));
    TRY(sara_bottlenecks_start(device->ctx, out, count, width, 0));
    TRY(read_bottleneck_metadata(file, out));
    TRY(read_layers(device, file, out));
    TRY(hash_values(out));
    all.count = (size_t)sara_params_entries(&out->params);
    TRY(sara_adapter_check_metadata(device->ctx, sara_safetensors_path(file), SARA_ERROR_INPUT,
                                    out->metadata.items, out->metadata.count, &all, 1));
done:
    return status;
}

#include "core/context.h"

#define READ_AHEAD ((size_t)16 << 20) /* bytes of copies at a time */

sara_status sara_params_new(sara_context *ctx, sara_params *out, size_t count)
{
    sara_status status = sara_alloc_zero(ctx, &out->items, count, sizeof(*out->items));
    out->count = status == SARA_OK ? count : 0;
    out->buffers = 0;
    ctx->param_sets++;
    for (size_t i = 0; i < out->count; i++)
        out->items[i].version = ctx->param_sets << 32;
    return status;
}

void sara_param_release(sara_context *ctx, sara_param *param)
{
    if (param->device)
        sara_device_free(param->device, param->value.data);
    else
        sara_free(ctx, param->value.data);
    param->value.data = NULL;
}

void sara_params_free(sara_context *ctx, sara_params *params)
{
    for (size_t i = 0; i < sara_params_all(params); i++) {
        sara_free(ctx, (void *)(uintptr_t)params->items[i].name);
        sara_param_release(ctx, &params->items[i]);
    }
    sara_free(ctx, params->items);
    *params = (sara_params){0};
}

sara_status sara_param_alloc(sara_param *param, sara_device *device, sara_dtype dtype,
                             const sara_shape *shape)
{
    size_t count;
    sara_status status;
    TRY(sara_shape_elements(device->ctx, &count, shape));
    TRY(sara_device_alloc(device, &param->value.data, count, sara_dtype_size(dtype)));
    param->value.dtype = dtype;
    param->value.shape = *shape;
    param->device = device;
done:
    return status;
}

sara_param *sara_params_find(const sara_params *params, const char *name)
{
    size_t low = 0, high = params->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = strcmp(params->items[middle].name, name);
        if (order == 0)
            return &params->items[middle];
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}

int64_t sara_params_entries(const sara_params *params)
{
    int64_t entries = 0;
    for (size_t i = 0; i < params->count; i++)
        entries += sara_shape_count(&params->items[i].value.shape);
    return entries;
}

int64_t sara_params_bytes(const sara_params *params)
{
    int64_t bytes = 0;
    for (size_t i = 0; i < sara_params_all(params); i++) {
        const sara_tensor *value = &params->items[i].value;
        bytes += sara_shape_count(&value->shape) * (int64_t)sara_dtype_size(value->dtype);
    }
    return bytes;
}

bool sara_param_is_rounded(const sara_param *param)
{
    return param->value.dtype != SARA_F32 &&
           param->value.dtype != sara_dtype_widened(param->stored);
}

/* -------------------------------------------------------------------------- read by the host */

static size_t value_bytes(const sara_param *param)
{
    return (size_t)sara_shape_count(&param->value.shape) * sara_dtype_size(param->value.dtype);
}

/* Whether the host reads the values where they are. */
static bool lies_ready(const sara_param *param)
{
    return sara_device_is_host(param->device) && (param->value.data || !param->source);
}

sara_status sara_param_stage(sara_context *ctx, sara_param *copy, const sara_param *param)
{
    *copy = *param;
    if (lies_ready(param))
        return SARA_OK;
    copy->device = NULL;
    return sara_alloc(ctx, &copy->value.data, value_bytes(param), 1);
}

sara_status sara_param_read(sara_context *ctx, sara_param *copy, const sara_param *param)
{
    sara_status status;
    TRY(sara_param_stage(ctx, copy, param));
    if (!param->value.data && param->source)
        TRY(param->source->read(param->source->user, copy->value.data, param));
    else if (copy->value.data != param->value.data)
        TRY(sara_device_copy_out(param->device, copy->value.data, param->value.data,
                                 value_bytes(param)));
done:
    if (status != SARA_OK)
        sara_param_read_end(ctx, copy, param);
    return status;
}

void sara_param_read_end(sara_context *ctx, sara_param *copy, const sara_param *param)
{
    if (copy->value.data != param->value.data)
        sara_free(ctx, copy->value.data);
    memset(copy, 0, sizeof(*copy));
}

sara_status sara_param_write(sara_param *param, const sara_param *copy)
{
    if (copy->value.data == param->value.data)
        return SARA_OK;
    return sara_device_copy_in(param->device, param->value.data, copy->value.data,
                               value_bytes(param));
}

sara_status sara_params_read(sara_context *ctx, sara_params *copy, const sara_params *params)
{
    const size_t all = sara_params_all(params);
    bool host = true;
    sara_status status = SARA_OK;
    *copy = *params;
    for (size_t i = 0; i < all; i++)
        host &= lies_ready(&params->items[i]);
    if (host)
        return SARA_OK;
    copy->count = copy->buffers = 0;
    TRY(sara_alloc(ctx, &copy->items, all, sizeof(*copy->items)));
    for (; copy->count < all; copy->count++)
        TRY(sara_param_read(ctx, &copy->items[copy->count], &params->items[copy->count]));
    copy->count = params->count;
    copy->buffers = params->buffers;
done:
    if (status != SARA_OK)
        sara_params_read_end(ctx, copy, params);
    return status;
}

void sara_params_read_end(sara_context *ctx, sara_params *copy, const sara_params *params)
{
    if (copy->items != params->items) {
        for (size_t i = 0; i < sara_params_all(copy); i++)
            sara_param_read_end(ctx, &copy->items[i], &params->items[i]);
        sara_free(ctx, copy->items);
    }
    memset(copy, 0, sizeof(*copy));
}

/* Parameters from `first` on, without the buffers. */
static sara_params rest_of(const sara_params *params, size_t first)
{
    return (sara_params){.items = params->items + first, .count = params->count - first};
}

sara_status sara_params_read_from(sara_context *ctx, sara_params *copy, const sara_params *params,
                                  size_t first)
{
    sara_params part = rest_of(params, first);
    size_t count = 0, bytes = 0;
    while (count < part.count && bytes < READ_AHEAD) {
        const sara_param *param = &part.items[count++];
        bytes += lies_ready(param) ? 0 : value_bytes(param);
    }
    part.count = count;
    return sara_params_read(ctx, copy, &part);
}

void sara_params_read_from_end(sara_context *ctx, sara_params *copy, const sara_params *params,
                               size_t first)
{
    const sara_params part = rest_of(params, first);
    sara_params_read_end(ctx, copy, &part);
}

float sara_param_get(const sara_param *param, size_t index)
{
    const uint16_t *halves = param->value.data;
    const float *floats = param->value.data;
    SARA_ASSERT(sara_device_is_host(param->device));
    switch (param->value.dtype) {
    case SARA_F16:
        return sara_f16_to_f32(halves[index]);
    case SARA_BF16:
        return sara_bf16_to_f32(halves[index]);
    default:
        return floats[index];
    }
}

void sara_param_set(sara_param *param, size_t index, float value)
{
    uint16_t *halves = param->value.data;
    float *floats = param->value.data;
    SARA_ASSERT(sara_device_is_host(param->device));
    switch (param->value.dtype) {
    case SARA_F16:
        halves[index] = sara_f32_to_f16(value);
        break;
    case SARA_BF16:
        halves[index] = sara_f32_to_bf16(value);
        break;
    default:
        floats[index] = value;
        break;
    }
}

const float *sara_param_block(const sara_param *param, float buffer[SARA_PARAM_BLOCK], size_t first,
                              size_t count)
{
    const char *data = param->value.data;
    SARA_ASSERT(sara_device_is_host(param->device));
    if (param->value.dtype == SARA_F32)
        return (const float *)param->value.data + first;
    sara_convert_to_f32(buffer, data + first * sara_dtype_size(param->value.dtype),
                        param->value.dtype, count);
    return buffer;
}

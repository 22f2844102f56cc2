#include "core/context.h"

sara_status sara_params_new(sara_context *ctx, sara_params *out, size_t count)
{
    sara_status status = sara_alloc_zero(ctx, &out->items, count, sizeof(*out->items));
    out->count = status == SARA_OK ? count : 0;
    ctx->param_sets++;
    for (size_t i = 0; i < out->count; i++)
        out->items[i].version = ctx->param_sets << 32;
    return status;
}

void sara_params_free(sara_context *ctx, sara_params *params)
{
    for (size_t i = 0; i < params->count; i++) {
        sara_free(ctx, (void *)(uintptr_t)params->items[i].name);
        sara_tensor_free(ctx, &params->items[i].value);
    }
    sara_free(ctx, params->items);
    params->items = NULL;
    params->count = 0;
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
    for (size_t i = 0; i < params->count; i++) {
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

float sara_param_get(const sara_param *param, size_t index)
{
    const uint16_t *halves = param->value.data;
    const float *floats = param->value.data;
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

const float *sara_param_block(const sara_param *param, float buffer[SARA_PARAM_BLOCK],
                              size_t first, size_t count)
{
    const char *data = param->value.data;
    if (param->value.dtype == SARA_F32)
        return (const float *)param->value.data + first;
    sara_convert_to_f32(buffer, data + first * sara_dtype_size(param->value.dtype),
                        param->value.dtype, count);
    return buffer;
}

void sara_param_add_dense(sara_param *param, const float *gradient)
{
    if (param->want == SARA_GRAD_DENSE) {
        int64_t count = sara_shape_count(&param->value.shape);
        for (int64_t i = 0; i < count; i++)
            param->grad[i] += gradient[i];
    } else if (param->want == SARA_GRAD_SAMPLED) {
        for (size_t i = 0; i < param->selected; i++)
            param->grad[i] += gradient[param->positions[i]];
    }
}

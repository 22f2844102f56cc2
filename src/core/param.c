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

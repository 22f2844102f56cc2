/* Tensors as a file will hold them. */
#include "pipeline/save.h"

#include <math.h>

void sara_save_list_init(sara_save_list *list, sara_context *ctx)
{
    *list = (sara_save_list){.ctx = ctx};
    sara_arena_init(&list->names, ctx);
}

void sara_save_list_free(sara_save_list *list)
{
    for (size_t i = 0; i < list->owned_count; i++)
        sara_free(list->ctx, list->owned[i]);
    sara_free(list->ctx, list->owned);
    sara_free(list->ctx, list->sources);
    sara_arena_free(&list->names);
}

sara_status sara_save_list_own(sara_save_list *list, void **data, size_t bytes)
{
    sara_status status;
    TRY(sara_grow(list->ctx, &list->owned, &list->owned_capacity, list->owned_count + 1,
                  sizeof(*list->owned)));
    TRY(sara_alloc(list->ctx, data, bytes, 1));
    list->owned[list->owned_count++] = *data;
done:
    return status;
}

sara_status sara_save_list_add(sara_save_list *list, const char *name, sara_dtype dtype,
                               const sara_shape *shape, const void *data)
{
    const char *own;
    sara_status status;
    TRY(sara_grow(list->ctx, &list->sources, &list->capacity, list->count + 1,
                  sizeof(*list->sources)));
    TRY(sara_arena_strdup(&list->names, &own, name));
    list->sources[list->count++] = (sara_tensor_source){own, dtype, *shape, data};
done:
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
    sara_param copy = {0};
    sara_status status;
    TRY(sara_param_read(ctx, &copy, param));
    for (size_t at = 0, part; at < count; at += part) {
        part = sara_param_part(count, at);
        TRY(store(ctx, out, dtype, sara_param_block(&copy, buffer, at, part), at, part,
                  param->name));
    }
done:
    sara_param_read_end(ctx, &copy, param);
    return status;
}

sara_status sara_save_list_fetch(sara_save_list *list, const void **data, sara_device *device,
                                 size_t bytes)
{
    void *copy;
    sara_status status;
    if (sara_device_is_host(device))
        return SARA_OK;
    TRY(sara_save_list_own(list, &copy, bytes));
    TRY(sara_device_copy_out(device, copy, *data, bytes));
    *data = copy;
done:
    return status;
}

sara_status sara_save_list_param(sara_save_list *list, const char *name, const sara_shape *shape,
                                 const sara_param *param, const sara_dtype *dtype)
{
    sara_dtype wanted = dtype ? *dtype : sara_dtype_widened(param->stored);
    size_t count = (size_t)sara_shape_count(&param->value.shape);
    const void *data = param->value.data;
    void *converted;
    sara_status status;
    if (wanted != param->value.dtype || !data) {
        TRY(sara_save_list_own(list, &converted, count * sara_dtype_size(wanted)));
        TRY(store_param(list->ctx, converted, wanted, param));
        data = converted;
    } else {
        TRY(sara_save_list_fetch(list, &data, param->device, count * sara_dtype_size(wanted)));
    }
    TRY(sara_save_list_add(list, name ? name : param->name, wanted,
                           shape ? shape : &param->value.shape, data));
done:
    return status;
}

sara_status sara_save_list_weight(sara_save_list *list, const char *name, const sara_shape *shape,
                                  const sara_weights *weights, const sara_tensor_info *info,
                                  const sara_dtype *dtype)
{
    size_t count = (size_t)sara_shape_count(&info->shape);
    bool convert = dtype && sara_dtype_is_float(info->dtype) && *dtype != info->dtype;
    sara_dtype wanted = convert ? *dtype : info->dtype;
    const sara_param *changed =
        list->applied ? sara_applied_covered(list->applied, info->name) : NULL;
    float *values = NULL;
    void *data;
    sara_status status;
    if (changed)
        return sara_save_list_param(list, name, shape, changed, dtype);
    TRY(sara_save_list_own(list, &data, count * sara_dtype_size(wanted)));
    if (convert) {
        TRY(sara_alloc(list->ctx, &values, count, sizeof(*values)));
        TRY(sara_weights_read_f32(weights, values, info));
        TRY(store(list->ctx, data, wanted, values, 0, count, info->name));
    } else {
        TRY(sara_weights_read(weights, data, info));
    }
    TRY(sara_save_list_add(list, name ? name : info->name, wanted, shape ? shape : &info->shape,
                           data));
done:
    sara_free(list->ctx, values);
    return status;
}

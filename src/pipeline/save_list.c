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
    for (size_t i = 0; i < list->weights_count; i++)
        sara_weights_close(list->weights[i]);
    sara_free(list->ctx, list->owned);
    sara_free(list->ctx, list->weights);
    sara_free(list->ctx, list->sources);
    sara_free(list->ctx, list->recipes);
    sara_arena_free(&list->names);
}

sara_status sara_save_list_keep(sara_save_list *list, sara_weights *weights)
{
    const sara_status status = sara_grow(list->ctx, &list->weights, &list->weights_capacity,
                                         list->weights_count + 1, sizeof(*list->weights));
    if (status == SARA_OK)
        list->weights[list->weights_count++] = weights;
    else
        sara_weights_close(weights);
    return status;
}

/* ----------------------------------------------------------------------------------- collecting */

static sara_status add_to_list(sara_save_list *list, const sara_tensor_source *source,
                               const sara_save_recipe *recipe)
{
    sara_tensor_source own = *source;
    sara_status status;
    TRY(sara_grow(list->ctx, &list->sources, &list->capacity, list->count + 1,
                  sizeof(*list->sources)));
    TRY(sara_grow(list->ctx, &list->recipes, &list->recipe_capacity, list->count + 1,
                  sizeof(*list->recipes)));
    TRY(sara_arena_strdup(&list->names, &own.name, source->name));
    list->recipes[list->count] = *recipe;
    list->sources[list->count++] = own;
done:
    return status;
}

sara_status sara_save_list_add(sara_save_list *list, const char *name, sara_dtype dtype,
                               const sara_shape *shape, const void *data)
{
    return add_to_list(list, &(sara_tensor_source){name, dtype, *shape, data},
                       &(sara_save_recipe){.count = 0});
}

sara_status sara_save_list_made(sara_save_list *list, const char *name, sara_dtype dtype,
                                const sara_shape *shape, const sara_save_recipe *recipe)
{
    return add_to_list(list, &(sara_tensor_source){name, dtype, *shape, NULL}, recipe);
}

sara_status sara_save_list_again(sara_save_list *list, const char *name, size_t index)
{
    sara_tensor_source source = list->sources[index];
    const sara_save_recipe recipe = list->recipes[index];
    source.name = name;
    return add_to_list(list, &source, &recipe);
}

sara_save_value sara_save_list_value(const sara_save_list *list, const sara_weights *weights,
                                     const sara_tensor_info *info)
{
    return (sara_save_value){list->applied ? sara_applied_covered(list->applied, info->name) : NULL,
                             weights, info};
}

sara_dtype sara_save_value_dtype(const sara_save_value *value, const sara_dtype *dtype)
{
    if (value->param)
        return dtype ? *dtype : sara_dtype_widened(value->param->stored);
    return dtype && sara_dtype_is_float(value->info->dtype) ? *dtype : value->info->dtype;
}

sara_status sara_save_list_param(sara_save_list *list, const char *name, const sara_shape *shape,
                                 const sara_param *param, const sara_dtype *dtype)
{
    const sara_save_recipe recipe = {.values = {{.param = param}}, .count = 1};
    const sara_dtype wanted = sara_save_value_dtype(&recipe.values[0], dtype);
    name = name ? name : param->name;
    shape = shape ? shape : &param->value.shape;
    if (wanted == param->value.dtype && param->value.data && sara_device_is_host(param->device))
        return sara_save_list_add(list, name, wanted, shape, param->value.data);
    return sara_save_list_made(list, name, wanted, shape, &recipe);
}

sara_status sara_save_list_weight(sara_save_list *list, const char *name, const sara_shape *shape,
                                  const sara_weights *weights, const sara_tensor_info *info,
                                  const sara_dtype *dtype)
{
    const sara_save_recipe recipe = {.values = {sara_save_list_value(list, weights, info)},
                                     .count = 1};
    if (recipe.values[0].param)
        return sara_save_list_param(list, name, shape, recipe.values[0].param, dtype);
    return sara_save_list_made(list, name ? name : info->name,
                               sara_save_value_dtype(&recipe.values[0], dtype),
                               shape ? shape : &info->shape, &recipe);
}

sara_status sara_save_list_fetch(sara_save_list *list, const void **data, sara_device *device,
                                 size_t bytes)
{
    void *copy;
    sara_status status;
    if (sara_device_is_host(device))
        return SARA_OK;
    TRY(sara_grow(list->ctx, &list->owned, &list->owned_capacity, list->owned_count + 1,
                  sizeof(*list->owned)));
    TRY(sara_alloc(list->ctx, &copy, bytes, 1));
    list->owned[list->owned_count++] = copy;
    TRY(sara_device_copy_out(device, copy, *data, bytes));
    *data = copy;
done:
    return status;
}

/* --------------------------------------------------------------------------------------- making */

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

static sara_status make_of_param(sara_context *ctx, void *out, sara_dtype dtype,
                                 const sara_param *param)
{
    size_t count = (size_t)sara_shape_count(&param->value.shape);
    float buffer[SARA_PARAM_BLOCK];
    sara_param copy = {0};
    sara_status status;
    TRY(sara_param_read(ctx, &copy, param));
    if (copy.value.dtype == dtype)
        memcpy(out, copy.value.data, count * sara_dtype_size(dtype));
    for (size_t at = 0, part; copy.value.dtype != dtype && at < count; at += part) {
        part = sara_param_part(count, at);
        TRY(store(ctx, out, dtype, sara_param_block(&copy, buffer, at, part), at, part,
                  param->name));
    }
done:
    sara_param_read_end(ctx, &copy, param);
    return status;
}

static sara_status make_of_weight(sara_context *ctx, void *out, sara_dtype dtype,
                                  const sara_weights *weights, const sara_tensor_info *info)
{
    const size_t count = (size_t)sara_shape_count(&info->shape);
    float *values = NULL;
    sara_status status;
    if (dtype == info->dtype)
        return sara_weights_read(weights, out, info);
    TRY(sara_alloc(ctx, &values, count, sizeof(*values)));
    TRY(sara_weights_read_f32(weights, values, info));
    TRY(store(ctx, out, dtype, values, 0, count, info->name));
done:
    sara_free(ctx, values);
    return status;
}

static sara_status make_value(sara_context *ctx, void *out, sara_dtype dtype,
                              const sara_save_value *value)
{
    return value->param ? make_of_param(ctx, out, dtype, value->param)
                        : make_of_weight(ctx, out, dtype, value->weights, value->info);
}

/* Of one value, in another order than its own. */
static sara_status make_reordered(sara_context *ctx, void *out, const sara_tensor_source *source,
                                  const sara_save_recipe *recipe)
{
    const size_t size = sara_dtype_size(source->dtype);
    const size_t bytes = (size_t)sara_shape_count(&source->shape) * size;
    char *own = NULL;
    sara_status status;
    TRY(sara_alloc(ctx, &own, bytes, 1));
    TRY(make_value(ctx, own, source->dtype, &recipe->values[0]));
    if (recipe->form == SARA_SAVE_TURNED) {
        sara_transpose(out, own, source->shape.dims[1], source->shape.dims[0], size);
    } else {
        memcpy(out, own + bytes / 2, bytes / 2);
        memcpy((char *)out + bytes / 2, own, bytes / 2);
    }
done:
    sara_free(ctx, own);
    return status;
}

static sara_status make_saved(const void *user, size_t index, void *data)
{
    const sara_save_list *list = user;
    const sara_tensor_source *source = &list->sources[index];
    const sara_save_recipe *recipe = &list->recipes[index];
    const size_t bytes = (size_t)sara_shape_count(&source->shape) * sara_dtype_size(source->dtype);
    sara_status status = SARA_OK;
    if (recipe->form != SARA_SAVE_JOINED)
        return make_reordered(list->ctx, data, source, recipe);
    for (int i = 0; i < recipe->count; i++)
        TRY(make_value(list->ctx, (char *)data + (size_t)i * (bytes / (size_t)recipe->count),
                       source->dtype, &recipe->values[i]));
done:
    return status;
}

sara_status sara_save_list_write(const sara_save_list *list, const char *path,
                                 const sara_metadata *metadata, size_t metadata_count)
{
    return sara_safetensors_save_made(list->ctx, path, list->sources, list->count, metadata,
                                      metadata_count, make_saved, list);
}

/* Tensors under their names in single files, where several of diffusers' may be one. */
#include "pipeline/save.h"

sara_status sara_save_name_in_file(sara_context *ctx, char **out, const char *prefix,
                                   const sara_ldm_shape *shape, const char *name)
{
    char *ldm = NULL;
    sara_status status;
    *out = NULL;
    TRY(sara_ldm_from_diffusers(ctx, &ldm, shape, name));
    if (ldm)
        TRY(sara_format(ctx, out, "%s%s", prefix, ldm));
    else
        status =
            sara_fail(ctx, SARA_ERROR_INPUT,
                      "tensor %.200s has no name in single-file checkpoints; save a folder", name);
done:
    sara_free(ctx, ldm);
    return status;
}

sara_dtype sara_save_common_dtype(sara_dtype a, sara_dtype b)
{
    size_t first = sara_dtype_size(a), second = sara_dtype_size(b);
    if (a != b && first == second)
        return SARA_F32;
    return first > second ? a : b;
}

sara_status sara_save_list_joined(sara_save_list *list, const char *name,
                                  const sara_save_list *parts, bool swapped)
{
    const sara_tensor_source *first = parts->sources;
    sara_shape shape = first->shape;
    size_t bytes = (size_t)sara_shape_count(&shape) * sara_dtype_size(first->dtype);
    void *data;
    sara_status status;
    TRY(sara_save_list_own(list, &data, parts->count * bytes));
    for (size_t i = 0; i < parts->count; i++)
        memcpy((char *)data + i * bytes, parts->sources[i].data, bytes);
    if (swapped) {
        memcpy(data, (const char *)first->data + bytes / 2, bytes / 2);
        memcpy((char *)data + bytes / 2, first->data, bytes / 2);
    }
    shape.dims[0] *= (int64_t)parts->count;
    TRY(sara_save_list_add(list, name, first->dtype, &shape, data));
done:
    return status;
}

/* Under the name in the file; what it is one of several of goes with the first of them. */
static sara_status add_param(sara_save_list *to, const char *name, const sara_ldm_shape *shape,
                             const sara_params *params, const sara_param *param,
                             const sara_dtype *as)
{
    const bool swapped = sara_ldm_is_swapped(shape, param->name);
    sara_name thirds[3];
    const int third = sara_ldm_third(shape, thirds, param->name);
    const sara_param *parts[3] = {param};
    sara_dtype dtype = sara_dtype_widened(param->stored);
    sara_save_list list;
    sara_status status = SARA_OK;
    if (third < 0 && !swapped)
        return sara_save_list_param(to, name, NULL, param, as);
    if (third > 0)
        return SARA_OK;
    sara_save_list_init(&list, to->ctx);
    for (int i = 1; third == 0 && i < 3; i++) {
        parts[i] = sara_params_find(params, thirds[i].text);
        SARA_ASSERT(parts[i]); /* the network would not have been opened without it */
        dtype = sara_save_common_dtype(dtype, sara_dtype_widened(parts[i]->stored));
    }
    for (int i = 0; i < 3 && parts[i]; i++)
        TRY(sara_save_list_param(&list, NULL, NULL, parts[i], as ? as : &dtype));
    TRY(sara_save_list_joined(to, name, &list, swapped));
done:
    sara_save_list_free(&list);
    return status;
}

sara_status sara_save_list_network(sara_save_list *list, const sara_network *network,
                                   const char *prefix, const sara_dtype *dtype)
{
    const sara_params *params = &network->params;
    sara_ldm_shape shape;
    char *name = NULL;
    sara_status status;
    TRY(sara_network_ldm_shape(network, &shape));
    for (size_t i = 0; i < sara_params_all(params); i++) {
        TRY(sara_save_name_in_file(list->ctx, &name, prefix, &shape, params->items[i].name));
        TRY(add_param(list, name, &shape, params, &params->items[i], dtype));
        sara_free(list->ctx, name);
        name = NULL;
    }
done:
    sara_free(list->ctx, name);
    return status;
}

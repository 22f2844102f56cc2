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

/* Under the name in the file; what it is one of several of goes with the first of them. */
static sara_status add_param(sara_save_list *to, const char *name, const sara_ldm_shape *shape,
                             const sara_params *params, const sara_param *param,
                             const sara_dtype *as)
{
    const bool swapped = sara_ldm_is_swapped(shape, param->name);
    sara_name thirds[3];
    const int third = sara_ldm_third(shape, thirds, param->name);
    sara_save_recipe recipe = {.values = {{.param = param}},
                               .count = third == 0 ? 3 : 1,
                               .form = swapped ? SARA_SAVE_SWAPPED : SARA_SAVE_JOINED};
    sara_dtype dtype = sara_dtype_widened(param->stored);
    sara_shape whole = param->value.shape;
    if (third < 0 && !swapped)
        return sara_save_list_param(to, name, NULL, param, as);
    if (third > 0)
        return SARA_OK;
    for (int i = 1; i < recipe.count; i++) {
        const sara_param *part = sara_params_find(params, thirds[i].text);
        SARA_ASSERT(part); /* the network would not have been opened without it */
        dtype = sara_save_common_dtype(dtype, sara_dtype_widened(part->stored));
        recipe.values[i].param = part;
    }
    whole.dims[0] *= recipe.count;
    return sara_save_list_made(to, name, as ? *as : dtype, &whole, &recipe);
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

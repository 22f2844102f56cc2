#include "models/models.h"

sara_status sara_storage_parse(sara_context *ctx, sara_storage *out, const char *name,
                               const char *what)
{
    sara_dtype dtype = SARA_F32;
    *out = SARA_STORE_AUTO;
    if (name && strcmp(name, "auto") == 0)
        return SARA_OK;
    if (name && !sara_dtype_parse(&dtype, name))
        return sara_fail(ctx, SARA_ERROR_USAGE, "%s %s: expected auto, fp32, fp16 or bf16", what,
                         name);
    *out = dtype == SARA_F16    ? SARA_STORE_F16
           : dtype == SARA_BF16 ? SARA_STORE_BF16
                                : SARA_STORE_F32;
    return SARA_OK;
}

sara_storage sara_storage_exact(sara_storage storage)
{
    switch (storage) {
    case SARA_STORE_AUTO:
        return SARA_STORE_EXACT;
    case SARA_STORE_F16:
        return SARA_STORE_EXACT_F16;
    case SARA_STORE_BF16:
        return SARA_STORE_EXACT_BF16;
    default:
        return storage;
    }
}

bool sara_params_are_rounded(const sara_params *params)
{
    for (size_t i = 0; i < params->count; i++)
        if (sara_param_is_rounded(&params->items[i]))
            return true;
    return false;
}

const char *sara_storage_name(const sara_params *params)
{
    size_t counts[SARA_DTYPE_COUNT] = {0}, matrices = 0;
    for (size_t i = 0; i < params->count; i++) {
        const sara_tensor *value = &params->items[i].value;
        matrices += value->shape.rank > 1;
        counts[value->dtype] += value->shape.rank > 1;
    }
    return counts[SARA_F32] == matrices    ? "fp32"
           : counts[SARA_F16] == matrices  ? "fp16"
           : counts[SARA_BF16] == matrices ? "bf16"
                                           : "auto";
}

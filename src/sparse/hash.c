#include "sparse/sparse.h"

#include <inttypes.h>
#include <stdio.h>

/* The processors that sara runs on are little-endian, as the values in the hash are. */
static sara_status add_param(sara_sha256 *hash, const sara_param *param)
{
    sara_status status;
    const sara_shape *shape = &param->value.shape;
    char dims[SARA_MAX_RANK * 21 + 2] = "";
    size_t count = (size_t)sara_shape_count(shape), used = 0;
    float buffer[SARA_PARAM_BLOCK];
    for (int i = 0; i < shape->rank; i++)
        used += (size_t)snprintf(dims + used, sizeof(dims) - used, "%s%" PRId64, i > 0 ? "x" : "",
                                 shape->dims[i]);
    dims[used++] = '\n';
    TRY(sara_sha256_add(hash, param->name, strlen(param->name)));
    TRY(sara_sha256_add(hash, "\n", 1));
    TRY(sara_sha256_add(hash, dims, used));
    for (size_t at = 0, part; at < count; at += part) {
        part = sara_param_part(count, at);
        TRY(sara_sha256_add(hash, sara_param_block(param, buffer, at, part),
                            part * sizeof(*buffer)));
    }
done:
    return status;
}

sara_status sara_params_sha256(sara_context *ctx, char out[65], const sara_params *params)
{
    sara_status status;
    sara_sha256 *hash = NULL;
    TRY(sara_sha256_new(ctx, &hash));
    for (size_t i = 0; i < params->count; i++)
        TRY(add_param(hash, &params->items[i]));
    TRY(sara_sha256_end(&hash, out));
done:
    sara_sha256_abort(&hash);
    return status;
}

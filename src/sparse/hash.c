#include "sparse/sparse.h"

#include <inttypes.h>
#include <stdio.h>

static sara_status add_head(sara_sha256 *hash, const sara_param *param)
{
    sara_status status;
    const sara_shape *shape = &param->value.shape;
    char dims[SARA_MAX_RANK * 21 + 2] = "";
    size_t used = 0;
    for (int i = 0; i < shape->rank; i++)
        used += (size_t)snprintf(dims + used, sizeof(dims) - used, "%s%" PRId64, i > 0 ? "x" : "",
                                 shape->dims[i]);
    dims[used++] = '\n';
    TRY(sara_sha256_add(hash, param->name, strlen(param->name)));
    TRY(sara_sha256_add(hash, "\n", 1));
    TRY(sara_sha256_add(hash, dims, used));
done:
    return status;
}

/* The processors that sara runs on are little-endian, as the values in the hash are. */
static sara_status add_own_values(sara_sha256 *hash, const sara_param *param)
{
    size_t count = (size_t)sara_shape_count(&param->value.shape);
    float buffer[SARA_PARAM_BLOCK];
    sara_status status = SARA_OK;
    for (size_t at = 0, part; at < count; at += part) {
        part = sara_param_part(count, at);
        TRY(sara_sha256_add(hash, sara_param_block(param, buffer, at, part),
                            part * sizeof(*buffer)));
    }
done:
    return status;
}

static size_t largest_count(const sara_params *params)
{
    size_t largest = 0;
    for (size_t i = 0; i < params->count; i++) {
        size_t count = (size_t)sara_shape_count(&params->items[i].value.shape);
        largest = count > largest ? count : largest;
    }
    return largest;
}

sara_status sara_params_sha256(sara_context *ctx, char out[65], const sara_params *params)
{
    return sara_values_sha256(ctx, out, params, NULL, NULL);
}

sara_status sara_values_sha256(sara_context *ctx, char out[65], const sara_params *params,
                               sara_values_fn values, void *user)
{
    sara_status status;
    sara_sha256 *hash = NULL;
    float *buffer = NULL;
    TRY(sara_sha256_new(ctx, &hash));
    if (values)
        TRY(sara_alloc(ctx, &buffer, largest_count(params), sizeof(*buffer)));
    for (size_t i = 0; i < params->count; i++) {
        const sara_param *param = &params->items[i];
        size_t count = (size_t)sara_shape_count(&param->value.shape);
        TRY(add_head(hash, param));
        if (values) {
            TRY(values(user, buffer, param));
            TRY(sara_sha256_add(hash, buffer, count * sizeof(*buffer)));
        } else {
            TRY(add_own_values(hash, param));
        }
    }
    TRY(sara_sha256_end(&hash, out));
done:
    sara_sha256_abort(&hash);
    sara_free(ctx, buffer);
    return status;
}

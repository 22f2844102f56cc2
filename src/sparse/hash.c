/* What tells bases apart. */
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

/* What of F16 and BF16 still holds all that was seen. */
typedef struct sixteen {
    bool f16, bf16;
} sixteen;

static bool holds(sara_dtype dtype, const float *values, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        float value = values[i];
        value = dtype == SARA_F16 ? sara_f16_to_f32(sara_f32_to_f16(value))
                                  : sara_bf16_to_f32(sara_f32_to_bf16(value));
        if (memcmp(&value, &values[i], sizeof(value)) != 0)
            return false;
    }
    return true;
}

/* Values of a file's dtype are not looked at for that; of others few are until one tells. */
static void hash_narrow(sixteen *s, sara_dtype stored, const float *values, size_t count)
{
    s->f16 = s->f16 && (stored == SARA_F16 || holds(SARA_F16, values, count));
    s->bf16 = s->bf16 && (stored == SARA_BF16 || holds(SARA_BF16, values, count));
}

const char *sara_precision_name(sara_dtype precision)
{
    return precision == SARA_F16 ? "fp16" : precision == SARA_BF16 ? "bf16" : "fp32";
}

/* The processors that sara runs on are little-endian, as the values in the hash are. */
static sara_status add_own_values(sara_context *ctx, sara_sha256 *hash, sixteen *s,
                                  const sara_param *param)
{
    size_t count = (size_t)sara_shape_count(&param->value.shape);
    float buffer[SARA_PARAM_BLOCK];
    sara_param copy = {0};
    sara_status status;
    TRY(sara_param_read(ctx, &copy, param));
    for (size_t at = 0, part; at < count; at += part) {
        part = sara_param_part(count, at);
        const float *values = sara_param_block(&copy, buffer, at, part);
        hash_narrow(s, param->stored, values, part);
        TRY(sara_sha256_add(hash, values, part * sizeof(*values)));
    }
done:
    sara_param_read_end(ctx, &copy, param);
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

sara_status sara_params_base(sara_context *ctx, sara_base *out, const sara_params *params)
{
    return sara_values_base(ctx, out, params, NULL, NULL);
}

sara_status sara_values_base(sara_context *ctx, sara_base *out, const sara_params *params,
                             sara_values_fn values, void *user)
{
    sara_status status;
    sara_sha256 *hash = NULL;
    float *buffer = NULL;
    sixteen fits = {true, true};
    TRY(sara_sha256_new(ctx, &hash));
    if (values)
        TRY(sara_alloc(ctx, &buffer, largest_count(params), sizeof(*buffer)));
    for (size_t i = 0; i < params->count; i++) {
        const sara_param *param = &params->items[i];
        size_t count = (size_t)sara_shape_count(&param->value.shape);
        TRY(add_head(hash, param));
        if (values) {
            TRY(values(user, buffer, param));
            hash_narrow(&fits, param->stored, buffer, count);
            TRY(sara_sha256_add(hash, buffer, count * sizeof(*buffer)));
        } else {
            TRY(add_own_values(ctx, hash, &fits, param));
        }
    }
    TRY(sara_sha256_end(&hash, out->sha256));
    out->precision = fits.f16 ? SARA_F16 : fits.bf16 ? SARA_BF16 : SARA_F32;
done:
    sara_sha256_abort(&hash);
    sara_free(ctx, buffer);
    return status;
}

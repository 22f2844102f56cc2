#include "eval/sets.h"

#include <math.h>

enum { TILE_ROWS = 32, TILE_COLUMNS = 256 }; /* of a product: what stays in a core's caches */

static sara_status check_finite(sara_context *ctx, const char *measure, const sara_features *set,
                                const char *which)
{
    for (int64_t i = 0; i < set->count * set->width; i++)
        if (!isfinite(set->values[i]))
            return sara_fail(ctx, SARA_ERROR_INPUT,
                             "%s: feature %lld of picture %lld of the %s set is not finite",
                             measure, (long long)(i % set->width), (long long)(i / set->width),
                             which);
    return SARA_OK;
}

sara_status sara_features_check(sara_context *ctx, const char *measure, const sara_features *a,
                                const sara_features *b, int64_t least)
{
    sara_status status;
    if (a->width != b->width || a->width < 1)
        return sara_fail(ctx, SARA_ERROR_INPUT, "%s of %lld and %lld features a picture", measure,
                         (long long)a->width, (long long)b->width);
    if (a->count < least || b->count < least)
        return sara_fail(ctx, SARA_ERROR_INPUT,
                         "%s of %lld and %lld pictures: each set needs at least %lld", measure,
                         (long long)a->count, (long long)b->count, (long long)least);
    TRY(check_finite(ctx, measure, a, "first"));
    TRY(check_finite(ctx, measure, b, "second"));
done:
    return status;
}

void sara_features_columns(double *out, const sara_features *set, const double *shift, double scale)
{
    for (int64_t i = 0; i < set->count; i++)
        for (int64_t j = 0; j < set->width; j++) {
            double value = (double)set->values[i * set->width + j];
            out[j * set->count + i] = (value - (shift ? shift[j] : 0)) * scale;
        }
}

/* A tile of c, of `high` rows and `wide` columns. */
static void add_tile(double *restrict c, int64_t c_stride, const double *a, int64_t a_stride,
                     int64_t high, const double *restrict b, int64_t wide, int64_t rows)
{
    int64_t k = 0;
    for (; k + 4 <= rows; k += 4) {
        const double *a0 = a + k * a_stride, *a1 = a0 + a_stride, *a2 = a1 + a_stride;
        const double *a3 = a2 + a_stride, *restrict b0 = b + k * c_stride;
        const double *restrict b1 = b0 + c_stride, *restrict b2 = b1 + c_stride;
        const double *restrict b3 = b2 + c_stride;
        for (int64_t i = 0; i < high; i++) {
            double *restrict row = c + i * c_stride;
            double w0 = a0[i], w1 = a1[i], w2 = a2[i], w3 = a3[i];
#pragma omp simd
            for (int64_t j = 0; j < wide; j++)
                row[j] = (((row[j] + w0 * b0[j]) + w1 * b1[j]) + w2 * b2[j]) + w3 * b3[j];
        }
    }
    for (; k < rows; k++)
        for (int64_t i = 0; i < high; i++)
            for (int64_t j = 0; j < wide; j++)
                c[i * c_stride + j] += a[k * a_stride + i] * b[k * c_stride + j];
}

void sara_add_products(sara_context *ctx, double *c, const double *a, int64_t a_stride, int64_t p,
                       const double *b, int64_t q, int64_t rows)
{
    int64_t down = (p + TILE_ROWS - 1) / TILE_ROWS, across = (q + TILE_COLUMNS - 1) / TILE_COLUMNS;
    int threads = sara_threads(ctx);
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (int64_t tile = 0; tile < down * across; tile++) {
        int64_t i = tile / across * TILE_ROWS, j = tile % across * TILE_COLUMNS;
        add_tile(c + i * q + j, q, a + i, a_stride, p - i < TILE_ROWS ? p - i : TILE_ROWS, b + j,
                 q - j < TILE_COLUMNS ? q - j : TILE_COLUMNS, rows);
    }
}

/* Cosines of features. */
#include "eval/metrics.h"

#include <math.h>

static sara_status check_widths(sara_context *ctx, const sara_features *a, const sara_features *b)
{
    if (a->width == b->width && a->count > 0 && b->count > 0)
        return SARA_OK;
    return sara_fail(ctx, SARA_ERROR_INPUT,
                     "features of %lld pictures of width %lld and of %lld of width %lld: no cosine",
                     (long long)a->count, (long long)a->width, (long long)b->count,
                     (long long)b->width);
}

/* NaN of a row of zeros. */
static double cosine_of(const float *a, const float *b, int64_t width)
{
    double dot = 0, aa = 0, bb = 0;
    for (int64_t i = 0; i < width; i++) {
        dot += (double)a[i] * b[i];
        aa += (double)a[i] * a[i];
        bb += (double)b[i] * b[i];
    }
    return dot / sqrt(aa * bb);
}

/* sum [width] of the rows, each of unit length. */
static void sum_unit_rows(double *sum, const sara_features *set)
{
    for (int64_t i = 0; i < set->count; i++) {
        const float *row = set->values + i * set->width;
        double square = 0;
        for (int64_t j = 0; j < set->width; j++)
            square += (double)row[j] * row[j];
        for (int64_t j = 0; j < set->width; j++)
            sum[j] += row[j] / sqrt(square);
    }
}

/* The products of all pairs are the product of both sums. */
sara_status sara_similarity(sara_context *ctx, double *out, const sara_features *a,
                            const sara_features *b)
{
    double *sums = NULL, sum = 0;
    sara_status status;
    TRY(check_widths(ctx, a, b));
    TRY(sara_alloc_zero(ctx, &sums, 2 * (size_t)a->width, sizeof(*sums)));
    sum_unit_rows(sums, a);
    sum_unit_rows(sums + a->width, b);
    for (int64_t j = 0; j < a->width; j++)
        sum += sums[j] * sums[a->width + j];
    *out = sum / ((double)a->count * (double)b->count);
done:
    sara_free(ctx, sums);
    return status;
}

sara_status sara_paired_cosine(sara_context *ctx, double *cosine, const sara_features *a,
                               const sara_features *b)
{
    sara_status status;
    TRY(check_widths(ctx, a, b));
    if (a->count != b->count)
        status = sara_fail(ctx, SARA_ERROR_INPUT, "%lld pictures and %lld: they are no pairs",
                           (long long)a->count, (long long)b->count);
    for (int64_t i = 0; status == SARA_OK && i < a->count; i++)
        cosine[i] = cosine_of(a->values + i * a->width, b->values + i * a->width, a->width);
done:
    return status;
}

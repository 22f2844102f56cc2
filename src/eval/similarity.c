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

sara_status sara_similarity(sara_context *ctx, double *out, const sara_features *a,
                            const sara_features *b)
{
    double sum = 0;
    sara_status status;
    TRY(check_widths(ctx, a, b));
    for (int64_t i = 0; i < a->count; i++)
        for (int64_t j = 0; j < b->count; j++)
            sum += cosine_of(a->values + i * a->width, b->values + j * b->width, a->width);
    *out = sum / (double)(a->count * b->count);
done:
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

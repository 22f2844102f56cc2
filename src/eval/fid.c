/* The Frechet distance. trace (A B)^(1/2) is the sum of the singular values of F_a F_b^T, where F^T
 * F is a set's covariance: its centred features where they are fewer than their width, else the
 * covariance's Cholesky factor. Nothing is inverted, and nothing larger than it must be. */
#include "eval/sets.h"

#include <lapacke.h>
#include <math.h>

/* Of one set. */
typedef struct spread {
    double *mean;   /* [width] */
    double *factor; /* [width][rank], F^T */
    int64_t rank;
    double trace; /* of the covariance */
} spread;

static void fid_mean(spread *s, const sara_features *set)
{
    for (int64_t i = 0; i < set->count; i++)
        for (int64_t j = 0; j < set->width; j++)
            s->mean[j] += (double)set->values[i * set->width + j];
    for (int64_t j = 0; j < set->width; j++)
        s->mean[j] /= (double)set->count;
}

/* c [width][width], which is zero, gets the covariance, some pictures after others. */
static sara_status fid_covariance(sara_context *ctx, double *c, const spread *s,
                                  const sara_features *set)
{
    sara_status status;
    int64_t width = set->width, part = set->count < 1024 ? set->count : 1024;
    double *rows = NULL, scale = 1 / sqrt((double)(set->count - 1));
    TRY(sara_alloc(ctx, &rows, (size_t)part, (size_t)width * sizeof(*rows)));
    for (int64_t first = 0; first < set->count; first += part) {
        int64_t count = set->count - first < part ? set->count - first : part;
        for (int64_t i = 0; i < count * width; i++)
            rows[i] = ((double)set->values[first * width + i] - s->mean[i % width]) * scale;
        sara_add_products(ctx, c, rows, width, width, rows, width, count);
    }
done:
    sara_free(ctx, rows);
    return status;
}

/* With pivots, so that it ends where a singular covariance's rank does. c is lost; its columns are
 * LAPACK's, and it is symmetric. */
static sara_status fid_cholesky(sara_context *ctx, spread *s, double *c, int64_t width)
{
    sara_status status;
    lapack_int n = (lapack_int)width, rank = 0, info, *pivots = NULL;
    double *work = NULL;
    TRY(sara_alloc(ctx, &pivots, (size_t)n, sizeof(*pivots)));
    TRY(sara_alloc(ctx, &work, 2 * (size_t)n, sizeof(*work)));
    info = LAPACKE_dpstrf_work(LAPACK_COL_MAJOR, 'L', n, c, n, pivots, &rank, -1, work);
    if (info < 0) {
        status = sara_fail(ctx, SARA_ERROR_DEVICE, "factor of a [%lld,%lld] matrix: dpstrf info %d",
                           (long long)width, (long long)width, (int)info);
        goto done;
    }
    s->rank = rank;
    TRY(sara_alloc_zero(ctx, &s->factor, (size_t)width * (size_t)rank, sizeof(double)));
    for (int64_t k = 0; k < rank; k++)
        for (int64_t i = k; i < width; i++)
            s->factor[(pivots[i] - 1) * rank + k] = c[i + k * width];
done:
    sara_free(ctx, pivots);
    sara_free(ctx, work);
    return status;
}

static sara_status fid_spread(sara_context *ctx, spread *s, const sara_features *set)
{
    sara_status status;
    size_t width = (size_t)set->width;
    double *c = NULL;
    TRY(sara_alloc_zero(ctx, &s->mean, width, sizeof(double)));
    fid_mean(s, set);
    if (set->count > set->width) {
        TRY(sara_alloc_zero(ctx, &c, width * width, sizeof(*c)));
        TRY(fid_covariance(ctx, c, s, set));
        for (size_t j = 0; j < width; j++)
            s->trace += c[j * width + j];
        TRY(fid_cholesky(ctx, s, c, set->width));
        goto done;
    }
    s->rank = set->count;
    TRY(sara_alloc(ctx, &s->factor, width * (size_t)s->rank, sizeof(double)));
    sara_features_columns(s->factor, set, s->mean, 1 / sqrt((double)(set->count - 1)));
    for (int64_t i = 0; i < set->width * s->rank; i++)
        s->trace += s->factor[i] * s->factor[i];
done:
    sara_free(ctx, c);
    return status;
}

/* The roots of a [n][n] symmetric matrix's eigenvalues, summed up; it is lost. */
static sara_status fid_sum_roots(sara_context *ctx, double *sum, double *a, int64_t n)
{
    sara_status status;
    lapack_int side = (lapack_int)n, info, whole, *integers = NULL;
    double wanted = 0, *eigenvalues = NULL, *work = NULL;
    TRY(sara_alloc(ctx, &eigenvalues, (size_t)n, sizeof(*eigenvalues)));
    info = LAPACKE_dsyevd_work(LAPACK_COL_MAJOR, 'N', 'L', side, a, side, eigenvalues, &wanted, -1,
                               &whole, -1);
    if (info == 0) {
        TRY(sara_alloc(ctx, &work, (size_t)wanted, sizeof(*work)));
        TRY(sara_alloc(ctx, &integers, (size_t)whole, sizeof(*integers)));
        info = LAPACKE_dsyevd_work(LAPACK_COL_MAJOR, 'N', 'L', side, a, side, eigenvalues, work,
                                   (lapack_int)wanted, integers, whole);
    }
    if (info != 0)
        status =
            sara_fail(ctx, SARA_ERROR_DEVICE, "eigenvalues of a [%lld,%lld] matrix: dsyevd info %d",
                      (long long)n, (long long)n, (int)info);
    *sum = 0;
    for (int64_t i = 0; status == SARA_OK && i < n; i++)
        *sum += eigenvalues[i] > 0 ? sqrt(eigenvalues[i]) : 0; /* below 0: rounding */
done:
    sara_free(ctx, eigenvalues);
    sara_free(ctx, work);
    sara_free(ctx, integers);
    return status;
}

/* trace (A B)^(1/2); b's rank is not above a's. */
static sara_status fid_root_trace(sara_context *ctx, double *out, const spread *a, const spread *b,
                                  int64_t width)
{
    sara_status status;
    size_t rank = (size_t)b->rank;
    double *product = NULL, *gram = NULL;
    *out = 0;
    if (rank == 0)
        return SARA_OK;
    TRY(sara_alloc_zero(ctx, &product, (size_t)a->rank * rank, sizeof(*product)));
    TRY(sara_alloc_zero(ctx, &gram, rank * rank, sizeof(*gram)));
    sara_add_products(ctx, product, a->factor, a->rank, a->rank, b->factor, b->rank, width);
    sara_add_products(ctx, gram, product, b->rank, b->rank, product, b->rank, a->rank);
    TRY(fid_sum_roots(ctx, out, gram, b->rank));
done:
    sara_free(ctx, product);
    sara_free(ctx, gram);
    return status;
}

sara_status sara_fid(sara_context *ctx, double *out, const sara_features *a, const sara_features *b)
{
    sara_status status;
    spread first = {NULL, NULL, 0, 0}, second = first;
    double root, distance = 0;
    TRY(sara_features_check(ctx, "FID", a, b, 2));
    TRY(fid_spread(ctx, &first, a));
    TRY(fid_spread(ctx, &second, b));
    bool swap = second.rank > first.rank;
    TRY(fid_root_trace(ctx, &root, swap ? &second : &first, swap ? &first : &second, a->width));
    for (int64_t j = 0; j < a->width; j++)
        distance += (first.mean[j] - second.mean[j]) * (first.mean[j] - second.mean[j]);
    distance += first.trace + second.trace - 2 * root;
    *out = distance > 0 ? distance : 0; /* below 0: rounding */
done:
    sara_free(ctx, first.mean);
    sara_free(ctx, first.factor);
    sara_free(ctx, second.mean);
    sara_free(ctx, second.factor);
    return status;
}

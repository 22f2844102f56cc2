#include "sparse/low_rank.h"

#include <float.h>
#include <lapacke.h>
#include <limits.h>

/* F [n][m] column-major, which A [m][n] row-major is, = U [n][m] diag(s) VT [m][m]. */
typedef struct svd {
    double *f, *u, *s, *vt, *work;
    lapack_int *integers;
} svd;

static sara_status svd_check_info(sara_context *ctx, lapack_int info, int64_t m, int64_t n)
{
    if (info == 0)
        return SARA_OK;
    return sara_fail(ctx, SARA_ERROR_DEVICE, "SVD of a [%lld,%lld] matrix: dgesdd info %lld",
                     (long long)m, (long long)n, (long long)info);
}

static sara_status svd_decompose(sara_context *ctx, sara_arena *work, svd *d, int64_t m, int64_t n)
{
    sara_status status;
    lapack_int rows = (lapack_int)n, cols = (lapack_int)m;
    double wanted = 0;
    TRY(sara_arena_alloc(work, &d->u, (size_t)m, (size_t)n * sizeof(double)));
    TRY(sara_arena_alloc(work, &d->s, (size_t)m, sizeof(double)));
    TRY(sara_arena_alloc(work, &d->vt, (size_t)m, (size_t)m * sizeof(double)));
    TRY(sara_arena_alloc(work, &d->integers, 8 * (size_t)m, sizeof(*d->integers)));
    TRY(svd_check_info(ctx,
                       LAPACKE_dgesdd_work(LAPACK_COL_MAJOR, 'S', rows, cols, d->f, rows, d->s,
                                           d->u, rows, d->vt, cols, &wanted, -1, d->integers),
                       m, n));
    TRY(sara_arena_alloc(work, &d->work, (size_t)wanted, sizeof(double)));
    TRY(svd_check_info(ctx,
                       LAPACKE_dgesdd_work(LAPACK_COL_MAJOR, 'S', rows, cols, d->f, rows, d->s,
                                           d->u, rows, d->vt, cols, d->work, (lapack_int)wanted,
                                           d->integers),
                       m, n));
done:
    return status;
}

/* x = V U^T over the first `rank` singular values; row [n] is scratch. */
static void svd_multiply(float *x, const svd *d, int64_t m, int64_t n, int64_t rank, double *row)
{
    for (int64_t i = 0; i < m; i++) {
        memset(row, 0, (size_t)n * sizeof(*row));
        for (int64_t r = 0; r < rank; r++) {
            double v = d->vt[r + i * m];
            const double *u = d->u + r * n;
            for (int64_t j = 0; j < n; j++)
                row[j] += v * u[j];
        }
        for (int64_t j = 0; j < n; j++)
            x[i * n + j] = (float)row[j];
    }
}

sara_status sara_polar_exact(sara_context *ctx, sara_arena *work, float *x, double *nuclear,
                             const float *a, int64_t m, int64_t n)
{
    sara_status status;
    svd d = {NULL, NULL, NULL, NULL, NULL, NULL};
    int64_t rank = 0;
    double sum = 0;
    if (n > INT_MAX)
        return sara_fail(ctx, SARA_ERROR_DEVICE, "SVD of a [%lld,%lld] matrix: too large",
                         (long long)m, (long long)n);
    TRY(sara_arena_alloc(work, &d.f, (size_t)m, (size_t)n * sizeof(double)));
    for (int64_t i = 0; i < m * n; i++)
        d.f[i] = (double)a[i];
    TRY(svd_decompose(ctx, work, &d, m, n));
    for (int64_t r = 0; r < m; r++)
        sum += d.s[r];
    while (rank < m && d.s[rank] > d.s[0] * (double)n * DBL_EPSILON)
        rank++;
    svd_multiply(x, &d, m, n, rank, d.f);
    *nuclear = sum;
done:
    return status;
}

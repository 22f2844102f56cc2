/* The polar factor by rational functions of A A^T, which is Q A with Q close to (A A^T)^-1/2. Only
 * the entries of A and [m][m] matrices are kept; A itself is spread out m columns at a time. */
#include "sparse/rational.h"

#include "nn/simd/simd.h"

#include <math.h>

/* The mean squared singular value of the factor may miss 1 by so much. */
#define CERTAIN 2e-4

typedef struct polar {
    sara_context *ctx;
    const sara_columns *a;
    int64_t m;
    sara_block s, u, v, w; /* [m][m] each */
    float *spare;
    double *squares;   /* [m] */
    uint32_t *offsets; /* [m] */
    float factor;      /* A times it has singular values up to 1 */
} polar;

/* ------------------------------------------------------------------------------------- memory */

/* An odd number of cache lines, so that equal places of many rows do not share a cache set. */
static int64_t stride(int64_t m)
{
    return ((m + 15) / 16 | 1) * 16;
}

static size_t spare_floats(int64_t m)
{
    size_t spare = sara_symmetric_spare(m), vectors = (size_t)(2 * stride(m));
    return spare > vectors ? spare : vectors;
}

size_t sara_polar_floats(int64_t m)
{
    size_t numbers = (size_t)m * (sizeof(double) + sizeof(uint32_t)) / sizeof(float);
    return 4 * (size_t)(m * stride(m)) + (spare_floats(m) + 1) / 2 * 2 + numbers;
}

static polar polar_of(sara_context *ctx, float *work, const sara_columns *a)
{
    int64_t m = a->m, ld = stride(m), size = m * ld;
    float *spare = work + 4 * size;
    double *squares = (double *)(void *)(spare + (spare_floats(m) + 1) / 2 * 2);
    return (polar){.ctx = ctx,
                   .a = a,
                   .m = m,
                   .s = {work, ld, false},
                   .u = {work + size, ld, false},
                   .v = {work + 2 * size, ld, false},
                   .w = {work + 3 * size, ld, false},
                   .spare = spare,
                   .squares = squares,
                   .offsets = (uint32_t *)(void *)(squares + m),
                   .factor = 1};
}

/* ------------------------------------------------------------------------------ products by A */

/* to [count][ld] = columns of A from `from`, padded with zeros */
static void spread(const polar *p, sara_block to, int64_t from, int64_t count)
{
    const sara_columns *a = p->a;
    int threads = sara_threads(p->ctx);
#pragma omp parallel for num_threads(threads)
    for (int64_t j = 0; j < count; j++) {
        float *column = to.at + j * to.ld;
        memset(column, 0, (size_t)to.ld * sizeof(*column));
        for (size_t e = a->first[from + j]; e < a->first[from + j + 1]; e++)
            column[a->rows[e]] = a->values[e] * p->factor;
    }
}

static int64_t columns_at(const polar *p, int64_t from)
{
    return p->a->n - from < p->m ? p->a->n - from : p->m;
}

/* s = X X^T, its lower triangle, for X = A or, with w, W A. Uses u, and v with w. */
static sara_status gram(polar *p, const sara_block *w)
{
    sara_status status = SARA_OK;
    for (int64_t j = 0; j < p->a->n; j += p->m) {
        int64_t count = columns_at(p, j);
        sara_block x = p->u;
        spread(p, p->u, j, count);
        if (w) {
            x = p->v;
            TRY(sara_gemm(p->ctx, x, p->u, *w, count, p->m, p->m, 1, 0));
        }
        sara_block left = {x.at, x.ld, true};
        TRY(sara_symmetric_product(p->ctx, p->s, left, x, p->m, count, 1, j > 0));
    }
done:
    return status;
}

#define CHUNK  256  /* floats of a row, so that this much of all rows stays in a cache */
#define SPARSE 0.15 /* density below which dot products at the entries are faster */

/* x at the entries of count columns = dot products of the rows of q and the columns in `spread` */
static void dot_entries(const polar *p, float *x, sara_block q, sara_block columns, int64_t from,
                        int64_t count)
{
    const sara_columns *a = p->a;
    const sara_simd *simd = sara_simd_best();
    int threads = sara_threads(p->ctx);
    for (int64_t k = 0; k < p->m; k += CHUNK) {
        int64_t length = p->m - k < CHUNK ? (p->m - k + 15) / 16 * 16 : CHUNK;
#pragma omp parallel for num_threads(threads) schedule(static)
        for (int64_t j = 0; j < count; j++) {
            const uint32_t begin = (uint32_t)a->first[from + j];
            const uint32_t end = (uint32_t)a->first[from + j + 1];
            const sara_simd_dots dots = {.dw = x,
                                         .dy = columns.at + j * columns.ld + k,
                                         .x = q.at + k,
                                         .positions = a->rows,
                                         .begin = &begin,
                                         .end = &end,
                                         .offsets = p->offsets,
                                         .length = length};
            simd->sampled_dots(&dots, 0, 1);
        }
    }
}

static void pick_entries(const polar *p, float *x, sara_block product, int64_t from, int64_t count)
{
    const sara_columns *a = p->a;
    int threads = sara_threads(p->ctx);
#pragma omp parallel for num_threads(threads)
    for (int64_t j = 0; j < count; j++)
        for (size_t e = a->first[from + j]; e < a->first[from + j + 1]; e++)
            x[e] = product.at[j * product.ld + a->rows[e]];
}

/* x = Q A at the entries; columns and product are scratch. */
static sara_status multiply_entries(const polar *p, float *x, sara_block q, sara_block columns,
                                    sara_block product)
{
    sara_status status = SARA_OK;
    int64_t n = p->a->n;
    size_t entries = p->a->first[n];
    bool sparse = (double)entries < SPARSE * (double)p->m * (double)n;
    sara_block right = {q.at, q.ld, true};
    for (int64_t i = 0; i < p->m; i++) {
        p->offsets[i] = (uint32_t)(i * q.ld);
        memset(q.at + i * q.ld + p->m, 0, (size_t)(q.ld - p->m) * sizeof(float));
    }
    memset(x, 0, entries * sizeof(*x));
    for (int64_t j = 0; j < n; j += p->m) {
        int64_t count = columns_at(p, j);
        spread(p, columns, j, count);
        if (sparse) {
            dot_entries(p, x, q, columns, j, count);
        } else {
            TRY(sara_gemm(p->ctx, product, columns, right, count, p->m, p->m, 1, 0));
            pick_entries(p, x, product, j, count);
        }
    }
done:
    return status;
}

/* ------------------------------------------------------------------------------------- scale */

#define ROUNDS 12
/* What the power iteration may fall short by. Somewhat beyond 1 the functions still map to about 1,
 * so that no bound is needed. */
#define MARGIN 1.08

static double normalise(float *v, int64_t m)
{
    double sum = 0;
    for (int64_t i = 0; i < m; i++)
        sum += (double)v[i] * (double)v[i];
    for (int64_t i = 0; i < m; i++)
        v[i] = (float)((double)v[i] / sqrt(sum));
    return sqrt(sum);
}

/* Sets the factor by the largest eigenvalue of s, and scales s by its square. */
static void scale(polar *p)
{
    const sara_simd *simd = sara_simd_best();
    int threads = sara_threads(p->ctx);
    float *v = p->spare, *product = p->spare + p->s.ld;
    double largest = 0;
    sara_draw_normal(v, (size_t)p->m, 0, SARA_DRAW_RANK, UINT64_MAX);
    normalise(v, p->m);
    for (int round = 0; round < ROUNDS; round++) {
#pragma omp parallel for num_threads(threads)
        for (int64_t i = 0; i < p->m; i++)
            simd->row_dots(product + i, p->s.at + i * p->s.ld, v, 0, 1, p->m);
        memcpy(v, product, (size_t)p->m * sizeof(*v));
        largest = normalise(v, p->m);
    }
    p->factor = (float)(1 / (MARGIN * sqrt(largest)));
    float square = p->factor * p->factor;
#pragma omp parallel for num_threads(threads)
    for (int64_t i = 0; i < p->m; i++)
        for (int64_t j = 0; j < p->m; j++)
            p->s.at[i * p->s.ld + j] *= square;
}

/* ------------------------------------------------------------------------------------ routes */

/* The smallest singular value is a fair part of the largest: Q in one step. */
static sara_status wide_route(polar *p, float *x, double *sum)
{
    sara_status status;
    TRY(sara_rational_apply(p->ctx, p->w, sum, p->s, &sara_rational_wide, p->m, p->u, p->spare,
                            p->squares));
    TRY(multiply_entries(p, x, p->w, p->u, p->v));
done:
    return status;
}

/* Two steps, the first to X = W A with singular values over 0.1. That product is formed, and Q is
 * not taken to be symmetric, since rounding has made W something that does not quite commute with
 * A A^T. */
static sara_status general_route(polar *p, float *x, double *sum)
{
    sara_status status;
    TRY(sara_rational_apply(p->ctx, p->w, sum, p->s, &sara_rational_first, p->m, p->u, p->spare,
                            p->squares));
    TRY(gram(p, &p->w));
    TRY(sara_rational_apply(p->ctx, p->v, sum, p->s, &sara_rational_second, p->m, p->u, p->spare,
                            p->squares));
    TRY(sara_gemm(p->ctx, p->u, p->v, p->w, p->m, p->m, p->m, 1, 0));
    TRY(multiply_entries(p, x, p->u, p->s, p->w));
done:
    return status;
}

sara_status sara_polar_rational(sara_context *ctx, float *work, float *x, bool *certain,
                                const sara_columns *a, bool wide)
{
    sara_status status;
    polar p = polar_of(ctx, work, a);
    double sum = 0;
    TRY(gram(&p, NULL));
    sara_symmetric_mirror(ctx, p.s, p.m);
    scale(&p);
    if (wide)
        TRY(wide_route(&p, x, &sum));
    else
        TRY(general_route(&p, x, &sum));
    *certain = fabs(sum / (double)p.m - 1) <= CERTAIN;
done:
    return status;
}

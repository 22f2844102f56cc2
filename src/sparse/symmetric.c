/* Symmetric and triangular matrices, whose products leave out most of what is known. */
#include "sparse/low_rank.h"

#include <math.h>

#define STRIPE 160 /* rows of a product: enough for full speed */
#define TILE 32    /* rows and columns of a tile that is transposed */
#define LEAF 32    /* rows of a matrix that is inverted directly */
#define ALONE 256  /* rows up to which a thread is faster by itself */

static int64_t min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* Where the stripe from `from` ends; there is no thin one at the end. */
static int64_t stripe_end(int64_t from, int64_t n)
{
    return n - from < STRIPE * 3 / 2 ? n : from + STRIPE;
}

static sara_block part(sara_block c, int64_t row, int64_t col)
{
    return (sara_block){c.at + row * c.ld + col, c.ld, c.transposed};
}

static sara_block transpose(sara_block c)
{
    return (sara_block){c.at, c.ld, !c.transposed};
}

/* ----------------------------------------------------------------------------------- products */

sara_status sara_symmetric_product(sara_context *ctx, sara_block c, sara_block a, sara_block b,
                                   int64_t n, int64_t k, float alpha, float beta)
{
    sara_status status = SARA_OK;
    for (int64_t i = 0, end; i < n; i = end) {
        end = stripe_end(i, n);
        sara_block rows = a.transposed ? part(a, 0, i) : part(a, i, 0);
        TRY(sara_gemm(ctx, part(c, i, 0), rows, b, end - i, end, k, alpha, beta));
    }
done:
    return status;
}

void sara_symmetric_mirror(sara_context *ctx, sara_block c, int64_t n)
{
    int threads = sara_threads(ctx);
#pragma omp parallel for num_threads(threads) schedule(dynamic, 2) if (n > ALONE)
    for (int64_t i = 0; i < n; i += TILE)
        for (int64_t j = 0; j <= i; j += TILE)
            for (int64_t col = j; col < min64(j + TILE, n); col++)
                for (int64_t row = i > col ? i : col + 1; row < min64(i + TILE, n); row++)
                    c.at[col * c.ld + row] = c.at[row * c.ld + col];
}

/* c [rows][n] = y times the lower triangular l [n][n], or its transpose */
static sara_status times_lower(sara_context *ctx, sara_block c, sara_block y, sara_block l,
                               int64_t rows, int64_t n)
{
    sara_status status = SARA_OK;
    for (int64_t j = 0, end; j < n; j = end) {
        end = stripe_end(j, n);
        if (l.transposed)
            TRY(sara_gemm(ctx, part(c, 0, j), y, part(l, j, 0), rows, end - j, end, 1, 0));
        else
            TRY(sara_gemm(ctx, part(c, 0, j), part(y, 0, j), part(l, j, j), rows, end - j, n - j,
                          1, 0));
    }
done:
    return status;
}

/* c [n][cols] = alpha times the lower triangular l [n][n], or its transpose, times y */
static sara_status lower_times(sara_context *ctx, sara_block c, sara_block l, sara_block y,
                               int64_t n, int64_t cols, float alpha)
{
    sara_status status = SARA_OK;
    for (int64_t i = 0, end; i < n; i = end) {
        end = stripe_end(i, n);
        if (l.transposed)
            TRY(sara_gemm(ctx, part(c, i, 0), part(l, i, i), part(y, i, 0), end - i, cols, n - i,
                          alpha, 0));
        else
            TRY(sara_gemm(ctx, part(c, i, 0), part(l, i, 0), y, end - i, cols, end, alpha, 0));
    }
done:
    return status;
}

static void copy_rows(sara_context *ctx, sara_block to, sara_block from, int64_t rows, int64_t cols)
{
    int threads = sara_threads(ctx);
#pragma omp parallel for num_threads(threads) if (rows > ALONE)
    for (int64_t i = 0; i < rows; i++)
        memcpy(to.at + i * to.ld, from.at + i * from.ld, (size_t)cols * sizeof(float));
}

/* ------------------------------------------------------------------------------------ inverse */

/* Elimination: what makes the matrix upper triangular makes the identity L^-1. */
static void factor_leaf(sara_block c, int64_t n, float least)
{
    float a[LEAF][LEAF], r[LEAF][LEAF] = {{0}}, column[LEAF];
    for (int64_t i = 0; i < n; i++) {
        memcpy(a[i], c.at + i * c.ld, (size_t)(i + 1) * sizeof(float));
        r[i][i] = 1;
    }
    for (int64_t k = 0; k < n; k++) {
        float inverse = 1 / sqrtf(a[k][k] > least ? a[k][k] : least);
        for (int64_t i = k + 1; i < n; i++)
            column[i] = a[i][k] * inverse;
        for (int64_t j = 0; j <= k; j++)
            r[k][j] *= inverse;
        for (int64_t i = k + 1; i < n; i++) {
#pragma omp simd
            for (int64_t j = k + 1; j <= i; j++)
                a[i][j] -= column[i] * column[j];
#pragma omp simd
            for (int64_t j = 0; j <= k; j++)
                r[i][j] -= column[i] * r[k][j];
        }
    }
    for (int64_t i = 0; i < n; i++)
        memcpy(c.at + i * c.ld, r[i], (size_t)n * sizeof(float));
}

/* Rows of the upper left part. */
static int64_t upper(int64_t n)
{
    return (n / 2 + 15) / 16 * 16;
}

size_t sara_symmetric_spare(int64_t n)
{
    int64_t h = upper(n);
    if (n <= LEAF)
        return 0;
    size_t own = (size_t)((n - h) * h), below = sara_symmetric_spare(h > n - h ? h : n - h);
    return own > below ? own : below;
}

/* L^-1, zeros above it, of C = L L^T. With A, B, D the upper left, lower left and lower right part
 * and W = B L_A^-T, the rest of it is L_D^-1 for D - W W^T and -L_D^-1 W L_A^-1. */
static sara_status factor(sara_context *ctx, sara_block c, int64_t n, float least, float *spare)
{
    sara_status status = SARA_OK;
    int64_t h = upper(n), rest = n - h;
    sara_block a = c, b = part(c, h, 0), d = part(c, h, h), w = {spare, h, false};
    if (n <= LEAF) {
        factor_leaf(c, n, least);
        return SARA_OK;
    }
    TRY(factor(ctx, a, h, least, spare));
    TRY(times_lower(ctx, w, b, transpose(a), rest, h));
    TRY(sara_symmetric_product(ctx, d, w, transpose(w), rest, h, -1, 1));
    TRY(times_lower(ctx, b, w, a, rest, h));
    TRY(factor(ctx, d, rest, least, spare));
    TRY(lower_times(ctx, w, d, b, rest, h, -1));
    copy_rows(ctx, b, w, rest, h);
    for (int64_t i = 0; i < h; i++)
        memset(c.at + i * c.ld + h, 0, (size_t)rest * sizeof(float));
done:
    return status;
}

static void square_leaf(sara_block c, int64_t n)
{
    float r[LEAF][LEAF];
    for (int64_t i = 0; i < n; i++)
        memcpy(r[i], c.at + i * c.ld, (size_t)n * sizeof(float));
    for (int64_t i = 0; i < n; i++) {
        float row[LEAF] = {0};
        for (int64_t k = i; k < n; k++)
#pragma omp simd
            for (int64_t j = 0; j <= i; j++)
                row[j] += r[k][i] * r[k][j];
        memcpy(c.at + i * c.ld, row, (size_t)(i + 1) * sizeof(float));
    }
}

/* R^T R of a lower triangular R, in place: [A^T A + B^T B, .; D^T B, D^T D] */
static sara_status symmetric_square(sara_context *ctx, sara_block c, int64_t n, float *spare)
{
    sara_status status = SARA_OK;
    int64_t h = upper(n), rest = n - h;
    sara_block a = c, b = part(c, h, 0), d = part(c, h, h), w = {spare, h, false};
    if (n <= LEAF) {
        square_leaf(c, n);
        return SARA_OK;
    }
    TRY(symmetric_square(ctx, a, h, spare));
    TRY(sara_symmetric_product(ctx, a, transpose(b), b, h, rest, 1, 1));
    TRY(lower_times(ctx, w, transpose(d), b, rest, h, 1));
    copy_rows(ctx, b, w, rest, h);
    TRY(symmetric_square(ctx, d, rest, spare));
done:
    return status;
}

sara_status sara_symmetric_invert(sara_context *ctx, sara_block c, int64_t n, float least,
                                  float *spare)
{
    sara_status status;
    TRY(factor(ctx, c, n, least, spare));
    TRY(symmetric_square(ctx, c, n, spare));
done:
    return status;
}

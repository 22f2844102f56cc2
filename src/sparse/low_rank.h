/* Ways to the polar factor U V^T of a matrix A [m][n], m <= n, of scale about 1. */
#ifndef SARA_SPARSE_LOW_RANK_H
#define SARA_SPARSE_LOW_RANK_H

#include "sparse/sparse.h"

/* --------------------------------------------------------------------------- dense products */

/* A matrix whose rows lie ld floats apart; as a factor it may stand for its transpose. */
typedef struct sara_block {
    float *at;
    int64_t ld;
    bool transposed;
} sara_block;

/* c [m][n] = alpha a [m][k] b [k][n] + beta c */
SARA_NODISCARD sara_status sara_gemm(sara_context *ctx, sara_block c, sara_block a, sara_block b,
                                     int64_t m, int64_t n, int64_t k, float alpha, float beta);
/* c [n][n] = alpha a [n][k] b [k][n] + beta c, where that is symmetric: its lower triangle, at
 * little more than half of the work; the upper one holds anything afterwards. */
SARA_NODISCARD sara_status sara_symmetric_product(sara_context *ctx, sara_block c, sara_block a,
                                                  sara_block b, int64_t n, int64_t k, float alpha,
                                                  float beta);
/* Copies the lower triangle to the upper one. */
void sara_symmetric_mirror(sara_context *ctx, sara_block c, int64_t n);
/* The inverse of a positive definite matrix in place, from lower to lower triangle; the upper one
 * is overwritten. least: a positive lower bound of the eigenvalues, to mend what rounding has lost.
 * spare: sara_symmetric_spare(n) floats. */
SARA_NODISCARD sara_status sara_symmetric_invert(sara_context *ctx, sara_block c, int64_t n,
                                                 float least, float *spare);
size_t sara_symmetric_spare(int64_t n);

/* ----------------------------------------------------------------------------- polar factors */

/* A matrix by its entries, column after column. */
typedef struct sara_columns {
    int64_t m, n;   /* m <= n */
    size_t *first;  /* [n + 1]: the first entry of each column */
    uint32_t *rows; /* of each entry */
    float *values;  /* of each entry, magnitudes below 1 */
} sara_columns;

/* x: the polar factor at the entries, by inverses and products in float32. Singular values down to
 * 1e-4 of the largest are resolved, or to 1/12 where `wide`, for n well over m; below, they count
 * for less the smaller they are. *certain tells that so many of them were resolved that the whole
 * polar factor is good to a cosine of 0.9999. work: sara_polar_floats(m) floats, best at the start
 * of a cache line. */
SARA_NODISCARD sara_status sara_polar_rational(sara_context *ctx, float *work, float *x,
                                               bool *certain, const sara_columns *a, bool wide);
size_t sara_polar_floats(int64_t m);
/* x [m][n] of a dense matrix by a singular value decomposition in double, over the singular values
 * above rounding. *nuclear is the sum of all. Its memory comes from the arena. */
SARA_NODISCARD sara_status sara_polar_exact(sara_context *ctx, sara_arena *work, float *x,
                                            double *nuclear, const float *a, int64_t m, int64_t n);

/* sara_nuclear_norm() with memory from an arena. */
SARA_NODISCARD sara_status sara_nuclear_norm_in(sara_context *ctx, sara_arena *work, double *value,
                                                float *subgradient, int64_t rows, int64_t cols,
                                                const uint32_t *positions, const float *values,
                                                size_t count);

#endif

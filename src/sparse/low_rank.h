/* Ways to the polar factor U V^T of a dense matrix A [m][n], m <= n, of scale about 1. */
#ifndef SARA_SPARSE_LOW_RANK_H
#define SARA_SPARSE_LOW_RANK_H

#include "sparse/sparse.h"

/* By matrix products in float32. Singular values down to 1e-4 of the largest are resolved; below,
 * they count for less the smaller they are. *certain tells that all of them were resolved, so
 * that x is the polar factor to float32's accuracy. */
SARA_NODISCARD sara_status sara_polar_iterate(sara_context *ctx, float *x, bool *certain,
                                              const float *a, int64_t m, int64_t n);
/* The same for n well over m, by products of [m][m] matrices mostly. Singular values down to 1/20
 * of the largest are resolved. */
SARA_NODISCARD sara_status sara_polar_iterate_wide(sara_context *ctx, float *x, bool *certain,
                                                   const float *a, int64_t m, int64_t n);
/* By a singular value decomposition in double, over the singular values above rounding. *nuclear
 * is the sum of all. */
SARA_NODISCARD sara_status sara_polar_exact(sara_context *ctx, float *x, double *nuclear,
                                            const float *a, int64_t m, int64_t n);

/* c [m][n] = a [m][k] b, b [k][n] or, transposed, [n][k] */
SARA_NODISCARD sara_status sara_matmul(sara_context *ctx, float *c, const float *a, const float *b,
                                       int64_t m, int64_t n, int64_t k, bool transposed);

#endif

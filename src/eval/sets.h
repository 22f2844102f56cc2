/* What distances of sets of features share: checks, and products of matrices in double. */
#ifndef SARA_EVAL_SETS_H
#define SARA_EVAL_SETS_H

#include "eval/metrics.h"

/* SARA_ERROR_INPUT naming `measure`: widths differ, a set holds fewer than `least` pictures, or a
 * value is not finite. */
SARA_NODISCARD sara_status sara_features_check(sara_context *ctx, const char *measure,
                                               const sara_features *a, const sara_features *b,
                                               int64_t least);
/* out [width][count]: values[i] * scale - shift of each feature; shift [width] or NULL. */
void sara_features_columns(double *out, const sara_features *set, const double *shift,
                           double scale);
/* c [p][q] += a^T b, a [rows][p] of a_stride doubles a row, b [rows][q]. Sums go in the order of
 * the rows, whatever the number of threads. */
void sara_add_products(sara_context *ctx, double *c, const double *a, int64_t a_stride, int64_t p,
                       const double *b, int64_t q, int64_t rows);

#endif

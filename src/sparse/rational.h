/* Rational functions of symmetric matrices. */
#ifndef SARA_SPARSE_RATIONAL_H
#define SARA_SPARSE_RATIONAL_H

#include "sparse/low_rank.h"

/* f(t) = constant + sum of weight / (t + shift) */
typedef struct sara_rational {
    float constant;
    int count;
    struct {
        float shift, weight;
    } poles[4];
} sara_rational;

/* Zolotarev's: t f(t^2) is the best map of [low, 1] around 1 of its degree. first and second
 * combined are the best of theirs. */
extern const sara_rational sara_rational_first, sara_rational_second, sara_rational_wide;

/* w [m][m] = f(s), whole; s by its lower triangle. *sum: of t f(t)^2 over the eigenvalues t of s.
 * work [m][m]; spare: sara_symmetric_spare(m) floats; squares [m]: scratch, too. */
SARA_NODISCARD sara_status sara_rational_apply(sara_context *ctx, sara_block w, double *sum,
                                               sara_block s, const sara_rational *f, int64_t m,
                                               sara_block work, float *spare, double *squares);

#endif

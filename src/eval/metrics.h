/* Distances of sets of features. A set is [count][width], row-major; sums are in double. */
#ifndef SARA_EVAL_METRICS_H
#define SARA_EVAL_METRICS_H

#include "core/core.h"

typedef struct sara_features {
    float *values; /* [count][width] */
    int64_t count, width;
} sara_features;

/* |mean a - mean b|^2 + trace(A + B - 2 (A B)^(1/2)) with unbiased covariances (Heusel et al.
 * 2017), the root's trace from symmetric matrices by LAPACK, so that singular covariances are no
 * special case. SARA_ERROR_INPUT: a set of fewer than two, unlike widths, values that are not
 * finite. */
SARA_NODISCARD sara_status sara_fid(sara_context *ctx, double *out, const sara_features *a,
                                    const sara_features *b);
/* Unbiased squared MMD with the kernel (x.y / width + 1)^3 (Binkowski et al. 2018): mean and
 * standard deviation over `subsets` draws of subset_size of each set, at most what they hold, by
 * Philox from seed; one subset of all where both sets are of subset_size. SARA_ERROR_USAGE: a
 * subset of fewer than two, no subset; SARA_ERROR_INPUT as sara_fid(). */
SARA_NODISCARD sara_status sara_kid(sara_context *ctx, double *mean, double *deviation,
                                    const sara_features *a, const sara_features *b,
                                    int64_t subset_size, int64_t subsets, uint64_t seed);
/* 1000 times the squared MMD, as its authors compute it (the mean over all pairs, a picture and
 * itself included), with a Gaussian kernel of sigma 10 over features that are made to be of unit
 * length (Jayasumana et al. 2024). SARA_ERROR_INPUT: no picture, unlike widths, values that are not
 * finite, features of length 0. */
SARA_NODISCARD sara_status sara_cmmd(sara_context *ctx, double *out, const sara_features *a,
                                     const sara_features *b);
/* Mean cosine over all pairs of a and b (CLIP-I, DINO of DreamBooth, Ruiz et al. 2023). */
SARA_NODISCARD sara_status sara_similarity(sara_context *ctx, double *out, const sara_features *a,
                                           const sara_features *b);
/* cosine [count] of row i of a and row i of b. */
SARA_NODISCARD sara_status sara_paired_cosine(sara_context *ctx, double *cosine,
                                              const sara_features *a, const sara_features *b);

#endif

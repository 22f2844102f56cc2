/* The variants of sara_dot_fn. */
#ifndef SARA_NN_SAMPLED_DOT_H
#define SARA_NN_SAMPLED_DOT_H

#include "nn/sampled.h"

void sara_dot_generic(float *dw, const float *dy, const float *x, const uint32_t *positions,
                      size_t count, uint32_t row, const uint32_t *offsets, size_t length);
void sara_dot_avx2(float *dw, const float *dy, const float *x, const uint32_t *positions,
                   size_t count, uint32_t row, const uint32_t *offsets, size_t length);
void sara_dot_avx512(float *dw, const float *dy, const float *x, const uint32_t *positions,
                     size_t count, uint32_t row, const uint32_t *offsets, size_t length);

#endif

/* 16-bit weights for the fast kernels, which compute in floats. */
#ifndef SARA_NN_WEIGHT_H
#define SARA_NN_WEIGHT_H

#include "nn/kernels.h"

/* out [count]: the entries from `first` on as floats, by all threads. */
void sara_weight_widen(const sara_kernel_env *env, float *out, const sara_weight_view *w,
                       int64_t first, int64_t count);
/* All `count` entries: where they lie, or in *scratch (NULL: none), which belongs to the caller. */
SARA_NODISCARD sara_status sara_weight_floats(const sara_kernel_env *env, const float **out,
                                              float **scratch, const sara_weight_view *w,
                                              int64_t count);

#endif

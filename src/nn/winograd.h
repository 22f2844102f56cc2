/* 3x3 convolutions of stride 1 by F(4x4,3x3) (Lavin, Gray 2016, arXiv 1509.09308): a tile of 4x4
 * outputs takes 36 multiplications per pair of channels instead of 144. The weights are read where
 * they lie, in the checkpoint's layout, and transformed a block at a time into cache, so that
 * weights which change with every step cost no pass over memory.
 */
#ifndef SARA_NN_WINOGRAD_H
#define SARA_NN_WINOGRAD_H

#include "nn/kernels.h"

/* Stride 1, 3x3, and channels enough to fill vectors. */
bool sara_winograd_fits(const sara_conv_shape *shape);
/* Floats of scratch; backward: of the gradient of the input. */
size_t sara_winograd_need(const sara_conv_shape *shape, bool backward, int threads);
/* As the kernels conv_forward and conv_dx. */
SARA_NODISCARD sara_status sara_winograd_forward(const sara_kernel_env *env, float *y,
                                                 const float *x, const sara_weight_view *w,
                                                 const float *b, const sara_conv_shape *shape);
SARA_NODISCARD sara_status sara_winograd_dx(const sara_kernel_env *env, float *dx, const float *dy,
                                            const sara_weight_view *w,
                                            const sara_conv_shape *shape, bool accumulate);

#endif

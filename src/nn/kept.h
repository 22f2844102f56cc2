/* The state of the dry devices: what the kernels would keep from one pass to the next. */
#ifndef SARA_NN_KEPT_H
#define SARA_NN_KEPT_H

#include "nn/kernels.h"

typedef struct sara_kept sara_kept;

SARA_NODISCARD sara_status sara_kept_new(sara_context *ctx, sara_kept **out);
void sara_kept_free(sara_kept *kept); /* NULL is fine */
/* A convolution's first call takes memory, further ones with the same weight or of the same shape
 * find what is there. backward: that by x. */
SARA_NODISCARD sara_status sara_kept_conv(const sara_kernel_env *env, const sara_weight_view *w,
                                          const sara_conv_shape *shape, bool backward);
size_t sara_kept_bytes(const sara_kept *kept);

#endif

/* The method on tensors of another program: what include/sara_tensors.h declares. */
#ifndef SARA_TENSORS_TENSORS_H
#define SARA_TENSORS_TENSORS_H

#include "sparse/sparse.h"

/* Views as parameters, in their order; their memory stays the caller's. */
SARA_NODISCARD sara_status sara_views_open(sara_context *ctx, sara_params *out,
                                           const sara_tensor_view *views, size_t count);
void sara_views_close(sara_context *ctx, sara_params *params);
/* Of a view alone. */
SARA_NODISCARD sara_status sara_view_param(sara_context *ctx, sara_param *out,
                                           const sara_tensor_view *view);
/* The same with positions [count], which ascend: that the last is among its entries is checked. */
SARA_NODISCARD sara_status sara_view_selected(sara_context *ctx, sara_param *out,
                                              const sara_tensor_view *view,
                                              const uint32_t *positions, size_t count);

#endif

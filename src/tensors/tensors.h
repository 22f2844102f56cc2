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

#endif

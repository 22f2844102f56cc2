/* What the ops share: shape errors, gradients that pass through, gradients of small parameters. */
#ifndef SARA_NN_OP_H
#define SARA_NN_OP_H

#include "nn/kernels.h"

int64_t sara_shape_last(const sara_shape *shape);  /* size of the last axis; 1 for rank 0 */
int64_t sara_shape_inner(const sara_shape *shape); /* product of the axes between first and last */
int64_t sara_shape_rows(const sara_shape *shape);  /* product of all axes but the last */

/* "op: name: shape [3], expected [4]" unless the shapes are equal. */
SARA_NODISCARD sara_status sara_op_expect(const sara_tape *tape, const char *op, const char *name,
                                          const sara_shape *got, const sara_shape *expected);
/* The same unless x is [N,...,C] and e, which is called name, [N,C]. */
SARA_NODISCARD sara_status sara_op_expect_per_sample(const sara_tape *tape, const char *op,
                                                     const sara_shape *x, const char *name,
                                                     const sara_shape *e);
/* Adds dy, of var's shape, to var's gradient if it requires one. */
SARA_NODISCARD sara_status sara_op_pass(sara_tape *tape, sara_var *var, const float *dy);

/* Where a kernel may add the whole gradient of a parameter: its own grad, zeroed scratch if it is
 * sampled, NULL if it wants none. Finish gathers from the scratch, unless status is an error, and
 * gives it back; it returns that error or its own. */
SARA_NODISCARD sara_status sara_op_param_start(sara_tape *tape, float **out, sara_param *param);
SARA_NODISCARD sara_status sara_op_param_finish(sara_tape *tape, sara_param *param,
                                                float *gradient, sara_status status);

#endif

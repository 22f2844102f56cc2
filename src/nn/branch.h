/* What the low-rank branch of a weight adds to its layer (sara_branch, nn/nn.h): the layer's op
 * makes h = down(x) by its own kind of op and the product x weight^T, and leaves the rest to this.
 */
#ifndef SARA_NN_BRANCH_H
#define SARA_NN_BRANCH_H

#include "nn/op.h"

/* Its first branch of this kind; NULL: none. */
const sara_branch *sara_low_rank_of(const sara_param *weight);
/* SARA_ERROR_INPUT unless the branch's shapes fit the weight's. */
SARA_NODISCARD sara_status sara_low_rank_check(const sara_tape *tape, const char *op,
                                               const sara_param *weight);
/* y [rows][out] += scale h [rows][rank] up^T */
SARA_NODISCARD sara_status sara_low_rank_add(sara_tape *tape, sara_var *y, const sara_var *h,
                                             const sara_branch *branch);
/* The gradients of h and of up from dy [rows][out]. */
SARA_NODISCARD sara_status sara_low_rank_backward(sara_tape *tape, const sara_branch *branch,
                                                  sara_var *h, const float *dy);
/* y = magnitude / |W| u + bias, of u = x W^T. */
SARA_NODISCARD sara_status sara_low_rank_scale(sara_tape *tape, sara_var **y, sara_var *u,
                                               sara_param *weight, sara_param *bias);

#endif

#include "nn/branch.h"

void sara_branch_detach(sara_param *weight, sara_branch *branch)
{
    sara_branch **at = &weight->branch;
    while (*at && *at != branch)
        at = &(*at)->next;
    if (*at)
        *at = branch->next;
    branch->next = NULL;
}

const sara_branch *sara_low_rank_of(const sara_param *weight)
{
    const sara_branch *branch = weight->branch;
    while (branch && branch->kind != SARA_BRANCH_LOW_RANK)
        branch = branch->next;
    return branch;
}

sara_status sara_low_rank_check(const sara_tape *tape, const char *op, const sara_param *weight)
{
    const sara_branch *b = sara_low_rank_of(weight);
    sara_shape down = weight->value.shape, up = weight->value.shape;
    sara_shape magnitude = sara_shape1(up.dims[0]);
    sara_status status;
    down.dims[0] = b->down->value.shape.dims[0];
    for (int i = 1; i < up.rank; i++)
        up.dims[i] = i == 1 ? down.dims[0] : 1;
    TRY(sara_op_expect(tape, op, b->down->name, &b->down->value.shape, &down));
    TRY(sara_op_expect(tape, op, b->up->name, &b->up->value.shape, &up));
    if (b->magnitude)
        TRY(sara_op_expect(tape, op, b->magnitude->name, &b->magnitude->value.shape, &magnitude));
done:
    return status;
}

/* The product of h, or of its gradient, with up: a linear layer from the outputs to the ranks. */
static sara_linear_shape up_shape(const sara_var *h, const sara_branch *branch)
{
    return (sara_linear_shape){sara_shape_rows(&h->shape), sara_shape_last(&h->shape),
                               branch->up->value.shape.dims[0]};
}

static double up_flops(const sara_linear_shape *s)
{
    return 2.0 * (double)s->rows * (double)(s->in * s->out);
}

/* scale up [out][rank], or transposed [rank][out], in scratch, which belongs to the caller: so the
 * large arrays need no scaling. */
static sara_status scaled_up(sara_tape *tape, float **out, const sara_branch *branch,
                             bool transposed)
{
    const sara_shape *shape = &branch->up->value.shape;
    sara_kernel_env env = sara_tape_env(tape);
    int64_t count = sara_shape_count(shape);
    const float *up = branch->up->value.data;
    sara_status status;
    TRY(sara_tape_scratch(tape, out, (size_t)count));
    if (transposed) {
        TRY(sara_kernel_swap_axes(&env, *out, up, 1, shape->dims[0], shape->dims[1], 1, false));
        up = *out;
    }
    TRY(sara_kernel_add_scaled(&env, *out, NULL, up, count, branch->scale));
done:
    return status;
}

sara_status sara_low_rank_add(sara_tape *tape, sara_var *y, const sara_var *h,
                              const sara_branch *branch)
{
    const sara_linear_shape s = up_shape(h, branch);
    const sara_linear_shape turned = {s.rows, s.out, s.in}; /* of which y is the input's gradient */
    sara_kernel_env env = sara_tape_env(tape);
    float *up = NULL;
    sara_status status;
    TRY(scaled_up(tape, &up, branch, true));
    const sara_weight_view w = {up, SARA_F32, NULL};
    TRY(SARA_TRACED(env.ctx, "branch up", up_flops(&s),
                    sara_kernel_linear_dx(&env, y->data, h->data, &w, &turned, true)));
done:
    sara_tape_unscratch(tape, up);
    return status;
}

static sara_status add_up_gradient(sara_tape *tape, const sara_branch *branch, const sara_var *h,
                                   const float *dy)
{
    const sara_linear_shape s = up_shape(h, branch);
    sara_kernel_env env = sara_tape_env(tape);
    size_t count = (size_t)(s.out * s.in);
    float *product = NULL, *gradient = NULL;
    sara_status status = SARA_OK;
    if (branch->up->want == SARA_GRAD_NONE)
        return SARA_OK;
    TRY(sara_op_param_start(tape, &gradient, branch->up));
    TRY(sara_tape_scratch(tape, &product, count));
    TRY(sara_device_fill(sara_tape_device(tape), product, 0, count * sizeof(*product)));
    TRY(SARA_TRACED(env.ctx, "branch dw", up_flops(&s),
                    sara_kernel_linear_dw(&env, product, dy, h->data, &s)));
    TRY(sara_kernel_add_scaled(&env, gradient, gradient, product, (int64_t)count, branch->scale));
done:
    sara_tape_unscratch(tape, product);
    return sara_op_param_finish(tape, branch->up, gradient, status);
}

static sara_status add_h_gradient(sara_tape *tape, const sara_branch *branch, sara_var *h,
                                  const float *dy)
{
    const sara_linear_shape s = up_shape(h, branch);
    sara_kernel_env env = sara_tape_env(tape);
    float *up = NULL, *dh;
    bool fresh;
    sara_status status = SARA_OK;
    if (!h->requires_grad)
        return SARA_OK;
    TRY(sara_tape_grad_fresh(tape, &dh, &fresh, h));
    TRY(scaled_up(tape, &up, branch, false));
    const sara_weight_view w = {up, SARA_F32, NULL};
    TRY(SARA_TRACED(env.ctx, "branch dx", up_flops(&s),
                    sara_kernel_linear_dx(&env, dh, dy, &w, &s, !fresh)));
done:
    sara_tape_unscratch(tape, up);
    return status;
}

sara_status sara_low_rank_backward(sara_tape *tape, const sara_branch *branch, sara_var *h,
                                   const float *dy)
{
    sara_status status;
    TRY(add_h_gradient(tape, branch, h, dy));
    TRY(add_up_gradient(tape, branch, h, dy));
done:
    return status;
}

/* ----------------------------------------------------------------------------------- magnitudes */

static sara_status scale_make(sara_tape *tape, const sara_node *node)
{
    const sara_var *u = node->saved[0], *norm = node->saved[1];
    const sara_param *magnitude = node->params[0], *bias = node->params[1];
    sara_kernel_env env = sara_tape_env(tape);
    return SARA_TRACED(
        env.ctx, "magnitude", 0,
        sara_kernel_scale_outputs(&env, node->out->data, u->data, magnitude->value.data, norm->data,
                                  bias ? bias->value.data : NULL, sara_shape_rows(&u->shape),
                                  sara_shape_last(&u->shape)));
}

static sara_status scale_backward(sara_tape *tape, sara_node *node)
{
    sara_var *u = node->saved[0];
    const sara_var *norm = node->saved[1];
    sara_param *magnitude = node->params[0];
    const float *dy = node->out->grad;
    int64_t rows = sara_shape_rows(&u->shape), out = sara_shape_last(&u->shape);
    sara_kernel_env env = sara_tape_env(tape);
    float *du = NULL, *gradient = NULL;
    bool fresh = false;
    sara_status status;
    if (u->requires_grad)
        TRY(sara_tape_grad_fresh(tape, &du, &fresh, u));
    TRY(sara_op_param_start(tape, &gradient, magnitude));
    TRY(SARA_TRACED(env.ctx, "magnitude grad", 0,
                    sara_kernel_scale_outputs_backward(&env, du, gradient, dy, u->data,
                                                       magnitude->value.data, norm->data, rows, out,
                                                       !fresh)));
    TRY(sara_bias_backward(tape, node->params[1], dy, rows, out));
done:
    return sara_op_param_finish(tape, magnitude, gradient, status);
}

/* |W| of each output. */
static sara_status weight_norm(sara_tape *tape, sara_var **norm, const sara_param *weight)
{
    const sara_branch *b = sara_low_rank_of(weight);
    const sara_weight_view w = sara_weight_of(weight);
    const sara_shape *shape = &weight->value.shape;
    int64_t out = shape->dims[0], in = sara_shape_count(shape) / out;
    int64_t rank = b->down->value.shape.dims[0];
    const sara_shape one_each = sara_shape1(out);
    sara_kernel_env env = sara_tape_env(tape);
    sara_status status;
    TRY(sara_tape_var(tape, norm, &one_each));
    TRY(SARA_TRACED(env.ctx, "weight norm", 2.0 * (double)(out * in) * (double)rank,
                    sara_kernel_low_rank_norm(&env, (*norm)->data, &w, b->down->value.data,
                                              b->up->value.data, b->scale, out, in, rank)));
done:
    return status;
}

sara_status sara_low_rank_scale(sara_tape *tape, sara_var **y, sara_var *u, sara_param *weight,
                                sara_param *bias)
{
    sara_var *norm, *out;
    sara_status status;
    TRY(weight_norm(tape, &norm, weight));
    TRY(sara_tape_var(tape, &out, &u->shape));
    sara_node node = {.op = "magnitude",
                      .backward = scale_backward,
                      .remake = scale_make,
                      .in = {u},
                      .saved = {u, norm},
                      .params = {sara_low_rank_of(weight)->magnitude, bias},
                      .out = out};
    TRY(scale_make(tape, &node));
    TRY(sara_tape_add(tape, &node, 0));
    *y = out;
done:
    return status;
}

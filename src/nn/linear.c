#include "nn/branch.h"

/* Weight [out,in] or, from a 1x1 convolution, [out,in,1,1]. */
static bool is_matrix(const sara_shape *w)
{
    return (w->rank == 2 || (w->rank == 4 && w->dims[2] == 1 && w->dims[3] == 1)) &&
           w->dims[0] > 0 && w->dims[1] > 0;
}

static sara_status linear_check(sara_context *ctx, sara_linear_shape *out, const sara_shape *x,
                                const sara_param *weight, const sara_param *bias)
{
    const sara_shape *w = &weight->value.shape;
    sara_shape_text a, b;
    if (!is_matrix(w) || x->rank < 1 || x->dims[x->rank - 1] != w->dims[1])
        return sara_fail(ctx, SARA_ERROR_INPUT, "linear: %s: shape %s does not fit the input %s",
                         weight->name, sara_shape_format(&a, w), sara_shape_format(&b, x));
    sara_shape expected = sara_shape1(w->dims[0]);
    if (bias && !sara_shape_equal(&bias->value.shape, &expected))
        return sara_fail(ctx, SARA_ERROR_INPUT, "linear: %s: shape %s, expected %s", bias->name,
                         sara_shape_format(&a, &bias->value.shape),
                         sara_shape_format(&b, &expected));
    *out = (sara_linear_shape){sara_shape_count(x) / w->dims[1], w->dims[1], w->dims[0]};
    return SARA_OK;
}

static double linear_flops(const sara_linear_shape *s)
{
    return 2.0 * (double)s->rows * (double)(s->in * s->out);
}

sara_status sara_bias_backward(sara_tape *tape, sara_param *bias, const float *dy, int64_t rows,
                               int64_t out)
{
    sara_kernel_env env = sara_tape_env(tape);
    float *dense = NULL;
    sara_status status = SARA_OK;
    if (!bias || bias->want == SARA_GRAD_NONE)
        return SARA_OK;
    TRY(sara_op_param_start(tape, &dense, bias));
    TRY(SARA_TRACED(env.ctx, "bias grad", 0, sara_kernel_bias_grad(&env, dense, dy, rows, out)));
done:
    return sara_op_param_finish(tape, bias, dense, status);
}

static sara_status linear_weight_backward(sara_tape *tape, sara_param *weight, const float *dy,
                                          const sara_var *x, const sara_linear_shape *shape)
{
    sara_kernel_env env = sara_tape_env(tape);
    if (weight->want == SARA_GRAD_NONE)
        return SARA_OK;
    if (weight->want == SARA_GRAD_DENSE)
        return SARA_TRACED(env.ctx, "linear dw", linear_flops(shape),
                           sara_kernel_linear_dw(&env, weight->grad, dy, x->data, shape));
    return SARA_TRACED(env.ctx, "linear dw sampled",
                       2.0 * (double)weight->selected * (double)shape->rows,
                       sara_kernel_linear_dw_sampled(&env, weight->grad, dy, x->data,
                                                     weight->positions, weight->selected, shape));
}

static sara_status linear_backward(sara_tape *tape, sara_node *node)
{
    const sara_linear_shape *shape = node->attributes;
    sara_param *weight = node->params[0];
    sara_kernel_env env = sara_tape_env(tape);
    const sara_weight_view w = sara_weight_of(weight);
    const float *dy = node->out->grad;
    float *dx;
    bool fresh;
    sara_status status = SARA_OK;
    if (node->in[0]->requires_grad) {
        TRY(sara_tape_grad_fresh(tape, &dx, &fresh, node->in[0]));
        TRY(SARA_TRACED(env.ctx, "linear dx", linear_flops(shape),
                        sara_kernel_linear_dx(&env, dx, dy, &w, shape, !fresh)));
    }
    TRY(linear_weight_backward(tape, weight, dy, node->saved[0], shape));
    TRY(sara_bias_backward(tape, node->params[1], dy, shape->rows, shape->out));
    if (node->in[1])
        TRY(sara_low_rank_backward(tape, sara_low_rank_of(weight), node->in[1], dy));
done:
    return status;
}

/* The layer's own op; h: of its low-rank branch, NULL: it has none. */
static sara_status linear_node(sara_tape *tape, sara_var **y, sara_var *x, sara_var *h,
                               sara_param *weight, sara_param *bias, sara_linear_shape *shape)
{
    sara_kernel_env env = sara_tape_env(tape);
    const sara_weight_view w = sara_weight_of(weight);
    sara_shape out_shape = x->shape;
    sara_var *out;
    sara_status status;
    out_shape.dims[out_shape.rank - 1] = shape->out;
    TRY(sara_tape_var(tape, &out, &out_shape));
    TRY(SARA_TRACED(env.ctx, "linear", linear_flops(shape),
                    sara_kernel_linear_forward(&env, out->data, x->data, &w,
                                               bias ? bias->value.data : NULL, shape)));
    if (h)
        TRY(sara_low_rank_add(tape, out, h, sara_low_rank_of(weight)));
    sara_node node = {.op = "linear",
                      .backward = linear_backward,
                      .in = {x, h},
                      .saved = {weight->want == SARA_GRAD_NONE ? NULL : x, h},
                      .params = {weight, bias, h ? sara_low_rank_of(weight)->up : NULL},
                      .out = out,
                      .attributes = shape};
    TRY(sara_tape_add(tape, &node, sizeof(*shape)));
    *y = out;
done:
    return status;
}

/* With a magnitude the bias comes after it. */
static sara_status linear_beside(sara_tape *tape, sara_var **y, sara_var *x, sara_param *weight,
                                 sara_param *bias, sara_linear_shape *shape)
{
    const sara_branch *branch = sara_low_rank_of(weight);
    sara_var *h, *out = NULL;
    size_t scope = sara_tape_open(tape);
    sara_status status;
    TRY(sara_low_rank_check(tape, "linear", weight));
    TRY(sara_nn_linear(tape, &h, x, branch->down, NULL));
    TRY(linear_node(tape, &out, x, h, weight, branch->magnitude ? NULL : bias, shape));
    if (branch->magnitude)
        TRY(sara_low_rank_scale(tape, &out, out, weight, bias));
    sara_tape_close(tape, scope, &out, 1);
    *y = out;
done:
    return status;
}

sara_status sara_nn_linear(sara_tape *tape, sara_var **y, sara_var *x, sara_param *weight,
                           sara_param *bias)
{
    sara_linear_shape shape;
    sara_status status;
    *y = NULL;
    TRY(linear_check(sara_tape_context(tape), &shape, &x->shape, weight, bias));
    TRY(sara_low_rank_of(weight) ? linear_beside(tape, y, x, weight, bias, &shape)
                                 : linear_node(tape, y, x, NULL, weight, bias, &shape));
done:
    return status;
}

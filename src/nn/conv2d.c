#include "nn/branch.h"

static bool has_positive_dims(const sara_shape *shape)
{
    for (int i = 0; i < shape->rank; i++)
        if (shape->dims[i] < 1)
            return false;
    return true;
}

static sara_status check_shapes(sara_context *ctx, const sara_shape *x, const sara_param *weight,
                                const sara_param *bias)
{
    const sara_shape *w = &weight->value.shape;
    sara_shape_text a, b;
    if (x->rank != 4 || w->rank != 4 || x->dims[3] != w->dims[1] || !has_positive_dims(w) ||
        !has_positive_dims(x))
        return sara_fail(ctx, SARA_ERROR_INPUT, "conv2d: %s: shape %s does not fit the input %s",
                         weight->name, sara_shape_format(&a, w), sara_shape_format(&b, x));
    sara_shape expected = sara_shape1(w->dims[0]);
    if (bias && !sara_shape_equal(&bias->value.shape, &expected))
        return sara_fail(ctx, SARA_ERROR_INPUT, "conv2d: %s: shape %s, expected %s", bias->name,
                         sara_shape_format(&a, &bias->value.shape),
                         sara_shape_format(&b, &expected));
    return SARA_OK;
}

/* The output's side, 0 if the kernel is larger than the padded input. */
static int64_t out_side(int64_t side, int before, int after, int64_t kernel, int stride)
{
    int64_t room = side + before + after - kernel;
    return room < 0 ? 0 : room / stride + 1;
}

static sara_status conv2d_check(sara_context *ctx, sara_conv_shape *out, const sara_shape *x,
                                const sara_param *weight, const sara_param *bias,
                                const sara_conv2d_options *o)
{
    const sara_shape *w = &weight->value.shape;
    sara_shape_text a, b;
    sara_status status;
    TRY(check_shapes(ctx, x, weight, bias));
    if (o->stride < 1 || o->pad_top < 0 || o->pad_left < 0 || o->pad_bottom < 0 || o->pad_right < 0)
        return sara_fail(ctx, SARA_ERROR_INPUT,
                         "conv2d: %s: stride %d, padding %d %d %d %d, expected at least 1 and 0",
                         weight->name, o->stride, o->pad_top, o->pad_left, o->pad_bottom,
                         o->pad_right);
    *out = (sara_conv_shape){.n = x->dims[0],
                             .h = x->dims[1],
                             .w = x->dims[2],
                             .in = x->dims[3],
                             .out = w->dims[0],
                             .kh = w->dims[2],
                             .kw = w->dims[3],
                             .stride = o->stride,
                             .pad_top = o->pad_top,
                             .pad_left = o->pad_left,
                             .pad_bottom = o->pad_bottom,
                             .pad_right = o->pad_right};
    out->oh = out_side(out->h, o->pad_top, o->pad_bottom, out->kh, o->stride);
    out->ow = out_side(out->w, o->pad_left, o->pad_right, out->kw, o->stride);
    if (out->oh < 1 || out->ow < 1)
        status = sara_fail(ctx, SARA_ERROR_INPUT,
                           "conv2d: %s: shape %s is larger than the padded input %s", weight->name,
                           sara_shape_format(&a, w), sara_shape_format(&b, x));
done:
    return status;
}

static double conv_flops(const sara_conv_shape *s)
{
    return 2.0 * (double)(s->n * s->oh * s->ow) * (double)(s->out * s->in * s->kh * s->kw);
}

static sara_status conv2d_weight_backward(sara_tape *tape, sara_param *weight, const float *dy,
                                          const sara_var *x, const sara_conv_shape *shape)
{
    sara_kernel_env env = sara_tape_env(tape);
    if (weight->want == SARA_GRAD_NONE)
        return SARA_OK;
    if (weight->want == SARA_GRAD_DENSE)
        return SARA_TRACED(env.ctx, "conv2d dw", conv_flops(shape),
                           sara_kernel_conv_dw(&env, weight->grad, dy, x->data, shape, true));
    return SARA_TRACED(env.ctx, "conv2d dw sampled",
                       2.0 * (double)weight->selected * (double)(shape->n * shape->oh * shape->ow),
                       sara_kernel_conv_dw_sampled(&env, weight->grad, dy, x->data,
                                                   weight->positions, weight->selected, shape));
}

static sara_status conv_backward(sara_tape *tape, sara_node *node)
{
    const sara_conv_shape *shape = node->attributes;
    sara_param *weight = node->params[0];
    sara_kernel_env env = sara_tape_env(tape);
    const sara_weight_view w = sara_weight_of(weight);
    const float *dy = node->out->grad;
    float *dx;
    bool fresh;
    sara_status status = SARA_OK;
    if (node->in[0]->requires_grad) {
        TRY(sara_tape_grad_fresh(tape, &dx, &fresh, node->in[0]));
        TRY(SARA_TRACED(env.ctx, "conv2d dx", conv_flops(shape),
                        sara_kernel_conv_dx(&env, dx, dy, &w, shape, !fresh)));
    }
    TRY(conv2d_weight_backward(tape, weight, dy, node->saved[0], shape));
    TRY(sara_bias_backward(tape, node->params[1], dy, shape->n * shape->oh * shape->ow,
                           shape->out));
    if (node->in[1])
        TRY(sara_low_rank_backward(tape, sara_low_rank_of(weight), node->in[1], dy));
done:
    return status;
}

/* The layer's own op; h: of its low-rank branch, NULL: it has none. */
static sara_status conv_node(sara_tape *tape, sara_var **y, sara_var *x, sara_var *h,
                             sara_param *weight, sara_param *bias, sara_conv_shape *shape)
{
    sara_kernel_env env = sara_tape_env(tape);
    const sara_weight_view w = sara_weight_of(weight);
    const sara_shape out_shape = sara_shape4(shape->n, shape->oh, shape->ow, shape->out);
    sara_var *out;
    sara_status status;
    TRY(sara_tape_var(tape, &out, &out_shape));
    TRY(SARA_TRACED(env.ctx, "conv2d", conv_flops(shape),
                    sara_kernel_conv_forward(&env, out->data, x->data, &w,
                                             bias ? bias->value.data : NULL, shape)));
    if (h)
        TRY(sara_low_rank_add(tape, out, h, sara_low_rank_of(weight)));
    sara_node node = {.op = "conv2d",
                      .backward = conv_backward,
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
static sara_status conv_beside(sara_tape *tape, sara_var **y, sara_var *x, sara_param *weight,
                               sara_param *bias, const sara_conv2d_options *options,
                               sara_conv_shape *shape)
{
    const sara_branch *branch = sara_low_rank_of(weight);
    sara_var *h, *out = NULL;
    size_t scope = sara_tape_open(tape);
    sara_status status;
    TRY(sara_low_rank_check(tape, "conv2d", weight));
    TRY(sara_nn_conv2d(tape, &h, x, branch->down, NULL, options));
    TRY(conv_node(tape, &out, x, h, weight, branch->magnitude ? NULL : bias, shape));
    if (branch->magnitude)
        TRY(sara_low_rank_scale(tape, &out, out, weight, bias));
    sara_tape_close(tape, scope, &out, 1);
    *y = out;
done:
    return status;
}

sara_status sara_nn_conv2d(sara_tape *tape, sara_var **y, sara_var *x, sara_param *weight,
                           sara_param *bias, const sara_conv2d_options *options)
{
    sara_conv_shape shape;
    sara_status status;
    *y = NULL;
    TRY(conv2d_check(sara_tape_context(tape), &shape, &x->shape, weight, bias, options));
    TRY(sara_low_rank_of(weight) ? conv_beside(tape, y, x, weight, bias, options, &shape)
                                 : conv_node(tape, y, x, NULL, weight, bias, &shape));
done:
    return status;
}

#include "nn/op.h"

typedef struct layer_attributes {
    int64_t rows, c;
    float eps;
} layer_attributes;

static sara_status check_vectors(const sara_tape *tape, const char *op, const sara_shape *x,
                                 const sara_param *weight, const sara_param *bias)
{
    const sara_shape expected = sara_shape1(sara_shape_last(x));
    sara_status status;
    TRY(sara_op_expect(tape, op, weight->name, &weight->value.shape, &expected));
    if (bias)
        TRY(sara_op_expect(tape, op, bias->name, &bias->value.shape, &expected));
done:
    return status;
}

/* Runs one norm's backward kernel with the gradients that are wanted; bias may be NULL. */
typedef sara_status (*norm_kernel)(sara_tape *tape, const sara_node *node, float *dx, float *dw,
                                   float *db, bool accumulate);

static sara_status norm_backward(sara_tape *tape, sara_node *node, norm_kernel kernel)
{
    sara_param *weight = node->params[0], *bias = node->params[1];
    float *dx = NULL, *dw = NULL, *db = NULL;
    bool fresh = false;
    sara_status status = SARA_OK;
    if (node->in[0]->requires_grad)
        TRY(sara_tape_grad_fresh(tape, &dx, &fresh, node->in[0]));
    TRY(sara_op_param_start(tape, &dw, weight));
    if (bias)
        TRY(sara_op_param_start(tape, &db, bias));
    TRY(kernel(tape, node, dx, dw, db, !fresh));
done:
    if (bias)
        status = sara_op_param_finish(tape, bias, db, status);
    return sara_op_param_finish(tape, weight, dw, status);
}

/* -------------------------------------------------------------------------------- group norm */

static sara_status group_kernel(sara_tape *tape, const sara_node *node, float *dx, float *dw,
                                float *db, bool accumulate)
{
    sara_kernel_env env = sara_tape_env(tape);
    return SARA_TRACED(env.ctx, "group_norm grad", 0,
                       sara_kernel_group_norm_backward(
                           &env, dx, dw, db, node->out->grad, node->saved[0]->data,
                           node->saved[1]->data, node->saved[2]->data, node->params[0]->value.data,
                           node->params[1]->value.data, node->attributes, accumulate));
}

static sara_status group_norm_backward_node(sara_tape *tape, sara_node *node)
{
    return norm_backward(tape, node, group_kernel);
}

static sara_status check_group_norm(const sara_tape *tape, const sara_shape *x,
                                    const sara_param *weight, const sara_param *bias, int groups,
                                    sara_activation activation)
{
    sara_context *ctx = sara_tape_context(tape);
    sara_shape_text text;
    if (x->rank < 2 || groups < 1 || sara_shape_last(x) % groups != 0 || sara_shape_last(x) == 0)
        return sara_fail(ctx, SARA_ERROR_INPUT,
                         "group_norm: %s: input %s does not divide into %d groups of channels",
                         weight->name, sara_shape_format(&text, x), groups);
    if (activation != SARA_IDENTITY && activation != SARA_SILU)
        return sara_fail(ctx, SARA_ERROR_INPUT,
                         "group_norm: %s: activation %d, expected none (%d) or SiLU (%d)",
                         weight->name, (int)activation, SARA_IDENTITY, SARA_SILU);
    return check_vectors(tape, "group_norm", x, weight, bias);
}

/* Again: mean and rstd come out with the same bits. */
static sara_status group_norm_make(sara_tape *tape, const sara_node *node)
{
    sara_kernel_env env = sara_tape_env(tape);
    return SARA_TRACED(env.ctx, "group_norm", 0,
                       sara_kernel_group_norm_forward(
                           &env, node->out->data, node->saved[1]->data, node->saved[2]->data,
                           node->saved[0]->data, node->params[0]->value.data,
                           node->params[1]->value.data, node->attributes));
}

sara_status sara_nn_group_norm(sara_tape *tape, sara_var **y, sara_var *x, sara_param *weight,
                               sara_param *bias, int groups, float eps, sara_activation activation)
{
    sara_var *out = NULL, *mean = NULL, *rstd = NULL;
    sara_status status;
    *y = NULL;
    TRY(check_group_norm(tape, &x->shape, weight, bias, groups, activation));
    sara_group_norm_shape shape = {.n = x->shape.dims[0],
                                   .inner = sara_shape_inner(&x->shape),
                                   .c = sara_shape_last(&x->shape),
                                   .groups = groups,
                                   .eps = eps,
                                   .silu = activation == SARA_SILU};
    const sara_shape statistics = sara_shape2(shape.n, groups);
    TRY(sara_tape_var(tape, &out, &x->shape));
    TRY(sara_tape_var(tape, &mean, &statistics));
    TRY(sara_tape_var(tape, &rstd, &statistics));
    sara_node node = {.op = "group_norm",
                      .backward = group_norm_backward_node,
                      .remake = group_norm_make,
                      .in = {x},
                      .saved = {x, mean, rstd},
                      .params = {weight, bias},
                      .out = out,
                      .attributes = &shape};
    TRY(group_norm_make(tape, &node));
    TRY(sara_tape_add(tape, &node, sizeof(shape)));
    *y = out;
done:
    return status;
}

/* -------------------------------------------------------------------------------- layer norm */

static sara_status layer_kernel(sara_tape *tape, const sara_node *node, float *dx, float *dw,
                                float *db, bool accumulate)
{
    const layer_attributes *a = node->attributes;
    sara_kernel_env env = sara_tape_env(tape);
    return SARA_TRACED(
        env.ctx, "layer_norm grad", 0,
        sara_kernel_layer_norm_backward(&env, dx, dw, db, node->out->grad, node->saved[0]->data,
                                        node->saved[1]->data, node->saved[2]->data,
                                        node->params[0]->value.data, a->rows, a->c, accumulate));
}

static sara_status layer_norm_backward_node(sara_tape *tape, sara_node *node)
{
    return norm_backward(tape, node, layer_kernel);
}

static sara_status layer_norm_make(sara_tape *tape, const sara_node *node)
{
    const layer_attributes *a = node->attributes;
    sara_kernel_env env = sara_tape_env(tape);
    return SARA_TRACED(env.ctx, "layer_norm", 0,
                       sara_kernel_layer_norm_forward(
                           &env, node->out->data, node->saved[1]->data, node->saved[2]->data,
                           node->saved[0]->data, node->params[0]->value.data,
                           node->params[1]->value.data, a->rows, a->c, a->eps));
}

sara_status sara_nn_layer_norm(sara_tape *tape, sara_var **y, sara_var *x, sara_param *weight,
                               sara_param *bias, float eps)
{
    sara_var *out = NULL, *mean = NULL, *rstd = NULL;
    sara_status status;
    *y = NULL;
    TRY(check_vectors(tape, "layer_norm", &x->shape, weight, bias));
    layer_attributes attributes = {sara_shape_rows(&x->shape), sara_shape_last(&x->shape), eps};
    const sara_shape statistics = sara_shape1(attributes.rows);
    TRY(sara_tape_var(tape, &out, &x->shape));
    TRY(sara_tape_var(tape, &mean, &statistics));
    TRY(sara_tape_var(tape, &rstd, &statistics));
    sara_node node = {.op = "layer_norm",
                      .backward = layer_norm_backward_node,
                      .remake = layer_norm_make,
                      .in = {x},
                      .saved = {x, mean, rstd},
                      .params = {weight, bias},
                      .out = out,
                      .attributes = &attributes};
    TRY(layer_norm_make(tape, &node));
    TRY(sara_tape_add(tape, &node, sizeof(attributes)));
    *y = out;
done:
    return status;
}

/* ---------------------------------------------------------------------------------- rms norm */

static sara_status rms_kernel(sara_tape *tape, const sara_node *node, float *dx, float *dw,
                              float *db, bool accumulate)
{
    const layer_attributes *a = node->attributes;
    sara_kernel_env env = sara_tape_env(tape);
    (void)db;
    return SARA_TRACED(env.ctx, "rms_norm grad", 0,
                       sara_kernel_rms_norm_backward(&env, dx, dw, node->out->grad,
                                                     node->saved[0]->data, node->saved[1]->data,
                                                     node->params[0]->value.data, a->rows, a->c,
                                                     accumulate));
}

static sara_status rms_norm_backward_node(sara_tape *tape, sara_node *node)
{
    return norm_backward(tape, node, rms_kernel);
}

static sara_status rms_norm_make(sara_tape *tape, const sara_node *node)
{
    const layer_attributes *a = node->attributes;
    sara_kernel_env env = sara_tape_env(tape);
    return SARA_TRACED(env.ctx, "rms_norm", 0,
                       sara_kernel_rms_norm_forward(
                           &env, node->out->data, node->saved[1]->data, node->saved[0]->data,
                           node->params[0]->value.data, a->rows, a->c, a->eps));
}

sara_status sara_nn_rms_norm(sara_tape *tape, sara_var **y, sara_var *x, sara_param *weight,
                             float eps)
{
    sara_var *out = NULL, *rstd = NULL;
    sara_status status;
    *y = NULL;
    TRY(check_vectors(tape, "rms_norm", &x->shape, weight, NULL));
    layer_attributes attributes = {sara_shape_rows(&x->shape), sara_shape_last(&x->shape), eps};
    const sara_shape statistics = sara_shape1(attributes.rows);
    TRY(sara_tape_var(tape, &out, &x->shape));
    TRY(sara_tape_var(tape, &rstd, &statistics));
    sara_node node = {.op = "rms_norm",
                      .backward = rms_norm_backward_node,
                      .remake = rms_norm_make,
                      .in = {x},
                      .saved = {x, rstd},
                      .params = {weight},
                      .out = out,
                      .attributes = &attributes};
    TRY(rms_norm_make(tape, &node));
    TRY(sara_tape_add(tape, &node, sizeof(attributes)));
    *y = out;
done:
    return status;
}

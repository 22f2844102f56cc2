#include "nn/op.h"

/* -------------------------------------------------------------------------------- activation */

static sara_status activate_backward_node(sara_tape *tape, sara_node *node)
{
    sara_kernel_env env = sara_tape_env(tape);
    const sara_activation *activation = node->attributes;
    const sara_var *x = node->saved[0];
    float *dx;
    bool fresh;
    sara_status status;
    TRY(sara_tape_grad_fresh(tape, &dx, &fresh, node->in[0]));
    TRY(SARA_TRACED(env.ctx, "activate grad", 0,
                    sara_kernel_activate_backward(&env, dx, node->out->grad, x->data,
                                                  sara_shape_count(&x->shape), *activation,
                                                  !fresh)));
done:
    return status;
}

static sara_status activate_make(sara_tape *tape, const sara_node *node)
{
    sara_kernel_env env = sara_tape_env(tape);
    const sara_activation *activation = node->attributes;
    const sara_var *x = node->saved[0];
    return SARA_TRACED(env.ctx, "activate", 0,
                       sara_kernel_activate_forward(&env, node->out->data, x->data,
                                                    sara_shape_count(&x->shape), *activation));
}

sara_status sara_nn_activate(sara_tape *tape, sara_var **y, sara_var *x, sara_activation activation)
{
    sara_var *out = NULL;
    sara_status status;
    *y = NULL;
    TRY(sara_tape_var(tape, &out, &x->shape));
    sara_node node = {.op = "activate",
                      .backward = activate_backward_node,
                      .remake = activate_make,
                      .in = {x},
                      .saved = {x},
                      .out = out,
                      .attributes = &activation};
    TRY(activate_make(tape, &node));
    TRY(sara_tape_add(tape, &node, sizeof(activation)));
    *y = out;
done:
    return status;
}

static sara_status geglu_backward_node(sara_tape *tape, sara_node *node)
{
    sara_kernel_env env = sara_tape_env(tape);
    const sara_shape *shape = &node->out->shape;
    float *dx;
    bool fresh;
    sara_status status;
    TRY(sara_tape_grad_fresh(tape, &dx, &fresh, node->in[0]));
    TRY(SARA_TRACED(env.ctx, "geglu grad", 0,
                    sara_kernel_geglu_backward(&env, dx, node->out->grad, node->saved[0]->data,
                                               sara_shape_rows(shape), sara_shape_last(shape),
                                               !fresh)));
done:
    return status;
}

static sara_status geglu_make(sara_tape *tape, const sara_node *node)
{
    sara_kernel_env env = sara_tape_env(tape);
    const sara_shape *shape = &node->out->shape;
    return SARA_TRACED(env.ctx, "geglu", 0,
                       sara_kernel_geglu_forward(&env, node->out->data, node->saved[0]->data,
                                                 sara_shape_rows(shape), sara_shape_last(shape)));
}

sara_status sara_nn_geglu(sara_tape *tape, sara_var **y, sara_var *x)
{
    sara_shape shape = x->shape;
    sara_shape_text text;
    sara_var *out = NULL;
    sara_status status;
    *y = NULL;
    if (shape.rank < 1 || shape.dims[shape.rank - 1] % 2 != 0)
        return sara_fail(sara_tape_context(tape), SARA_ERROR_INPUT,
                         "geglu: x: shape %s, expected [...,2*C]",
                         sara_shape_format(&text, &shape));
    shape.dims[shape.rank - 1] /= 2;
    TRY(sara_tape_var(tape, &out, &shape));
    sara_node node = {.op = "geglu",
                      .backward = geglu_backward_node,
                      .remake = geglu_make,
                      .in = {x},
                      .saved = {x},
                      .out = out};
    TRY(geglu_make(tape, &node));
    TRY(sara_tape_add(tape, &node, 0));
    *y = out;
done:
    return status;
}

static sara_status gated_gelu_backward_node(sara_tape *tape, sara_node *node)
{
    sara_kernel_env env = sara_tape_env(tape);
    float *gradients[2] = {NULL, NULL};
    bool fresh[2] = {false, false};
    sara_status status = SARA_OK;
    for (int i = 0; i < 2; i++)
        if (node->in[i]->requires_grad)
            TRY(sara_tape_grad_fresh(tape, &gradients[i], &fresh[i], node->in[i]));
    TRY(SARA_TRACED(env.ctx, "gated_gelu grad", 0,
                    sara_kernel_gated_gelu_backward(
                        &env, gradients[0], gradients[1], node->out->grad, node->saved[0]->data,
                        node->saved[1]->data, sara_shape_count(&node->out->shape), !fresh[0],
                        !fresh[1])));
done:
    return status;
}

static sara_status gated_gelu_make(sara_tape *tape, const sara_node *node)
{
    sara_kernel_env env = sara_tape_env(tape);
    return SARA_TRACED(env.ctx, "gated_gelu", 0,
                       sara_kernel_gated_gelu_forward(&env, node->out->data, node->saved[0]->data,
                                                      node->saved[1]->data,
                                                      sara_shape_count(&node->out->shape)));
}

sara_status sara_nn_gated_gelu(sara_tape *tape, sara_var **y, sara_var *a, sara_var *b)
{
    sara_var *out = NULL;
    sara_status status;
    *y = NULL;
    TRY(sara_op_expect(tape, "gated_gelu", "b", &b->shape, &a->shape));
    TRY(sara_tape_var(tape, &out, &a->shape));
    sara_node node = {.op = "gated_gelu",
                      .backward = gated_gelu_backward_node,
                      .remake = gated_gelu_make,
                      .in = {a, b},
                      .saved = {a, b},
                      .out = out};
    TRY(gated_gelu_make(tape, &node));
    TRY(sara_tape_add(tape, &node, 0));
    *y = out;
done:
    return status;
}

/* ---------------------------------------------------------------------------------- addition */

static sara_status add_backward(sara_tape *tape, sara_node *node)
{
    sara_status status;
    TRY(sara_op_pass(tape, node->in[0], node->out->grad));
    TRY(sara_op_pass(tape, node->in[1], node->out->grad));
done:
    return status;
}

sara_status sara_nn_add(sara_tape *tape, sara_var **y, sara_var *a, sara_var *b)
{
    sara_kernel_env env = sara_tape_env(tape);
    sara_var *out = NULL;
    sara_status status;
    *y = NULL;
    TRY(sara_op_expect(tape, "add", "b", &b->shape, &a->shape));
    TRY(sara_tape_var(tape, &out, &a->shape));
    TRY(SARA_TRACED(
        env.ctx, "add", 0,
        sara_kernel_add(&env, out->data, a->data, b->data, sara_shape_count(&a->shape))));
    sara_node node = {.op = "add", .backward = add_backward, .in = {a, b}, .out = out};
    TRY(sara_tape_add(tape, &node, 0));
    *y = out;
done:
    return status;
}

static sara_status add_scaled_backward(sara_tape *tape, sara_node *node)
{
    sara_kernel_env env = sara_tape_env(tape);
    const float *scale = node->attributes;
    float *db;
    bool fresh;
    sara_status status;
    TRY(sara_op_pass(tape, node->in[0], node->out->grad));
    if (!node->in[1]->requires_grad)
        return SARA_OK;
    TRY(sara_tape_grad_fresh(tape, &db, &fresh, node->in[1]));
    TRY(SARA_TRACED(env.ctx, "add_scaled grad", 0,
                    sara_kernel_add_scaled(&env, db, fresh ? NULL : db, node->out->grad,
                                           sara_shape_count(&node->out->shape), *scale)));
done:
    return status;
}

sara_status sara_nn_add_scaled(sara_tape *tape, sara_var **y, sara_var *a, sara_var *b, float scale)
{
    sara_kernel_env env = sara_tape_env(tape);
    sara_var *out = NULL;
    sara_status status;
    *y = NULL;
    TRY(sara_op_expect(tape, "add_scaled", "b", &b->shape, &a->shape));
    TRY(sara_tape_var(tape, &out, &a->shape));
    TRY(SARA_TRACED(env.ctx, "add_scaled", 0,
                    sara_kernel_add_scaled(&env, out->data, a->data, b->data,
                                           sara_shape_count(&a->shape), scale)));
    sara_node node = {.op = "add_scaled",
                      .backward = add_scaled_backward,
                      .in = {a, b},
                      .out = out,
                      .attributes = &scale};
    TRY(sara_tape_add(tape, &node, sizeof(scale)));
    *y = out;
done:
    return status;
}

/* The gradient of in[i], of which `other` is the other factor. */
static sara_status pass_product(sara_tape *tape, const sara_node *node, int i,
                                const sara_var *other)
{
    sara_kernel_env env = sara_tape_env(tape);
    float *gradient;
    bool fresh;
    sara_status status;
    if (!node->in[i]->requires_grad)
        return SARA_OK;
    TRY(sara_tape_grad_fresh(tape, &gradient, &fresh, node->in[i]));
    TRY(SARA_TRACED(env.ctx, "multiply grad", 0,
                    sara_kernel_multiply(&env, gradient, node->out->grad, other->data,
                                         sara_shape_count(&node->out->shape), !fresh)));
done:
    return status;
}

static sara_status multiply_backward(sara_tape *tape, sara_node *node)
{
    sara_status status;
    TRY(pass_product(tape, node, 0, node->saved[1]));
    TRY(pass_product(tape, node, 1, node->saved[0]));
done:
    return status;
}

sara_status sara_nn_multiply(sara_tape *tape, sara_var **y, sara_var *a, sara_var *b)
{
    sara_kernel_env env = sara_tape_env(tape);
    sara_var *out = NULL;
    sara_status status;
    *y = NULL;
    TRY(sara_op_expect(tape, "multiply", "b", &b->shape, &a->shape));
    TRY(sara_tape_var(tape, &out, &a->shape));
    TRY(SARA_TRACED(env.ctx, "multiply", 0,
                    sara_kernel_multiply(&env, out->data, a->data, b->data,
                                         sara_shape_count(&a->shape), false)));
    sara_node node = {
        .op = "multiply", .backward = multiply_backward, .in = {a, b}, .saved = {a, b}, .out = out};
    TRY(sara_tape_add(tape, &node, 0));
    *y = out;
done:
    return status;
}

static sara_status add_per_sample_backward(sara_tape *tape, sara_node *node)
{
    sara_kernel_env env = sara_tape_env(tape);
    const sara_shape *shape = &node->out->shape;
    float *de;
    sara_status status;
    TRY(sara_op_pass(tape, node->in[0], node->out->grad));
    if (!node->in[1]->requires_grad)
        return SARA_OK;
    TRY(sara_tape_grad(tape, &de, node->in[1]));
    TRY(SARA_TRACED(env.ctx, "add_per_sample grad", 0,
                    sara_kernel_add_per_sample_de(&env, de, node->out->grad, shape->dims[0],
                                                  sara_shape_inner(shape),
                                                  sara_shape_last(shape))));
done:
    return status;
}

sara_status sara_nn_add_per_sample(sara_tape *tape, sara_var **y, sara_var *x, sara_var *e)
{
    sara_kernel_env env = sara_tape_env(tape);
    const sara_shape *shape = &x->shape;
    sara_var *out = NULL;
    sara_status status;
    *y = NULL;
    TRY(sara_op_expect_per_sample(tape, "add_per_sample", shape, "e", &e->shape));
    TRY(sara_tape_var(tape, &out, shape));
    TRY(SARA_TRACED(env.ctx, "add_per_sample", 0,
                    sara_kernel_add_per_sample(&env, out->data, x->data, e->data, shape->dims[0],
                                               sara_shape_inner(shape), sara_shape_last(shape))));
    sara_node node = {
        .op = "add_per_sample", .backward = add_per_sample_backward, .in = {x, e}, .out = out};
    TRY(sara_tape_add(tape, &node, 0));
    *y = out;
done:
    return status;
}

/* ------------------------------------------------------------------------------------- clamp */

typedef struct bounds {
    float low, high;
} bounds;

static sara_status clamp_backward(sara_tape *tape, sara_node *node)
{
    sara_kernel_env env = sara_tape_env(tape);
    const bounds *b = node->attributes;
    const sara_var *x = node->saved[0];
    float *dx;
    sara_status status;
    TRY(sara_tape_grad(tape, &dx, node->in[0]));
    TRY(SARA_TRACED(env.ctx, "clamp grad", 0,
                    sara_kernel_clamp_dx(&env, dx, node->out->grad, x->data,
                                         sara_shape_count(&x->shape), b->low, b->high)));
done:
    return status;
}

sara_status sara_nn_clamp(sara_tape *tape, sara_var **y, sara_var *x, float low, float high)
{
    sara_kernel_env env = sara_tape_env(tape);
    bounds b = {low, high};
    sara_var *out = NULL;
    sara_status status;
    *y = NULL;
    TRY(sara_tape_var(tape, &out, &x->shape));
    TRY(SARA_TRACED(env.ctx, "clamp", 0,
                    sara_kernel_clamp_forward(&env, out->data, x->data, sara_shape_count(&x->shape),
                                              low, high)));
    sara_node node = {.op = "clamp",
                      .backward = clamp_backward,
                      .in = {x},
                      .saved = {x},
                      .out = out,
                      .attributes = &b};
    TRY(sara_tape_add(tape, &node, sizeof(b)));
    *y = out;
done:
    return status;
}

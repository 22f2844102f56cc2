/* What each sample tells of how its tokens are scaled and shifted (adaptive layer norm and gates;
 * Peebles and Xie 2023). */
#include "nn/op.h"

typedef struct modulation {
    int64_t inner, c; /* of each sample */
    float eps;
} modulation;

static modulation modulation_of(const sara_shape *x, float eps)
{
    return (modulation){sara_shape_inner(x), sara_shape_last(x), eps};
}

/* The gradient of in[i], to which is added; NULL: it wants none. */
static sara_status wanted_gradient(sara_tape *tape, float **out, const sara_node *node, int i)
{
    *out = NULL;
    return node->in[i]->requires_grad ? sara_tape_grad(tape, out, node->in[i]) : SARA_OK;
}

/* ---------------------------------------------------------------------------------- the norm */

/* saved: x, mean, rstd, factor */
static sara_status modulated_norm_backward(sara_tape *tape, sara_node *node)
{
    const modulation *m = node->attributes;
    sara_kernel_env env = sara_tape_env(tape);
    const float *dy = node->out->grad, *x = node->saved[0]->data, *factor = node->saved[3]->data;
    float *dx = NULL, *dfactor, *dshift;
    bool fresh = false;
    sara_status status = SARA_OK;
    if (node->in[0]->requires_grad)
        TRY(sara_tape_grad_fresh(tape, &dx, &fresh, node->in[0]));
    TRY(wanted_gradient(tape, &dfactor, node, 1));
    TRY(wanted_gradient(tape, &dshift, node, 2));
    for (int64_t i = 0; i < node->out->shape.dims[0]; i++) {
        int64_t at = i * m->inner * m->c, row = i * m->inner, vector = i * m->c;
        TRY(SARA_TRACED(env.ctx, "modulated_norm grad", 0,
                        sara_kernel_layer_norm_backward(
                            &env, dx ? dx + at : NULL, dfactor ? dfactor + vector : NULL,
                            dshift ? dshift + vector : NULL, dy + at, x + at,
                            node->saved[1]->data + row, node->saved[2]->data + row, factor + vector,
                            m->inner, m->c, !fresh)));
    }
done:
    return status;
}

static sara_status modulated_norm_make(sara_tape *tape, const sara_node *node)
{
    const modulation *m = node->attributes;
    sara_kernel_env env = sara_tape_env(tape);
    sara_status status = SARA_OK;
    for (int64_t i = 0; i < node->out->shape.dims[0]; i++) {
        int64_t at = i * m->inner * m->c, row = i * m->inner, vector = i * m->c;
        TRY(SARA_TRACED(
            env.ctx, "modulated_norm", 0,
            sara_kernel_layer_norm_forward(&env, node->out->data + at, node->saved[1]->data + row,
                                           node->saved[2]->data + row, node->saved[0]->data + at,
                                           node->saved[3]->data + vector,
                                           node->in[2]->data + vector, m->inner, m->c, m->eps)));
    }
done:
    return status;
}

/* y = 1 + x */
static sara_status add_one(sara_tape *tape, sara_var **y, sara_var *x)
{
    size_t count = (size_t)sara_shape_count(&x->shape);
    sara_var *leaf;
    float *ones;
    sara_status status;
    TRY(sara_tape_memory(tape, &ones, count, sizeof(*ones)));
    for (size_t i = 0; i < count; i++)
        ones[i] = 1;
    TRY(sara_tape_leaf(tape, &leaf, &x->shape, ones, false));
    TRY(sara_nn_add(tape, y, x, leaf));
done:
    return status;
}

sara_status sara_nn_modulated_norm(sara_tape *tape, sara_var **y, sara_var *x, sara_var *scale,
                                   sara_var *shift, float eps)
{
    modulation m = modulation_of(&x->shape, eps);
    const sara_shape statistics = sara_shape1(sara_shape_rows(&x->shape));
    sara_var *out = NULL, *mean = NULL, *rstd = NULL, *factor = NULL;
    sara_status status;
    *y = NULL;
    TRY(sara_op_expect_per_sample(tape, "modulated_norm", &x->shape, "scale", &scale->shape));
    TRY(sara_op_expect_per_sample(tape, "modulated_norm", &x->shape, "shift", &shift->shape));
    TRY(add_one(tape, &factor, scale));
    TRY(sara_tape_var(tape, &out, &x->shape));
    TRY(sara_tape_var(tape, &mean, &statistics));
    TRY(sara_tape_var(tape, &rstd, &statistics));
    sara_node node = {.op = "modulated_norm",
                      .backward = modulated_norm_backward,
                      .remake = modulated_norm_make,
                      .in = {x, factor, shift},
                      .saved = {x, mean, rstd, factor},
                      .out = out,
                      .attributes = &m};
    TRY(modulated_norm_make(tape, &node));
    TRY(sara_tape_add(tape, &node, sizeof(m)));
    *y = out;
done:
    return status;
}

/* ------------------------------------------------------------------------------------- gates */

/* saved: e, and x where e wants a gradient */
static sara_status multiply_per_sample_backward(sara_tape *tape, sara_node *node)
{
    const modulation *m = node->attributes;
    sara_kernel_env env = sara_tape_env(tape);
    const float *e = node->saved[0]->data, *x = node->saved[1] ? node->saved[1]->data : NULL;
    float *dx = NULL, *de;
    bool fresh = false;
    sara_status status = SARA_OK;
    if (node->in[0]->requires_grad)
        TRY(sara_tape_grad_fresh(tape, &dx, &fresh, node->in[0]));
    TRY(wanted_gradient(tape, &de, node, 1));
    for (int64_t i = 0; i < node->out->shape.dims[0]; i++) {
        int64_t at = i * m->inner * m->c, vector = i * m->c;
        TRY(SARA_TRACED(
            env.ctx, "multiply_per_sample grad", 0,
            sara_kernel_scale_outputs_backward(&env, dx ? dx + at : NULL, de ? de + vector : NULL,
                                               node->out->grad + at, x ? x + at : NULL, e + vector,
                                               NULL, m->inner, m->c, !fresh)));
    }
done:
    return status;
}

sara_status sara_nn_multiply_per_sample(sara_tape *tape, sara_var **y, sara_var *x, sara_var *e)
{
    modulation m = modulation_of(&x->shape, 0);
    sara_kernel_env env = sara_tape_env(tape);
    sara_var *out = NULL;
    sara_status status;
    *y = NULL;
    TRY(sara_op_expect_per_sample(tape, "multiply_per_sample", &x->shape, "e", &e->shape));
    TRY(sara_tape_var(tape, &out, &x->shape));
    for (int64_t i = 0; i < x->shape.dims[0]; i++) {
        int64_t at = i * m.inner * m.c;
        TRY(SARA_TRACED(env.ctx, "multiply_per_sample", 0,
                        sara_kernel_scale_outputs(&env, out->data + at, x->data + at,
                                                  e->data + i * m.c, NULL, NULL, m.inner, m.c)));
    }
    sara_node node = {.op = "multiply_per_sample",
                      .backward = multiply_per_sample_backward,
                      .in = {x, e},
                      .saved = {e, e->requires_grad ? x : NULL},
                      .out = out,
                      .attributes = &m};
    TRY(sara_tape_add(tape, &node, sizeof(m)));
    *y = out;
done:
    return status;
}

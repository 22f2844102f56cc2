#include "nn/op.h"

/* -------------------------------------------------------------------------------- activation */

static sara_status activate_backward_node(sara_tape *tape, sara_node *node)
{
    const sara_kernels *kernels = sara_tape_kernels(tape);
    const sara_activation *activation = node->attributes;
    const sara_var *x = node->saved[0];
    float *dx;
    bool fresh;
    sara_status status;
    if (!kernels->activate_backward)
        return sara_kernel_missing(tape, node->op);
    TRY(sara_tape_grad_fresh(tape, &dx, &fresh, node->in[0]));
    TRY(SARA_TRACED_VOID(sara_tape_context(tape), "activate grad",
                         kernels->activate_backward(dx, node->out->grad, x->data,
                                                    sara_shape_count(&x->shape), *activation,
                                                    !fresh)));
done:
    return status;
}

static sara_status activate_make(sara_tape *tape, const sara_node *node)
{
    const sara_kernels *kernels = sara_tape_kernels(tape);
    const sara_activation *activation = node->attributes;
    const sara_var *x = node->saved[0];
    if (!kernels->activate_forward)
        return sara_kernel_missing(tape, node->op);
    return SARA_TRACED_VOID(sara_tape_context(tape), "activate",
                            kernels->activate_forward(node->out->data, x->data,
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
    if (sara_tape_wants(tape, node.in, 1, NULL, 0))
        TRY(sara_tape_add(tape, &node, sizeof(activation)));
    *y = out;
done:
    return status;
}

static sara_status geglu_backward_node(sara_tape *tape, sara_node *node)
{
    const sara_kernels *kernels = sara_tape_kernels(tape);
    const sara_shape *shape = &node->out->shape;
    float *dx;
    bool fresh;
    sara_status status;
    if (!kernels->geglu_backward)
        return sara_kernel_missing(tape, node->op);
    TRY(sara_tape_grad_fresh(tape, &dx, &fresh, node->in[0]));
    TRY(SARA_TRACED_VOID(sara_tape_context(tape), "geglu grad",
                         kernels->geglu_backward(dx, node->out->grad, node->saved[0]->data,
                                                 sara_shape_rows(shape), sara_shape_last(shape),
                                                 !fresh)));
done:
    return status;
}

static sara_status geglu_make(sara_tape *tape, const sara_node *node)
{
    const sara_kernels *kernels = sara_tape_kernels(tape);
    const sara_shape *shape = &node->out->shape;
    if (!kernels->geglu_forward)
        return sara_kernel_missing(tape, node->op);
    return SARA_TRACED_VOID(sara_tape_context(tape), "geglu",
                            kernels->geglu_forward(node->out->data, node->saved[0]->data,
                                                   sara_shape_rows(shape),
                                                   sara_shape_last(shape)));
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
    if (sara_tape_wants(tape, node.in, 1, NULL, 0))
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
    const sara_kernels *kernels = sara_tape_kernels(tape);
    sara_var *out = NULL;
    sara_status status;
    *y = NULL;
    TRY(sara_op_expect(tape, "add", "b", &b->shape, &a->shape));
    if (!kernels->add)
        return sara_kernel_missing(tape, "add");
    TRY(sara_tape_var(tape, &out, &a->shape));
    TRY(SARA_TRACED_VOID(sara_tape_context(tape), "add",
                         kernels->add(out->data, a->data, b->data, sara_shape_count(&a->shape))));
    sara_node node = {.op = "add", .backward = add_backward, .in = {a, b}, .out = out};
    if (sara_tape_wants(tape, node.in, 2, NULL, 0))
        TRY(sara_tape_add(tape, &node, 0));
    *y = out;
done:
    return status;
}

static sara_status add_per_sample_backward(sara_tape *tape, sara_node *node)
{
    const sara_kernels *kernels = sara_tape_kernels(tape);
    const sara_shape *shape = &node->out->shape;
    float *de;
    sara_status status;
    TRY(sara_op_pass(tape, node->in[0], node->out->grad));
    if (!node->in[1]->requires_grad)
        return SARA_OK;
    if (!kernels->add_per_sample_de)
        return sara_kernel_missing(tape, node->op);
    TRY(sara_tape_grad(tape, &de, node->in[1]));
    TRY(SARA_TRACED_VOID(sara_tape_context(tape), "add_per_sample grad",
                         kernels->add_per_sample_de(de, node->out->grad, shape->dims[0],
                                                    sara_shape_inner(shape),
                                                    sara_shape_last(shape))));
done:
    return status;
}

sara_status sara_nn_add_per_sample(sara_tape *tape, sara_var **y, sara_var *x, sara_var *e)
{
    const sara_kernels *kernels = sara_tape_kernels(tape);
    const sara_shape *shape = &x->shape;
    sara_shape_text text;
    sara_var *out = NULL;
    sara_status status;
    *y = NULL;
    if (shape->rank < 2)
        return sara_fail(sara_tape_context(tape), SARA_ERROR_INPUT,
                         "add_per_sample: x: shape %s, expected [N,...,C]",
                         sara_shape_format(&text, shape));
    const sara_shape expected = sara_shape2(shape->dims[0], sara_shape_last(shape));
    TRY(sara_op_expect(tape, "add_per_sample", "e", &e->shape, &expected));
    if (!kernels->add_per_sample)
        return sara_kernel_missing(tape, "add_per_sample");
    TRY(sara_tape_var(tape, &out, shape));
    TRY(SARA_TRACED_VOID(sara_tape_context(tape), "add_per_sample",
                         kernels->add_per_sample(out->data, x->data, e->data, shape->dims[0],
                                                 sara_shape_inner(shape), sara_shape_last(shape))));
    sara_node node = {
        .op = "add_per_sample", .backward = add_per_sample_backward, .in = {x, e}, .out = out};
    if (sara_tape_wants(tape, node.in, 2, NULL, 0))
        TRY(sara_tape_add(tape, &node, 0));
    *y = out;
done:
    return status;
}

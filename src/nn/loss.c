#include "nn/op.h"

/* Positions of a sample, [N,C,...]. */
static int64_t mask_plane(const sara_shape *prediction)
{
    int64_t plane = 1;
    for (int i = 2; i < prediction->rank; i++)
        plane *= prediction->dims[i];
    return plane;
}

static sara_status mse_backward_node(sara_tape *tape, sara_node *node)
{
    sara_kernel_env env = sara_tape_env(tape);
    const sara_var *prediction = node->saved[0], *target = node->saved[1];
    const sara_var *weights = node->saved[2], *mask = node->saved[3]; /* NULL: none */
    int64_t samples = prediction->shape.dims[0];
    float *dx;
    bool fresh;
    sara_status status;
    TRY(sara_tape_grad_fresh(tape, &dx, &fresh, node->in[0]));
    TRY(sara_kernel_mse_backward(&env, dx, node->out->grad, prediction->data, target->data,
                                 weights ? weights->data : NULL, mask ? mask->data : NULL, samples,
                                 sara_shape_count(&prediction->shape) / samples,
                                 mask_plane(&prediction->shape), !fresh));
done:
    return status;
}

sara_status sara_nn_mse_loss(sara_tape *tape, sara_var **loss, sara_var *prediction,
                             const float *target, const float *weights, const float *mask)
{
    sara_kernel_env env = sara_tape_env(tape);
    const sara_shape scalar = sara_shape1(1);
    int64_t samples = prediction->shape.dims[0], count = sara_shape_count(&prediction->shape);
    const sara_shape each = sara_shape1(samples);
    const sara_shape planes = sara_shape2(samples, mask_plane(&prediction->shape));
    sara_shape_text text;
    sara_var *out = NULL, *expected, *factors = NULL, *places = NULL;
    sara_status status;
    *loss = NULL;
    if (count == 0)
        return sara_fail(sara_tape_context(tape), SARA_ERROR_INPUT,
                         "mse_loss: prediction: shape %s, expected at least one element",
                         sara_shape_format(&text, &prediction->shape));
    TRY(sara_tape_leaf(tape, &expected, &prediction->shape, target, false));
    if (weights)
        TRY(sara_tape_leaf(tape, &factors, &each, weights, false));
    if (mask)
        TRY(sara_tape_leaf(tape, &places, &planes, mask, false));
    TRY(sara_tape_var(tape, &out, &scalar));
    TRY(sara_kernel_mse_forward(&env, out->data, prediction->data, expected->data,
                                factors ? factors->data : NULL, places ? places->data : NULL,
                                samples, count / samples, planes.dims[1]));
    sara_node node = {.op = "mse_loss",
                      .backward = mse_backward_node,
                      .in = {prediction},
                      .saved = {prediction, expected, factors, places},
                      .out = out};
    TRY(sara_tape_add(tape, &node, 0));
    *loss = out;
done:
    return status;
}

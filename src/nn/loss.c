#include "nn/op.h"

typedef struct mse {
    const float *target;
} mse;

static sara_status mse_backward(sara_tape *tape, sara_node *node)
{
    const mse *attributes = node->attributes;
    const sara_var *prediction = node->saved[0];
    int64_t count = sara_shape_count(&prediction->shape);
    float *dx;
    bool fresh;
    sara_status status;
    TRY(sara_tape_grad_fresh(tape, &dx, &fresh, node->in[0]));
    double factor = sara_tape_is_dry(tape) ? 0 : 2.0 * node->out->grad[0] / (double)count;
    for (int64_t i = 0; !sara_tape_is_dry(tape) && i < count; i++) {
        double d = factor * ((double)prediction->data[i] - attributes->target[i]);
        dx[i] = (float)(fresh ? d : dx[i] + d);
    }
done:
    return status;
}

sara_status sara_nn_mse_loss(sara_tape *tape, sara_var **loss, sara_var *prediction,
                             const float *target)
{
    const sara_shape scalar = sara_shape1(1);
    int64_t count = sara_shape_count(&prediction->shape);
    sara_shape_text text;
    sara_var *out = NULL;
    double sum = 0;
    sara_status status;
    *loss = NULL;
    if (count == 0)
        return sara_fail(sara_tape_context(tape), SARA_ERROR_INPUT,
                         "mse_loss: prediction: shape %s, expected at least one element",
                         sara_shape_format(&text, &prediction->shape));
    TRY(sara_tape_var(tape, &out, &scalar));
    for (int64_t i = 0; !sara_tape_is_dry(tape) && i < count; i++) {
        double d = (double)prediction->data[i] - target[i];
        sum += d * d;
    }
    if (!sara_tape_is_dry(tape))
        out->data[0] = (float)(sum / (double)count);
    mse attributes = {target};
    sara_node node = {.op = "mse_loss",
                      .backward = mse_backward,
                      .in = {prediction},
                      .saved = {prediction},
                      .out = out,
                      .attributes = &attributes};
    if (sara_tape_wants(tape, node.in, 1, NULL, 0))
        TRY(sara_tape_add(tape, &node, sizeof(attributes)));
    *loss = out;
done:
    return status;
}

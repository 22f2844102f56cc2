#include "nn/op.h"

static sara_status wanted_grad(sara_tape *tape, float **out, sara_var *var)
{
    *out = NULL;
    return var->requires_grad ? sara_tape_grad(tape, out, var) : SARA_OK;
}

/* Two products forward, five backward. */
static double attention_flops(const sara_attention_shape *s)
{
    return 4.0 * (double)(s->n * s->heads * s->t) * (double)(s->s * s->dim);
}

static sara_status attention_backward_node(sara_tape *tape, sara_node *node)
{
    sara_kernel_env env = sara_tape_env(tape);
    float *dq, *dk, *dv;
    sara_status status;
    TRY(wanted_grad(tape, &dq, node->in[0]));
    TRY(wanted_grad(tape, &dk, node->in[1]));
    TRY(wanted_grad(tape, &dv, node->in[2]));
    TRY(SARA_TRACED(env.ctx, "attention grad", 2.5 * attention_flops(node->attributes),
                    sara_kernel_attention_backward(
                        &env, dq, dk, dv, node->out->grad, node->saved[3]->data,
                        node->saved[4]->data, node->saved[0]->data, node->saved[1]->data,
                        node->saved[2]->data, node->saved[5] ? node->saved[5]->data : NULL,
                        node->attributes)));
done:
    return status;
}

static sara_status attention_check(const sara_tape *tape, const sara_shape *q, const sara_shape *k,
                                   const sara_shape *v, int heads, bool causal)
{
    sara_context *ctx = sara_tape_context(tape);
    sara_shape_text a, b;
    if (q->rank != 3 || heads < 1 || q->dims[2] < heads || q->dims[2] % heads != 0)
        return sara_fail(ctx, SARA_ERROR_INPUT, "attention: q: shape %s, expected [N,T,%d*D]",
                         sara_shape_format(&a, q), heads);
    if (k->rank != 3 || k->dims[0] != q->dims[0] || k->dims[2] != q->dims[2] || k->dims[1] < 1)
        return sara_fail(ctx, SARA_ERROR_INPUT, "attention: k: shape %s does not fit q %s",
                         sara_shape_format(&a, k), sara_shape_format(&b, q));
    if (causal && k->dims[1] != q->dims[1])
        return sara_fail(ctx, SARA_ERROR_INPUT,
                         "attention: k: %lld positions, expected the %lld of q as it is causal",
                         (long long)k->dims[1], (long long)q->dims[1]);
    return sara_op_expect(tape, "attention", "v", v, k);
}

/* bias may be NULL; what a case needs beyond the shapes of q and k, *shape has. */
static sara_status attend(sara_tape *tape, sara_var **y, sara_var *q, sara_var *k, sara_var *v,
                          sara_var *bias, sara_attention_shape *shape)
{
    sara_kernel_env env = sara_tape_env(tape);
    sara_var *out = NULL, *lse = NULL;
    sara_status status;
    TRY(attention_check(tape, &q->shape, &k->shape, &v->shape, shape->heads, shape->causal));
    shape->n = q->shape.dims[0];
    shape->t = q->shape.dims[1];
    shape->s = k->shape.dims[1];
    shape->dim = q->shape.dims[2] / shape->heads;
    const sara_shape lse_shape = sara_shape3(shape->n, shape->heads, shape->t);
    const sara_shape scores = sara_shape3(shape->heads, shape->t, shape->s);
    if (bias)
        TRY(sara_op_expect(tape, "attention", "bias", &bias->shape, &scores));
    TRY(sara_tape_var(tape, &out, &q->shape));
    TRY(sara_tape_var(tape, &lse, &lse_shape));
    TRY(SARA_TRACED(env.ctx, "attention", attention_flops(shape),
                    sara_kernel_attention_forward(&env, out->data, lse->data, q->data, k->data,
                                                  v->data, bias ? bias->data : NULL, shape)));
    sara_node node = {.op = "attention",
                      .backward = attention_backward_node,
                      .in = {q, k, v},
                      .saved = {q, k, v, out, lse, bias},
                      .out = out,
                      .attributes = shape};
    TRY(sara_tape_add(tape, &node, sizeof(*shape)));
    *y = out;
done:
    return status;
}

sara_status sara_nn_attention(sara_tape *tape, sara_var **y, sara_var *q, sara_var *k, sara_var *v,
                              int heads, bool causal)
{
    sara_attention_shape shape = {.heads = heads, .causal = causal};
    *y = NULL;
    return attend(tape, y, q, k, v, NULL, &shape);
}

sara_status sara_nn_attention_biased(sara_tape *tape, sara_var **y, sara_var *q, sara_var *k,
                                     sara_var *v, sara_var *bias, int heads, float scale)
{
    sara_attention_shape shape = {.heads = heads, .scale = scale};
    *y = NULL;
    if (bias->requires_grad && sara_tape_recording(tape))
        return sara_fail(sara_tape_context(tape), SARA_ERROR_INPUT,
                         "attention: bias: requires a gradient, which is not made");
    return attend(tape, y, q, k, v, bias, &shape);
}

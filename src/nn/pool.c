#include "nn/op.h"

/* Each window must lie in x with a pixel at least. */
static sara_status pool_check(sara_context *ctx, sara_pooling_shape *out, const char *op,
                              const sara_shape *x, const sara_pooling_options *o)
{
    const int64_t *d = x->dims;
    sara_shape_text text;
    int smaller = o->height < o->width ? o->height : o->width;
    if (smaller < 1 || o->stride < 1 || o->padding < 0 || o->padding > smaller / 2)
        return sara_fail(ctx, SARA_ERROR_INPUT, "%s: a window of %d x %d, stride %d, padding %d",
                         op, o->height, o->width, o->stride, o->padding);
    if (x->rank != 4 || d[1] + 2 * o->padding < o->height || d[2] + 2 * o->padding < o->width)
        return sara_fail(ctx, SARA_ERROR_INPUT, "%s: a window of %d x %d in shape %s", op,
                         o->height, o->width, sara_shape_format(&text, x));
    *out = (sara_pooling_shape){.n = d[0],
                                .h = d[1],
                                .w = d[2],
                                .c = d[3],
                                .oh = (d[1] + 2 * o->padding - o->height) / o->stride + 1,
                                .ow = (d[2] + 2 * o->padding - o->width) / o->stride + 1,
                                .kh = o->height,
                                .kw = o->width,
                                .stride = o->stride,
                                .padding = o->padding};
    return SARA_OK;
}

static sara_status max_pool_backward(sara_tape *tape, sara_node *node)
{
    sara_kernel_env env = sara_tape_env(tape);
    float *dx;
    sara_status status;
    TRY(sara_tape_grad(tape, &dx, node->in[0]));
    TRY(SARA_TRACED(env.ctx, "max pool grad", 0,
                    sara_kernel_max_pool_dx(&env, dx, node->out->grad, node->saved[0]->data,
                                            node->attributes)));
done:
    return status;
}

static sara_status average_pool_backward(sara_tape *tape, sara_node *node)
{
    sara_kernel_env env = sara_tape_env(tape);
    float *dx;
    sara_status status;
    TRY(sara_tape_grad(tape, &dx, node->in[0]));
    TRY(SARA_TRACED(env.ctx, "average pool grad", 0,
                    sara_kernel_average_pool_dx(&env, dx, node->out->grad, node->attributes)));
done:
    return status;
}

static sara_status max_pool_make(sara_tape *tape, const sara_node *node)
{
    sara_kernel_env env = sara_tape_env(tape);
    return SARA_TRACED(
        env.ctx, "max pool", 0,
        sara_kernel_max_pool_forward(&env, node->out->data, node->in[0]->data, node->attributes));
}

static sara_status average_pool_make(sara_tape *tape, const sara_node *node)
{
    sara_kernel_env env = sara_tape_env(tape);
    return SARA_TRACED(env.ctx, "average pool", 0,
                       sara_kernel_average_pool_forward(&env, node->out->data, node->in[0]->data,
                                                        node->attributes));
}

/* node: all but its input, result and shape. */
static sara_status pool_node(sara_tape *tape, sara_var **y, sara_var *x, sara_node *node,
                             const sara_pooling_options *options)
{
    sara_pooling_shape pool;
    sara_status status;
    *y = NULL;
    TRY(pool_check(sara_tape_context(tape), &pool, node->op, &x->shape, options));
    const sara_shape shape = sara_shape4(pool.n, pool.oh, pool.ow, pool.c);
    TRY(sara_tape_var(tape, &node->out, &shape));
    node->in[0] = x;
    node->attributes = &pool;
    TRY(node->remake(tape, node));
    TRY(sara_tape_add(tape, node, sizeof(pool)));
    *y = node->out;
done:
    return status;
}

sara_status sara_nn_max_pool(sara_tape *tape, sara_var **y, sara_var *x,
                             const sara_pooling_options *options)
{
    sara_node node = {
        .op = "max_pool", .backward = max_pool_backward, .remake = max_pool_make, .saved = {x}};
    return pool_node(tape, y, x, &node, options);
}

sara_status sara_nn_average_pool(sara_tape *tape, sara_var **y, sara_var *x,
                                 const sara_pooling_options *options)
{
    sara_node node = {
        .op = "average_pool", .backward = average_pool_backward, .remake = average_pool_make};
    return pool_node(tape, y, x, &node, options);
}

#include "nn/op.h"

/* ------------------------------------------------------------------------------------ concat */

/* Adds columns from `at` of dy [rows][width] to var's gradient if it requires one. */
static sara_status pass_columns(sara_tape *tape, sara_var *var, const float *dy, int64_t width,
                                int64_t at)
{
    sara_kernel_env env = sara_tape_env(tape);
    int64_t own = sara_shape_last(&var->shape);
    float *dx;
    bool fresh;
    sara_status status = SARA_OK;
    if (!var->requires_grad)
        return SARA_OK;
    TRY(sara_tape_grad_fresh(tape, &dx, &fresh, var));
    TRY(SARA_TRACED(env.ctx, "copy", 0,
                    sara_kernel_copy_columns(&env, dx, own, 0, dy, width, at,
                                             sara_shape_rows(&var->shape), own, !fresh)));
done:
    return status;
}

static sara_status concat_backward(sara_tape *tape, sara_node *node)
{
    int64_t width = sara_shape_last(&node->out->shape), at = 0;
    sara_status status = SARA_OK;
    for (int i = 0; i < SARA_NODE_VARS && node->in[i]; i++) {
        TRY(pass_columns(tape, node->in[i], node->out->grad, width, at));
        at += sara_shape_last(&node->in[i]->shape);
    }
done:
    return status;
}

/* *shape: of the result. */
static sara_status check_concat(const sara_tape *tape, sara_shape *shape, sara_var *const *parts,
                                int count)
{
    static const char *const names[SARA_NODE_VARS] = {"a", "b", "c", "d", "e", "f"};
    sara_shape expected = parts[0]->shape;
    sara_shape_text text;
    sara_status status = SARA_OK;
    *shape = expected;
    if (shape->rank < 1)
        return sara_fail(sara_tape_context(tape), SARA_ERROR_INPUT,
                         "concat: a: shape %s has no last axis", sara_shape_format(&text, shape));
    for (int i = 1; i < count; i++) {
        expected.dims[expected.rank - 1] = sara_shape_last(&parts[i]->shape);
        TRY(sara_op_expect(tape, "concat", names[i], &parts[i]->shape, &expected));
        shape->dims[shape->rank - 1] += sara_shape_last(&parts[i]->shape);
    }
done:
    return status;
}

static sara_status concat_make(sara_tape *tape, const sara_node *node)
{
    sara_kernel_env env = sara_tape_env(tape);
    int64_t width = sara_shape_last(&node->out->shape), at = 0;
    float *y = node->out->data;
    sara_status status = SARA_OK;
    for (int i = 0; i < SARA_NODE_VARS && node->in[i]; i++) {
        const sara_var *part = node->in[i];
        int64_t own = sara_shape_last(&part->shape);
        TRY(SARA_TRACED(env.ctx, "copy", 0,
                        sara_kernel_copy_columns(&env, y, width, at, part->data, own, 0,
                                                 sara_shape_rows(&part->shape), own, false)));
        at += own;
    }
done:
    return status;
}

sara_status sara_nn_concat_all(sara_tape *tape, sara_var **y, sara_var *const *parts, int count)
{
    sara_node node = {.op = "concat", .backward = concat_backward, .remake = concat_make};
    sara_shape shape;
    sara_status status;
    *y = NULL;
    if (count < 1 || count > SARA_NODE_VARS)
        return sara_fail(sara_tape_context(tape), SARA_ERROR_INPUT, "concat: %d parts, at most %d",
                         count, SARA_NODE_VARS);
    TRY(check_concat(tape, &shape, parts, count));
    TRY(sara_tape_var(tape, &node.out, &shape));
    memcpy(node.in, parts, (size_t)count * sizeof(sara_var *));
    TRY(concat_make(tape, &node));
    TRY(sara_tape_add(tape, &node, 0));
    *y = node.out;
done:
    return status;
}

sara_status sara_nn_concat(sara_tape *tape, sara_var **y, sara_var *a, sara_var *b)
{
    return sara_nn_concat_all(tape, y, (sara_var *const[]){a, b}, 2);
}

/* ------------------------------------------------------------------------------------- parts */

/* Of the last axis. */
typedef struct slice {
    int64_t first, count, width; /* width: of x */
} slice;

static sara_status slice_backward(sara_tape *tape, sara_node *node)
{
    sara_kernel_env env = sara_tape_env(tape);
    const slice *s = node->attributes;
    float *dx;
    sara_status status;
    TRY(sara_tape_grad(tape, &dx, node->in[0]));
    TRY(SARA_TRACED(env.ctx, "copy", 0,
                    sara_kernel_copy_columns(&env, dx, s->width, s->first, node->out->grad,
                                             s->count, 0, sara_shape_rows(&node->out->shape),
                                             s->count, true)));
done:
    return status;
}

sara_status sara_nn_slice(sara_tape *tape, sara_var **y, sara_var *x, int64_t first, int64_t count)
{
    sara_kernel_env env = sara_tape_env(tape);
    slice s = {first, count, sara_shape_last(&x->shape)};
    sara_shape shape = x->shape;
    sara_shape_text text;
    sara_var *out = NULL;
    sara_status status;
    *y = NULL;
    if (shape.rank < 1 || first < 0 || count < 1 || count > s.width - first)
        return sara_fail(env.ctx, SARA_ERROR_INPUT, "slice: %lld .. %lld of shape %s",
                         (long long)first, (long long)(first + count - 1),
                         sara_shape_format(&text, &shape));
    shape.dims[shape.rank - 1] = count;
    TRY(sara_tape_var(tape, &out, &shape));
    TRY(SARA_TRACED(env.ctx, "copy", 0,
                    sara_kernel_copy_columns(&env, out->data, count, 0, x->data, s.width, first,
                                             sara_shape_rows(&shape), count, false)));
    sara_node node = {
        .op = "slice", .backward = slice_backward, .in = {x}, .out = out, .attributes = &s};
    TRY(sara_tape_add(tape, &node, sizeof(s)));
    *y = out;
done:
    return status;
}

/* Attributes: which rows of in. */
static sara_status take_rows_backward(sara_tape *tape, sara_node *node)
{
    sara_kernel_env env = sara_tape_env(tape);
    const int64_t *rows = node->attributes, *d = node->out->shape.dims;
    float *dx;
    sara_status status;
    TRY(sara_tape_grad(tape, &dx, node->in[0]));
    for (int64_t i = 0; i < d[0]; i++)
        TRY(sara_kernel_accumulate(&env, dx + rows[i] * d[1], node->out->grad + i * d[1], d[1]));
done:
    return status;
}

sara_status sara_nn_take_rows(sara_tape *tape, sara_var **y, sara_var *x, const int64_t *rows,
                              int64_t count)
{
    sara_kernel_env env = sara_tape_env(tape);
    int64_t all = sara_shape_rows(&x->shape), width = sara_shape_last(&x->shape);
    const sara_shape shape = sara_shape2(count, width);
    sara_var *out = NULL;
    sara_status status;
    *y = NULL;
    for (int64_t i = 0; i < count; i++)
        if (rows[i] < 0 || rows[i] >= all)
            return sara_fail(env.ctx, SARA_ERROR_INPUT, "take_rows: row %lld, expected 0..%lld",
                             (long long)rows[i], (long long)all - 1);
    TRY(sara_tape_var(tape, &out, &shape));
    for (int64_t i = 0; i < count; i++)
        TRY(sara_kernel_copy_columns(&env, out->data + i * width, width, 0,
                                     x->data + rows[i] * width, width, 0, 1, width, false));
    sara_node node = {.op = "take_rows",
                      .backward = take_rows_backward,
                      .in = {x},
                      .out = out,
                      .attributes = (void *)(uintptr_t)rows};
    TRY(sara_tape_add(tape, &node, (size_t)count * sizeof(*rows)));
    *y = out;
done:
    return status;
}

/* ---------------------------------------------------------------------------------- upsample */

static sara_status upsample_backward(sara_tape *tape, sara_node *node)
{
    sara_kernel_env env = sara_tape_env(tape);
    const int64_t *in = node->in[0]->shape.dims, *out = node->out->shape.dims;
    float *dx;
    sara_status status;
    TRY(sara_tape_grad(tape, &dx, node->in[0]));
    TRY(SARA_TRACED(env.ctx, "upsample grad", 0,
                    sara_kernel_upsample_dx(&env, dx, node->out->grad, in[0], in[1], in[2], out[1],
                                            out[2], in[3])));
done:
    return status;
}

static sara_status upsample_make(sara_tape *tape, const sara_node *node)
{
    sara_kernel_env env = sara_tape_env(tape);
    const int64_t *in = node->in[0]->shape.dims, *out = node->out->shape.dims;
    return SARA_TRACED(env.ctx, "upsample", 0,
                       sara_kernel_upsample_forward(&env, node->out->data, node->in[0]->data, in[0],
                                                    in[1], in[2], out[1], out[2], in[3]));
}

sara_status sara_nn_upsample(sara_tape *tape, sara_var **y, sara_var *x, int64_t height,
                             int64_t width)
{
    const int64_t *in = x->shape.dims;
    sara_shape_text text;
    sara_var *out = NULL;
    sara_status status;
    *y = NULL;
    if (x->shape.rank != 4 || in[1] < 1 || in[2] < 1 || height < 1 || width < 1)
        return sara_fail(sara_tape_context(tape), SARA_ERROR_INPUT,
                         "upsample: shape %s cannot become [N,%lld,%lld,C]",
                         sara_shape_format(&text, &x->shape), (long long)height, (long long)width);
    const sara_shape shape = sara_shape4(in[0], height, width, in[3]);
    TRY(sara_tape_var(tape, &out, &shape));
    sara_node node = {.op = "upsample",
                      .backward = upsample_backward,
                      .remake = upsample_make,
                      .in = {x},
                      .out = out};
    TRY(upsample_make(tape, &node));
    TRY(sara_tape_add(tape, &node, 0));
    *y = out;
done:
    return status;
}

/* ------------------------------------------------------------------------------------ layout */

/* x [n][a][b][c] -> y [n][b][a][c] */
typedef struct swap {
    int64_t n, a, b, c;
} swap;

static sara_status swap_backward(sara_tape *tape, sara_node *node)
{
    sara_kernel_env env = sara_tape_env(tape);
    const swap *s = node->attributes;
    float *dx;
    bool fresh;
    sara_status status;
    TRY(sara_tape_grad_fresh(tape, &dx, &fresh, node->in[0]));
    TRY(SARA_TRACED(
        env.ctx, "layout", 0,
        sara_kernel_swap_axes(&env, dx, node->out->grad, s->n, s->b, s->a, s->c, !fresh)));
done:
    return status;
}

static sara_status swap_forward(sara_tape *tape, sara_var **y, const char *op, sara_var *x,
                                const sara_shape *shape, swap *s)
{
    sara_kernel_env env = sara_tape_env(tape);
    sara_var *out = NULL;
    sara_status status;
    TRY(sara_tape_var(tape, &out, shape));
    TRY(SARA_TRACED(
        env.ctx, "layout", 0,
        sara_kernel_swap_axes(&env, out->data, x->data, s->n, s->a, s->b, s->c, false)));
    sara_node node = {.op = op, .backward = swap_backward, .in = {x}, .out = out, .attributes = s};
    TRY(sara_tape_add(tape, &node, sizeof(*s)));
    *y = out;
done:
    return status;
}

static sara_status check_image(const sara_tape *tape, const char *op, const sara_shape *x,
                               const char *expected)
{
    sara_shape_text text;
    if (x->rank == 4)
        return SARA_OK;
    return sara_fail(sara_tape_context(tape), SARA_ERROR_INPUT, "%s: shape %s, expected %s", op,
                     sara_shape_format(&text, x), expected);
}

sara_status sara_nn_to_channels_last(sara_tape *tape, sara_var **y, sara_var *x)
{
    const int64_t *d = x->shape.dims;
    sara_status status;
    *y = NULL;
    TRY(check_image(tape, "to_channels_last", &x->shape, "[N,C,H,W]"));
    const sara_shape shape = sara_shape4(d[0], d[2], d[3], d[1]);
    swap s = {d[0], d[1], d[2] * d[3], 1};
    TRY(swap_forward(tape, y, "to_channels_last", x, &shape, &s));
done:
    return status;
}

sara_status sara_nn_to_channels_first(sara_tape *tape, sara_var **y, sara_var *x)
{
    const int64_t *d = x->shape.dims;
    sara_status status;
    *y = NULL;
    TRY(check_image(tape, "to_channels_first", &x->shape, "[N,H,W,C]"));
    const sara_shape shape = sara_shape4(d[0], d[3], d[1], d[2]);
    swap s = {d[0], d[1] * d[2], d[3], 1};
    TRY(swap_forward(tape, y, "to_channels_first", x, &shape, &s));
done:
    return status;
}

sara_status sara_nn_from_patches(sara_tape *tape, sara_var **y, sara_var *x, int64_t height,
                                 int64_t width, int64_t patch)
{
    const int64_t *d = x->shape.dims, area = patch * patch;
    sara_shape_text text;
    sara_status status;
    *y = NULL;
    if (x->shape.rank != 3 || height < 1 || width < 1 || patch < 1 || d[1] != height * width ||
        d[2] % area != 0)
        return sara_fail(sara_tape_context(tape), SARA_ERROR_INPUT,
                         "from_patches: shape %s, expected [N,%lld,%lld*C]",
                         sara_shape_format(&text, &x->shape), (long long)(height * width),
                         (long long)area);
    const sara_shape shape = sara_shape4(d[0], height * patch, width * patch, d[2] / area);
    swap s = {d[0] * height, width, patch, d[2] / patch};
    TRY(swap_forward(tape, y, "from_patches", x, &shape, &s));
done:
    return status;
}

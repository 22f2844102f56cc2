#include "nn/op.h"

/* ------------------------------------------------------------------------------------- embed */

/* Of rows; 0 of a scalar. */
static int64_t table_width(const sara_param *table)
{
    const sara_shape *shape = &table->value.shape;
    return shape->rank ? shape->dims[shape->rank - 1] : 0;
}

typedef struct lookup {
    int64_t count;
    int32_t ids[];
} lookup;

static sara_status embed_backward(sara_tape *tape, sara_node *node)
{
    sara_kernel_env env = sara_tape_env(tape);
    sara_param *table = node->params[0];
    const lookup *rows = node->attributes;
    int64_t c = table_width(table);
    if (table->want == SARA_GRAD_DENSE)
        return sara_kernel_embed_dw(&env, table->grad, node->out->grad, rows->ids, rows->count, c);
    return sara_kernel_embed_dw_sampled(&env, table->grad, node->out->grad, rows->ids, rows->count,
                                        c, table->positions, table->selected);
}

static sara_status check_embed(sara_context *ctx, const sara_param *table, const int32_t *ids,
                               int64_t count)
{
    const sara_shape *shape = &table->value.shape;
    const int64_t c = table_width(table);
    sara_shape_text text;
    if (c < 1)
        return sara_fail(ctx, SARA_ERROR_INPUT, "embed: %s: shape %s, expected [...,C]",
                         table->name, sara_shape_format(&text, shape));
    const int64_t rows = sara_shape_count(shape) / c;
    for (int64_t i = 0; i < count; i++)
        if (ids[i] < 0 || ids[i] >= rows)
            return sara_fail(ctx, SARA_ERROR_INPUT, "embed: %s: id %d at %lld, expected 0..%lld",
                             table->name, (int)ids[i], (long long)i, (long long)rows - 1);
    return SARA_OK;
}

static sara_status record_embed(sara_tape *tape, sara_var *out, sara_param *table,
                                const int32_t *ids, int64_t count)
{
    sara_context *ctx = sara_tape_context(tape);
    size_t bytes = sizeof(lookup) + (size_t)count * sizeof(*ids);
    lookup *rows = NULL;
    sara_status status;
    TRY(sara_alloc(ctx, &rows, bytes, 1));
    rows->count = count;
    memcpy(rows->ids, ids, (size_t)count * sizeof(*ids));
    sara_node node = {.op = "embed",
                      .backward = embed_backward,
                      .params = {table},
                      .out = out,
                      .attributes = rows};
    TRY(sara_tape_add(tape, &node, bytes));
done:
    sara_free(ctx, rows);
    return status;
}

sara_status sara_nn_embed(sara_tape *tape, sara_var **y, sara_param *table, const int32_t *ids,
                          int64_t count)
{
    sara_kernel_env env = sara_tape_env(tape);
    const sara_weight_view rows = sara_weight_of(table);
    sara_var *out = NULL;
    sara_status status;
    *y = NULL;
    TRY(check_embed(sara_tape_context(tape), table, ids, count));
    int64_t c = table_width(table);
    const sara_shape shape = sara_shape2(count, c);
    TRY(sara_tape_var(tape, &out, &shape));
    TRY(sara_kernel_embed_forward(&env, out->data, &rows, ids, count, c));
    TRY(record_embed(tape, out, table, ids, count));
    *y = out;
done:
    return status;
}

/* --------------------------------------------------------------------------------- positions */

/* dy [n][size] to the first `size` entries of the table */
static sara_status add_rows_gradient(const sara_kernel_env *env, sara_param *table, const float *dy,
                                     int64_t n, int64_t size)
{
    sara_status status = SARA_OK;
    for (int64_t i = 0; i < n && table->want == SARA_GRAD_DENSE; i++)
        TRY(sara_kernel_accumulate(env, table->grad, dy + i * size, size));
    for (int64_t i = 0; i < n && table->want == SARA_GRAD_SAMPLED; i++)
        TRY(sara_kernel_gather_add(env, table->grad, dy + i * size, (size_t)size, table->positions,
                                   table->selected));
done:
    return status;
}

static sara_status add_positions_backward(sara_tape *tape, sara_node *node)
{
    sara_kernel_env env = sara_tape_env(tape);
    const int64_t *d = node->out->shape.dims;
    sara_status status;
    TRY(sara_op_pass(tape, node->in[0], node->out->grad));
    TRY(add_rows_gradient(&env, node->params[0], node->out->grad, d[0], d[1] * d[2]));
done:
    return status;
}

sara_status sara_nn_add_positions(sara_tape *tape, sara_var **y, sara_var *x, sara_param *table)
{
    sara_kernel_env env = sara_tape_env(tape);
    const sara_shape *rows = &table->value.shape;
    const int64_t *d = x->shape.dims;
    const sara_weight_view view = sara_weight_of(table);
    const float *values = table->value.data;
    float *wide = NULL;
    sara_shape_text a, b;
    sara_var *out = NULL;
    sara_status status;
    *y = NULL;
    if (x->shape.rank != 3 || table_width(table) != d[2] || sara_shape_count(rows) < d[1] * d[2])
        return sara_fail(sara_tape_context(tape), SARA_ERROR_INPUT,
                         "add_positions: %s: shape %s does not fit the input %s", table->name,
                         sara_shape_format(&a, rows), sara_shape_format(&b, &x->shape));
    TRY(sara_tape_var(tape, &out, &x->shape));
    int64_t size = d[1] * d[2];
    if (table->value.dtype != SARA_F32) {
        TRY(sara_tape_scratch(tape, &wide, (size_t)size));
        TRY(sara_kernel_widen(&env, wide, &view, size));
        values = wide;
    }
    for (int64_t i = 0; i < d[0]; i++)
        TRY(sara_kernel_add(&env, out->data + i * size, x->data + i * size, values, size));
    sara_node node = {.op = "add_positions",
                      .backward = add_positions_backward,
                      .in = {x},
                      .params = {table},
                      .out = out};
    TRY(sara_tape_add(tape, &node, 0));
    *y = out;
done:
    sara_tape_unscratch(tape, wide);
    return status;
}

/* Makes the primitives. */
#include "nn/onednn/primitive.h"

#define CHECK(call)                                                                                \
    do {                                                                                           \
        status = (call);                                                                           \
        if (status != dnnl_success)                                                                \
            goto done;                                                                             \
    } while (0)

sara_conv_shape sara_primitive_conv_shape(const sara_primitive_key *key)
{
    const int64_t *v = key->numbers;
    return (sara_conv_shape){.n = v[0], .h = v[1], .w = v[2], .in = v[3], .oh = v[4], .ow = v[5],
                             .out = v[6], .kh = v[7], .kw = v[8], .stride = (int)v[9],
                             .pad_top = (int)v[10], .pad_left = (int)v[11],
                             .pad_bottom = (int)v[12], .pad_right = (int)v[13]};
}

/* Scratch memory comes from us, and arithmetic stays f32 whatever the environment says. */
static dnnl_status_t make_attributes(dnnl_primitive_attr_t *out, bool accumulate)
{
    dnnl_post_ops_t sum = NULL;
    dnnl_status_t status;
    CHECK(dnnl_primitive_attr_create(out));
    CHECK(dnnl_primitive_attr_set_scratchpad_mode(*out, dnnl_scratchpad_mode_user));
    CHECK(dnnl_primitive_attr_set_fpmath_mode(*out, dnnl_fpmath_mode_strict));
    if (accumulate) {
        CHECK(dnnl_post_ops_create(&sum));
        CHECK(sara_post_ops_sum(sum));
        CHECK(dnnl_primitive_attr_set_post_ops(*out, sum));
    }
done:
    dnnl_post_ops_destroy(sum);
    return status;
}

static dnnl_status_t make_memory(sara_primitive *op, dnnl_engine_t engine, dnnl_primitive_desc_t pd,
                                 int slot, int argument)
{
    sara_desc_ref desc = dnnl_primitive_desc_query_md(pd, dnnl_query_exec_arg_md, argument);
    op->argument[slot] = argument;
    if (slot == SARA_SLOT_SCRATCH)
        op->scratch_bytes = dnnl_memory_desc_get_size(desc);
    if (slot == SARA_SLOT_WEIGHTS)
        op->weight_bytes = dnnl_memory_desc_get_size(desc);
    return dnnl_memory_create(&op->memory[slot], desc, engine, DNNL_MEMORY_NONE);
}

/* The primitive and the memory of its arguments; -1 in `arguments` means none. */
static dnnl_status_t make_primitive(sara_primitive *op, dnnl_engine_t engine,
                                    dnnl_primitive_desc_t pd, const int arguments[SARA_SLOTS])
{
    dnnl_status_t status;
    CHECK(dnnl_primitive_create(&op->primitive, pd));
    for (int slot = 0; slot < SARA_SLOTS; slot++)
        if (arguments[slot] >= 0)
            CHECK(make_memory(op, engine, pd, slot, arguments[slot]));
done:
    return status;
}

static dnnl_status_t make_reorder(sara_primitive *op, dnnl_engine_t engine,
                                  dnnl_memory_desc_t *plain)
{
    sara_desc_ref chosen, ours = sara_desc_get(plain);
    dnnl_primitive_desc_t pd = NULL;
    dnnl_primitive_attr_t attr = NULL;
    dnnl_status_t status;
    bool back = op->key.kind == SARA_PRIMITIVE_CONV_DW;
    CHECK(dnnl_memory_create(&op->plain, ours, engine, DNNL_MEMORY_NONE));
    CHECK(dnnl_memory_get_memory_desc(op->memory[SARA_SLOT_WEIGHTS], &chosen));
    if (dnnl_memory_desc_equal(chosen, ours))
        goto done;
    CHECK(make_attributes(&attr, false));
    CHECK(dnnl_reorder_primitive_desc_create(&pd, back ? chosen : ours, engine,
                                             back ? ours : chosen, engine, attr));
    CHECK(dnnl_primitive_create(&op->reorder, pd));
done:
    dnnl_primitive_desc_destroy(pd);
    dnnl_primitive_attr_destroy(attr);
    return status;
}

/* Row-major strides of dims[order[0]], dims[order[1]], ... */
static dnnl_status_t init_desc(dnnl_memory_desc_t *out, dnnl_data_type_t type, int rank,
                               const dnnl_dims_t dims, const int *order)
{
    dnnl_dims_t strides = {0};
    dnnl_dim_t stride = 1;
    for (int i = rank - 1; i >= 0; i--) {
        strides[order[i]] = stride;
        stride *= dims[order[i]];
    }
    return sara_desc_init(out, type, rank, dims, &strides);
}

/* Of what is multiplied; results are f32. */
static dnnl_data_type_t operand_type(const sara_primitive_key *key)
{
    return key->narrow ? dnnl_bf16 : dnnl_f32;
}

static dnnl_status_t make_conv_descs(sara_conv_descs *d, dnnl_memory_desc_t *plain,
                                     const sara_primitive_key *key)
{
    const sara_conv_shape shape = sara_primitive_conv_shape(key), *s = &shape;
    dnnl_data_type_t operand = operand_type(key);
    bool is_dx = key->kind == SARA_PRIMITIVE_CONV_DX;
    static const int channels_last[] = {0, 2, 3, 1}, row_major[] = {0, 1, 2, 3};
    const dnnl_dims_t src = {s->n, s->in, s->h, s->w}, dst = {s->n, s->out, s->oh, s->ow};
    const dnnl_dims_t weights = {s->out, s->in, s->kh, s->kw}, bias = {s->out};
    dnnl_status_t status;
    d->has_bias = key->bias != 0;
    CHECK(init_desc(&d->src, is_dx ? dnnl_f32 : operand, 4, src, channels_last));
    CHECK(init_desc(&d->forward_src, operand, 4, src, channels_last));
    CHECK(init_desc(&d->dst, is_dx ? operand : dnnl_f32, 4, dst, channels_last));
    CHECK(init_desc(&d->bias, dnnl_f32, 1, bias, row_major));
    CHECK(sara_desc_init(&d->weights, operand, 4, weights, NULL));
    CHECK(init_desc(plain, dnnl_f32, 4, weights, row_major));
done:
    return status;
}

static const int conv_arguments[][SARA_SLOTS] = {
    [SARA_PRIMITIVE_CONV_FORWARD] = {DNNL_ARG_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_BIAS, DNNL_ARG_DST,
                                     DNNL_ARG_SCRATCHPAD},
    [SARA_PRIMITIVE_CONV_DX] = {DNNL_ARG_DIFF_SRC, DNNL_ARG_WEIGHTS, -1, DNNL_ARG_DIFF_DST,
                                DNNL_ARG_SCRATCHPAD},
    [SARA_PRIMITIVE_CONV_DW] = {DNNL_ARG_SRC, DNNL_ARG_DIFF_WEIGHTS, -1, DNNL_ARG_DIFF_DST,
                                DNNL_ARG_SCRATCHPAD},
};

static dnnl_status_t build_conv(sara_primitive *op, dnnl_engine_t engine)
{
    static const sara_conv_direction directions[] = {
        [SARA_PRIMITIVE_CONV_FORWARD] = SARA_CONV_FORWARD,
        [SARA_PRIMITIVE_CONV_DX] = SARA_CONV_DX,
        [SARA_PRIMITIVE_CONV_DW] = SARA_CONV_DW,
    };
    sara_conv_shape shape = sara_primitive_conv_shape(&op->key);
    sara_conv_descs descs;
    dnnl_memory_desc_t plain;
    dnnl_primitive_desc_t pd = NULL;
    dnnl_primitive_attr_t attr = NULL;
    int arguments[SARA_SLOTS];
    dnnl_status_t status;
    memset(&descs, 0, sizeof(descs));
    memset(&plain, 0, sizeof(plain));
    memcpy(arguments, conv_arguments[op->key.kind], sizeof(arguments));
    if (!op->key.bias)
        arguments[SARA_SLOT_BIAS] = -1;
    CHECK(make_attributes(&attr, false));
    CHECK(make_conv_descs(&descs, &plain, &op->key));
    CHECK(sara_conv_pd(&pd, engine, directions[op->key.kind], &descs, &shape, attr));
    CHECK(make_primitive(op, engine, pd, arguments));
    CHECK(make_reorder(op, engine, &plain));
done:
    sara_desc_clear(&descs.src);
    sara_desc_clear(&descs.forward_src);
    sara_desc_clear(&descs.weights);
    sara_desc_clear(&descs.bias);
    sara_desc_clear(&descs.dst);
    sara_desc_clear(&plain);
    dnnl_primitive_desc_destroy(pd);
    dnnl_primitive_attr_destroy(attr);
    return status;
}

/* [rows][cols], of which the rows lie `row` apart, or cols where that is 0. */
static dnnl_status_t init_matrix(dnnl_memory_desc_t *out, dnnl_data_type_t type, int64_t rows,
                                 int64_t cols, int64_t row)
{
    const dnnl_dims_t dims = {rows, cols}, strides = {row ? row : cols, 1};
    return sara_desc_init(out, type, 2, dims, &strides);
}

static dnnl_status_t build_matmul(sara_primitive *op, dnnl_engine_t engine)
{
    static const int row_major[] = {0, 1}, column_major[] = {1, 0};
    /* m, n, k, transpose_a, transpose_b, accumulate, a_row, y_row */
    const int64_t *v = op->key.numbers;
    const dnnl_dims_t a_dims = {v[0], v[2]}, b_dims = {v[2], v[1]};
    const int arguments[SARA_SLOTS] = {DNNL_ARG_SRC, DNNL_ARG_WEIGHTS,
                                       op->key.bias ? DNNL_ARG_BIAS : -1, DNNL_ARG_DST,
                                       DNNL_ARG_SCRATCHPAD};
    dnnl_memory_desc_t descs[4];
    dnnl_primitive_desc_t pd = NULL;
    dnnl_primitive_attr_t attr = NULL;
    dnnl_status_t status;
    memset(descs, 0, sizeof(descs));
    CHECK(make_attributes(&attr, v[5] != 0));
    dnnl_data_type_t operand = operand_type(&op->key);
    CHECK(v[3] ? init_desc(&descs[0], operand, 2, a_dims, column_major)
               : init_matrix(&descs[0], operand, v[0], v[2], v[6]));
    CHECK(init_desc(&descs[1], operand, 2, b_dims, v[4] ? column_major : row_major));
    CHECK(init_matrix(&descs[2], dnnl_f32, 1, v[1], 0));
    CHECK(init_matrix(&descs[3], dnnl_f32, v[0], v[1], v[7]));
    CHECK(sara_matmul_pd(&pd, engine, &descs[0], &descs[1], op->key.bias ? &descs[2] : NULL,
                         &descs[3], attr));
    CHECK(make_primitive(op, engine, pd, arguments));
done:
    for (int i = 0; i < 4; i++)
        sara_desc_clear(&descs[i]);
    dnnl_primitive_desc_destroy(pd);
    dnnl_primitive_attr_destroy(attr);
    return status;
}

dnnl_status_t sara_primitive_build(sara_primitive *op, dnnl_engine_t engine)
{
    return op->key.kind == SARA_PRIMITIVE_MATMUL ? build_matmul(op, engine)
                                                 : build_conv(op, engine);
}

void sara_primitive_free(sara_context *ctx, sara_primitive *op)
{
    if (!op)
        return;
    dnnl_primitive_destroy(op->primitive);
    dnnl_primitive_destroy(op->reorder);
    dnnl_memory_destroy(op->plain);
    for (int slot = 0; slot < SARA_SLOTS; slot++)
        dnnl_memory_destroy(op->memory[slot]);
    sara_free(ctx, op);
}

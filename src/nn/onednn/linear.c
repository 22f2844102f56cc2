#include "nn/onednn/onednn.h"
#include "nn/weight.h"

/* 16-bit weights are converted so many at a time: a block that stays in cache while it is
 * multiplied, and large enough that the products' cost does not grow. The product with a block may
 * round otherwise than with the whole. */
#define BLOCK_FLOATS ((int64_t)1 << 22)
#define BLOCK_UNIT   16 /* outputs */

/* Outputs of a block: about equal ones. */
static int64_t block_outputs(const sara_linear_shape *s, const sara_weight_view *w)
{
    bool whole = w->param && w->param->as_floats;
    int64_t blocks = whole ? 1 : (s->out * s->in + BLOCK_FLOATS - 1) / BLOCK_FLOATS;
    int64_t outputs = (s->out + blocks - 1) / blocks;
    outputs = (outputs + BLOCK_UNIT - 1) / BLOCK_UNIT * BLOCK_UNIT;
    return outputs < s->out ? outputs : s->out;
}

static sara_status forward_wide(const sara_kernel_env *env, float *y, const float *x,
                                const sara_weight_view *w, const float *b,
                                const sara_linear_shape *s)
{
    int64_t outputs = block_outputs(s, w);
    float *block = NULL;
    sara_status status;
    TRY(sara_scratch(env, &block, (size_t)(outputs * s->in)));
    for (int64_t o = 0; o < s->out; o += outputs) {
        sara_matmul_shape product = {
            .m = s->rows, .n = s->out - o, .k = s->in, .transpose_b = true, .y_row = s->out};
        product.n = product.n < outputs ? product.n : outputs;
        sara_weight_widen(env, block, w, o * s->in, product.n * s->in);
        TRY(sara_onednn_matmul(env, y + o, x, block, b ? b + o : NULL, &product));
    }
done:
    sara_unscratch(env, block);
    return status;
}

static sara_status linear_forward_onednn(const sara_kernel_env *env, float *y, const float *x,
                                         const sara_weight_view *w, const float *b,
                                         const sara_linear_shape *shape)
{
    const sara_matmul_shape product = {
        .m = shape->rows, .n = shape->out, .k = shape->in, .transpose_b = true};
    return sara_onednn_matmul(env, y, x, w->data, b, &product);
}

/* The blocks' contributions are added up. */
static sara_status dx_wide(const sara_kernel_env *env, float *dx, const float *dy,
                           const sara_weight_view *w, const sara_linear_shape *s, bool accumulate)
{
    int64_t outputs = block_outputs(s, w);
    float *block = NULL;
    sara_status status;
    TRY(sara_scratch(env, &block, (size_t)(outputs * s->in)));
    for (int64_t o = 0; o < s->out; o += outputs) {
        sara_matmul_shape product = {.m = s->rows, .n = s->in, .k = s->out - o, .a_row = s->out,
                                     .accumulate = accumulate || o > 0};
        product.k = product.k < outputs ? product.k : outputs;
        sara_weight_widen(env, block, w, o * s->in, product.k * s->in);
        TRY(sara_onednn_matmul(env, dx, dy + o, block, NULL, &product));
    }
done:
    sara_unscratch(env, block);
    return status;
}

static sara_status linear_dx_onednn(const sara_kernel_env *env, float *dx, const float *dy,
                                    const sara_weight_view *w, const sara_linear_shape *shape,
                                    bool accumulate)
{
    const sara_matmul_shape product = {
        .m = shape->rows, .n = shape->in, .k = shape->out, .accumulate = accumulate};
    return sara_onednn_matmul(env, dx, dy, w->data, NULL, &product);
}

static sara_status linear_dw_onednn(const sara_kernel_env *env, float *dw, const float *dy,
                                    const float *x, const sara_linear_shape *shape)
{
    const sara_matmul_shape product = {.m = shape->out, .n = shape->in, .k = shape->rows,
                                       .transpose_a = true, .accumulate = true};
    return sara_onednn_matmul(env, dw, dy, x, NULL, &product);
}

static bool has_rows(const sara_kernel_case *c)
{
    return c->linear->rows > 0;
}

static bool is_wide(const sara_kernel_case *c)
{
    return c->linear->rows > 0 && c->weight->dtype != SARA_F32;
}

static sara_kernel_needs wide_needs(const sara_kernel_case *c)
{
    int64_t outputs = block_outputs(c->linear, c->weight);
    return (sara_kernel_needs){.scratch = (size_t)(outputs * c->linear->in)};
}

void sara_fast_linear_register(sara_kernels *table)
{
    SARA_KERNEL_ADD(table, linear_forward, is_wide, wide_needs, forward_wide);
    SARA_KERNEL_ADD(table, linear_forward, has_rows, NULL, linear_forward_onednn);
    SARA_KERNEL_ADD(table, linear_dx, is_wide, wide_needs, dx_wide);
    SARA_KERNEL_ADD(table, linear_dx, has_rows, NULL, linear_dx_onednn);
    SARA_KERNEL_ADD(table, linear_dw, has_rows, NULL, linear_dw_onednn);
    sara_fast_bias_register(table);
}

#include "nn/onednn.h"

static sara_status linear_forward(const sara_kernel_env *env, float *y, const float *x,
                                  const float *w, const float *b, const sara_linear_shape *shape)
{
    const sara_matmul_shape product = {
        .m = shape->rows, .n = shape->out, .k = shape->in, .transpose_b = true};
    return shape->rows ? sara_onednn_matmul(env, y, x, w, b, &product) : SARA_OK;
}

static sara_status linear_dx(const sara_kernel_env *env, float *dx, const float *dy, const float *w,
                             const sara_linear_shape *shape, bool accumulate)
{
    const sara_matmul_shape product = {
        .m = shape->rows, .n = shape->in, .k = shape->out, .accumulate = accumulate};
    return shape->rows ? sara_onednn_matmul(env, dx, dy, w, NULL, &product) : SARA_OK;
}

static sara_status linear_dw(const sara_kernel_env *env, float *dw, const float *dy, const float *x,
                             const sara_linear_shape *shape)
{
    const sara_matmul_shape product = {.m = shape->out, .n = shape->in, .k = shape->rows,
                                       .transpose_a = true, .accumulate = true};
    return shape->rows ? sara_onednn_matmul(env, dw, dy, x, NULL, &product) : SARA_OK;
}

void sara_fast_linear_register(sara_kernels *table)
{
    table->linear_forward = linear_forward;
    table->linear_dx = linear_dx;
    table->linear_dw = linear_dw;
    sara_fast_bias_register(table);
}

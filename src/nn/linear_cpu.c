/* Plain linear kernels; sums are in double. */
#include "nn/kernels.h"

sara_status KERNEL(linear_forward)(const sara_kernel_env *env, real *y, const real *x,
                                   const sara_weight_view *w, const real *b,
                                   const sara_linear_shape *shape)
{
#pragma omp parallel for num_threads(sara_threads(env->ctx)) schedule(static)
    for (int64_t r = 0; r < shape->rows; r++)
        for (int64_t o = 0; o < shape->out; o++) {
            double sum = b ? b[o] : 0;
            for (int64_t i = 0; i < shape->in; i++)
                sum += (double)x[r * shape->in + i] * sara_weight_at(w, o * shape->in + i);
            y[r * shape->out + o] = (real)sum;
        }
    return SARA_OK;
}

sara_status KERNEL(linear_dx)(const sara_kernel_env *env, real *dx, const real *dy,
                              const sara_weight_view *w, const sara_linear_shape *shape,
                              bool accumulate)
{
#pragma omp parallel for num_threads(sara_threads(env->ctx)) schedule(static)
    for (int64_t r = 0; r < shape->rows; r++)
        for (int64_t i = 0; i < shape->in; i++) {
            double sum = accumulate ? dx[r * shape->in + i] : 0;
            for (int64_t o = 0; o < shape->out; o++)
                sum += (double)dy[r * shape->out + o] * sara_weight_at(w, o * shape->in + i);
            dx[r * shape->in + i] = (real)sum;
        }
    return SARA_OK;
}

static real linear_entry_gradient(const real *dy, const real *x, const sara_linear_shape *shape,
                                  int64_t o, int64_t i)
{
    double sum = 0;
    for (int64_t r = 0; r < shape->rows; r++)
        sum += (double)dy[r * shape->out + o] * x[r * shape->in + i];
    return (real)sum;
}

sara_status KERNEL(linear_dw)(const sara_kernel_env *env, real *dw, const real *dy, const real *x,
                              const sara_linear_shape *shape)
{
#pragma omp parallel for num_threads(sara_threads(env->ctx)) schedule(static)
    for (int64_t o = 0; o < shape->out; o++)
        for (int64_t i = 0; i < shape->in; i++)
            dw[o * shape->in + i] += linear_entry_gradient(dy, x, shape, o, i);
    return SARA_OK;
}

sara_status KERNEL(linear_dw_sampled)(const sara_kernel_env *env, real *dw, const real *dy,
                                      const real *x, const uint32_t *positions, size_t count,
                                      const sara_linear_shape *shape)
{
#pragma omp parallel for num_threads(sara_threads(env->ctx)) schedule(static)
    for (size_t k = 0; k < count; k++)
        dw[k] +=
            linear_entry_gradient(dy, x, shape, positions[k] / shape->in, positions[k] % shape->in);
    return SARA_OK;
}

sara_status KERNEL(bias_grad)(const sara_kernel_env *env, real *db, const real *dy, int64_t rows,
                              int64_t out)
{
#pragma omp parallel for num_threads(sara_threads(env->ctx)) schedule(static)
    for (int64_t o = 0; o < out; o++) {
        double sum = 0;
        for (int64_t r = 0; r < rows; r++)
            sum += dy[r * out + o];
        db[o] += (real)sum;
    }
    return SARA_OK;
}

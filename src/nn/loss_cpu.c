/* Plain kernels of the loss; sums are in double. */
#include "nn/kernels.h"

sara_status KERNEL(mse_forward)(const sara_kernel_env *env, real *loss, const real *prediction,
                                const real *target, int64_t count)
{
    double sum = 0;
    (void)env;
    for (int64_t i = 0; i < count; i++) {
        double d = (double)prediction[i] - target[i];
        sum += d * d;
    }
    *loss = (real)(sum / (double)count);
    return SARA_OK;
}

sara_status KERNEL(mse_backward)(const sara_kernel_env *env, real *dx, const real *dloss,
                                 const real *prediction, const real *target, int64_t count,
                                 bool accumulate)
{
    double factor = 2.0 * *dloss / (double)count;
    (void)env;
    for (int64_t i = 0; i < count; i++) {
        double d = factor * ((double)prediction[i] - target[i]);
        dx[i] = (real)(accumulate ? dx[i] + d : d);
    }
    return SARA_OK;
}

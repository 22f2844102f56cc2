/* Plain kernels of the loss; sums are in double. */
#include "nn/kernels.h"

sara_status KERNEL(mse_forward)(const sara_kernel_env *env, real *loss, const real *prediction,
                                const real *target, const real *weights, int64_t samples,
                                int64_t count)
{
    double sum = 0;
    (void)env;
    for (int64_t n = 0; n < samples; n++) {
        double weight = weights ? weights[n] : 1; /* by which a product is itself */
        for (int64_t i = n * count; i < (n + 1) * count; i++) {
            double d = (double)prediction[i] - target[i];
            sum += weight * (d * d);
        }
    }
    *loss = (real)(sum / (double)(samples * count));
    return SARA_OK;
}

sara_status KERNEL(mse_backward)(const sara_kernel_env *env, real *dx, const real *dloss,
                                 const real *prediction, const real *target, const real *weights,
                                 int64_t samples, int64_t count, bool accumulate)
{
    double factor = 2.0 * *dloss / (double)(samples * count);
    (void)env;
    for (int64_t n = 0; n < samples; n++) {
        double weighted = weights ? factor * weights[n] : factor;
        for (int64_t i = n * count; i < (n + 1) * count; i++) {
            double d = weighted * ((double)prediction[i] - target[i]);
            dx[i] = (real)(accumulate ? dx[i] + d : d);
        }
    }
    return SARA_OK;
}

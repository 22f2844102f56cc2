/* Plain kernels of the loss; sums are in double. */
#include "nn/kernels.h"

/* Of entry i of a sample whose mask begins at `mask`; NULL: 1, by which a product is itself. */
static double mask_at(const real *mask, int64_t i, int64_t plane)
{
    return mask ? mask[i % plane] : 1;
}

sara_status KERNEL(mse_forward)(const sara_kernel_env *env, real *loss, const real *prediction,
                                const real *target, const real *weights, const real *mask,
                                int64_t samples, int64_t count, int64_t plane)
{
    double sum = 0;
    (void)env;
    for (int64_t n = 0; n < samples; n++) {
        const real *of = mask ? mask + n * plane : NULL;
        double weight = weights ? weights[n] : 1;
        for (int64_t i = 0; i < count; i++) {
            double d = (double)prediction[n * count + i] - target[n * count + i];
            sum += weight * mask_at(of, i, plane) * (d * d);
        }
    }
    *loss = (real)(sum / (double)(samples * count));
    return SARA_OK;
}

sara_status KERNEL(mse_backward)(const sara_kernel_env *env, real *dx, const real *dloss,
                                 const real *prediction, const real *target, const real *weights,
                                 const real *mask, int64_t samples, int64_t count, int64_t plane,
                                 bool accumulate)
{
    double factor = 2.0 * *dloss / (double)(samples * count);
    (void)env;
    for (int64_t n = 0; n < samples; n++) {
        const real *of = mask ? mask + n * plane : NULL;
        double weighted = weights ? factor * weights[n] : factor;
        for (int64_t i = 0; i < count; i++) {
            const int64_t at = n * count + i;
            double d = weighted * mask_at(of, i, plane) * ((double)prediction[at] - target[at]);
            dx[at] = (real)(accumulate ? dx[at] + d : d);
        }
    }
    return SARA_OK;
}

/* Plain kernels of low-rank branches. */
#include "nn/kernels.h"

#include <math.h>

sara_status KERNEL(low_rank_norm)(const sara_kernel_env *env, real *norm, const sara_weight_view *w,
                                  const real *down, const real *up, real scale, int64_t out,
                                  int64_t in, int64_t rank)
{
#pragma omp parallel for num_threads(sara_threads(env->ctx)) schedule(static)
    for (int64_t o = 0; o < out; o++) {
        double sum = 0;
        for (int64_t i = 0; i < in; i++) {
            double change = 0;
            for (int64_t r = 0; r < rank; r++)
                change += (double)up[o * rank + r] * down[r * in + i];
            double value = sara_weight_at(w, o * in + i) + scale * change;
            sum += value * value;
        }
        norm[o] = (real)sqrt(sum);
    }
    return SARA_OK;
}

static real factor_of(const real *m, const real *norm, int64_t o)
{
    return norm ? m[o] / norm[o] : m[o];
}

sara_status KERNEL(scale_outputs)(const sara_kernel_env *env, real *y, const real *x, const real *m,
                                  const real *norm, const real *b, int64_t rows, int64_t out)
{
#pragma omp parallel for num_threads(sara_threads(env->ctx)) schedule(static)
    for (int64_t r = 0; r < rows; r++)
        for (int64_t o = 0; o < out; o++)
            y[r * out + o] = x[r * out + o] * factor_of(m, norm, o) + (b ? b[o] : 0);
    return SARA_OK;
}

sara_status KERNEL(scale_outputs_backward)(const sara_kernel_env *env, real *dx, real *dm,
                                           const real *dy, const real *x, const real *m,
                                           const real *norm, int64_t rows, int64_t out,
                                           bool accumulate)
{
#pragma omp parallel for num_threads(sara_threads(env->ctx)) schedule(static)
    for (int64_t o = 0; o < out; o++) {
        double sum = 0;
        for (int64_t i = o; i < rows * out; i += out) {
            sum += dm ? (double)dy[i] * x[i] : 0;
            if (dx)
                dx[i] = (accumulate ? dx[i] : 0) + dy[i] * factor_of(m, norm, o);
        }
        if (dm)
            dm[o] += (real)(norm ? sum / norm[o] : sum);
    }
    return SARA_OK;
}

/* Kernels that move data; plain ones are as fast as memory. */
#include "nn/kernels.h"

/* The source of output index i, as torch computes it: floor(i * (float)in / out). */
static int64_t nearest(int64_t i, int64_t in, int64_t out)
{
    float scale = (float)in / (float)out;
    int64_t source = (int64_t)((float)i * scale);
    return source < in ? source : in - 1;
}

sara_status KERNEL(upsample_forward)(const sara_kernel_env *env, real *y, const real *x, int64_t n,
                                     int64_t h, int64_t w, int64_t oh, int64_t ow, int64_t c)
{
#pragma omp parallel for num_threads(sara_threads(env->ctx)) schedule(static)
    for (int64_t r = 0; r < n * oh; r++) {
        const real *from = x + (r / oh * h + nearest(r % oh, h, oh)) * w * c;
        for (int64_t j = 0; j < ow; j++)
            memcpy(y + (r * ow + j) * c, from + nearest(j, w, ow) * c, (size_t)c * sizeof(*y));
    }
    return SARA_OK;
}

/* Samples are independent, and so are blocks of channels. */
sara_status KERNEL(upsample_dx)(const sara_kernel_env *env, real *dx, const real *dy, int64_t n,
                                int64_t h, int64_t w, int64_t oh, int64_t ow, int64_t c)
{
    const int64_t block = 64, blocks = (c + block - 1) / block;
#pragma omp parallel for num_threads(sara_threads(env->ctx)) schedule(static)
    for (int64_t task = 0; task < n * blocks; task++) {
        int64_t sample = task / blocks, first = task % blocks * block;
        int64_t last = first + block < c ? first + block : c;
        for (int64_t i = 0; i < oh; i++)
            for (int64_t j = 0; j < ow; j++) {
                real *to = dx + ((sample * h + nearest(i, h, oh)) * w + nearest(j, w, ow)) * c;
                const real *from = dy + ((sample * oh + i) * ow + j) * c;
                for (int64_t k = first; k < last; k++)
                    to[k] += from[k];
            }
    }
    return SARA_OK;
}

/* In square blocks, so that both sides stay in cache. */
sara_status KERNEL(swap_axes)(const sara_kernel_env *env, real *y, const real *x, int64_t n,
                              int64_t a, int64_t b, int64_t c, bool accumulate)
{
    const int64_t block = 16, a_blocks = (a + block - 1) / block;
#pragma omp parallel for num_threads(sara_threads(env->ctx)) schedule(static)
    for (int64_t task = 0; task < n * a_blocks; task++) {
        int64_t sample = task / a_blocks, first = task % a_blocks * block;
        int64_t last = first + block < a ? first + block : a;
        for (int64_t j = 0; j < b; j++)
            for (int64_t i = first; i < last; i++) {
                const real *from = x + ((sample * a + i) * b + j) * c;
                real *to = y + ((sample * b + j) * a + i) * c;
                for (int64_t k = 0; k < c; k++)
                    to[k] = accumulate ? to[k] + from[k] : from[k];
            }
    }
    return SARA_OK;
}

sara_status KERNEL(copy_columns)(const sara_kernel_env *env, real *y, int64_t y_width, int64_t y_at,
                                 const real *x, int64_t x_width, int64_t x_at, int64_t rows,
                                 int64_t width, bool accumulate)
{
#pragma omp parallel for num_threads(sara_threads(env->ctx)) schedule(static)
    for (int64_t r = 0; r < rows; r++) {
        real *to = y + r * y_width + y_at;
        const real *from = x + r * x_width + x_at;
        if (!accumulate)
            memcpy(to, from, (size_t)width * sizeof(*to));
        else
            for (int64_t i = 0; i < width; i++)
                to[i] += from[i];
    }
    return SARA_OK;
}

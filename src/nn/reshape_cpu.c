/* Kernels that move data; plain ones are as fast as memory. */
#include "nn/kernels.h"

/* The source of output index i, as torch computes it: floor(i * (float)in / out). */
static int64_t nearest(int64_t i, int64_t in, int64_t out)
{
    float scale = (float)in / (float)out;
    int64_t source = (int64_t)((float)i * scale);
    return source < in ? source : in - 1;
}

static void upsample_forward(real *y, const real *x, int64_t n, int64_t h, int64_t w, int64_t oh,
                             int64_t ow, int64_t c)
{
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < n * oh; r++) {
        const real *from = x + (r / oh * h + nearest(r % oh, h, oh)) * w * c;
        for (int64_t j = 0; j < ow; j++)
            memcpy(y + (r * ow + j) * c, from + nearest(j, w, ow) * c, (size_t)c * sizeof(*y));
    }
}

/* Samples are independent, and so are blocks of channels. */
static void upsample_dx(real *dx, const real *dy, int64_t n, int64_t h, int64_t w, int64_t oh,
                        int64_t ow, int64_t c)
{
    const int64_t block = 64, blocks = (c + block - 1) / block;
#pragma omp parallel for schedule(static)
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
}

/* In square blocks, so that both sides stay in cache. */
static void swap_axes_plain(real *y, const real *x, int64_t n, int64_t a, int64_t b, int64_t c,
                            bool accumulate)
{
    const int64_t block = 16, a_blocks = (a + block - 1) / block;
#pragma omp parallel for schedule(static)
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
}

static void copy_columns_plain(real *y, int64_t y_width, int64_t y_at, const real *x,
                               int64_t x_width, int64_t x_at, int64_t rows, int64_t width,
                               bool accumulate)
{
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < rows; r++) {
        real *to = y + r * y_width + y_at;
        const real *from = x + r * x_width + x_at;
        if (!accumulate)
            memcpy(to, from, (size_t)width * sizeof(*to));
        else
            for (int64_t i = 0; i < width; i++)
                to[i] += from[i];
    }
}

void KERNEL(reshape_register)(sara_kernels *table)
{
    table->upsample_forward = upsample_forward;
    table->upsample_dx = upsample_dx;
    table->swap_axes = swap_axes_plain;
    table->copy_columns = copy_columns_plain;
}

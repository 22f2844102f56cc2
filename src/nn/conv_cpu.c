/* Plain convolution kernels; sums are in double. Input (iy, ix) meets output (oy, ox) at the tap
 * ky = iy + pad_top - oy * stride, kx likewise. */
#include "nn/kernels.h"

static int64_t weight_index(const sara_conv_shape *s, int64_t o, int64_t i, int64_t ky, int64_t kx)
{
    return ((o * s->in + i) * s->kh + ky) * s->kw + kx;
}

static real output(const real *x, const sara_weight_view *w, real bias, const sara_conv_shape *s,
                   int64_t n, int64_t oy, int64_t ox, int64_t o)
{
    double sum = bias;
    for (int64_t ky = 0; ky < s->kh; ky++)
        for (int64_t kx = 0; kx < s->kw; kx++) {
            int64_t iy = oy * s->stride + ky - s->pad_top;
            int64_t ix = ox * s->stride + kx - s->pad_left;
            if (iy < 0 || iy >= s->h || ix < 0 || ix >= s->w)
                continue;
            const real *pixel = x + ((n * s->h + iy) * s->w + ix) * s->in;
            for (int64_t i = 0; i < s->in; i++)
                sum += (double)pixel[i] * sara_weight_at(w, weight_index(s, o, i, ky, kx));
        }
    return (real)sum;
}

sara_status KERNEL(conv_forward)(const sara_kernel_env *env, real *y, const real *x,
                                 const sara_weight_view *w, const real *b, const sara_conv_shape *s)
{
#pragma omp parallel for num_threads(sara_threads(env->ctx)) schedule(static)
    for (int64_t row = 0; row < s->n * s->oh; row++)
        for (int64_t ox = 0; ox < s->ow; ox++)
            for (int64_t o = 0; o < s->out; o++)
                y[(row * s->ow + ox) * s->out + o] =
                    output(x, w, b ? b[o] : 0, s, row / s->oh, row % s->oh, ox, o);
    return SARA_OK;
}

static double input_gradient(const real *dy, const sara_weight_view *w, const sara_conv_shape *s,
                             int64_t n, int64_t iy, int64_t ix, int64_t i)
{
    double sum = 0;
    for (int64_t ky = 0; ky < s->kh; ky++)
        for (int64_t kx = 0; kx < s->kw; kx++) {
            int64_t top = iy + s->pad_top - ky, left = ix + s->pad_left - kx;
            int64_t oy = top / s->stride, ox = left / s->stride;
            if (top < 0 || left < 0 || top % s->stride || left % s->stride || oy >= s->oh ||
                ox >= s->ow)
                continue;
            const real *pixel = dy + ((n * s->oh + oy) * s->ow + ox) * s->out;
            for (int64_t o = 0; o < s->out; o++)
                sum += (double)pixel[o] * sara_weight_at(w, weight_index(s, o, i, ky, kx));
        }
    return sum;
}

sara_status KERNEL(conv_dx)(const sara_kernel_env *env, real *dx, const real *dy,
                            const sara_weight_view *w, const sara_conv_shape *s, bool accumulate)
{
#pragma omp parallel for num_threads(sara_threads(env->ctx)) schedule(static)
    for (int64_t row = 0; row < s->n * s->h; row++)
        for (int64_t ix = 0; ix < s->w; ix++)
            for (int64_t i = 0; i < s->in; i++) {
                real *out = &dx[(row * s->w + ix) * s->in + i];
                double sum = input_gradient(dy, w, s, row / s->h, row % s->h, ix, i);
                *out = (real)(accumulate ? *out + sum : sum);
            }
    return SARA_OK;
}

static real conv_entry_gradient(const real *dy, const real *x, const sara_conv_shape *s,
                                int64_t index)
{
    int64_t kx = index % s->kw, ky = index / s->kw % s->kh;
    int64_t i = index / (s->kw * s->kh) % s->in, o = index / (s->kw * s->kh * s->in);
    double sum = 0;
    for (int64_t n = 0; n < s->n; n++)
        for (int64_t oy = 0; oy < s->oh; oy++)
            for (int64_t ox = 0; ox < s->ow; ox++) {
                int64_t iy = oy * s->stride + ky - s->pad_top;
                int64_t ix = ox * s->stride + kx - s->pad_left;
                if (iy < 0 || iy >= s->h || ix < 0 || ix >= s->w)
                    continue;
                sum += (double)dy[((n * s->oh + oy) * s->ow + ox) * s->out + o] *
                       x[((n * s->h + iy) * s->w + ix) * s->in + i];
            }
    return (real)sum;
}

sara_status KERNEL(conv_dw)(const sara_kernel_env *env, real *dw, const real *dy, const real *x,
                            const sara_conv_shape *s, bool accumulate)
{
    int64_t count = s->out * s->in * s->kh * s->kw;
#pragma omp parallel for num_threads(sara_threads(env->ctx)) schedule(static)
    for (int64_t index = 0; index < count; index++)
        dw[index] = (accumulate ? dw[index] : 0) + conv_entry_gradient(dy, x, s, index);
    return SARA_OK;
}

sara_status KERNEL(conv_dw_sampled)(const sara_kernel_env *env, real *dw, const real *dy,
                                    const real *x, const uint32_t *positions, size_t count,
                                    const sara_conv_shape *s)
{
#pragma omp parallel for num_threads(sara_threads(env->ctx)) schedule(static)
    for (size_t k = 0; k < count; k++)
        dw[k] += conv_entry_gradient(dy, x, s, positions[k]);
    return SARA_OK;
}

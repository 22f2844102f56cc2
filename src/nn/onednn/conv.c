#include "nn/onednn/onednn.h"
#include "nn/winograd.h"

bool sara_conv_is_linear(sara_linear_shape *out, const sara_conv_shape *s)
{
    *out = (sara_linear_shape){s->n * s->h * s->w, s->in, s->out};
    return s->kh == 1 && s->kw == 1 && s->stride == 1 && s->pad_top == 0 && s->pad_left == 0 &&
           s->pad_bottom == 0 && s->pad_right == 0;
}

static sara_status conv_forward_onednn(const sara_kernel_env *env, float *y, const float *x,
                                       const sara_weight_view *w, const float *b,
                                       const sara_conv_shape *shape)
{
    const sara_kernels *kernels = env->device->kernels;
    sara_linear_shape linear;
    if (sara_conv_is_linear(&linear, shape))
        return kernels->linear_forward(env, y, x, w, b, &linear);
    if (sara_winograd_fits(shape))
        return sara_winograd_forward(env, y, x, w, b, shape);
    return sara_onednn_conv_forward(env, y, x, w, b, shape);
}

static sara_status conv_dx_onednn(const sara_kernel_env *env, float *dx, const float *dy,
                                  const sara_weight_view *w, const sara_conv_shape *shape,
                                  bool accumulate)
{
    const sara_kernels *kernels = env->device->kernels;
    int64_t count = shape->n * shape->h * shape->w * shape->in;
    sara_linear_shape linear;
    float *fresh = NULL;
    sara_status status;
    if (sara_conv_is_linear(&linear, shape))
        return kernels->linear_dx(env, dx, dy, w, &linear, accumulate);
    if (sara_winograd_fits(shape))
        return sara_winograd_dx(env, dx, dy, w, shape, accumulate);
    if (!accumulate)
        return sara_onednn_conv_dx(env, dx, dy, w, shape);
    TRY(sara_scratch(env, &fresh, (size_t)count));
    TRY(sara_onednn_conv_dx(env, fresh, dy, w, shape));
    kernels->accumulate(dx, fresh, count);
done:
    sara_unscratch(env, fresh);
    return status;
}

static sara_status conv_dw_onednn(const sara_kernel_env *env, float *dw, const float *dy,
                                  const float *x, const sara_conv_shape *shape)
{
    const sara_kernels *kernels = env->device->kernels;
    int64_t count = shape->out * shape->in * shape->kh * shape->kw;
    sara_linear_shape linear;
    float *fresh = NULL;
    sara_status status;
    if (sara_conv_is_linear(&linear, shape))
        return kernels->linear_dw(env, dw, dy, x, &linear);
    TRY(sara_scratch(env, &fresh, (size_t)count));
    TRY(sara_onednn_conv_dw(env, fresh, dy, x, shape));
    kernels->accumulate(dw, fresh, count);
done:
    sara_unscratch(env, fresh);
    return status;
}

/* A trained weight in the primitive's layout, channels in whole vectors, and what it is made of:
 * floats of 16-bit values. */
static size_t weight_need(const sara_conv_shape *s, sara_dtype weight)
{
    size_t vectors = (size_t)((s->out + 15) / 16 * ((s->in + 15) / 16) * 256 * s->kh * s->kw);
    return vectors + (weight == SARA_F32 ? 0 : (size_t)(s->out * s->in * s->kh * s->kw));
}

static size_t conv_forward_need_onednn(const sara_conv_shape *s, sara_dtype weight, int threads)
{
    return sara_winograd_fits(s) ? sara_winograd_need(s, false, threads) : weight_need(s, weight);
}

/* The weight also turned around, and the gradient before it is added. */
static size_t conv_dx_need_onednn(const sara_conv_shape *s, sara_dtype weight, bool accumulate,
                                  int threads)
{
    if (sara_winograd_fits(s))
        return sara_winograd_need(s, true, threads);
    return 2 * weight_need(s, weight) + (accumulate ? (size_t)(s->n * s->h * s->w * s->in) : 0);
}

static size_t conv_dw_need(const sara_conv_shape *s)
{
    return 2 * weight_need(s, SARA_F32);
}

static size_t conv_layout_onednn(const sara_conv_shape *s)
{
    return sara_winograd_fits(s) ? 0 : weight_need(s, SARA_F32) * sizeof(float);
}

void sara_fast_conv_register(sara_kernels *table)
{
    table->needs.conv_forward = conv_forward_need_onednn;
    table->needs.conv_dx = conv_dx_need_onednn;
    table->needs.conv_layout = conv_layout_onednn;
    table->needs.conv_dw = conv_dw_need;
    table->conv_forward = conv_forward_onednn;
    table->conv_dx = conv_dx_onednn;
    table->conv_dw = conv_dw_onednn;
}

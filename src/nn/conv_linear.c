/* Convolutions that are linear layers over all pixels. */
#include "nn/kernels.h"

bool sara_conv_is_linear(sara_linear_shape *out, const sara_conv_shape *s)
{
    *out = (sara_linear_shape){s->n * s->h * s->w, s->in, s->out};
    return s->kh == 1 && s->kw == 1 && s->stride == 1 && s->pad_top == 0 && s->pad_left == 0 &&
           s->pad_bottom == 0 && s->pad_right == 0;
}

static bool conv_linear_supports(const sara_kernel_case *c)
{
    sara_linear_shape linear;
    return sara_conv_is_linear(&linear, c->conv);
}

static sara_linear_shape linear_of(const sara_conv_shape *shape)
{
    sara_linear_shape linear;
    sara_conv_is_linear(&linear, shape);
    return linear;
}

/* What the linear layer of the case needs. */
static sara_kernel_needs linear_needs(sara_kernel_needs (*needs)(const sara_kernel_case *),
                                      const sara_kernel_case *c)
{
    const sara_linear_shape linear = linear_of(c->conv);
    sara_kernel_case of_linear = *c;
    of_linear.conv = NULL;
    of_linear.linear = &linear;
    return needs(&of_linear);
}

static sara_kernel_needs conv_linear_forward_needs(const sara_kernel_case *c)
{
    return linear_needs(sara_kernel_linear_forward_needs, c);
}

static sara_status conv_linear_forward(const sara_kernel_env *env, float *y, const float *x,
                                       const sara_weight_view *w, const float *b,
                                       const sara_conv_shape *shape)
{
    const sara_linear_shape linear = linear_of(shape);
    return sara_kernel_linear_forward(env, y, x, w, b, &linear);
}

static sara_kernel_needs conv_linear_dx_needs(const sara_kernel_case *c)
{
    return linear_needs(sara_kernel_linear_dx_needs, c);
}

static sara_status conv_linear_dx(const sara_kernel_env *env, float *dx, const float *dy,
                                  const sara_weight_view *w, const sara_conv_shape *shape,
                                  bool accumulate)
{
    const sara_linear_shape linear = linear_of(shape);
    return sara_kernel_linear_dx(env, dx, dy, w, &linear, accumulate);
}

static sara_kernel_needs conv_linear_dw_needs(const sara_kernel_case *c)
{
    return linear_needs(sara_kernel_linear_dw_needs, c);
}

static sara_status conv_linear_dw(const sara_kernel_env *env, float *dw, const float *dy,
                                  const float *x, const sara_conv_shape *shape, bool accumulate)
{
    const sara_linear_shape linear = linear_of(shape);
    if (!accumulate)
        memset(dw, 0, (size_t)(linear.out * linear.in) * sizeof(*dw));
    return sara_kernel_linear_dw(env, dw, dy, x, &linear);
}

static sara_kernel_needs conv_linear_dw_sampled_needs(const sara_kernel_case *c)
{
    return linear_needs(sara_kernel_linear_dw_sampled_needs, c);
}

static sara_status conv_linear_dw_sampled(const sara_kernel_env *env, float *dw, const float *dy,
                                          const float *x, const uint32_t *positions, size_t count,
                                          const sara_conv_shape *shape)
{
    const sara_linear_shape linear = linear_of(shape);
    return sara_kernel_linear_dw_sampled(env, dw, dy, x, positions, count, &linear);
}

void sara_conv_linear_register(sara_kernels *table)
{
    SARA_KERNEL_ADD(table, conv_forward, conv_linear_supports, conv_linear_forward_needs,
                    conv_linear_forward);
    SARA_KERNEL_ADD(table, conv_dx, conv_linear_supports, conv_linear_dx_needs, conv_linear_dx);
    SARA_KERNEL_ADD(table, conv_dw, conv_linear_supports, conv_linear_dw_needs, conv_linear_dw);
    SARA_KERNEL_ADD(table, conv_dw_sampled, conv_linear_supports, conv_linear_dw_sampled_needs,
                    conv_linear_dw_sampled);
}

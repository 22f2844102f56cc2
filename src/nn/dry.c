/* Kernels that compute nothing: they take the scratch that the real ones would and give it back. */
#include "nn/kept.h"

#define UNUSED __attribute__((unused))

static const sara_kernel_needs *needs_of(const sara_kernel_env *env)
{
    return &((const sara_kernels *)env->device->kernels)->needs;
}

static sara_status count(const sara_kernel_env *env, size_t floats)
{
    float *scratch = NULL;
    sara_status status = SARA_OK;
    if (floats)
        status = sara_scratch(env, &scratch, floats);
    sara_unscratch(env, scratch);
    return status;
}

/* ------------------------------------------------------------------------ linear, convolution */

static sara_status dry_linear(const sara_kernel_env *env, const sara_weight_view *w,
                              const sara_linear_shape *shape)
{
    const sara_kernel_needs *needs = needs_of(env);
    return count(env, needs->linear ? needs->linear(shape, w->dtype) : 0);
}

static sara_status dry_linear_forward(const sara_kernel_env *env, float *y UNUSED,
                                      const float *x UNUSED, const sara_weight_view *w,
                                      const float *b UNUSED, const sara_linear_shape *shape)
{
    return dry_linear(env, w, shape);
}

static sara_status dry_linear_dx(const sara_kernel_env *env, float *dx UNUSED,
                                 const float *dy UNUSED, const sara_weight_view *w,
                                 const sara_linear_shape *shape, bool accumulate UNUSED)
{
    return dry_linear(env, w, shape);
}

static sara_status dry_linear_dw(const sara_kernel_env *env UNUSED, float *dw UNUSED,
                                 const float *dy UNUSED, const float *x UNUSED,
                                 const sara_linear_shape *shape UNUSED)
{
    return SARA_OK;
}

static sara_status dry_linear_dw_sampled(const sara_kernel_env *env, float *dw UNUSED,
                                         const float *dy UNUSED, const float *x UNUSED,
                                         const uint32_t *positions UNUSED, size_t selected,
                                         const sara_linear_shape *shape)
{
    const sara_kernel_needs *needs = needs_of(env);
    return count(env, needs->linear_dw_sampled ? needs->linear_dw_sampled(shape, selected) : 0);
}

static sara_status dry_conv_forward(const sara_kernel_env *env, float *y UNUSED,
                                    const float *x UNUSED, const sara_weight_view *w,
                                    const float *b UNUSED, const sara_conv_shape *shape)
{
    const sara_kernel_needs *needs = needs_of(env);
    sara_linear_shape product;
    sara_status status;
    if (sara_conv_is_linear(&product, shape))
        return dry_linear(env, w, &product);
    TRY(sara_kept_conv(env, w, shape, false));
    TRY(count(env, needs->conv_forward
                       ? needs->conv_forward(shape, w->dtype, sara_threads(env->ctx))
                       : 0));
done:
    return status;
}

static sara_status dry_conv_dx(const sara_kernel_env *env, float *dx UNUSED, const float *dy UNUSED,
                               const sara_weight_view *w, const sara_conv_shape *shape,
                               bool accumulate)
{
    const sara_kernel_needs *needs = needs_of(env);
    sara_linear_shape product;
    sara_status status;
    if (sara_conv_is_linear(&product, shape))
        return dry_linear(env, w, &product);
    TRY(sara_kept_conv(env, w, shape, true));
    TRY(count(env, needs->conv_dx
                       ? needs->conv_dx(shape, w->dtype, accumulate, sara_threads(env->ctx))
                       : 0));
done:
    return status;
}

static sara_status dry_conv_dw(const sara_kernel_env *env, float *dw UNUSED, const float *dy UNUSED,
                               const float *x UNUSED, const sara_conv_shape *shape)
{
    const sara_kernel_needs *needs = needs_of(env);
    sara_linear_shape product;
    if (sara_conv_is_linear(&product, shape) || !needs->conv_dw)
        return SARA_OK;
    return count(env, needs->conv_dw(shape));
}

static sara_status dry_conv_dw_sampled(const sara_kernel_env *env, float *dw, const float *dy,
                                       const float *x, const uint32_t *positions, size_t selected,
                                       const sara_conv_shape *shape)
{
    const sara_kernel_needs *needs = needs_of(env);
    sara_linear_shape product;
    if (sara_conv_is_linear(&product, shape))
        return dry_linear_dw_sampled(env, dw, dy, x, positions, selected, &product);
    return count(env, needs->conv_dw_sampled ? needs->conv_dw_sampled(shape, selected) : 0);
}

static sara_status dry_bias_grad(const sara_kernel_env *env, float *db UNUSED,
                                 const float *dy UNUSED, int64_t rows, int64_t out)
{
    const sara_kernel_needs *needs = needs_of(env);
    return count(env, needs->bias_grad ? needs->bias_grad(rows, out) : 0);
}

/* ------------------------------------------------------------------------ norms and attention */

static sara_status dry_group_norm_forward(const sara_kernel_env *env, float *y UNUSED,
                                          float *mean UNUSED, float *rstd UNUSED,
                                          const float *x UNUSED, const float *w UNUSED,
                                          const float *b UNUSED, const sara_group_norm_shape *shape)
{
    const sara_kernel_needs *needs = needs_of(env);
    return count(env, needs->group_norm ? needs->group_norm(shape) : 0);
}

static sara_status dry_group_norm_backward(const sara_kernel_env *env, float *dx UNUSED,
                                           float *dw UNUSED, float *db UNUSED,
                                           const float *dy UNUSED, const float *x UNUSED,
                                           const float *mean UNUSED, const float *rstd UNUSED,
                                           const float *w UNUSED, const float *b UNUSED,
                                           const sara_group_norm_shape *shape,
                                           bool accumulate UNUSED)
{
    const sara_kernel_needs *needs = needs_of(env);
    return count(env, needs->group_norm ? needs->group_norm(shape) : 0);
}

static sara_status dry_layer_norm_forward(const sara_kernel_env *env UNUSED, float *y UNUSED,
                                          float *mean UNUSED, float *rstd UNUSED,
                                          const float *x UNUSED, const float *w UNUSED,
                                          const float *b UNUSED, int64_t rows UNUSED,
                                          int64_t c UNUSED, float eps UNUSED)
{
    return SARA_OK;
}

static sara_status dry_layer_norm_backward(const sara_kernel_env *env, float *dx UNUSED,
                                           float *dw UNUSED, float *db UNUSED,
                                           const float *dy UNUSED, const float *x UNUSED,
                                           const float *mean UNUSED, const float *rstd UNUSED,
                                           const float *w UNUSED, int64_t rows, int64_t c,
                                           bool accumulate UNUSED)
{
    const sara_kernel_needs *needs = needs_of(env);
    return count(env, needs->layer_norm_backward ? needs->layer_norm_backward(rows, c) : 0);
}

static sara_status dry_attention_forward(const sara_kernel_env *env, float *y UNUSED,
                                         float *lse UNUSED, const float *q UNUSED,
                                         const float *k UNUSED, const float *v UNUSED,
                                         const sara_attention_shape *shape)
{
    const sara_kernel_needs *needs = needs_of(env);
    int threads = sara_threads(env->ctx);
    return count(env, needs->attention_forward ? needs->attention_forward(shape, threads) : 0);
}

static sara_status dry_attention_backward(const sara_kernel_env *env, float *dq UNUSED,
                                          float *dk UNUSED, float *dv UNUSED,
                                          const float *dy UNUSED, const float *y UNUSED,
                                          const float *lse UNUSED, const float *q UNUSED,
                                          const float *k UNUSED, const float *v UNUSED,
                                          const sara_attention_shape *shape)
{
    const sara_kernel_needs *needs = needs_of(env);
    int threads = sara_threads(env->ctx);
    return count(env, needs->attention_backward ? needs->attention_backward(shape, threads) : 0);
}

/* ------------------------------------------------------------------------ pointwise, reshapes */

static void dry_activate_forward(float *y UNUSED, const float *x UNUSED, int64_t n UNUSED,
                                 sara_activation activation UNUSED)
{
}

static void dry_activate_backward(float *dx UNUSED, const float *dy UNUSED, const float *x UNUSED,
                                  int64_t n UNUSED, sara_activation activation UNUSED,
                                  bool accumulate UNUSED)
{
}

static void dry_geglu_forward(float *y UNUSED, const float *x UNUSED, int64_t rows UNUSED,
                              int64_t c UNUSED)
{
}

static void dry_geglu_backward(float *dx UNUSED, const float *dy UNUSED, const float *x UNUSED,
                               int64_t rows UNUSED, int64_t c UNUSED, bool accumulate UNUSED)
{
}

static void dry_add(float *y UNUSED, const float *a UNUSED, const float *b UNUSED, int64_t n UNUSED)
{
}

static void dry_accumulate_into(float *y UNUSED, const float *x UNUSED, int64_t n UNUSED)
{
}

static void dry_add_per_sample(float *y UNUSED, const float *x UNUSED, const float *e UNUSED,
                               int64_t n UNUSED, int64_t inner UNUSED, int64_t c UNUSED)
{
}

static void dry_add_per_sample_de(float *de UNUSED, const float *dy UNUSED, int64_t n UNUSED,
                                  int64_t inner UNUSED, int64_t c UNUSED)
{
}

/* Both ways. */
static void upsample(float *y UNUSED, const float *x UNUSED, int64_t n UNUSED, int64_t h UNUSED,
                     int64_t w UNUSED, int64_t oh UNUSED, int64_t ow UNUSED, int64_t c UNUSED)
{
}

static void dry_swap_axes(float *y UNUSED, const float *x UNUSED, int64_t n UNUSED,
                          int64_t a UNUSED, int64_t b UNUSED, int64_t c UNUSED,
                          bool accumulate UNUSED)
{
}

static void dry_copy_columns(float *y UNUSED, int64_t y_width UNUSED, int64_t y_at UNUSED,
                             const float *x UNUSED, int64_t x_width UNUSED, int64_t x_at UNUSED,
                             int64_t rows UNUSED, int64_t width UNUSED, bool accumulate UNUSED)
{
}

void sara_dry_register(sara_kernels *table)
{
    *table = (sara_kernels){.linear_forward = dry_linear_forward,
                            .linear_dx = dry_linear_dx,
                            .linear_dw = dry_linear_dw,
                            .linear_dw_sampled = dry_linear_dw_sampled,
                            .conv_forward = dry_conv_forward,
                            .conv_dx = dry_conv_dx,
                            .conv_dw = dry_conv_dw,
                            .conv_dw_sampled = dry_conv_dw_sampled,
                            .bias_grad = dry_bias_grad,
                            .group_norm_forward = dry_group_norm_forward,
                            .group_norm_backward = dry_group_norm_backward,
                            .layer_norm_forward = dry_layer_norm_forward,
                            .layer_norm_backward = dry_layer_norm_backward,
                            .attention_forward = dry_attention_forward,
                            .attention_backward = dry_attention_backward,
                            .activate_forward = dry_activate_forward,
                            .activate_backward = dry_activate_backward,
                            .geglu_forward = dry_geglu_forward,
                            .geglu_backward = dry_geglu_backward,
                            .add = dry_add,
                            .accumulate = dry_accumulate_into,
                            .add_per_sample = dry_add_per_sample,
                            .add_per_sample_de = dry_add_per_sample_de,
                            .upsample_forward = upsample,
                            .upsample_dx = upsample,
                            .swap_axes = dry_swap_axes,
                            .copy_columns = dry_copy_columns,
                            .needs = table->needs};
}

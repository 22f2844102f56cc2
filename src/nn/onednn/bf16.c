#include "nn/bf16.h"
#include "nn/onednn/onednn.h"
#include "nn/weight.h"

/* Activations or gradients as bf16, in *scratch, which belongs to the caller. */
static sara_status narrow_matrix_bf16(const sara_kernel_env *env, const uint16_t **out,
                                      float **scratch, const float *x, int64_t count)
{
    sara_status status;
    TRY(sara_scratch(env, scratch, (size_t)(count + 1) / 2));
    *out = (uint16_t *)(void *)*scratch;
    TRY(SARA_TRACED_VOID(
        env->ctx, "narrow",
        sara_bf16_narrow((uint16_t *)(void *)*scratch, x, count, sara_threads(env->ctx))));
done:
    return status;
}

/* A matrix of weights as bf16: as it lies, or in *scratch. */
static sara_status narrow_weight(const sara_kernel_env *env, const uint16_t **out, float **scratch,
                                 const sara_weight_view *w, int64_t count)
{
    const float *floats;
    float *wide = NULL;
    sara_status status = SARA_OK;
    *scratch = NULL;
    *out = w->data;
    if (w->dtype == SARA_BF16)
        return SARA_OK;
    TRY(sara_weight_floats(env, &floats, &wide, w, count));
    TRY(narrow_matrix_bf16(env, out, scratch, floats, count));
done:
    sara_unscratch(env, wide);
    return status;
}

static sara_status multiply_bf16(const sara_kernel_env *env, float *y, const float *x,
                                 int64_t x_count, const sara_weight_view *w, int64_t w_count,
                                 const float *b, const sara_matmul_shape *product)
{
    const uint16_t *narrow_x, *narrow_w;
    float *x_scratch = NULL, *w_scratch = NULL;
    sara_status status;
    TRY(narrow_matrix_bf16(env, &narrow_x, &x_scratch, x, x_count));
    TRY(narrow_weight(env, &narrow_w, &w_scratch, w, w_count));
    TRY(sara_onednn_matmul_bf16(env, y, narrow_x, narrow_w, b, product));
done:
    sara_unscratch(env, w_scratch);
    sara_unscratch(env, x_scratch);
    return status;
}

static sara_status linear_forward_bf16(const sara_kernel_env *env, float *y, const float *x,
                                       const sara_weight_view *w, const float *b,
                                       const sara_linear_shape *s)
{
    const sara_matmul_shape product = {.m = s->rows, .n = s->out, .k = s->in, .transpose_b = true};
    return s->rows ? multiply_bf16(env, y, x, s->rows * s->in, w, s->in * s->out, b, &product)
                   : SARA_OK;
}

static sara_status linear_dx_bf16(const sara_kernel_env *env, float *dx, const float *dy,
                                  const sara_weight_view *w, const sara_linear_shape *s,
                                  bool accumulate)
{
    const sara_matmul_shape product = {
        .m = s->rows, .n = s->in, .k = s->out, .accumulate = accumulate};
    return s->rows ? multiply_bf16(env, dx, dy, s->rows * s->out, w, s->in * s->out, NULL, &product)
                   : SARA_OK;
}

/* The first and the last layer of a network have a handful of channels on one side: little work,
 * and oneDNN lacks some of these primitives. */
#define MIN_CHANNELS 16

static bool is_narrow(const sara_conv_shape *s)
{
    return s->in < MIN_CHANNELS || s->out < MIN_CHANNELS;
}

static sara_status conv_forward_bf16(const sara_kernel_env *env, float *y, const float *x,
                                     const sara_weight_view *w, const float *b,
                                     const sara_conv_shape *s)
{
    const uint16_t *narrow_x;
    sara_linear_shape linear;
    float *scratch = NULL;
    sara_status status;
    if (sara_conv_is_linear(&linear, s))
        return linear_forward_bf16(env, y, x, w, b, &linear);
    if (is_narrow(s))
        return sara_onednn_conv_forward(env, y, x, w, b, s);
    TRY(narrow_matrix_bf16(env, &narrow_x, &scratch, x, s->n * s->h * s->w * s->in));
    TRY(sara_onednn_conv_forward_bf16(env, y, narrow_x, w, b, s));
done:
    sara_unscratch(env, scratch);
    return status;
}

static sara_status conv_dx_bf16(const sara_kernel_env *env, float *dx, const float *dy,
                                const sara_weight_view *w, const sara_conv_shape *s,
                                bool accumulate)
{
    const sara_kernels *kernels = env->device->kernels;
    int64_t count = s->n * s->h * s->w * s->in;
    const uint16_t *narrow_dy;
    sara_linear_shape linear;
    float *scratch = NULL, *fresh = NULL;
    sara_status status;
    if (sara_conv_is_linear(&linear, s))
        return linear_dx_bf16(env, dx, dy, w, &linear, accumulate);
    if (accumulate)
        TRY(sara_scratch(env, &fresh, (size_t)count));
    if (is_narrow(s)) {
        TRY(sara_onednn_conv_dx(env, accumulate ? fresh : dx, dy, w, s));
    } else {
        TRY(narrow_matrix_bf16(env, &narrow_dy, &scratch, dy, s->n * s->oh * s->ow * s->out));
        TRY(sara_onednn_conv_dx_bf16(env, accumulate ? fresh : dx, narrow_dy, w, s));
    }
    if (accumulate)
        kernels->accumulate(dx, fresh, count);
done:
    sara_unscratch(env, fresh);
    sara_unscratch(env, scratch);
    return status;
}

/* An operand, and the weight, also as floats on its way from F16. */
static size_t narrow_need(int64_t count, int64_t weights, sara_dtype weight)
{
    size_t need = (size_t)(count + 1) / 2;
    if (weight != SARA_BF16)
        need += (size_t)(weights + 1) / 2;
    return weight == SARA_F16 ? need + (size_t)weights : need;
}

static size_t linear_need_bf16(const sara_linear_shape *s, sara_dtype weight)
{
    return narrow_need(s->rows * (s->in > s->out ? s->in : s->out), s->in * s->out, weight);
}

/* oneDNN's layout of the weight, from floats. */
static size_t conv_need(const sara_conv_shape *s, int64_t operand, sara_dtype weight)
{
    int64_t weights = s->out * s->in * s->kh * s->kw;
    return narrow_need(operand, 2 * weights, SARA_F32) +
           (weight == SARA_F32 ? 0 : (size_t)weights);
}

static size_t conv_forward_need_bf16(const sara_conv_shape *s, sara_dtype weight, int threads)
{
    (void)threads;
    return conv_need(s, s->n * s->h * s->w * s->in, weight);
}

static size_t conv_dx_need_bf16(const sara_conv_shape *s, sara_dtype weight, bool accumulate,
                                int threads)
{
    (void)threads;
    return conv_need(s, s->n * s->oh * s->ow * s->out, weight) +
           (accumulate ? (size_t)(s->n * s->h * s->w * s->in) : 0);
}

/* Channels in whole tiles, or floats in whole vectors. */
static size_t conv_layout_bf16(const sara_conv_shape *s)
{
    int64_t unit = is_narrow(s) ? 16 : 32;
    int64_t in = (s->in + unit - 1) / unit * unit, out = (s->out + unit - 1) / unit * unit;
    return (size_t)(in * out * s->kh * s->kw) * (is_narrow(s) ? sizeof(float) : sizeof(uint16_t));
}

/* What oneDNN 2.6's convolutions by AMX tiles keep, whatever the batch: with 128 input channels and
 * more 0.6 to 0.9 MiB for 16x16 pixels, 2 to 2.8 for 32x32, 2.8 to 4.2 for 64x64; with fewer up to
 * 0.8. Without the tiles, or backward, it is little. */
static size_t conv_primitive(const sara_conv_shape *s, bool backward)
{
    size_t pixels = (size_t)(s->oh * s->ow), bytes = pixels * (s->in < 128 ? 1024 : 2560);
    size_t most = s->in < 128 ? (size_t)1 << 19 : (size_t)7 << 19;
    if (backward || is_narrow(s) || !sara_onednn_has_amx())
        return 0;
    return bytes < most ? bytes : most;
}

void sara_bf16_register(sara_kernels *table)
{
    table->needs.linear = linear_need_bf16;
    table->needs.conv_forward = conv_forward_need_bf16;
    table->needs.conv_dx = conv_dx_need_bf16;
    table->needs.conv_layout = conv_layout_bf16;
    table->needs.conv_primitive = conv_primitive;
    table->linear_forward = linear_forward_bf16;
    table->linear_dx = linear_dx_bf16;
    table->conv_forward = conv_forward_bf16;
    table->conv_dx = conv_dx_bf16;
}

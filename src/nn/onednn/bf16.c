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
    return multiply_bf16(env, y, x, s->rows * s->in, w, s->in * s->out, b, &product);
}

static sara_status linear_dx_bf16(const sara_kernel_env *env, float *dx, const float *dy,
                                  const sara_weight_view *w, const sara_linear_shape *s,
                                  bool accumulate)
{
    const sara_matmul_shape product = {
        .m = s->rows, .n = s->in, .k = s->out, .accumulate = accumulate};
    return multiply_bf16(env, dx, dy, s->rows * s->out, w, s->in * s->out, NULL, &product);
}

static bool linear_bf16_supports(const sara_kernel_case *c)
{
    return c->linear->rows > 0;
}

/* The first and the last layer of a network have a handful of channels on one side: little work,
 * and oneDNN lacks some of these primitives. */
#define MIN_CHANNELS 16

static bool conv_bf16_supports(const sara_kernel_case *c)
{
    const sara_conv_shape *s = c->conv;
    sara_linear_shape linear;
    return s->in >= MIN_CHANNELS && s->out >= MIN_CHANNELS && !sara_conv_is_linear(&linear, s);
}

static sara_status conv_forward_bf16(const sara_kernel_env *env, float *y, const float *x,
                                     const sara_weight_view *w, const float *b,
                                     const sara_conv_shape *s)
{
    const uint16_t *narrow_x;
    float *scratch = NULL;
    sara_status status;
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
    int64_t count = s->n * s->h * s->w * s->in;
    const uint16_t *narrow_dy;
    float *scratch = NULL, *fresh = NULL;
    sara_status status;
    if (accumulate)
        TRY(sara_scratch(env, &fresh, (size_t)count));
    TRY(narrow_matrix_bf16(env, &narrow_dy, &scratch, dy, s->n * s->oh * s->ow * s->out));
    TRY(sara_onednn_conv_dx_bf16(env, accumulate ? fresh : dx, narrow_dy, w, s));
    if (accumulate)
        TRY(sara_kernel_accumulate(env, dx, fresh, count));
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

static sara_kernel_needs linear_bf16_needs(const sara_kernel_case *c)
{
    const sara_linear_shape *s = c->linear;
    int64_t operand = s->rows * (s->in > s->out ? s->in : s->out);
    return (sara_kernel_needs){.scratch = narrow_need(operand, s->in * s->out, c->weight->dtype)};
}

/* oneDNN's layout of the weight, from floats; what stays of it has channels in whole tiles. */
static sara_kernel_needs conv_bf16_needs(const sara_kernel_case *c, int64_t operand)
{
    const sara_conv_shape *s = c->conv;
    int64_t weights = s->out * s->in * s->kh * s->kw;
    int64_t in = (s->in + 31) / 32 * 32, out = (s->out + 31) / 32 * 32;
    size_t wide = c->weight->dtype == SARA_F32 ? 0 : (size_t)weights;
    return (sara_kernel_needs){.scratch = narrow_need(operand, 2 * weights, SARA_F32) + wide,
                               .layout = (size_t)(in * out * s->kh * s->kw) * sizeof(uint16_t)};
}

/* What oneDNN 2.6's convolutions by AMX tiles keep, whatever the batch: with 128 input channels and
 * more 0.6 to 0.9 MiB for 16x16 pixels, 2 to 2.8 for 32x32, 2.8 to 4.2 for 64x64; with fewer up to
 * 0.8. Without the tiles, or backward, it is little. */
static size_t kept_primitive(const sara_conv_shape *s)
{
    size_t pixels = (size_t)(s->oh * s->ow), bytes = pixels * (s->in < 128 ? 1024 : 2560);
    size_t most = s->in < 128 ? (size_t)1 << 19 : (size_t)7 << 19;
    if (!sara_onednn_has_amx())
        return 0;
    return bytes < most ? bytes : most;
}

static sara_kernel_needs conv_forward_bf16_needs(const sara_kernel_case *c)
{
    const sara_conv_shape *s = c->conv;
    sara_kernel_needs needs = conv_bf16_needs(c, s->n * s->h * s->w * s->in);
    needs.primitive = kept_primitive(s);
    return needs;
}

static sara_kernel_needs conv_dx_bf16_needs(const sara_kernel_case *c)
{
    const sara_conv_shape *s = c->conv;
    sara_kernel_needs needs = conv_bf16_needs(c, s->n * s->oh * s->ow * s->out);
    needs.scratch += c->accumulate ? (size_t)(s->n * s->h * s->w * s->in) : 0;
    return needs;
}

void sara_bf16_register(sara_kernels *table)
{
    SARA_KERNEL_ADD(table, linear_forward, linear_bf16_supports, linear_bf16_needs,
                    linear_forward_bf16);
    SARA_KERNEL_ADD(table, linear_dx, linear_bf16_supports, linear_bf16_needs, linear_dx_bf16);
    SARA_KERNEL_ADD(table, conv_forward, conv_bf16_supports, conv_forward_bf16_needs,
                    conv_forward_bf16);
    SARA_KERNEL_ADD(table, conv_dx, conv_bf16_supports, conv_dx_bf16_needs, conv_dx_bf16);
}

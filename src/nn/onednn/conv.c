#include "nn/onednn/api.h"
#include "nn/onednn/onednn.h"
#include "nn/winograd.h"

/* A weight in the primitive's layout, channels in whole vectors. */
static size_t layout_floats(const sara_conv_shape *s)
{
    return (size_t)((s->out + 15) / 16 * ((s->in + 15) / 16) * 256 * s->kh * s->kw);
}

/* A trained weight in the primitive's layout, and what it is made of: floats of 16-bit values. */
static size_t weight_need(const sara_conv_shape *s, sara_dtype weight)
{
    return layout_floats(s) + (weight == SARA_F32 ? 0 : (size_t)(s->out * s->in * s->kh * s->kw));
}

/* ---------------------------------------------------------------------------------- by Winograd */

static bool winograd_supports(const sara_kernel_case *c)
{
    return sara_winograd_fits(c->conv);
}

static sara_kernel_needs winograd_forward_needs(const sara_kernel_case *c)
{
    int threads = sara_threads(c->env->ctx);
    return (sara_kernel_needs){.scratch = sara_winograd_need(c->conv, false, threads)};
}

static sara_kernel_needs winograd_dx_needs(const sara_kernel_case *c)
{
    int threads = sara_threads(c->env->ctx);
    return (sara_kernel_needs){.scratch = sara_winograd_need(c->conv, true, threads)};
}

/* ----------------------------------------------------------------------- by oneDNN's primitives */

static sara_kernel_needs onednn_forward_needs(const sara_kernel_case *c)
{
    return (sara_kernel_needs){.scratch = weight_need(c->conv, c->weight->dtype),
                               .layout = layout_floats(c->conv) * sizeof(float)};
}

/* The weight also turned around, and the gradient before it is added. */
static sara_kernel_needs onednn_dx_needs(const sara_kernel_case *c)
{
    const sara_conv_shape *s = c->conv;
    size_t added = c->accumulate ? (size_t)(s->n * s->h * s->w * s->in) : 0;
    return (sara_kernel_needs){.scratch = 2 * weight_need(s, c->weight->dtype) + added,
                               .layout = layout_floats(s) * sizeof(float)};
}

typedef sara_status (*assign_dx)(const sara_kernel_env *env, float *dx, const float *dy,
                                 const sara_weight_view *w, const sara_conv_shape *shape);

static sara_status add_dx(const sara_kernel_env *env, float *dx, const float *dy,
                          const sara_weight_view *w, const sara_conv_shape *shape, bool accumulate,
                          assign_dx assign)
{
    int64_t count = shape->n * shape->h * shape->w * shape->in;
    float *fresh = NULL;
    sara_status status;
    if (!accumulate)
        return assign(env, dx, dy, w, shape);
    TRY(sara_scratch(env, &fresh, (size_t)count));
    TRY(assign(env, fresh, dy, w, shape));
    TRY(sara_kernel_accumulate(env, dx, fresh, count));
done:
    sara_unscratch(env, fresh);
    return status;
}

static sara_status conv_dx_onednn(const sara_kernel_env *env, float *dx, const float *dy,
                                  const sara_weight_view *w, const sara_conv_shape *shape,
                                  bool accumulate)
{
    return add_dx(env, dx, dy, w, shape, accumulate, sara_onednn_conv_dx);
}

/* ------------------------------------------------------ backward by oneDNN's forward primitives */

/* Few positions would not pay for turning the weights. */
#define FORWARD_DX_POSITIONS 1024

static bool dx_by_forward_supports(const sara_kernel_case *c)
{
    const sara_conv_shape *s = c->conv;
    return sara_conv_dx_is_slow() && s->stride == 1 && s->pad_top < s->kh &&
           s->pad_bottom < s->kh && s->pad_left < s->kw && s->pad_right < s->kw &&
           s->n * s->oh * s->ow >= FORWARD_DX_POSITIONS;
}

/* flipped [in][out][kh][kw], taps in reverse order */
static void flip(float *flipped, const sara_weight_view *w, const sara_conv_shape *s, int threads)
{
    int64_t taps = s->kh * s->kw;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < s->in; i++)
        for (int64_t o = 0; o < s->out; o++)
            for (int64_t t = 0; t < taps; t++)
                flipped[(i * s->out + o) * taps + taps - 1 - t] =
                    sara_weight_at(w, (o * s->in + i) * taps + t);
}

/* The gradient of a convolution's input is a convolution of dy with the flipped weights. */
static sara_status dx_by_forward(const sara_kernel_env *env, float *dx, const float *dy,
                                 const sara_weight_view *w, const sara_conv_shape *s)
{
    const sara_conv_shape back = {.n = s->n,
                                  .h = s->oh,
                                  .w = s->ow,
                                  .in = s->out,
                                  .oh = s->h,
                                  .ow = s->w,
                                  .out = s->in,
                                  .kh = s->kh,
                                  .kw = s->kw,
                                  .stride = 1,
                                  .pad_top = (int)s->kh - 1 - s->pad_top,
                                  .pad_left = (int)s->kw - 1 - s->pad_left,
                                  .pad_bottom = (int)s->kh - 1 - s->pad_bottom,
                                  .pad_right = (int)s->kw - 1 - s->pad_right};
    float *flipped = NULL;
    sara_status status;
    TRY(sara_scratch(env, &flipped, (size_t)(s->out * s->in * s->kh * s->kw)));
    TRY(SARA_TRACED_VOID(env->ctx, "weight layout", flip(flipped, w, s, sara_threads(env->ctx))));
    const sara_weight_view turned = {flipped, SARA_F32, NULL};
    TRY(sara_onednn_conv_forward(env, dx, dy, &turned, NULL, &back));
done:
    sara_unscratch(env, flipped);
    return status;
}

static sara_status conv_dx_by_forward(const sara_kernel_env *env, float *dx, const float *dy,
                                      const sara_weight_view *w, const sara_conv_shape *shape,
                                      bool accumulate)
{
    return add_dx(env, dx, dy, w, shape, accumulate, dx_by_forward);
}

/* ------------------------------------------------------------------------------- of the weights */

#define COLUMNS_FLOATS ((int64_t)1 << 23) /* at a time; at least one row */

/* Sampled gradients taken from a dense one, which is assigned, keep the primitive's bits. */
static bool columns_supports(const sara_kernel_case *c)
{
    return c->accumulate;
}

/* A row of columns holds what an output pixel sees: [in][kh][kw], as weights. */
static int64_t columns_width(const sara_conv_shape *s)
{
    return s->in * s->kh * s->kw;
}

/* Rows at a time. */
static int64_t columns_rows(const sara_conv_shape *s)
{
    int64_t all = s->n * s->oh * s->ow, fit = COLUMNS_FLOATS / columns_width(s);
    return fit < 1 ? 1 : fit < all ? fit : all;
}

static sara_kernel_needs columns_needs(const sara_kernel_case *c)
{
    return (sara_kernel_needs){.scratch = (size_t)(columns_rows(c->conv) * columns_width(c->conv))};
}

static void fill_row(float *row, const float *x, const sara_conv_shape *s, int64_t pixel)
{
    int64_t taps = s->kh * s->kw, image = pixel / (s->oh * s->ow);
    int64_t top = pixel / s->ow % s->oh * s->stride - s->pad_top;
    int64_t left = pixel % s->ow * s->stride - s->pad_left;
    for (int64_t t = 0; t < taps; t++) {
        int64_t h = top + t / s->kw, w = left + t % s->kw;
        bool inside = h >= 0 && h < s->h && w >= 0 && w < s->w;
        const float *seen = inside ? x + ((image * s->h + h) * s->w + w) * s->in : NULL;
        for (int64_t i = 0; i < s->in; i++)
            row[i * taps + t] = seen ? seen[i] : 0;
    }
}

/* As a product with the columns, which is added where the gradient lies: to lay it out anew, as the
 * primitive does, takes longer than the arithmetic where weights are many and pixels few. */
static sara_status conv_dw_by_columns(const sara_kernel_env *env, float *dw, const float *dy,
                                      const float *x, const sara_conv_shape *s, bool accumulate)
{
    int64_t pixels = s->n * s->oh * s->ow, rows = columns_rows(s), width = columns_width(s);
    float *columns = NULL;
    sara_status status;
    TRY(sara_scratch(env, &columns, (size_t)(rows * width)));
    for (int64_t first = 0; first < pixels; first += rows) {
        int64_t count = pixels - first < rows ? pixels - first : rows;
        const sara_matmul_shape product = {.m = s->out,
                                           .n = width,
                                           .k = count,
                                           .transpose_a = true,
                                           .accumulate = accumulate || first > 0};
#pragma omp parallel for num_threads(sara_threads(env->ctx)) schedule(static)
        for (int64_t r = 0; r < count; r++)
            fill_row(columns + r * width, x, s, first + r);
        TRY(sara_onednn_matmul(env, dw, dy + first * s->out, columns, NULL, &product));
    }
done:
    sara_unscratch(env, columns);
    return status;
}

static sara_kernel_needs onednn_dw_needs(const sara_kernel_case *c)
{
    return (sara_kernel_needs){.scratch = layout_floats(c->conv)};
}

static bool onednn_dw_supports(const sara_kernel_case *c)
{
    return !c->accumulate;
}

static sara_status conv_dw_onednn(const sara_kernel_env *env, float *dw, const float *dy,
                                  const float *x, const sara_conv_shape *shape, bool accumulate)
{
    SARA_ASSERT(!accumulate);
    return sara_onednn_conv_dw(env, dw, dy, x, shape);
}

void sara_fast_conv_register(sara_kernels *table)
{
    SARA_KERNEL_ADD(table, conv_forward, winograd_supports, winograd_forward_needs,
                    sara_winograd_forward);
    SARA_KERNEL_ADD(table, conv_forward, NULL, onednn_forward_needs, sara_onednn_conv_forward);
    SARA_KERNEL_ADD(table, conv_dx, winograd_supports, winograd_dx_needs, sara_winograd_dx);
    SARA_KERNEL_ADD(table, conv_dx, dx_by_forward_supports, onednn_dx_needs, conv_dx_by_forward);
    SARA_KERNEL_ADD(table, conv_dx, NULL, onednn_dx_needs, conv_dx_onednn);
    SARA_KERNEL_ADD(table, conv_dw, columns_supports, columns_needs, conv_dw_by_columns);
    SARA_KERNEL_ADD(table, conv_dw, onednn_dw_supports, onednn_dw_needs, conv_dw_onednn);
}

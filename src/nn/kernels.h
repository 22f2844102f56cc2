/* The kernel table of a device: raw arrays, no tape. A file foo_cpu.c holds the plain reference
 * kernels KERNEL(foo_...) of an op; foo_fast.c and onednn/foo.c hold faster ones. The plain table
 * is complete; the fast table starts as a copy of it and replaces entries (nn/device.c). A NULL
 * entry is an error that names the op.
 *
 * Layouts: images [n][h][w][c], tokens [n][t][c], matrices row-major. `d` + name is a gradient.
 * Gradients of activations: accumulate tells whether to add to or to assign them. Gradients of
 * parameters are always added.
 */
#ifndef SARA_NN_KERNELS_H
#define SARA_NN_KERNELS_H

#include "nn/nn.h"
#include "nn/real.h"

/* What a kernel may need beyond its arrays. */
typedef struct sara_kernel_env {
    sara_context *ctx;
    sara_device *device; /* its state holds caches of primitives and reordered weights */
    sara_tape *tape;     /* for scratch; NULL in tests of plain kernels */
} sara_kernel_env;

/* y [rows][out] = x [rows][in] w [out][in]^T + b [out] */
typedef struct sara_linear_shape {
    int64_t rows, in, out;
} sara_linear_shape;

/* y [n][oh][ow][out], x [n][h][w][in], weight [out][in][kh][kw] */
typedef struct sara_conv_shape {
    int64_t n, h, w, in, oh, ow, out, kh, kw;
    int stride, pad_top, pad_left, pad_bottom, pad_right;
} sara_conv_shape;

/* x [n][inner][c] in `groups` groups of c / groups channels */
typedef struct sara_group_norm_shape {
    int64_t n, inner, c;
    int groups;
    real eps;
    bool silu;
} sara_group_norm_shape;

typedef struct sara_attention_shape {
    int64_t n, t, s; /* queries t, keys s */
    int heads;
    int64_t dim;     /* of one head; rows are heads * dim wide */
    bool causal;
} sara_attention_shape;

/* A layer's weight as it lies in memory: reals, F16 or BF16, which kernels convert piece by piece;
 * arithmetic is in real. */
typedef struct sara_weight_view {
    const void *data;
    sara_dtype dtype;
    const sara_param *param; /* lets a device cache what it derives from it; NULL: do not cache */
} sara_weight_view;

static inline sara_weight_view sara_weight_of(const sara_param *param)
{
    return (sara_weight_view){param->value.data, param->value.dtype, param};
}

static inline real sara_weight_at(const sara_weight_view *w, int64_t index)
{
    const uint16_t *halves = w->data;
    const real *values = w->data;
    return w->dtype == SARA_BF16  ? sara_bf16_to_f32(halves[index])
           : w->dtype == SARA_F16 ? sara_f16_to_f32(halves[index])
                                  : values[index];
}

/* Floats of scratch that a kernel takes at most, for the dry device; NULL: none worth counting.
 * What oneDNN allocates by itself is not among them, but for the last. */
typedef struct sara_kernel_needs {
    size_t (*linear)(const sara_linear_shape *shape, sara_dtype weight); /* both ways */
    size_t (*linear_dw_sampled)(const sara_linear_shape *shape, size_t count);
    size_t (*conv_forward)(const sara_conv_shape *shape, sara_dtype weight, int threads);
    size_t (*conv_dx)(const sara_conv_shape *shape, sara_dtype weight, bool accumulate,
                      int threads);
    size_t (*conv_dw)(const sara_conv_shape *shape);
    size_t (*conv_dw_sampled)(const sara_conv_shape *shape, size_t count);
    size_t (*bias_grad)(int64_t rows, int64_t out);
    size_t (*group_norm)(const sara_group_norm_shape *shape); /* forward or backward */
    size_t (*layer_norm_backward)(int64_t rows, int64_t c);
    size_t (*attention_forward)(const sara_attention_shape *shape, int threads);
    size_t (*attention_backward)(const sara_attention_shape *shape, int threads);
    /* Bytes that stay: a frozen weight in a layout of its own, for forward or backward, and what
     * oneDNN keeps for a shape, where it is much. */
    size_t (*conv_layout)(const sara_conv_shape *shape);
    size_t (*conv_primitive)(const sara_conv_shape *shape, bool backward);
} sara_kernel_needs;

typedef struct sara_kernels {
    sara_status (*linear_forward)(const sara_kernel_env *env, real *y, const real *x,
                                  const sara_weight_view *w, const real *b,
                                  const sara_linear_shape *shape);
    sara_status (*linear_dx)(const sara_kernel_env *env, real *dx, const real *dy,
                             const sara_weight_view *w, const sara_linear_shape *shape,
                             bool accumulate);
    sara_status (*linear_dw)(const sara_kernel_env *env, real *dw, const real *dy, const real *x,
                             const sara_linear_shape *shape); /* adds to dw [out][in] */
    /* adds to dw[i] the gradient of entry positions[i] */
    sara_status (*linear_dw_sampled)(const sara_kernel_env *env, real *dw, const real *dy,
                                     const real *x, const uint32_t *positions, size_t count,
                                     const sara_linear_shape *shape);
    sara_status (*conv_forward)(const sara_kernel_env *env, real *y, const real *x,
                                const sara_weight_view *w, const real *b,
                                const sara_conv_shape *shape);
    sara_status (*conv_dx)(const sara_kernel_env *env, real *dx, const real *dy,
                           const sara_weight_view *w, const sara_conv_shape *shape,
                           bool accumulate);
    sara_status (*conv_dw)(const sara_kernel_env *env, real *dw, const real *dy, const real *x,
                           const sara_conv_shape *shape);
    sara_status (*conv_dw_sampled)(const sara_kernel_env *env, real *dw, const real *dy,
                                   const real *x, const uint32_t *positions, size_t count,
                                   const sara_conv_shape *shape);
    /* db [out] += sum over rows of dy [rows][out]; the bias of linear and convolution */
    sara_status (*bias_grad)(const sara_kernel_env *env, real *db, const real *dy, int64_t rows,
                             int64_t out);

    /* mean, rstd [n][groups] are kept for backward */
    sara_status (*group_norm_forward)(const sara_kernel_env *env, real *y, real *mean, real *rstd,
                                      const real *x, const real *w, const real *b,
                                      const sara_group_norm_shape *shape);
    /* dw, db [c] are added to; either may be NULL, as may dx */
    sara_status (*group_norm_backward)(const sara_kernel_env *env, real *dx, real *dw, real *db,
                                       const real *dy, const real *x, const real *mean,
                                       const real *rstd, const real *w, const real *b,
                                       const sara_group_norm_shape *shape, bool accumulate);
    /* mean, rstd [rows] */
    sara_status (*layer_norm_forward)(const sara_kernel_env *env, real *y, real *mean, real *rstd,
                                      const real *x, const real *w, const real *b, int64_t rows,
                                      int64_t c, real eps);
    sara_status (*layer_norm_backward)(const sara_kernel_env *env, real *dx, real *dw, real *db,
                                       const real *dy, const real *x, const real *mean,
                                       const real *rstd, const real *w, int64_t rows, int64_t c,
                                       bool accumulate);
    /* lse [n][heads][t]: log-sum-exp of each row's scores, for backward */
    sara_status (*attention_forward)(const sara_kernel_env *env, real *y, real *lse, const real *q,
                                     const real *k, const real *v,
                                     const sara_attention_shape *shape);
    /* any of dq, dk, dv may be NULL; all three are added to */
    sara_status (*attention_backward)(const sara_kernel_env *env, real *dq, real *dk, real *dv,
                                      const real *dy, const real *y, const real *lse,
                                      const real *q, const real *k, const real *v,
                                      const sara_attention_shape *shape);
    void (*activate_forward)(real *y, const real *x, int64_t count, sara_activation activation);
    void (*activate_backward)(real *dx, const real *dy, const real *x, int64_t count,
                              sara_activation activation, bool accumulate);
    /* x [rows][2c], y [rows][c] */
    void (*geglu_forward)(real *y, const real *x, int64_t rows, int64_t c);
    void (*geglu_backward)(real *dx, const real *dy, const real *x, int64_t rows, int64_t c,
                           bool accumulate);
    void (*add)(real *y, const real *a, const real *b, int64_t count);
    void (*accumulate)(real *y, const real *x, int64_t count); /* y += x */
    /* y [n][inner][c] = x + e [n][c]; de [n][c] is added to */
    void (*add_per_sample)(real *y, const real *x, const real *e, int64_t n, int64_t inner,
                           int64_t c);
    void (*add_per_sample_de)(real *de, const real *dy, int64_t n, int64_t inner, int64_t c);
    /* y [n][oh][ow][c] nearest; dx is added to */
    void (*upsample_forward)(real *y, const real *x, int64_t n, int64_t h, int64_t w, int64_t oh,
                             int64_t ow, int64_t c);
    void (*upsample_dx)(real *dx, const real *dy, int64_t n, int64_t h, int64_t w, int64_t oh,
                        int64_t ow, int64_t c);
    /* y [n][b][a][c] = x [n][a][b][c]: NCHW -> NHWC with a = C, b = HW, c = 1 */
    void (*swap_axes)(real *y, const real *x, int64_t n, int64_t a, int64_t b, int64_t c,
                      bool accumulate);
    /* `width` columns of x [rows][x_width] from x_at to those of y [rows][y_width] from y_at */
    void (*copy_columns)(real *y, int64_t y_width, int64_t y_at, const real *x, int64_t x_width,
                         int64_t x_at, int64_t rows, int64_t width, bool accumulate);
    sara_kernel_needs needs;
} sara_kernels;

/* Whether a convolution is a linear layer over all pixels: 1x1, no stride, no padding. */
bool sara_conv_is_linear(sara_linear_shape *out, const sara_conv_shape *shape);

/* Each op's part of the plain table and of the fast one; nn/device.c calls them. */
void KERNEL(linear_register)(sara_kernels *table);
void KERNEL(conv_register)(sara_kernels *table);
void KERNEL(norm_register)(sara_kernels *table);
void KERNEL(attention_register)(sara_kernels *table);
void KERNEL(pointwise_register)(sara_kernels *table);
void KERNEL(reshape_register)(sara_kernels *table);

/* Their faster kernels; each replaces what it has in a copy of the plain table. */
void sara_fast_linear_register(sara_kernels *table);
void sara_fast_bias_register(sara_kernels *table);
void sara_fast_conv_register(sara_kernels *table);
void sara_fast_sampled_register(sara_kernels *table);
void sara_fast_norm_register(sara_kernels *table);
void sara_fast_attention_register(sara_kernels *table);
void sara_fast_pointwise_register(sara_kernels *table);

/* Puts kernels in the place of all that take the scratch they need, and do nothing (nn/dry.c). */
void sara_dry_register(sara_kernels *table);

const sara_kernels *sara_tape_kernels(const sara_tape *tape);
sara_kernel_env sara_tape_env(sara_tape *tape);
/* The error of a NULL entry: "conv2d: no kernel on device cpu". */
sara_status sara_kernel_missing(const sara_tape *tape, const char *op);
/* Adds the gradient of a bias (NULL: none), as it wants, from dy [rows][out]. */
SARA_NODISCARD sara_status sara_bias_backward(sara_tape *tape, sara_param *bias, const float *dy,
                                              int64_t rows, int64_t out);
/* Scratch of a kernel: from the tape's pool, or without a tape from the context. NULL is fine for
 * unscratch. */
SARA_NODISCARD sara_status sara_scratch(const sara_kernel_env *env, float **out, size_t count);
void sara_unscratch(const sara_kernel_env *env, float *scratch);

#endif

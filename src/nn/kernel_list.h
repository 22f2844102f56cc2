/* All kernels, in one list. What follows from it: the types of the implementations and the table
 * (nn/kernels.h), the functions that everyone calls, the error where a device has none and what a
 * dry device counts (nn/dispatch.c), and the plain kernels' names and registration.
 *
 * X(name, parameters, arguments, ...) where ... is what the choice of an implementation and its
 * needs may depend on: members of a sara_kernel_case.
 *
 * Layouts: images [n][h][w][c], tokens [n][t][c], matrices row-major. `d` + name is a gradient.
 * Gradients of activations: accumulate tells whether to add to or to assign them. Gradients of
 * parameters are always added, but for conv_dw's. Pointers to reals, weights and positions are
 * memory of the device; shapes are the host's.
 */
#ifndef SARA_NN_KERNEL_LIST_H
#define SARA_NN_KERNEL_LIST_H

#define SARA_KERNEL_LIST(X)                                                                        \
    SARA_PRODUCT_KERNELS(X)                                                                        \
    SARA_LAYER_KERNELS(X)                                                                          \
    SARA_POINTWISE_KERNELS(X)                                                                      \
    SARA_RESHAPE_KERNELS(X)                                                                        \
    SARA_POOLING_KERNELS(X)                                                                        \
    SARA_LOOKUP_KERNELS(X)                                                                         \
    SARA_LOSS_KERNELS(X)                                                                           \
    SARA_UPDATE_KERNELS(X)                                                                         \
    SARA_BRANCH_KERNELS(X)

/* Linear layers and convolutions. b may be NULL. dw_sampled adds to dw[i] the gradient of entry
 * positions[i]. bias_grad: db [out] += sum over rows of dy [rows][out], of both. */
#define SARA_PRODUCT_KERNELS(X)                                                                    \
    X(linear_forward,                                                                              \
      (real * y, const real *x, const sara_weight_view *w, const real *b,                          \
       const sara_linear_shape *shape),                                                            \
      (y, x, w, b, shape), .linear = shape, .weight = w)                                           \
    X(linear_dx,                                                                                   \
      (real * dx, const real *dy, const sara_weight_view *w, const sara_linear_shape *shape,       \
       bool accumulate),                                                                           \
      (dx, dy, w, shape, accumulate), .linear = shape, .weight = w, .accumulate = accumulate)      \
    X(linear_dw, (real * dw, const real *dy, const real *x, const sara_linear_shape *shape),       \
      (dw, dy, x, shape), .linear = shape)                                                         \
    X(linear_dw_sampled,                                                                           \
      (real * dw, const real *dy, const real *x, const uint32_t *positions, size_t count,          \
       const sara_linear_shape *shape),                                                            \
      (dw, dy, x, positions, count, shape), .linear = shape, .selected = count)                    \
    X(conv_forward,                                                                                \
      (real * y, const real *x, const sara_weight_view *w, const real *b,                          \
       const sara_conv_shape *shape),                                                              \
      (y, x, w, b, shape), .conv = shape, .weight = w)                                             \
    X(conv_dx,                                                                                     \
      (real * dx, const real *dy, const sara_weight_view *w, const sara_conv_shape *shape,         \
       bool accumulate),                                                                           \
      (dx, dy, w, shape, accumulate), .conv = shape, .weight = w, .accumulate = accumulate)        \
    X(conv_dw,                                                                                     \
      (real * dw, const real *dy, const real *x, const sara_conv_shape *shape, bool accumulate),   \
      (dw, dy, x, shape, accumulate), .conv = shape, .accumulate = accumulate)                     \
    X(conv_dw_sampled,                                                                             \
      (real * dw, const real *dy, const real *x, const uint32_t *positions, size_t count,          \
       const sara_conv_shape *shape),                                                              \
      (dw, dy, x, positions, count, shape), .conv = shape, .selected = count)                      \
    X(bias_grad, (real * db, const real *dy, int64_t rows, int64_t out), (db, dy, rows, out),      \
      .rows = rows, .columns = out)

/* Norms: mean, rstd [n][groups] or [rows] are kept for backward; dw, db [c], either may be NULL, as
 * may dx. Attention: lse [n][heads][t] is the log-sum-exp of each row's scores, for backward; bias
 * [heads][t][s], or NULL, is added to the scores of all samples. Any of dq, dk, dv may be NULL, and
 * all three are added to. */
#define SARA_LAYER_KERNELS(X)                                                                      \
    X(group_norm_forward,                                                                          \
      (real * y, real * mean, real * rstd, const real *x, const real *w, const real *b,            \
       const sara_group_norm_shape *shape),                                                        \
      (y, mean, rstd, x, w, b, shape), .group_norm = shape)                                        \
    X(group_norm_backward,                                                                         \
      (real * dx, real * dw, real * db, const real *dy, const real *x, const real *mean,           \
       const real *rstd, const real *w, const real *b, const sara_group_norm_shape *shape,         \
       bool accumulate),                                                                           \
      (dx, dw, db, dy, x, mean, rstd, w, b, shape, accumulate), .group_norm = shape)               \
    X(layer_norm_forward,                                                                          \
      (real * y, real * mean, real * rstd, const real *x, const real *w, const real *b,            \
       int64_t rows, int64_t c, real eps),                                                         \
      (y, mean, rstd, x, w, b, rows, c, eps), .rows = rows, .columns = c)                          \
    X(layer_norm_backward,                                                                         \
      (real * dx, real * dw, real * db, const real *dy, const real *x, const real *mean,           \
       const real *rstd, const real *w, int64_t rows, int64_t c, bool accumulate),                 \
      (dx, dw, db, dy, x, mean, rstd, w, rows, c, accumulate), .rows = rows, .columns = c)         \
    X(rms_norm_forward,                                                                            \
      (real * y, real * rstd, const real *x, const real *w, int64_t rows, int64_t c, real eps),    \
      (y, rstd, x, w, rows, c, eps), .rows = rows, .columns = c)                                   \
    X(rms_norm_backward,                                                                           \
      (real * dx, real * dw, const real *dy, const real *x, const real *rstd, const real *w,       \
       int64_t rows, int64_t c, bool accumulate),                                                  \
      (dx, dw, dy, x, rstd, w, rows, c, accumulate), .rows = rows, .columns = c)                   \
    X(attention_forward,                                                                           \
      (real * y, real * lse, const real *q, const real *k, const real *v, const real *bias,        \
       const sara_attention_shape *shape),                                                         \
      (y, lse, q, k, v, bias, shape), .attention = shape)                                          \
    X(attention_backward,                                                                          \
      (real * dq, real * dk, real * dv, const real *dy, const real *y, const real *lse,            \
       const real *q, const real *k, const real *v, const real *bias,                              \
       const sara_attention_shape *shape),                                                         \
      (dq, dk, dv, dy, y, lse, q, k, v, bias, shape), .attention = shape)

/* geglu: x [rows][2c], y [rows][c]. gated_gelu: either of da, db may be NULL. accumulate: y += x.
 * add_scaled: y = a + scale b; a NULL: scale b. multiply: y = a b, or is added to. add_per_sample:
 * y [n][inner][c] = x + e [n][c]; de [n][c] is added to. clamp: NaN stays; dx is added to, where x
 * lies within. widen: y [count] = the first entries of w. */
#define SARA_POINTWISE_KERNELS(X)                                                                  \
    X(activate_forward, (real * y, const real *x, int64_t count, sara_activation activation),      \
      (y, x, count, activation), .rows = count)                                                    \
    X(activate_backward,                                                                           \
      (real * dx, const real *dy, const real *x, int64_t count, sara_activation activation,        \
       bool accumulate),                                                                           \
      (dx, dy, x, count, activation, accumulate), .rows = count)                                   \
    X(geglu_forward, (real * y, const real *x, int64_t rows, int64_t c), (y, x, rows, c),          \
      .rows = rows, .columns = c)                                                                  \
    X(geglu_backward,                                                                              \
      (real * dx, const real *dy, const real *x, int64_t rows, int64_t c, bool accumulate),        \
      (dx, dy, x, rows, c, accumulate), .rows = rows, .columns = c)                                \
    X(gated_gelu_forward, (real * y, const real *a, const real *b, int64_t count),                 \
      (y, a, b, count), .rows = count)                                                             \
    X(gated_gelu_backward,                                                                         \
      (real * da, real * db, const real *dy, const real *a, const real *b, int64_t count,          \
       bool add_a, bool add_b),                                                                    \
      (da, db, dy, a, b, count, add_a, add_b), .rows = count)                                      \
    X(add, (real * y, const real *a, const real *b, int64_t count), (y, a, b, count),              \
      .rows = count)                                                                               \
    X(accumulate, (real * y, const real *x, int64_t count), (y, x, count), .rows = count)          \
    X(add_scaled, (real * y, const real *a, const real *b, int64_t count, real scale),             \
      (y, a, b, count, scale), .rows = count)                                                      \
    X(multiply, (real * y, const real *a, const real *b, int64_t count, bool accumulate),          \
      (y, a, b, count, accumulate), .rows = count)                                                 \
    X(add_per_sample,                                                                              \
      (real * y, const real *x, const real *e, int64_t n, int64_t inner, int64_t c),               \
      (y, x, e, n, inner, c), .rows = n * inner, .columns = c)                                     \
    X(add_per_sample_de, (real * de, const real *dy, int64_t n, int64_t inner, int64_t c),         \
      (de, dy, n, inner, c), .rows = n * inner, .columns = c)                                      \
    X(clamp_forward, (real * y, const real *x, int64_t count, real low, real high),                \
      (y, x, count, low, high), .rows = count)                                                     \
    X(clamp_dx, (real * dx, const real *dy, const real *x, int64_t count, real low, real high),    \
      (dx, dy, x, count, low, high), .rows = count)                                                \
    X(widen, (real * y, const sara_weight_view *w, int64_t count), (y, w, count), .rows = count,   \
      .weight = w)

/* upsample: y [n][oh][ow][c] nearest; dx is added to. swap_axes: y [n][b][a][c] = x [n][a][b][c],
 * so NCHW -> NHWC with a = C, b = HW, c = 1. copy_columns: `width` columns of x [rows][x_width]
 * from x_at to those of y [rows][y_width] from y_at. */
#define SARA_RESHAPE_KERNELS(X)                                                                    \
    X(upsample_forward,                                                                            \
      (real * y, const real *x, int64_t n, int64_t h, int64_t w, int64_t oh, int64_t ow,           \
       int64_t c),                                                                                 \
      (y, x, n, h, w, oh, ow, c), .rows = n * oh * ow, .columns = c)                               \
    X(upsample_dx,                                                                                 \
      (real * dx, const real *dy, int64_t n, int64_t h, int64_t w, int64_t oh, int64_t ow,         \
       int64_t c),                                                                                 \
      (dx, dy, n, h, w, oh, ow, c), .rows = n * oh * ow, .columns = c)                             \
    X(swap_axes,                                                                                   \
      (real * y, const real *x, int64_t n, int64_t a, int64_t b, int64_t c, bool accumulate),      \
      (y, x, n, a, b, c, accumulate), .rows = n * a * b, .columns = c)                             \
    X(copy_columns,                                                                                \
      (real * y, int64_t y_width, int64_t y_at, const real *x, int64_t x_width, int64_t x_at,      \
       int64_t rows, int64_t width, bool accumulate),                                              \
      (y, y_width, y_at, x, x_width, x_at, rows, width, accumulate), .rows = rows,                 \
      .columns = width)

/* Of the pixels of a window that lie in x, each channel's largest, or their mean. NaN stays. The
 * gradient of a largest one goes to the first of several; dx is added to. */
#define SARA_POOLING_KERNELS(X)                                                                    \
    X(max_pool_forward, (real * y, const real *x, const sara_pooling_shape *shape), (y, x, shape), \
      .rows = shape->n * shape->oh * shape->ow, .columns = shape->c)                               \
    X(max_pool_dx, (real * dx, const real *dy, const real *x, const sara_pooling_shape *shape),    \
      (dx, dy, x, shape), .rows = shape->n * shape->oh * shape->ow, .columns = shape->c)           \
    X(average_pool_forward, (real * y, const real *x, const sara_pooling_shape *shape),            \
      (y, x, shape), .rows = shape->n * shape->oh * shape->ow, .columns = shape->c)                \
    X(average_pool_dx, (real * dx, const real *dy, const sara_pooling_shape *shape),               \
      (dx, dy, shape), .rows = shape->n * shape->oh * shape->ow, .columns = shape->c)

/* ids [count] are the host's. embed: y [count][c] = rows of the table at ids; dw is added to, whole
 * or [selected] at ascending positions. gather: y[i] = x[positions[i]]. gather_add adds where
 * the position is below x_count. */
#define SARA_LOOKUP_KERNELS(X)                                                                     \
    X(embed_forward,                                                                               \
      (real * y, const sara_weight_view *table, const int32_t *ids, int64_t count, int64_t c),     \
      (y, table, ids, count, c), .weight = table, .rows = count, .columns = c)                     \
    X(embed_dw, (real * dw, const real *dy, const int32_t *ids, int64_t count, int64_t c),         \
      (dw, dy, ids, count, c), .rows = count, .columns = c)                                        \
    X(embed_dw_sampled,                                                                            \
      (real * dw, const real *dy, const int32_t *ids, int64_t count, int64_t c,                    \
       const uint32_t *positions, size_t selected),                                                \
      (dw, dy, ids, count, c, positions, selected), .rows = count, .columns = c,                   \
      .selected = selected)                                                                        \
    X(gather, (real * y, const real *x, const uint32_t *positions, size_t count),                  \
      (y, x, positions, count), .selected = count)                                                 \
    X(gather_add,                                                                                  \
      (real * y, const real *x, size_t x_count, const uint32_t *positions, size_t count),          \
      (y, x, x_count, positions, count), .selected = count)

/* loss [1] = mean(weight mask (prediction - target)^2), summed in double, of `samples` rows of
 * `count`; dx = dloss [1] times its gradient. weights [samples], mask [samples][plane], which each
 * of a row's planes has; NULL: all 1. */
#define SARA_LOSS_KERNELS(X)                                                                       \
    X(mse_forward,                                                                                 \
      (real * loss, const real *prediction, const real *target, const real *weights,               \
       const real *mask, int64_t samples, int64_t count, int64_t plane),                           \
      (loss, prediction, target, weights, mask, samples, count, plane), .rows = samples,           \
      .columns = count)                                                                            \
    X(mse_backward,                                                                                \
      (real * dx, const real *dloss, const real *prediction, const real *target,                   \
       const real *weights, const real *mask, int64_t samples, int64_t count, int64_t plane,       \
       bool accumulate),                                                                           \
      (dx, dloss, prediction, target, weights, mask, samples, count, plane, accumulate),           \
      .rows = samples, .columns = count)

/* One optimiser's step. sums [updates]: of each one's squared gradients times scale, one after the
 * other. adamw also rounds masters to the values and sets gradients to zero. */
#define SARA_UPDATE_KERNELS(X)                                                                     \
    X(square_sums, (double *sums, const sara_updates *updates, real scale),                        \
      (sums, updates, scale), .rows = (int64_t)updates->count)                                     \
    X(adamw, (const sara_updates *updates, const sara_adamw *numbers), (updates, numbers),         \
      .rows = (int64_t)updates->count)

/* Low-rank branches. low_rank_norm: norm [out] = |w + scale up down| of each output, w [out][in],
 * down [rank][in], up [out][rank]. scale_outputs: y = x m / norm + b of each column; norm (all 1)
 * and b may be NULL. Backward: dm [out] is added to; dx and dm may be NULL, and with dm x. */
#define SARA_BRANCH_KERNELS(X)                                                                     \
    X(low_rank_norm,                                                                               \
      (real * norm, const sara_weight_view *w, const real *down, const real *up, real scale,       \
       int64_t out, int64_t in, int64_t rank),                                                     \
      (norm, w, down, up, scale, out, in, rank), .weight = w, .rows = out, .columns = in)          \
    X(scale_outputs,                                                                               \
      (real * y, const real *x, const real *m, const real *norm, const real *b, int64_t rows,      \
       int64_t out),                                                                               \
      (y, x, m, norm, b, rows, out), .rows = rows, .columns = out)                                 \
    X(scale_outputs_backward,                                                                      \
      (real * dx, real * dm, const real *dy, const real *x, const real *m, const real *norm,       \
       int64_t rows, int64_t out, bool accumulate),                                                \
      (dx, dm, dy, x, m, norm, rows, out, accumulate), .rows = rows, .columns = out)

#endif

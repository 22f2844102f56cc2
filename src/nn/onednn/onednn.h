/* The state of the "cpu" device: oneDNN's engine, a cache of primitives by shape, and a cache of
 * convolution weights in the layouts that the primitives chose. */
#ifndef SARA_NN_ONEDNN_H
#define SARA_NN_ONEDNN_H

#include "nn/kernels.h"

/* Beyond these no more weights are cached. */
#define SARA_ONEDNN_WEIGHT_BYTES ((size_t)2 << 30)

typedef struct sara_onednn sara_onednn;

SARA_NODISCARD sara_status sara_onednn_new(sara_context *ctx, sara_onednn **out);
void sara_onednn_free(sara_onednn *state); /* NULL is fine */
void sara_onednn_forget(sara_onednn *state, const sara_param *param);
/* Whether oneDNN takes the instructions that multiply bf16, which its environment may forbid. */
bool sara_onednn_has_bf16(void);
bool sara_onednn_has_amx(void); /* tiles of bf16 */

/* y [m][n] = a [m][k] b [k][n] + bias [n] (or NULL), or with accumulate y += a b. transpose_a: a is
 * stored [k][m]; transpose_b: b is stored [n][k]. a_row (not with transpose_a) and y_row: where
 * rows lie further apart than they are long; else 0. */
typedef struct sara_matmul_shape {
    int64_t m, n, k;
    int64_t a_row, y_row;
    bool transpose_a, transpose_b, accumulate;
} sara_matmul_shape;
SARA_NODISCARD sara_status sara_onednn_matmul(const sara_kernel_env *env, float *y, const float *a,
                                              const float *b, const float *bias,
                                              const sara_matmul_shape *shape);

/* As the kernels of the same name; these assign. */
SARA_NODISCARD sara_status sara_onednn_conv_forward(const sara_kernel_env *env, float *y,
                                                    const float *x, const sara_weight_view *w,
                                                    const float *b,
                                                    const sara_conv_shape *shape);
SARA_NODISCARD sara_status sara_onednn_conv_dx(const sara_kernel_env *env, float *dx,
                                               const float *dy, const sara_weight_view *w,
                                               const sara_conv_shape *shape);
/* With bf16 operands, multiplied exactly and summed in float32. */
SARA_NODISCARD sara_status sara_onednn_matmul_bf16(const sara_kernel_env *env, float *y,
                                                   const uint16_t *a, const uint16_t *b,
                                                   const float *bias,
                                                   const sara_matmul_shape *shape);
SARA_NODISCARD sara_status sara_onednn_conv_forward_bf16(const sara_kernel_env *env, float *y,
                                                         const uint16_t *x,
                                                         const sara_weight_view *w, const float *b,
                                                         const sara_conv_shape *shape);
SARA_NODISCARD sara_status sara_onednn_conv_dx_bf16(const sara_kernel_env *env, float *dx,
                                                    const uint16_t *dy, const sara_weight_view *w,
                                                    const sara_conv_shape *shape);
/* dw [out][in][kh][kw] */
SARA_NODISCARD sara_status sara_onednn_conv_dw(const sara_kernel_env *env, float *dw,
                                               const float *dy, const float *x,
                                               const sara_conv_shape *shape);

#endif

/* The inner kernels and their table, over the vector operations of the including file. No guard:
 * included once per instruction set. */
INLINE vf vload_n(const float *p, int64_t n)
{
    return vload_lanes(p, vfirst(n));
}

INLINE void vstore_n(float *p, vf v, int64_t n)
{
    vstore_lanes(p, v, vfirst(n));
}

#include "nn/simd/math.h"
#include "nn/simd/gemm.h"
#include "nn/simd/transpose.h"
#include "nn/simd/attention.h"
#include "nn/simd/pointwise.h"
#include "nn/simd/norm.h"
#include "nn/simd/winograd.h"
#include "nn/simd/peak.h"
#include "nn/simd/sampled.h"
#include "nn/simd/update.h"

const sara_simd SIMD_TABLE = {
    .name = SIMD_NAME,
    .width = W,
    .dw_cost = {.sampled = DW_SAMPLED, .conv = DW_CONV, .linear = DW_LINEAR},
    .gemm = gemm,
    .transpose = transpose,
    .softmax = softmax,
    .softmax_grad = softmax_grad,
    .scale_columns = scale_columns,
    .copy_rows = copy_rows,
    .add_rows = add_rows,
    .row_dots = row_dots,
    .widen = widen,
    .add = add,
    .add_scaled = add_scaled,
    .activate = activate,
    .activate_grad = activate_grad,
    .geglu = geglu,
    .geglu_grad = geglu_grad,
    .gated_gelu = gated_gelu,
    .gated_gelu_grad = gated_gelu_grad,
    .column_sums = column_sums,
    .norm_moments = norm_moments,
    .group_norm = group_norm,
    .group_norm_sums = group_norm_sums,
    .group_norm_dx = group_norm_dx,
    .layer_norm = layer_norm,
    .layer_norm_dx = layer_norm_dx,
    .layer_norm_sums = layer_norm_sums,
    .rms_norm = rms_norm,
    .rms_norm_dx = rms_norm_dx,
    .rms_norm_sums = rms_norm_sums,
    .winograd_input = winograd_input,
    .winograd_weights = winograd_weights,
    .winograd_output = winograd_output,
    .peak = peak,
    .columns = columns,
    .sampled_dots = sampled_dots,
    .adamw = adamw,
    .square_sums = square_sums,
};

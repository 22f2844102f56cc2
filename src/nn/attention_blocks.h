/* Blockwise attention (FlashAttention-2, Dao 2023): scores exist only as a block of QUERIES x KEYS,
 * and backward computes them again from lse. Keys and values are first copied per head: as they
 * are ("rows", padded to whole vectors) or transposed ("strips", one for each block of keys). Work
 * is cut the same way whatever the threads, so that the results do not depend on them.
 */
#ifndef SARA_NN_ATTENTION_BLOCKS_H
#define SARA_NN_ATTENTION_BLOCKS_H

#include "nn/kernels.h"
#include "nn/simd.h"

#define QUERIES ((int64_t)64)
#define KEYS    ((int64_t)128)

typedef struct sara_attention_plan {
    const sara_simd *simd;
    const sara_attention_shape *shape;
    int64_t heads; /* of all samples */
    int64_t row;   /* distance of rows in q, k, v, y: heads of one sample x dim */
    int64_t width; /* dim in whole vectors */
    int64_t query_blocks, key_blocks;
    int64_t strip;                  /* floats in a row of a strip: keys in whole vectors */
    int64_t rows_size, strips_size; /* floats of one head's copies */
    float scale;
} sara_attention_plan;

sara_attention_plan sara_attention_plan_make(const sara_attention_shape *shape);
/* Offset of a head's row 0 in [n][length][row]. */
int64_t sara_attention_offset(const sara_attention_plan *plan, int64_t head, int64_t length);
/* out [count][width] of rows of x, zeros beyond dim */
void sara_attention_copy_rows(float *out, const float *x, const sara_attention_plan *plan,
                              int64_t count);
/* out [key_blocks][dim][strip], zeros beyond the last key */
void sara_attention_copy_strips(float *out, const float *x, const sara_attention_plan *plan);
/* The block of scores of `count` queries from t0 against key block b. */
sara_simd_scores sara_attention_scores(const sara_attention_plan *plan, int64_t t0, int64_t count,
                                       int64_t b);
/* How many key blocks queries before `end` see any key of. */
int64_t sara_attention_seen(const sara_attention_plan *plan, int64_t end);
/* out [rows][strip]: rows of x against the strip of the scores' key block */
void sara_attention_multiply(float *out, const float *x, int64_t x_row, const float *strip,
                             const sara_attention_plan *plan, const sara_simd_scores *scores);

void sara_fast_attention_register_backward(sara_kernels *table);

#endif

/* Blockwise attention (FlashAttention-2, Dao 2023): scores exist only as a block of queries x keys,
 * and backward computes them again from lse. What lies across a vector's lanes is not the head's
 * dim, as that is often no multiple of a vector: forward has queries there, backward keys. A span
 * of blocks of these, transposed, stays in a thread's cache while blocks of the other side pass by,
 * each copied once for all of the span: rows of one head lie far apart in the arrays. Work is cut
 * so that the results do not depend on the number of threads.
 */
#ifndef SARA_NN_ATTENTION_BLOCKS_H
#define SARA_NN_ATTENTION_BLOCKS_H

#include "nn/kernels.h"
#include "nn/simd/simd.h"

#define QUERIES      ((int64_t)64) /* in a block */
#define LARGEST_SPAN ((int64_t)16)

typedef struct sara_attention_plan {
    const sara_simd *simd;
    const sara_attention_shape *shape;
    int64_t heads; /* of all samples */
    int64_t row;   /* distance of rows in q, k, v, y: heads of one sample x dim */
    int64_t keys;  /* in a block: about 64, fewer or more so that the last one is no small rest */
    int64_t query_blocks, key_blocks;
    float scale;
    const float *bias; /* [heads of one sample][t][s]; NULL: none */
} sara_attention_plan;

sara_attention_plan sara_attention_plan_make(const sara_attention_shape *shape, const float *bias);
/* Offset of a head's row i in [n][length][row]. */
int64_t sara_attention_offset(const sara_attention_plan *plan, int64_t head, int64_t length,
                              int64_t i);
int64_t sara_attention_min(int64_t a, int64_t b);
/* n in whole cache lines of floats */
int64_t sara_attention_lines(int64_t n);
/* `count` floats of memory from *used on, which is moved to the next cache line; without memory it
 * only counts. */
float *sara_attention_take(float *memory, int64_t *used, int64_t count);
/* Where a bias for the query t0 and the key s0 of a head lies; its rows, of queries, s apart. */
const float *sara_attention_bias(const sara_attention_plan *plan, int64_t head, int64_t t0,
                                 int64_t s0);
/* With a bias scores start as it, and are products of q or k, scaled ahead by this: [rows][stride],
 * n columns. Without one softmax scales them. */
void sara_attention_scale(const sara_attention_plan *plan, float *factor, int64_t stride,
                          int64_t rows, int64_t n);
/* The scores of queries from t0 against keys from s0, one of the two in the lanes. */
sara_simd_scores sara_attention_scores(const sara_attention_plan *plan, int64_t rows,
                                       int64_t columns, int64_t stride, int64_t t0, int64_t s0);
/* Whether the block of queries from t0 sees any key from s0 on. */
bool sara_attention_sees(const sara_attention_plan *plan, int64_t t0, int64_t s0);

void sara_fast_attention_register_backward(sara_kernels *table);

#endif

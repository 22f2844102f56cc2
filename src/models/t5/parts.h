/* For the files of this folder. */
#ifndef SARA_MODELS_T5_PARTS_H
#define SARA_MODELS_T5_PARTS_H

#include "models/layers.h"
#include "models/t5.h"

typedef struct sara_t5_block {
    sara_param *norm1, *norm2;   /* [width], before each part */
    sara_layer q, k, v, o;       /* of no biases, as all here */
    sara_layer gate, value, out; /* wi_0, wi_1 and wo */
} sara_t5_block;

typedef struct sara_t5 {
    sara_network network;
    int64_t width, head, inner; /* of states, of a head, of the feed-forwards */
    int heads, count;
    int64_t buckets, distance; /* of relative positions; from `distance` on all are in the last */
    float eps;
    sara_param *tokens, *positions; /* [vocab,width]; [buckets,heads], in block 0, of all blocks */
    sara_t5_block *blocks;          /* [count] */
    sara_param *final_norm;
} sara_t5;

#define SARA_T5_BLOCKS "encoder.block." /* before a block's number */

extern const sara_single_layout sara_t5_single; /* single.c */

#endif

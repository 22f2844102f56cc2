/* The text encoder's parts, for text.c and single.c. */
#ifndef SARA_MODELS_CLIP_PARTS_H
#define SARA_MODELS_CLIP_PARTS_H

#include "models/clip.h"
#include "models/layers.h"

/* A transformer layer with the norms first (Radford et al. 2021). */
typedef struct sara_clip_layer {
    sara_layer norm1, norm2, fc1, fc2;
    sara_attention attention;
} sara_clip_layer;

typedef struct sara_clip_text {
    sara_network network;
    int64_t inner; /* width of the feed-forward part */
    int heads, count;
    float eps;
    sara_activation activation;
    sara_param *tokens, *positions; /* embeddings */
    sara_clip_layer *layers;        /* [count] */
    sara_layer final_norm;
} sara_clip_text;

extern const sara_single_layout sara_clip_single; /* single.c */

#endif

/* The spatial transformer of the U-Net (Rombach et al. 2022, appendix E.2.2; diffusers'
 * Transformer2DModel and BasicTransformerBlock). */
#ifndef SARA_MODELS_UNET_TRANSFORMER_H
#define SARA_MODELS_UNET_TRANSFORMER_H

#include "models/layers.h"

typedef struct sara_transformer_block {
    sara_layer norm1, norm2, norm3;
    sara_attention attn1, attn2; /* among the pixels; from the pixels to the context */
    sara_layer ff_in, ff_out;
} sara_transformer_block;

typedef struct sara_transformer {
    sara_layer norm, proj_in, proj_out;
    int groups;
    sara_transformer_block *blocks; /* [count] */
    int count;
} sara_transformer;

typedef struct sara_transformer_size {
    int64_t channels, context; /* widths of the image's and of the context's rows */
    int heads, blocks, groups;
    bool linear_projection; /* proj_in and proj_out are stored as matrices, else as 1x1 kernels */
} sara_transformer_size;

/* *out and its blocks are in the arena. */
SARA_NODISCARD sara_status sara_transformer_bind(sara_binder *binder, sara_transformer **out,
                                                 sara_arena *arena, const char *name,
                                                 const sara_transformer_size *size);
/* y, x [N,H,W,channels]; context [N,T,context] */
SARA_NODISCARD sara_status sara_transformer_forward(sara_tape *tape, sara_var **y,
                                                    const sara_transformer *transformer,
                                                    sara_var *x, sara_var *context);

#endif

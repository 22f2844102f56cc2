/* CLIP's towers (Radford et al. 2021), for the files of this folder. */
#ifndef SARA_MODELS_CLIP_PARTS_H
#define SARA_MODELS_CLIP_PARTS_H

#include "models/clip.h"
#include "models/encoder.h"
#include "models/patches.h"

extern const sara_encoder_names sara_clip_names; /* of the layers of both */

typedef struct sara_clip_tower { /* of texts */
    sara_encoder encoder;
    sara_text_info info;
    sara_param *tokens, *positions; /* embeddings */
    sara_layer final_norm;
} sara_clip_tower;

/* A CLIPTextModel: the tower alone. */
typedef struct sara_clip_text {
    sara_network network;
    sara_clip_tower tower;
    sara_layer projection; /* of pooled states; without a weight: none */
} sara_clip_text;

extern const sara_single_layout sara_clip_single; /* single.c */

SARA_NODISCARD sara_status sara_clip_tower_read(sara_clip_tower *tower,
                                                const sara_model_config *file);
/* prefix: of all names */
SARA_NODISCARD sara_status sara_clip_tower_bind(sara_clip_tower *tower, sara_binder *binder,
                                                sara_arena *arena, const char *prefix);
/* See sara_clip_text_forward_with(); pooled without projection. */
SARA_NODISCARD sara_status sara_clip_tower_forward(sara_tape *tape, sara_var **states,
                                                   sara_var **pooled, const sara_clip_tower *tower,
                                                   int skip, const int32_t *ids, int64_t batch,
                                                   int64_t count, const sara_clip_vectors *vectors);

#endif

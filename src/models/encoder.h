/* The transformer layers that CLIP's towers and vision transformers have in common: norms first
 * (Radford et al. 2021, Dosovitskiy et al. 2021), of DINOv2 with scales per channel (Touvron et al.
 * 2021) and gated feed-forwards (Shazeer 2020). */
#ifndef SARA_MODELS_ENCODER_H
#define SARA_MODELS_ENCODER_H

#include "models/config.h"
#include "models/layers.h"

typedef struct sara_encoder_layer {
    sara_layer norm1, norm2, fc1, fc2;
    sara_attention attention;
    sara_param *scale1, *scale2; /* [width] of what is added; NULL: none */
} sara_encoder_layer;

typedef struct sara_encoder {
    int64_t width, inner; /* of the states, and of the feed-forward part */
    int heads, count;
    bool qkv_bias;
    bool gated; /* fc1 has 2 * inner outputs, silu of the first half times the second */
    float eps;
    sara_activation activation;
    sara_encoder_layer *layers; /* [count] */
} sara_encoder;

/* Names of a layer's parts below its own. */
typedef struct sara_encoder_names {
    const char *norm1, *attention;
    sara_attention_names projections; /* below the attention's */
    const char *norm2, *fc1, *fc2;
    const char *scale1, *scale2; /* NULL: none */
} sara_encoder_names;

/* hidden_size, num_hidden_layers, num_attention_heads, hidden_act and layer_norm_eps; what a config
 * leaves out is as *encoder has it. */
SARA_NODISCARD sara_status sara_encoder_read(sara_encoder *encoder, const sara_model_config *file);
/* prefix: the layers', before their numbers. */
SARA_NODISCARD sara_status sara_encoder_bind(sara_encoder *encoder, sara_binder *binder,
                                             sara_arena *arena, const char *prefix,
                                             const sara_encoder_names *names);
/* y [N,T,width] from x [N,T,width] through all layers; scope: the tape's mark below which x was
 * made, so that it is given back. */
SARA_NODISCARD sara_status sara_encoder_forward(sara_tape *tape, sara_var **y,
                                                const sara_encoder *encoder, sara_var *x,
                                                size_t scope, bool causal);
/* The same through the layers from `first` on, before `end`. */
SARA_NODISCARD sara_status sara_encoder_range(sara_tape *tape, sara_var **y,
                                              const sara_encoder *encoder, int first, int end,
                                              sara_var *x, size_t scope, bool causal);
/* What its results depend on beside its weights; NULL: out of memory. */
json_t *sara_encoder_settings(const sara_encoder *encoder);
/* `published` where the weights' names begin with it, else "". */
const char *sara_encoder_prefix(const sara_weights *weights, const char *published);

#endif

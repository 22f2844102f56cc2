/* The autoencoder's parts, for vae.c (loading) and forward.c. */
#ifndef SARA_MODELS_VAE_PARTS_H
#define SARA_MODELS_VAE_PARTS_H

#include "models/layers.h"
#include "models/vae.h"

#define SARA_VAE_MAX_STAGES 8

/* Residual blocks of one resolution, then a change of resolution unless it is the last stage. */
typedef struct sara_vae_stage {
    sara_resnet *resnets; /* [count] */
    int count;
    sara_layer resample;
} sara_vae_stage;

/* Two residual blocks and between them, if any, attention among the pixels, of one head. */
typedef struct sara_vae_mid {
    sara_resnet resnets[2];
    sara_layer norm;
    sara_attention attention;
} sara_vae_mid;

/* The encoder or the decoder. */
typedef struct sara_vae_half {
    sara_layer conv_in, norm_out, conv_out;
    sara_vae_mid mid;
    sara_vae_stage stages[SARA_VAE_MAX_STAGES]; /* in the order they run in */
} sara_vae_half;

typedef struct sara_vae_config {
    int stages, layers;
    int64_t channels[SARA_VAE_MAX_STAGES];
    int64_t in_channels, out_channels, latent_channels;
    sara_groups groups;
    bool mid_attention, quant_conv, post_quant_conv;
} sara_vae_config;

typedef struct sara_vae {
    sara_network network;
    sara_vae_config config;
    sara_vae_half encoder, decoder;
    sara_layer quant_conv, post_quant_conv;
} sara_vae;

extern const sara_single_layout sara_vae_single; /* single.c */

#endif

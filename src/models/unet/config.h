/* What a U-Net's config.json says. */
#ifndef SARA_MODELS_UNET_CONFIG_H
#define SARA_MODELS_UNET_CONFIG_H

#include "models/layers.h"
#include "models/unet.h"

#define SARA_MAX_LAYERS 16

/* One resolution: level 0 is the latents' own, each next is half as large. */
typedef struct sara_unet_level_config {
    int64_t channels;
    int layers; /* residual blocks on the way down; one more on the way up */
    int heads, transformer_blocks;
    bool down_attention, up_attention;
} sara_unet_level_config;

typedef struct sara_unet_config {
    int levels;
    sara_unet_level_config level[SARA_MAX_LEVELS];
    int64_t in_channels, out_channels, cross_attention_dim;
    int64_t time_id_width,
        pooled_width;       /* what is added to the time embedding is made of: sinusoids
                                            of each time id, pooled text; 0: nothing is */
    int64_t sample_size[2]; /* height, width; 0 if the config has none */
    int groups, downsample_padding;
    double norm_eps;
    bool linear_projection, center_input_sample;
    sara_sinusoids sinusoids;
} sara_unet_config;

SARA_NODISCARD sara_status sara_unet_config_read(const sara_model_config *file,
                                                 sara_unet_config *out);

/* What a U-Net is that takes so many channels; NULL: nothing that is known. */
const char *sara_unet_other_kind(int64_t in_channels);

#endif

/* The U-Net's parts, for unet.c (loading) and forward.c. */
#ifndef SARA_MODELS_UNET_PARTS_H
#define SARA_MODELS_UNET_PARTS_H

#include "models/unet/transformer.h"
#include "models/unet/config.h"

/* A residual block and, at levels with attention, the transformer after it. */
typedef struct sara_unet_layer {
    sara_resnet resnet;
    sara_transformer *transformer; /* NULL: none */
} sara_unet_layer;

/* One resolution: its layers on the way down and on the way up, and the ways to and from the next
 * level, which the deepest lacks. */
typedef struct sara_unet_level {
    int layers;
    sara_unet_layer *down; /* [layers] */
    sara_unet_layer *up;   /* [layers + 1] */
    sara_layer downsample, upsample;
} sara_unet_level;

typedef struct sara_unet {
    sara_network network;
    sara_unet_config config;
    sara_layer time_1, time_2; /* time_embedding.linear_1, linear_2 */
    sara_layer add_1, add_2;   /* add_embedding.linear_1, linear_2; of SDXL */
    sara_layer conv_in;
    sara_unet_level level[SARA_MAX_LEVELS];
    sara_unet_layer mid[2];
    sara_layer norm_out, conv_out;
} sara_unet;

/* forward.c */
SARA_NODISCARD sara_status sara_unet_forward(sara_tape *tape, sara_var **out, sara_network *network,
                                             sara_var *sample, const double *timesteps,
                                             const sara_condition *condition);
/* shapes.c, single.c */
extern const sara_network_shape sara_unet_shapes[];
extern const sara_single_layout sara_unet_single;

#endif

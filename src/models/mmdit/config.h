/* What an MMDiT's config.json says. */
#ifndef SARA_MODELS_MMDIT_CONFIG_H
#define SARA_MODELS_MMDIT_CONFIG_H

#include "models/mmdit.h"

#define SARA_MMDIT_BLOCKS 60 /* most of a network */

typedef struct sara_mmdit_config {
    int blocks, heads;
    int64_t width; /* of a token: heads of head_width each */
    int64_t head_width, joint_width, pooled_width;
    int64_t channels, patch;      /* of latents; the side of a patch */
    int64_t positions;            /* along each side of the table */
    int64_t sample_size;          /* of latents */
    bool qk_norm;                 /* queries and keys are normed, head by head */
    bool dual[SARA_MMDIT_BLOCKS]; /* the block has a second attention, of the image alone */
} sara_mmdit_config;

SARA_NODISCARD sara_status sara_mmdit_config_read(const sara_model_config *file,
                                                  sara_mmdit_config *out);

#endif

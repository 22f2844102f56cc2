/* The published shapes, as their config.json has them. */
#include "models/mmdit/parts.h"

#define SIZE(heads, blocks, width, positions)                                                      \
    "{\"_class_name\": \"SD3Transformer2DModel\", \"attention_head_dim\": 64, "                    \
    "\"num_attention_heads\": " heads ", \"num_layers\": " blocks                                  \
    ", \"caption_projection_dim\": " width ", \"pos_embed_max_size\": " positions                  \
    ", \"sample_size\": 128"
#define NORMED ", \"qk_norm\": \"rms_norm\""

const sara_network_shape sara_mmdit_shapes[] = {
    {"sd3-medium", SIZE("24", "24", "1536", "192") "}"},
    {"sd35-medium", SIZE("24", "24", "1536", "384") NORMED
     ", \"dual_attention_layers\": [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]}"},
    {"sd35-large", SIZE("38", "38", "2432", "192") NORMED "}"},
    {NULL, NULL},
};

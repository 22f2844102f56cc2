/* The published shapes, as their config.json has them; of the first two the
 * deepest level has no attention. */
#include "models/unet/parts.h"

#define COMMON "\"_class_name\": \"UNet2DConditionModel\""
#define FOUR_LEVELS                                                                                \
    COMMON ", \"block_out_channels\": [320, 640, 1280, 1280], "                                    \
           "\"down_block_types\": [\"CrossAttnDownBlock2D\", \"CrossAttnDownBlock2D\", "           \
           "\"CrossAttnDownBlock2D\", \"DownBlock2D\"], \"up_block_types\": [\"UpBlock2D\", "      \
           "\"CrossAttnUpBlock2D\", \"CrossAttnUpBlock2D\", \"CrossAttnUpBlock2D\"]"

const sara_network_shape sara_unet_shapes[] = {
    {"sd15", "{" FOUR_LEVELS ", \"attention_head_dim\": 8, \"cross_attention_dim\": 768, "
             "\"sample_size\": 64}"},
    {"sd21", "{" FOUR_LEVELS ", \"attention_head_dim\": [5, 10, 20, 20], "
             "\"cross_attention_dim\": 1024, \"sample_size\": 96, "
             "\"use_linear_projection\": true}"},
    {"sdxl", "{" COMMON ", \"block_out_channels\": [320, 640, 1280], "
             "\"down_block_types\": [\"DownBlock2D\", \"CrossAttnDownBlock2D\", "
             "\"CrossAttnDownBlock2D\"], \"up_block_types\": [\"CrossAttnUpBlock2D\", "
             "\"CrossAttnUpBlock2D\", \"UpBlock2D\"], \"attention_head_dim\": [5, 10, 20], "
             "\"transformer_layers_per_block\": [1, 2, 10], \"cross_attention_dim\": 2048, "
             "\"addition_embed_type\": \"text_time\", \"addition_time_embed_dim\": 256, "
             "\"projection_class_embeddings_input_dim\": 2816, \"sample_size\": 128, "
             "\"use_linear_projection\": true}"},
    {"tiny", "{" COMMON ", \"block_out_channels\": [32, 64], "
             "\"down_block_types\": [\"CrossAttnDownBlock2D\", \"DownBlock2D\"], "
             "\"up_block_types\": [\"UpBlock2D\", \"CrossAttnUpBlock2D\"], "
             "\"attention_head_dim\": 4, \"cross_attention_dim\": 32, \"layers_per_block\": 1, "
             "\"sample_size\": 16}"},
    {NULL, NULL},
};

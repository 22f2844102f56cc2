/* The published shapes by name, as their config.json has them. */
#include "models/unet_config.h"

typedef struct shape {
    const char *name;
    int levels, layers, heads[4]; /* heads: diffusers' attention_head_dim */
    int64_t channels[4], cross_attention_dim, sample_size;
    bool linear_projection;
} shape;

static const shape shapes[] = {
    {"sd15", 4, 2, {8, 8, 8, 8}, {320, 640, 1280, 1280}, 768, 64, false},
    {"sd21", 4, 2, {5, 10, 20, 20}, {320, 640, 1280, 1280}, 1024, 96, true},
    {"tiny", 2, 1, {4, 4}, {32, 64}, 32, 16, false},
};

/* The deepest level has no attention, its neighbour in the middle has. */
static void shapes_fill(sara_unet_config *out, const shape *from)
{
    *out = (sara_unet_config){.levels = from->levels,
                              .in_channels = 4,
                              .out_channels = 4,
                              .cross_attention_dim = from->cross_attention_dim,
                              .sample_size = {from->sample_size, from->sample_size},
                              .groups = 32,
                              .downsample_padding = 1,
                              .norm_eps = 1e-5,
                              .linear_projection = from->linear_projection,
                              .flip_sin_to_cos = true};
    for (int i = 0; i < from->levels; i++) {
        bool attention = i < from->levels - 1;
        out->level[i] = (sara_unet_level_config){.channels = from->channels[i],
                                                 .layers = from->layers,
                                                 .heads = from->heads[i],
                                                 .transformer_blocks = 1,
                                                 .down_attention = attention,
                                                 .up_attention = attention};
    }
}

sara_status sara_unet_config_of_shape(sara_context *ctx, sara_unet_config *out, const char *name)
{
    for (size_t i = 0; i < sizeof(shapes) / sizeof(*shapes); i++)
        if (strcmp(shapes[i].name, name) == 0) {
            shapes_fill(out, &shapes[i]);
            return SARA_OK;
        }
    return sara_fail(ctx, SARA_ERROR_USAGE, "--shape %.100s: expected sd15, sd21 or tiny", name);
}

#include "models/unet/parts.h"

/* ------------------------------------------------------------------------------------ binding */

/* What the layers of one level share while they are bound. */
typedef struct binding {
    sara_unet *unet;
    sara_binder *binder;
    sara_groups groups;
    int64_t time_channels;
    const sara_unet_level_config *level;
} binding;

/* name is the block's, as "down_blocks.0"; in: channels that the residual block reads. */
static sara_status bind_unet_layer(const binding *b, sara_unet_layer *layer, const char *name,
                                   int index, int64_t in, bool attention)
{
    const sara_unet_config *config = &b->unet->config;
    sara_transformer_size size = {.channels = b->level->channels,
                                  .context = config->cross_attention_dim,
                                  .heads = b->level->heads,
                                  .blocks = b->level->transformer_blocks,
                                  .groups = config->groups,
                                  .linear_projection = config->linear_projection};
    sara_status status;
    TRY(sara_resnet_bind(b->binder, &layer->resnet, sara_name_of("%s.resnets.%d", name, index).text,
                         in, b->level->channels, b->time_channels, &b->groups));
    if (attention)
        TRY(sara_transformer_bind(b->binder, &layer->transformer, &b->unet->network.arena,
                                  sara_name_of("%s.attentions.%d", name, index).text, &size));
done:
    return status;
}

static sara_status bind_down(const binding *b, int i)
{
    sara_unet_level *level = &b->unet->level[i];
    int64_t in = b->unet->config.level[i > 0 ? i - 1 : 0].channels;
    sara_name name = sara_name_of("down_blocks.%d", i);
    sara_status status = SARA_OK;
    for (int j = 0; j < level->layers; j++) {
        TRY(bind_unet_layer(b, &level->down[j], name.text, j, in, b->level->down_attention));
        in = b->level->channels;
    }
    if (i < b->unet->config.levels - 1)
        TRY(sara_conv_bind(b->binder, &level->downsample,
                           sara_name_of("%s.downsamplers.0.conv", name.text).text, in, in, 3));
done:
    return status;
}

/* A layer on the way up reads the one before it and a layer's output from the way down: the
 * level's own, last to first, then the level's input. */
static sara_status bind_up(const binding *b, int i)
{
    const sara_unet_level_config *configs = b->unet->config.level;
    int last = b->unet->config.levels - 1;
    sara_unet_level *level = &b->unet->level[i];
    int64_t in = configs[i < last ? i + 1 : last].channels;
    int64_t input = configs[i > 0 ? i - 1 : 0].channels;
    sara_name name = sara_name_of("up_blocks.%d", last - i);
    sara_status status = SARA_OK;
    for (int j = 0; j <= level->layers; j++) {
        int64_t skip = j < level->layers ? b->level->channels : input;
        TRY(bind_unet_layer(b, &level->up[j], name.text, j, in + skip, b->level->up_attention));
        in = b->level->channels;
    }
    if (i > 0)
        TRY(sara_conv_bind(b->binder, &b->unet->level[i - 1].upsample,
                           sara_name_of("%s.upsamplers.0.conv", name.text).text, in, in, 3));
done:
    return status;
}

static sara_status new_layers(sara_arena *arena, sara_unet_layer **out, int count)
{
    size_t bytes = (size_t)count * sizeof(**out);
    sara_status status = sara_arena_alloc(arena, out, 1, bytes);
    if (status == SARA_OK)
        memset(*out, 0, bytes);
    return status;
}

static sara_status bind_levels(sara_unet *unet, sara_binder *binder)
{
    const sara_unet_config *config = &unet->config;
    binding b = {.unet = unet,
                 .binder = binder,
                 .groups = {config->groups, (float)config->norm_eps},
                 .time_channels = 4 * config->level[0].channels};
    sara_status status = SARA_OK;
    for (int i = 0; i < config->levels; i++) {
        sara_unet_level *level = &unet->level[i];
        b.level = &config->level[i];
        level->layers = b.level->layers;
        TRY(new_layers(&unet->network.arena, &level->down, level->layers));
        TRY(new_layers(&unet->network.arena, &level->up, level->layers + 1));
        TRY(bind_down(&b, i));
        TRY(bind_up(&b, i));
    }
    /* resnets.0, attentions.0, resnets.1 of the deepest level's sizes */
    for (int j = 0; j < 2; j++)
        TRY(bind_unet_layer(&b, &unet->mid[j], "mid_block", j, b.level->channels, j == 0));
done:
    return status;
}

static sara_status unet_bind(sara_network *network, sara_binder *binder,
                             const sara_weights *weights)
{
    sara_unet *unet = (sara_unet *)network;
    const sara_unet_config *config = &unet->config;
    int64_t width = config->level[0].channels;
    sara_status status;
    (void)weights;
    TRY(sara_linear_bind(binder, &unet->time_1, "time_embedding.linear_1", 4 * width, width, true));
    TRY(sara_linear_bind(binder, &unet->time_2, "time_embedding.linear_2", 4 * width, 4 * width,
                         true));
    if (config->time_id_width) {
        int64_t in = config->pooled_width + SARA_TIME_IDS * config->time_id_width;
        TRY(sara_linear_bind(binder, &unet->add_1, "add_embedding.linear_1", 4 * width, in, true));
        TRY(sara_linear_bind(binder, &unet->add_2, "add_embedding.linear_2", 4 * width, 4 * width,
                             true));
    }
    TRY(sara_conv_bind(binder, &unet->conv_in, "conv_in", width, config->in_channels, 3));
    TRY(bind_levels(unet, binder));
    TRY(sara_norm_bind(binder, &unet->norm_out, "conv_norm_out", width));
    TRY(sara_conv_bind(binder, &unet->conv_out, "conv_out", config->out_channels, width, 3));
done:
    return status;
}

/* ----------------------------------------------------------------------------------- the class */

static sara_denoiser_info info_of(const sara_unet_config *config)
{
    return (sara_denoiser_info){
        .rank = 4,
        .in_channels = (int)config->in_channels,
        .out_channels = (int)config->out_channels,
        .sample_height = (int)config->sample_size[0],
        .sample_width = (int)config->sample_size[1],
        .widths = {[SARA_CONDITION_STATES] = (int)config->cross_attention_dim,
                   [SARA_CONDITION_POOLED] = (int)config->pooled_width,
                   [SARA_CONDITION_TIME_IDS] = config->time_id_width ? SARA_TIME_IDS : 0},
        .factor = 1 << (config->levels - 1),
        .unit = 1,
        .least_side = config->downsample_padding ? 1 : 1 << (config->levels - 1),
        .levels = config->levels};
}

static sara_status unet_read_config(sara_network *network, const sara_model_config *file)
{
    sara_unet *unet = (sara_unet *)network;
    sara_status status = sara_unet_config_read(file, &unet->config);
    if (status == SARA_OK)
        network->info.denoiser = info_of(&unet->config);
    return status;
}

static json_t *unet_settings(const sara_network *network)
{
    const sara_unet_config *c = &((const sara_unet *)network)->config;
    json_t *heads = json_array(), *settings;
    int failed = !heads;
    for (int i = 0; i < c->levels; i++)
        failed |= json_array_append_new(heads, json_integer(c->level[i].heads));
    if (failed) {
        json_decref(heads);
        return NULL;
    }
    settings = json_pack("{s:o,s:i,s:f,s:I,s:i,s:b,s:b}", "heads", heads, "groups", c->groups,
                         "norm_eps", c->norm_eps, "freq_shift", (json_int_t)c->sinusoids.shift,
                         "downsample_padding", c->downsample_padding, "flip_sin_to_cos",
                         c->sinusoids.cosines_first, "center_input_sample", c->center_input_sample);
    if (settings && c->time_id_width &&
        json_object_set_new(settings, "addition_time_embed_dim", json_integer(c->time_id_width))) {
        json_decref(settings);
        return NULL;
    }
    return settings;
}

static const char *const unet_regions[] = {"resnets", "attentions", NULL};

static const sara_block_list unet_blocks[] = {
    {"down_blocks", 24}, {"mid_block", 0}, {"up_blocks", 24}, {NULL, 0}};

static const sara_layer_kind unet_kinds[] = {{"norms", "norm"},
                                             {"biases", ".bias"},
                                             {"time embedding", "time_emb"},
                                             {"added embedding", "add_emb"},
                                             {"self-attention query", "attn1.to_q"},
                                             {"self-attention key", "attn1.to_k"},
                                             {"self-attention value", "attn1.to_v"},
                                             {"self-attention out", "attn1.to_out"},
                                             {"cross-attention query", "attn2.to_q"},
                                             {"cross-attention key", "attn2.to_k"},
                                             {"cross-attention value", "attn2.to_v"},
                                             {"cross-attention out", "attn2.to_out"},
                                             {"feed-forward", ".ff."},
                                             {"transformer projections", "proj_"},
                                             {"convolutions", "conv"},
                                             {NULL, NULL}};

const sara_network_class sara_unet_class = {.library = "diffusers",
                                            .name = "UNet2DConditionModel",
                                            .key = "_class_name",
                                            .value = "UNet2DConditionModel",
                                            .stem = SARA_DIFFUSERS_STEM,
                                            .title = "U-Net",
                                            .size = sizeof(sara_unet),
                                            .read_config = unet_read_config,
                                            .bind = unet_bind,
                                            .single = &sara_unet_single,
                                            .settings = unet_settings,
                                            .forward = sara_unet_forward,
                                            .shapes = sara_unet_shapes,
                                            .blocks = unet_blocks,
                                            .regions = unet_regions,
                                            .kinds = unet_kinds};

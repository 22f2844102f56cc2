#include "models/mmdit/parts.h"

/* ------------------------------------------------------------------------------------ binding */

/* The names of what a block has for one kind of tokens, below the block's. */
typedef struct stream_names {
    const char *modulation, *q, *k, *v, *out, *norm_q, *norm_k, *ff;
} stream_names;

static const stream_names image_names = {"norm1.linear",  "attn.to_q",   "attn.to_k",   "attn.to_v",
                                         "attn.to_out.0", "attn.norm_q", "attn.norm_k", "ff"};
static const stream_names text_names = {
    "norm1_context.linear", "attn.add_q_proj",   "attn.add_k_proj",   "attn.add_v_proj",
    "attn.to_add_out",      "attn.norm_added_q", "attn.norm_added_k", "ff_context"};
static const stream_names dual_names = {.q = "attn2.to_q",
                                        .k = "attn2.to_k",
                                        .v = "attn2.to_v",
                                        .out = "attn2.to_out.0",
                                        .norm_q = "attn2.norm_q",
                                        .norm_k = "attn2.norm_k"};

/* block: the block's name with a dot at the end, in each of these; parts NULL: without an out. */
static sara_status bind_heads(sara_binder *binder, sara_mmdit_attention *a, const char *block,
                              const stream_names *names, const sara_mmdit_config *config, bool out)
{
    const int64_t width = config->width;
    const sara_shape head = sara_shape1(config->head_width);
    sara_status status;
    TRY(sara_linear_bind(binder, &a->q, sara_name_of("%s%s", block, names->q).text, width, width,
                         true));
    TRY(sara_linear_bind(binder, &a->k, sara_name_of("%s%s", block, names->k).text, width, width,
                         true));
    TRY(sara_linear_bind(binder, &a->v, sara_name_of("%s%s", block, names->v).text, width, width,
                         true));
    if (out)
        TRY(sara_linear_bind(binder, &a->out, sara_name_of("%s%s", block, names->out).text, width,
                             width, true));
    if (config->qk_norm) {
        TRY(sara_binder_want(binder, &a->norm_q, &head, "%s%s.weight", block, names->norm_q));
        TRY(sara_binder_want(binder, &a->norm_k, &head, "%s%s.weight", block, names->norm_k));
    }
done:
    return status;
}

/* parts: of its modulation, of which two are the last block's text's */
static sara_status bind_stream(sara_binder *binder, sara_mmdit_stream *stream, const char *block,
                               const stream_names *names, const sara_mmdit_config *config,
                               int64_t parts)
{
    const int64_t width = config->width;
    sara_status status;
    TRY(sara_linear_bind(binder, &stream->modulation,
                         sara_name_of("%s%s", block, names->modulation).text, parts * width, width,
                         true));
    TRY(bind_heads(binder, &stream->attention, block, names, config, parts > 2));
    if (parts > 2) {
        TRY(sara_linear_bind(binder, &stream->ff_in,
                             sara_name_of("%s%s.net.0.proj", block, names->ff).text, 4 * width,
                             width, true));
        TRY(sara_linear_bind(binder, &stream->ff_out,
                             sara_name_of("%s%s.net.2", block, names->ff).text, width, 4 * width,
                             true));
    }
done:
    return status;
}

static sara_status mmdit_bind_block(sara_binder *binder, sara_mmdit *mmdit, int i)
{
    const sara_mmdit_config *config = &mmdit->config;
    const sara_name name = sara_name_of("transformer_blocks.%d.", i);
    sara_mmdit_block *block = &mmdit->blocks[i];
    sara_status status;
    *block = (sara_mmdit_block){.heads = config->heads, .last = i == config->blocks - 1};
    TRY(bind_stream(binder, &block->image, name.text, &image_names, config,
                    config->dual[i] ? 9 : 6));
    TRY(bind_stream(binder, &block->text, name.text, &text_names, config, block->last ? 2 : 6));
    if (config->dual[i])
        TRY(bind_heads(binder, &block->dual, name.text, &dual_names, config, true));
done:
    return status;
}

static sara_status bind_ends(sara_binder *binder, sara_mmdit *mmdit)
{
    const sara_mmdit_config *c = &mmdit->config;
    const sara_shape table = sara_shape3(1, c->positions * c->positions, c->width);
    static const char time[] = "time_text_embed.timestep_embedder",
                      pooled[] = "time_text_embed.text_embedder";
    sara_status status;
    TRY(sara_conv_bind(binder, &mmdit->patches, "pos_embed.proj", c->width, c->channels, c->patch));
    TRY(sara_binder_want_buffer(binder, &mmdit->positions, &table, "pos_embed.pos_embed"));
    TRY(sara_linear_bind(binder, &mmdit->time_1, sara_name_of("%s.linear_1", time).text, c->width,
                         SARA_MMDIT_TIME_WIDTH, true));
    TRY(sara_linear_bind(binder, &mmdit->time_2, sara_name_of("%s.linear_2", time).text, c->width,
                         c->width, true));
    TRY(sara_linear_bind(binder, &mmdit->pooled_1, sara_name_of("%s.linear_1", pooled).text,
                         c->width, c->pooled_width, true));
    TRY(sara_linear_bind(binder, &mmdit->pooled_2, sara_name_of("%s.linear_2", pooled).text,
                         c->width, c->width, true));
    TRY(sara_linear_bind(binder, &mmdit->context, "context_embedder", c->width, c->joint_width,
                         true));
    TRY(sara_linear_bind(binder, &mmdit->modulation_out, "norm_out.linear", 2 * c->width, c->width,
                         true));
    TRY(sara_linear_bind(binder, &mmdit->out, "proj_out", c->patch * c->patch * c->channels,
                         c->width, true));
done:
    return status;
}

static sara_status mmdit_bind(sara_network *network, sara_binder *binder,
                              const sara_weights *weights)
{
    sara_mmdit *mmdit = (sara_mmdit *)network;
    sara_status status;
    (void)weights;
    TRY(sara_arena_alloc(&network->arena, &mmdit->blocks, (size_t)mmdit->config.blocks,
                         sizeof(*mmdit->blocks)));
    TRY(bind_ends(binder, mmdit));
    for (int i = 0; i < mmdit->config.blocks; i++)
        TRY(mmdit_bind_block(binder, mmdit, i));
done:
    return status;
}

/* ----------------------------------------------------------------------------------- the class */

static sara_status mmdit_read_config(sara_network *network, const sara_model_config *file)
{
    const sara_mmdit_config *c = &((sara_mmdit *)network)->config;
    sara_status status;
    TRY(sara_mmdit_config_read(file, &((sara_mmdit *)network)->config));
    network->info.denoiser =
        (sara_denoiser_info){.rank = 4,
                             .in_channels = (int)c->channels,
                             .out_channels = (int)c->channels,
                             .sample_height = (int)c->sample_size,
                             .sample_width = (int)c->sample_size,
                             .widths = {[SARA_CONDITION_STATES] = (int)c->joint_width,
                                        [SARA_CONDITION_POOLED] = (int)c->pooled_width},
                             .factor = (int)c->patch,
                             .unit = (int)c->patch,
                             .least_side = (int)c->patch,
                             .most_side = (int)(c->patch * c->positions),
                             .levels = c->blocks < SARA_MAX_LEVELS ? c->blocks : SARA_MAX_LEVELS};
done:
    return status;
}

static json_t *mmdit_settings(const sara_network *network)
{
    return json_pack("{s:i}", "heads", ((const sara_mmdit *)network)->config.heads);
}

static const char *const mmdit_regions[] = {"transformer_blocks", NULL};

static const sara_block_list mmdit_blocks[] = {{"transformer_blocks", SARA_MMDIT_BLOCKS},
                                               {NULL, 0}};

static const sara_layer_kind mmdit_kinds[] = {{"biases", ".bias"},
                                              {"query and key norms", ".norm_"},
                                              {"modulation", ".linear.weight"},
                                              {"embeddings", "_embed"},
                                              {"image query", "attn.to_q"},
                                              {"image key", "attn.to_k"},
                                              {"image value", "attn.to_v"},
                                              {"image attention out", "attn.to_out"},
                                              {"text query", "add_q_proj"},
                                              {"text key", "add_k_proj"},
                                              {"text value", "add_v_proj"},
                                              {"text attention out", "to_add_out"},
                                              {"second attention query", "attn2.to_q"},
                                              {"second attention key", "attn2.to_k"},
                                              {"second attention value", "attn2.to_v"},
                                              {"second attention out", "attn2.to_out"},
                                              {"image feed-forward", ".ff."},
                                              {"text feed-forward", ".ff_context."},
                                              {"output", "proj_out"},
                                              {NULL, NULL}};

const sara_network_class sara_mmdit_class = {.library = "diffusers",
                                             .name = "SD3Transformer2DModel",
                                             .key = "_class_name",
                                             .value = "SD3Transformer2DModel",
                                             .stem = SARA_DIFFUSERS_STEM,
                                             .title = "transformer",
                                             .size = sizeof(sara_mmdit),
                                             .read_config = mmdit_read_config,
                                             .bind = mmdit_bind,
                                             .single = &sara_mmdit_single,
                                             .settings = mmdit_settings,
                                             .forward = sara_mmdit_forward,
                                             .shapes = sara_mmdit_shapes,
                                             .blocks = mmdit_blocks,
                                             .regions = mmdit_regions,
                                             .kinds = mmdit_kinds};

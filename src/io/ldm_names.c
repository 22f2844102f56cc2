/* Names of tensors in single-file checkpoints and in diffusers' folders. Both directions walk the
 * same pairs of blocks; within a residual block or a layer the ends of the names are paired too. */
#include "io/io.h"

#include <stdlib.h>

#define LONGEST_NAME 128 /* what is longer is none of these */

typedef struct pair {
    const char *ldm, *diffusers;
} pair;

/* Ends of the names; a table that is there knows them all. */
static const pair resnet_ends[] = {{"in_layers.0", "norm1"},
                                   {"in_layers.2", "conv1"},
                                   {"emb_layers.1", "time_emb_proj"},
                                   {"out_layers.0", "norm2"},
                                   {"out_layers.3", "conv2"},
                                   {"skip_connection", "conv_shortcut"},
                                   {NULL, NULL}};
static const pair vae_resnet_ends[] = {{"norm1", "norm1"},
                                       {"conv1", "conv1"},
                                       {"norm2", "norm2"},
                                       {"conv2", "conv2"},
                                       {"nin_shortcut", "conv_shortcut"},
                                       {NULL, NULL}};
static const pair vae_attention_ends[] = {
    {"norm", "group_norm"},    {"q", "to_q"},  {"k", "to_k"}, {"v", "to_v"},
    {"proj_out", "to_out.0"},  {"q", "query"}, {"k", "key"},  {"v", "value"},
    {"proj_out", "proj_attn"}, {NULL, NULL}};
static const pair open_clip_ends[] = {{"ln_1", "layer_norm1"},
                                      {"ln_2", "layer_norm2"},
                                      {"mlp.c_fc", "mlp.fc1"},
                                      {"mlp.c_proj", "mlp.fc2"},
                                      {"attn.out_proj", "self_attn.out_proj"},
                                      {"attn.in_proj_weight", "self_attn.in_proj.weight"},
                                      {"attn.in_proj_bias", "self_attn.in_proj.bias"},
                                      {"attn.in_proj_weight", "self_attn.q_proj.weight"},
                                      {"attn.in_proj_weight", "self_attn.k_proj.weight"},
                                      {"attn.in_proj_weight", "self_attn.v_proj.weight"},
                                      {"attn.in_proj_bias", "self_attn.q_proj.bias"},
                                      {"attn.in_proj_bias", "self_attn.k_proj.bias"},
                                      {"attn.in_proj_bias", "self_attn.v_proj.bias"},
                                      {NULL, NULL}};

#define MMDIT_FEED_FORWARD(name)                                                                   \
    {"mlp.fc1", name ".net.0.proj"}, {"mlp.fc2", name ".net.2"},                                   \
    {                                                                                              \
        NULL, NULL                                                                                 \
    }
static const pair mmdit_image_ends[] = {{"adaLN_modulation.1", "norm1.linear"},
                                        {"attn.qkv", "attn.to_qkv"},
                                        {"attn.qkv", "attn.to_q"},
                                        {"attn.qkv", "attn.to_k"},
                                        {"attn.qkv", "attn.to_v"},
                                        {"attn.proj", "attn.to_out.0"},
                                        {"attn.ln_q", "attn.norm_q"},
                                        {"attn.ln_k", "attn.norm_k"},
                                        {"attn2.qkv", "attn2.to_qkv"},
                                        {"attn2.qkv", "attn2.to_q"},
                                        {"attn2.qkv", "attn2.to_k"},
                                        {"attn2.qkv", "attn2.to_v"},
                                        {"attn2.proj", "attn2.to_out.0"},
                                        {"attn2.ln_q", "attn2.norm_q"},
                                        {"attn2.ln_k", "attn2.norm_k"},
                                        MMDIT_FEED_FORWARD("ff")};
static const pair mmdit_text_ends[] = {{"adaLN_modulation.1", "norm1_context.linear"},
                                       {"attn.qkv", "attn.add_qkv_proj"},
                                       {"attn.qkv", "attn.add_q_proj"},
                                       {"attn.qkv", "attn.add_k_proj"},
                                       {"attn.qkv", "attn.add_v_proj"},
                                       {"attn.proj", "attn.to_add_out"},
                                       {"attn.ln_q", "attn.norm_added_q"},
                                       {"attn.ln_k", "attn.norm_added_k"},
                                       MMDIT_FEED_FORWARD("ff_context")};

typedef struct translation {
    const char *name;
    bool to_diffusers, found;
    sara_name result;
} translation;

/* What of the name follows `start`, from the dot on; NULL: it does not begin with it. */
static const char *after(const char *name, const char *start)
{
    size_t length = strlen(start);
    bool begins = strncmp(name, start, length) == 0 &&
                  (name[length] == '.' || name[length] == '\0' || length == 0);
    return begins ? name + length : NULL;
}

/* If the name lies in this block and no earlier block had it, this is its other name. ends NULL:
 * they are the same in both layouts. */
static void offer(translation *t, const char *ldm, const char *diffusers, const pair *ends)
{
    const char *tail = t->found ? NULL : after(t->name, t->to_diffusers ? ldm : diffusers);
    const char *to = t->to_diffusers ? diffusers : ldm;
    if (!tail)
        return;
    if (!ends) {
        t->result = sara_name_of("%s%s", to, tail);
        t->found = true;
    }
    for (; ends && ends->ldm && *tail == '.' && !t->found; ends++) {
        const char *rest = after(tail + 1, t->to_diffusers ? ends->ldm : ends->diffusers);
        if (!rest)
            continue;
        t->result =
            sara_name_of("%s.%s%s", to, t->to_diffusers ? ends->diffusers : ends->ldm, rest);
        t->found = true;
    }
}

/* -------------------------------------------------------------------------------------- U-Net */

/* Level i's blocks on the way down are input_blocks.{(layers+1) i + 1 + j}, the last of them the
 * downsampling; on the way up output_blocks.{(layers+1) i + j}, with the upsampling in the last. */
static void offer_unet_level(translation *t, const sara_ldm_shape *shape, int i)
{
    int stride = shape->layers + 1;
    bool up_attention = shape->attention[shape->levels - 1 - i];
    for (int j = 0; j < stride; j++) {
        int down = stride * i + 1 + j, up = stride * i + j;
        if (j < shape->layers) {
            offer(t, sara_name_of("input_blocks.%d.0", down).text,
                  sara_name_of("down_blocks.%d.resnets.%d", i, j).text, resnet_ends);
            if (shape->attention[i])
                offer(t, sara_name_of("input_blocks.%d.1", down).text,
                      sara_name_of("down_blocks.%d.attentions.%d", i, j).text, NULL);
        } else {
            offer(t, sara_name_of("input_blocks.%d.0.op", down).text,
                  sara_name_of("down_blocks.%d.downsamplers.0.conv", i).text, NULL);
        }
        offer(t, sara_name_of("output_blocks.%d.0", up).text,
              sara_name_of("up_blocks.%d.resnets.%d", i, j).text, resnet_ends);
        if (j == shape->layers)
            offer(t, sara_name_of("output_blocks.%d.%d.conv", up, up_attention ? 2 : 1).text,
                  sara_name_of("up_blocks.%d.upsamplers.0.conv", i).text, NULL);
        if (up_attention)
            offer(t, sara_name_of("output_blocks.%d.1", up).text,
                  sara_name_of("up_blocks.%d.attentions.%d", i, j).text, NULL);
    }
}

static void offer_unet(translation *t, const sara_ldm_shape *shape)
{
    offer(t, "time_embed.0", "time_embedding.linear_1", NULL);
    offer(t, "time_embed.2", "time_embedding.linear_2", NULL);
    offer(t, "label_emb.0.0", "add_embedding.linear_1", NULL);
    offer(t, "label_emb.0.2", "add_embedding.linear_2", NULL);
    offer(t, "input_blocks.0.0", "conv_in", NULL);
    for (int i = 0; i < shape->levels; i++)
        offer_unet_level(t, shape, i);
    offer(t, "middle_block.0", "mid_block.resnets.0", resnet_ends);
    offer(t, "middle_block.1", "mid_block.attentions.0", NULL);
    offer(t, "middle_block.2", "mid_block.resnets.1", resnet_ends);
    offer(t, "out.0", "conv_norm_out", NULL);
    offer(t, "out.2", "conv_out", NULL);
}

/* ---------------------------------------------------------------------------------------- VAE */

static void offer_vae_half(translation *t, const sara_ldm_shape *shape, const char *half)
{
    bool down = half[0] == 'e';
    for (int i = 0; i < shape->levels; i++) {
        int level = down ? i : shape->levels - 1 - i; /* LDM counts the decoder's from the end */
        sara_name ldm = sara_name_of("%s.%s.%d", half, down ? "down" : "up", level);
        sara_name diffusers = sara_name_of("%s.%s_blocks.%d", half, down ? "down" : "up", i);
        for (int j = 0; j < shape->layers + !down; j++)
            offer(t, sara_name_of("%s.block.%d", ldm.text, j).text,
                  sara_name_of("%s.resnets.%d", diffusers.text, j).text, vae_resnet_ends);
        offer(
            t, sara_name_of("%s.%s.conv", ldm.text, down ? "downsample" : "upsample").text,
            sara_name_of("%s.%s.0.conv", diffusers.text, down ? "downsamplers" : "upsamplers").text,
            NULL);
    }
    for (int i = 0; i < 2; i++)
        offer(t, sara_name_of("%s.mid.block_%d", half, i + 1).text,
              sara_name_of("%s.mid_block.resnets.%d", half, i).text, vae_resnet_ends);
    offer(t, sara_name_of("%s.mid.attn_1", half).text,
          sara_name_of("%s.mid_block.attentions.0", half).text, vae_attention_ends);
    offer(t, sara_name_of("%s.conv_in", half).text, sara_name_of("%s.conv_in", half).text, NULL);
    offer(t, sara_name_of("%s.norm_out", half).text, sara_name_of("%s.conv_norm_out", half).text,
          NULL);
    offer(t, sara_name_of("%s.conv_out", half).text, sara_name_of("%s.conv_out", half).text, NULL);
}

static void offer_vae(translation *t, const sara_ldm_shape *shape)
{
    offer_vae_half(t, shape, "encoder");
    offer_vae_half(t, shape, "decoder");
    offer(t, "quant_conv", "quant_conv", NULL);
    offer(t, "post_quant_conv", "post_quant_conv", NULL);
}

/* --------------------------------------------------------------------------------------- text */

/* It is beside the text encoder's tower in both layouts. */
static void offer_projection(translation *t, const sara_ldm_shape *shape)
{
    bool open = shape->part == SARA_LDM_OPEN_CLIP;
    if (shape->projection)
        offer(t, open ? "text_projection" : "text_projection.weight", "text_projection.weight",
              NULL);
}

/* Some files were written without text_model. */
static void offer_clip(translation *t)
{
    static const char *const bare[] = {"embeddings", "encoder", "final_layer_norm"};
    offer(t, "text_model", "text_model", NULL);
    for (size_t i = 0; i < sizeof(bare) / sizeof(*bare); i++)
        offer(t, bare[i], sara_name_of("text_model.%s", bare[i]).text, NULL);
}

static void offer_open_clip(translation *t)
{
    const char *layers =
        after(t->name, t->to_diffusers ? "transformer.resblocks" : "text_model.encoder.layers");
    char *end = NULL;
    long layer = layers && *layers == '.' ? strtol(layers + 1, &end, 10) : -1;
    offer(t, "positional_embedding", "text_model.embeddings.position_embedding.weight", NULL);
    offer(t, "token_embedding", "text_model.embeddings.token_embedding", NULL);
    offer(t, "ln_final", "text_model.final_layer_norm", NULL);
    if (layer >= 0 && end > layers + 1)
        offer(t, sara_name_of("transformer.resblocks.%ld", layer).text,
              sara_name_of("text_model.encoder.layers.%ld", layer).text, open_clip_ends);
}

/* -------------------------------------------------------------------------------------- MMDiT */

static void offer_mmdit(translation *t, const sara_ldm_shape *shape)
{
    static const pair ends[] = {{"t_embedder.mlp.0", "time_text_embed.timestep_embedder.linear_1"},
                                {"t_embedder.mlp.2", "time_text_embed.timestep_embedder.linear_2"},
                                {"y_embedder.mlp.0", "time_text_embed.text_embedder.linear_1"},
                                {"y_embedder.mlp.2", "time_text_embed.text_embedder.linear_2"},
                                {"x_embedder.proj", "pos_embed.proj"},
                                {"pos_embed", "pos_embed.pos_embed"},
                                {"context_embedder", "context_embedder"},
                                {"final_layer.adaLN_modulation.1", "norm_out.linear"},
                                {"final_layer.linear", "proj_out"}};
    for (size_t i = 0; i < sizeof(ends) / sizeof(*ends); i++)
        offer(t, ends[i].ldm, ends[i].diffusers, NULL);
    for (int i = 0; i < shape->layers; i++) {
        const sara_name block = sara_name_of("transformer_blocks.%d", i);
        offer(t, sara_name_of("joint_blocks.%d.x_block", i).text, block.text, mmdit_image_ends);
        offer(t, sara_name_of("joint_blocks.%d.context_block", i).text, block.text,
              mmdit_text_ends);
    }
}

/* ------------------------------------------------------------------------------------ interface */

static sara_status translate(sara_context *ctx, char **out, const sara_ldm_shape *shape,
                             const char *name, bool to_diffusers)
{
    bool is_text = shape->part == SARA_LDM_CLIP || shape->part == SARA_LDM_OPEN_CLIP;
    sara_name whole = sara_name_of("text_model.%s", name);
    translation t = {.name = name, .to_diffusers = to_diffusers};
    *out = NULL;
    if (strlen(name) > LONGEST_NAME)
        return SARA_OK;
    if (is_text)
        offer_projection(&t, shape);
    /* Newer transformers leave it out. */
    if (is_text && !to_diffusers && !after(name, "text_model"))
        t.name = whole.text;
    switch (shape->part) {
    case SARA_LDM_UNET:
        offer_unet(&t, shape);
        break;
    case SARA_LDM_VAE:
        offer_vae(&t, shape);
        break;
    case SARA_LDM_CLIP:
        offer_clip(&t);
        break;
    case SARA_LDM_OPEN_CLIP:
        offer_open_clip(&t);
        break;
    case SARA_LDM_T5:
        offer(&t, "", "", NULL);
        break;
    case SARA_LDM_MMDIT:
        offer_mmdit(&t, shape);
        break;
    }
    return t.found ? sara_strdup(ctx, out, t.result.text) : SARA_OK;
}

sara_status sara_ldm_to_diffusers(sara_context *ctx, char **out, const sara_ldm_shape *shape,
                                  const char *name)
{
    sara_name dotted;
    *out = NULL;
    if (shape->flat && !sara_ldm_unflatten(&dotted, name))
        return SARA_OK;
    return translate(ctx, out, shape, shape->flat ? dotted.text : name, true);
}

sara_status sara_ldm_from_diffusers(sara_context *ctx, char **out, const sara_ldm_shape *shape,
                                    const char *name)
{
    sara_status status = translate(ctx, out, shape, name, false);
    if (status == SARA_OK && *out && shape->flat) {
        const sara_name flat = sara_ldm_flatten(*out);
        memcpy(*out, flat.text, strlen(flat.text) + 1); /* it is shorter */
    }
    return status;
}

/* What the configs of a single file's parts must be, as its tensors' shapes tell; the rest as the
 * published models have it. Keys and values are those that diffusers and transformers write. */
#include "models/single_file.h"

#define HEAD_WIDTH 64 /* of SD2's U-Net and of all text encoders */

static json_t *integers(const int64_t *values, int count)
{
    json_t *list = json_array();
    for (int i = 0; i < count; i++)
        json_array_append_new(list, json_integer(values[i]));
    return list;
}

/* A name for each level; reversed: the last level's first. */
static json_t *kinds(const sara_ldm_shape *shape, const char *without, const char *with,
                     bool reversed)
{
    json_t *list = json_array();
    for (int i = 0; i < shape->levels; i++) {
        int level = reversed ? shape->levels - 1 - i : i;
        json_array_append_new(list, json_string(shape->attention[level] ? with : without));
    }
    return list;
}

static sara_status check_made(const sara_single_file *single, json_t *made, json_t **out)
{
    *out = made;
    return made ? SARA_OK
                : sara_fail(single->ctx, SARA_ERROR_MEMORY, "%s: out of memory: config",
                            single->path);
}

/* -------------------------------------------------------------------------------------- U-Net */

/* SD1 has eight heads everywhere, SD2 heads of 64 channels. */
static sara_status heads_of(const sara_single_file *single, int64_t *heads, const int64_t *channels,
                            int64_t cross_attention)
{
    for (int i = 0; i < single->unet.shape.levels; i++)
        heads[i] = cross_attention == SARA_SD1_CROSS_ATTENTION ? 8 : channels[i] / HEAD_WIDTH;
    if (cross_attention == SARA_SD1_CROSS_ATTENTION || cross_attention == SARA_SD2_CROSS_ATTENTION)
        return SARA_OK;
    return sara_fail(single->ctx, SARA_ERROR_INPUT,
                     "%s: cross attention of width %lld, expected %d (SD1.x) or %d (SD2.x); the "
                     "number of heads is not in the file: --model_config DIR names a diffusers "
                     "folder that tells it",
                     single->path, (long long)cross_attention, SARA_SD1_CROSS_ATTENTION,
                     SARA_SD2_CROSS_ATTENTION);
}

static int transformer_blocks(const sara_single_file *single)
{
    int count = 0;
    while (count < 32 &&
           sara_single_find(single, &single->unet,
                            "middle_block.1.transformer_blocks.%d.norm1.weight", count))
        count++;
    return count;
}

static sara_status check_channels(const sara_single_file *single, int64_t in)
{
    const char *what = in == 9   ? "an inpainting model"
                       : in == 8 ? "an InstructPix2Pix model"
                                 : "a model of another kind";
    if (in == 4)
        return SARA_OK;
    return sara_fail(single->ctx, SARA_ERROR_INPUT,
                     "%s: %sinput_blocks.0.0.weight takes %lld channels, expected 4: %s is not "
                     "supported",
                     single->path, single->unet.prefix, (long long)in, what);
}

sara_status sara_single_unet_config(const sara_single_file *single, json_t **out)
{
    const sara_single_part *unet = &single->unet;
    const sara_ldm_shape *shape = &unet->shape;
    int64_t channels[SARA_MAX_LEVELS] = {0}, heads[SARA_MAX_LEVELS] = {0};
    int64_t in = sara_single_dim(sara_single_find(single, unet, "input_blocks.0.0.weight"), 1);
    int64_t cross = sara_single_dim(
        sara_single_find(single, unet, "middle_block.1.transformer_blocks.0.attn2.to_k.weight"), 1);
    const sara_tensor_info *proj = sara_single_find(single, unet, "middle_block.1.proj_in.weight");
    sara_status status;
    *out = NULL;
    for (int i = 0; i < shape->levels; i++)
        channels[i] =
            sara_single_dim(sara_single_find(single, unet, "input_blocks.%d.0.out_layers.3.weight",
                                             (shape->layers + 1) * i + 1),
                            0);
    TRY(check_channels(single, in));
    TRY(heads_of(single, heads, channels, cross));
    TRY(check_made(
        single,
        json_pack("{s:s,s:s,s:o,s:I,s:b,s:o,s:o,s:I,s:I,s:b,s:I,s:i,s:f,s:i,s:I,s:i,s:i,s:b,s:o}",
                  "_class_name", "UNet2DConditionModel", "act_fn", "silu", "attention_head_dim",
                  integers(heads, shape->levels), "cross_attention_dim", (json_int_t)cross,
                  "center_input_sample", 0, "block_out_channels", integers(channels, shape->levels),
                  "down_block_types", kinds(shape, "DownBlock2D", "CrossAttnDownBlock2D", false),
                  "in_channels", (json_int_t)in, "out_channels", (json_int_t)in, "flip_sin_to_cos",
                  1, "layers_per_block", (json_int_t)shape->layers, "norm_num_groups", 32,
                  "norm_eps", 1e-5, "freq_shift", 0, "sample_size", (json_int_t)64,
                  "downsample_padding", 1, "transformer_layers_per_block",
                  transformer_blocks(single), "use_linear_projection",
                  proj && proj->shape.rank == 2, "up_block_types",
                  kinds(shape, "UpBlock2D", "CrossAttnUpBlock2D", true)),
        out));
done:
    return status;
}

/* ---------------------------------------------------------------------------------------- VAE */

sara_status sara_single_vae_config(const sara_single_file *single, json_t **out)
{
    const sara_single_part *vae = &single->vae;
    const sara_ldm_shape *shape = &vae->shape;
    int64_t channels[SARA_MAX_LEVELS] = {0};
    int64_t latent = sara_single_dim(sara_single_find(single, vae, "decoder.conv_in.weight"), 1);
    for (int i = 0; i < shape->levels; i++)
        channels[i] = sara_single_dim(
            sara_single_find(single, vae, "encoder.down.%d.block.0.conv2.weight", i), 0);
    return check_made(single,
                      json_pack("{s:s,s:s,s:o,s:o,s:o,s:i,s:i,s:I,s:I,s:i,s:I,s:f}", "_class_name",
                                "AutoencoderKL", "act_fn", "silu", "block_out_channels",
                                integers(channels, shape->levels), "down_block_types",
                                kinds(shape, "DownEncoderBlock2D", "", false), "up_block_types",
                                kinds(shape, "UpDecoderBlock2D", "", false), "in_channels", 3,
                                "out_channels", 3, "latent_channels", (json_int_t)latent,
                                "layers_per_block", (json_int_t)shape->layers, "norm_num_groups",
                                32, "sample_size", (json_int_t)512, "scaling_factor", 0.18215),
                      out);
}

/* --------------------------------------------------------------------------------------- text */

sara_status sara_single_text_config(const sara_single_file *single, json_t **out)
{
    const sara_single_part *text = &single->text;
    bool open = text->shape.part == SARA_LDM_OPEN_CLIP;
    const sara_tensor_info *tokens = sara_single_find(
        single, text, open ? "token_embedding.weight" : "embeddings.token_embedding.weight");
    const sara_tensor_info *positions = sara_single_find(
        single, text, open ? "positional_embedding" : "embeddings.position_embedding.weight");
    const sara_tensor_info *inner = sara_single_find(
        single, text,
        open ? "transformer.resblocks.0.mlp.c_fc.weight" : "encoder.layers.0.mlp.fc1.weight");
    json_int_t hidden = sara_single_dim(tokens, 1);
    bool second = open || hidden == SARA_SD2_CROSS_ATTENTION; /* under either names */
    return check_made(
        single,
        json_pack("{s:[s],s:s,s:s,s:I,s:I,s:I,s:I,s:I,s:I,s:f,s:i,s:i,s:i}", "architectures",
                  "CLIPTextModel", "model_type", "clip_text_model", "hidden_act",
                  second ? "gelu" : "quick_gelu", "hidden_size", hidden, "intermediate_size",
                  (json_int_t)sara_single_dim(inner, 0), "num_attention_heads", hidden / HEAD_WIDTH,
                  "num_hidden_layers", (json_int_t)text->shape.layers, "max_position_embeddings",
                  (json_int_t)sara_single_dim(positions, 0), "vocab_size",
                  (json_int_t)sara_single_dim(tokens, 0), "layer_norm_eps", 1e-5, "bos_token_id",
                  49406, "eos_token_id", 49407, "pad_token_id", second ? 0 : 1),
        out);
}

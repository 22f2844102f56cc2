/* What the configs of a single file's parts must be, as its tensors' shapes tell; the rest as the
 * published models have it. Keys and values are those that diffusers and transformers write. */
#include "models/single_file.h"

#define HEAD_WIDTH 64 /* of SD2's U-Net and of all text encoders */

static const char input_conv[] = "input_blocks.0.0.weight";

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

/* *out: the part's tensor, which is to have so many dimensions. */
static sara_status need(const sara_single_file *single, const sara_single_part *part,
                        const sara_tensor_info **out, int rank, sara_name name)
{
    static const char *const parts[] = {[SARA_LDM_UNET] = "U-Net",
                                        [SARA_LDM_VAE] = "VAE",
                                        [SARA_LDM_CLIP] = "CLIP text encoder",
                                        [SARA_LDM_OPEN_CLIP] = "OpenCLIP text encoder"};
    const sara_tensor_info *info = sara_single_find(single, part, name.text);
    sara_shape_text shape;
    *out = info;
    if (!info)
        return sara_fail(single->ctx, SARA_ERROR_INPUT, "%s: no tensor %s%s%s in its %s",
                         single->path, part->prefix, part->stem, name.text,
                         parts[part->shape.part]);
    if (info->shape.rank != rank)
        return sara_fail(single->ctx, SARA_ERROR_INPUT,
                         "%s: tensor %s: shape %s, expected %d dimensions", single->path,
                         info->name, sara_shape_format(&shape, &info->shape), rank);
    return SARA_OK;
}

/* The same, of one of its dimensions. */
static sara_status need_dim(const sara_single_file *single, const sara_single_part *part,
                            int64_t *out, int rank, int index, sara_name name)
{
    const sara_tensor_info *info;
    sara_status status;
    TRY(need(single, part, &info, rank, name));
    *out = info->shape.dims[index];
done:
    return status;
}

/* start<number>end of the first of `count` layers that has it: which are missing is told later. */
static sara_name first_there(const sara_single_file *single, const sara_single_part *part,
                             const char *start, int number, int count, const char *end)
{
    for (int i = 0; i < count; i++) {
        const sara_name name = sara_name_of("%s%d%s", start, number + i, end);
        if (sara_single_find(single, part, name.text))
            return name;
    }
    return sara_name_of("%s%d%s", start, number, end);
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

sara_status sara_single_check_channels(const sara_single_file *single, int64_t configured)
{
    const sara_tensor_info *conv = sara_single_find(single, &single->unet, input_conv);
    int64_t in = conv && conv->shape.rank == 4 ? conv->shape.dims[1] : 4; /* else told of later */
    const char *what = in == 9   ? "an inpainting model"
                       : in == 8 ? "an InstructPix2Pix model"
                                 : "a model of another kind";
    if (in == 4 || (in == configured && in != 9))
        return SARA_OK;
    return sara_fail(single->ctx, SARA_ERROR_INPUT,
                     "%s: %s takes %lld channels, expected 4: %s is not supported", single->path,
                     conv->name, (long long)in, what);
}

sara_status sara_single_unet_config(const sara_single_file *single, json_t **out)
{
    const sara_single_part *unet = &single->unet;
    const sara_ldm_shape *shape = &unet->shape;
    int64_t channels[SARA_MAX_LEVELS] = {0}, heads[SARA_MAX_LEVELS] = {0}, in, cross;
    const sara_tensor_info *proj = sara_single_find(single, unet, "middle_block.1.proj_in.weight");
    sara_status status;
    *out = NULL;
    TRY(sara_single_check_channels(single, 4));
    TRY(need_dim(single, unet, &in, 4, 1, sara_name_of("%s", input_conv)));
    TRY(need_dim(single, unet, &cross, 2, 1,
                 sara_name_of("middle_block.1.transformer_blocks.0.attn2.to_k.weight")));
    for (int i = 0; i < shape->levels; i++)
        TRY(need_dim(single, unet, &channels[i], 4, 0,
                     first_there(single, unet, "input_blocks.", (shape->layers + 1) * i + 1,
                                 shape->layers, ".0.out_layers.3.weight")));
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
                  sara_single_count(single, unet, "middle_block.1.transformer_blocks."),
                  "use_linear_projection", proj && proj->shape.rank == 2, "up_block_types",
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
    int64_t latent;
    /* Some VAEs have neither; where one of both is there, the other is missing. */
    bool quant = sara_single_has(single, vae, "quant_conv.") ||
                 sara_single_has(single, vae, "post_quant_conv.");
    sara_status status;
    TRY(need_dim(single, vae, &latent, 4, 1, sara_name_of("decoder.conv_in.weight")));
    for (int i = 0; i < shape->levels; i++) {
        const sara_name block = vae->diffusers ? sara_name_of("encoder.down_blocks.%d.resnets.", i)
                                               : sara_name_of("encoder.down.%d.block.", i);
        TRY(need_dim(single, vae, &channels[i], 4, 0,
                     first_there(single, vae, block.text, 0, shape->layers, ".conv2.weight")));
    }
    TRY(check_made(single,
                   json_pack("{s:s,s:s,s:o,s:o,s:o,s:i,s:i,s:I,s:I,s:i,s:I,s:f,s:b,s:b}",
                             "_class_name", "AutoencoderKL", "act_fn", "silu", "block_out_channels",
                             integers(channels, shape->levels), "down_block_types",
                             kinds(shape, "DownEncoderBlock2D", "", false), "up_block_types",
                             kinds(shape, "UpDecoderBlock2D", "", false), "in_channels", 3,
                             "out_channels", 3, "latent_channels", (json_int_t)latent,
                             "layers_per_block", (json_int_t)shape->layers, "norm_num_groups", 32,
                             "sample_size", (json_int_t)512, "scaling_factor", 0.18215,
                             "use_quant_conv", quant, "use_post_quant_conv", quant),
                   out));
done:
    return status;
}

/* --------------------------------------------------------------------------------------- text */

/* At least as many layers as are in use of the published encoder of these widths, so that the last
 * are missed where they are missing; of others the file alone tells. */
static int text_layers(const sara_single_file *single, int64_t hidden, int64_t inner)
{
    static const struct {
        int64_t hidden, inner;
        int layers;
    } published[] = {{SARA_SD1_CROSS_ATTENTION, 3072, 12}, {SARA_SD2_CROSS_ATTENTION, 4096, 23}};
    int layers = single->text.shape.layers;
    for (size_t i = 0; i < sizeof(published) / sizeof(*published); i++)
        if (published[i].hidden == hidden && published[i].inner == inner)
            return layers > published[i].layers ? layers : published[i].layers;
    sara_log(single->ctx, SARA_LOG_INFO,
             "%s: text encoder of %d layers, as many as the file holds (no published one has its "
             "widths, %lld and %lld)",
             single->path, layers, (long long)hidden, (long long)inner);
    return layers;
}

sara_status sara_single_text_config(const sara_single_file *single, json_t **out)
{
    const sara_single_part *text = &single->text;
    bool open = text->shape.part == SARA_LDM_OPEN_CLIP;
    const sara_tensor_info *tokens;
    int64_t positions, inner;
    sara_status status;
    TRY(need(single, text, &tokens, 2,
             sara_name_of(open ? "token_embedding.weight" : "embeddings.token_embedding.weight")));
    TRY(need_dim(
        single, text, &positions, 2, 0,
        sara_name_of(open ? "positional_embedding" : "embeddings.position_embedding.weight")));
    TRY(need_dim(single, text, &inner, 2, 0,
                 sara_name_of(open ? "transformer.resblocks.0.mlp.c_fc.weight"
                                   : "encoder.layers.0.mlp.fc1.weight")));
    json_int_t hidden = tokens->shape.dims[1];
    bool second = open || hidden == SARA_SD2_CROSS_ATTENTION; /* under either names */
    TRY(check_made(
        single,
        json_pack("{s:[s],s:s,s:s,s:I,s:I,s:I,s:I,s:I,s:I,s:f,s:i,s:i,s:i}", "architectures",
                  "CLIPTextModel", "model_type", "clip_text_model", "hidden_act",
                  second ? "gelu" : "quick_gelu", "hidden_size", hidden, "intermediate_size",
                  (json_int_t)inner, "num_attention_heads", hidden / HEAD_WIDTH,
                  "num_hidden_layers", (json_int_t)text_layers(single, hidden, inner),
                  "max_position_embeddings", (json_int_t)positions, "vocab_size",
                  (json_int_t)tokens->shape.dims[0], "layer_norm_eps", 1e-5, "bos_token_id", 49406,
                  "eos_token_id", 49407, "pad_token_id", second ? 0 : 1),
        out));
done:
    return status;
}

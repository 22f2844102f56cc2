#include "models/unet/config.h"

/* As SDXL has it. */
#define TEXT_TIME "\"text_time\""

/* Options of UNet2DConditionModel that this network has only one way of. */
static const sara_supported supported[] = {
    {"act_fn", {"\"silu\"", "\"swish\""}},
    {"addition_embed_type", {"null", TEXT_TIME}},
    {"attention_type", {"\"default\""}},
    {"class_embed_type", {"null"}},
    {"class_embeddings_concat", {"false", "null"}},
    {"conv_in_kernel", {"3"}},
    {"conv_out_kernel", {"3"}},
    {"cross_attention_norm", {"null"}},
    {"dropout", {"0.0", "0"}},
    {"dual_cross_attention", {"false", "null"}},
    {"encoder_hid_dim", {"null"}},
    {"encoder_hid_dim_type", {"null"}},
    {"mid_block_only_cross_attention", {"null", "false"}},
    {"mid_block_scale_factor", {"1", "1.0"}},
    {"mid_block_type", {"\"UNetMidBlock2DCrossAttn\""}},
    {"num_class_embeds", {"null"}},
    {"only_cross_attention", {"false", "null"}},
    {"resnet_out_scale_factor", {"1.0", "1"}},
    {"resnet_skip_time_act", {"false", "null"}},
    {"resnet_time_scale_shift", {"\"default\""}},
    {"reverse_transformer_layers_per_block", {"null"}},
    {"time_cond_proj_dim", {"null"}},
    {"time_embedding_act_fn", {"null"}},
    {"time_embedding_dim", {"null"}},
    {"time_embedding_type", {"\"positional\""}},
    {"timestep_post_act", {"null"}},
    {NULL, {NULL}},
};

/* A number for each level: a list of as many, one for all, or the default. */
static sara_status read_per_level(const sara_config *fields, int64_t *out, const char *key,
                                  int levels, int64_t fallback, int64_t high)
{
    int count;
    sara_status status = sara_config_ints(fields, out, &count, key, levels, levels, 1, high);
    for (int i = 0; status == SARA_OK && count == 0 && i < levels; i++)
        out[i] = fallback;
    return status;
}

static sara_status read_heads(const sara_model_config *file, sara_unet_config *out)
{
    /* diffusers calls the number of heads attention_head_dim. */
    int64_t heads[SARA_MAX_LEVELS];
    const json_t *given = json_object_get(file->object, "num_attention_heads");
    const char *key = given && !json_is_null(given) ? "num_attention_heads" : "attention_head_dim";
    sara_status status;
    TRY(read_per_level(&file->fields, heads, key, out->levels, 8, SARA_MAX_CHANNELS));
    for (int i = 0; i < out->levels; i++) {
        if (heads[i] > out->level[i].channels) {
            status = sara_model_config_refuse(file, key, "more heads than channels");
            goto done;
        }
        out->level[i].heads = (int)heads[i];
    }
done:
    return status;
}

static sara_status read_cross_attention(const sara_model_config *file, sara_unet_config *out)
{
    int64_t dims[SARA_MAX_LEVELS];
    int last = out->levels - 1;
    sara_status status;
    TRY(read_per_level(&file->fields, dims, "cross_attention_dim", out->levels, 1280,
                       SARA_MAX_CHANNELS));
    for (int i = 0; i < last; i++)
        if ((out->level[i].down_attention || out->level[i].up_attention) && dims[i] != dims[last]) {
            status = sara_model_config_refuse(file, "cross_attention_dim",
                                              "different widths are not supported");
            goto done;
        }
    out->cross_attention_dim = dims[last];
done:
    return status;
}

/* Their meaning for diffusers is not the default's: no norms, no mid block, no cross attention. */
static sara_status refuse_nulls(const sara_model_config *file)
{
    static const char *const keys[] = {"norm_num_groups", "cross_attention_dim",
                                       "layers_per_block"};
    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++)
        if (json_is_null(json_object_get(file->object, keys[i])))
            return sara_model_config_refuse(file, keys[i], "not supported");
    return SARA_OK;
}

static sara_status read_levels(const sara_model_config *file, sara_unet_config *out)
{
    int64_t channels[SARA_MAX_LEVELS] = {320, 640, 1280, 1280}, numbers[SARA_MAX_LEVELS];
    bool down[SARA_MAX_LEVELS], up[SARA_MAX_LEVELS];
    sara_status status;
    TRY(sara_config_ints(&file->fields, channels, &out->levels, "block_out_channels", 0,
                         SARA_MAX_LEVELS, 1, SARA_MAX_CHANNELS));
    if (out->levels == 0)
        out->levels = 4;
    TRY(sara_model_config_groups(file, channels, out->levels, out->groups));
    TRY(sara_model_config_types(file, down, out->levels, "down_block_types", "DownBlock2D",
                                "CrossAttnDownBlock2D"));
    TRY(sara_model_config_types(file, up, out->levels, "up_block_types", "UpBlock2D",
                                "CrossAttnUpBlock2D"));
    for (int i = 0; i < out->levels; i++) {
        out->level[i].channels = channels[i];
        out->level[i].down_attention = down[i];
        out->level[i].up_attention = up[out->levels - 1 - i];
    }
    TRY(read_per_level(&file->fields, numbers, "layers_per_block", out->levels, 2,
                       SARA_MAX_LAYERS));
    for (int i = 0; i < out->levels; i++)
        out->level[i].layers = (int)numbers[i];
    TRY(read_per_level(&file->fields, numbers, "transformer_layers_per_block", out->levels, 1, 32));
    for (int i = 0; i < out->levels; i++)
        out->level[i].transformer_blocks = (int)numbers[i];
    TRY(read_heads(file, out));
    TRY(read_cross_attention(file, out));
done:
    return status;
}

const char *sara_unet_other_kind(int64_t in_channels)
{
    switch (in_channels) {
    case 5:
        return "a depth model, which is given depths too; use the model that it was made of";
    case 7:
        return "an upscaler, which is given a picture too; use a model of text to image";
    case 8:
        return "an edit model (InstructPix2Pix), which is given a picture too; use the model that "
               "it was made of";
    case 9:
        return "an inpainting model, which is given a mask and a picture too; use the model that "
               "it was made of";
    default:
        return NULL;
    }
}

static sara_status read_channels(const sara_model_config *file, sara_unet_config *out)
{
    sara_status status;
    TRY(sara_config_int(&file->fields, &out->in_channels, "in_channels", 4, 1, 1024));
    TRY(sara_config_int(&file->fields, &out->out_channels, "out_channels", 4, 1, 1024));
    const char *other = sara_unet_other_kind(out->in_channels);
    if (other && (out->in_channels != out->out_channels || out->in_channels == 9))
        status = sara_model_config_refuse(file, "in_channels", other);
    else if (out->in_channels != out->out_channels)
        status = sara_fail(file->fields.ctx, SARA_ERROR_INPUT,
                           "%s: in_channels %lld, out_channels %lld: models whose output is not "
                           "shaped like their input are not supported",
                           file->path, (long long)out->in_channels, (long long)out->out_channels);
done:
    return status;
}

static sara_status read_time(const sara_model_config *file, sara_unet_config *out)
{
    int64_t half = out->level[0].channels / 2;
    sara_status status;
    TRY(sara_config_bool(&file->fields, &out->sinusoids.cosines_first, "flip_sin_to_cos", true));
    TRY(sara_config_int(&file->fields, &out->sinusoids.shift, "freq_shift", 0, 0,
                        half > 1 ? half - 1 : 0));
done:
    return status;
}

/* What is added to the time embedding: of the pooled text, beside sinusoids of the time ids. */
static sara_status read_addition(const sara_model_config *file, sara_unet_config *out)
{
    static const char inputs[] = "projection_class_embeddings_input_dim";
    const int64_t most = (int64_t)SARA_TIME_IDS * SARA_MAX_CHANNELS;
    const char *type = "";
    int64_t width, in;
    sara_status status;
    TRY(sara_config_string(&file->fields, &type, "addition_embed_type", ""));
    if (!*type)
        return SARA_OK;
    TRY(sara_config_int(&file->fields, &width, "addition_time_embed_dim", 0, 1, SARA_MAX_CHANNELS));
    TRY(sara_config_int(&file->fields, &in, inputs, 0, 1, most));
    if (width == 0 || in == 0)
        return sara_model_config_refuse(file, width ? inputs : "addition_time_embed_dim",
                                        "addition_embed_type needs it");
    if (in <= SARA_TIME_IDS * width)
        return sara_fail(file->fields.ctx, SARA_ERROR_INPUT,
                         "%s: %s %lld, addition_time_embed_dim %lld: of six of these and the "
                         "pooled text it must be the sum",
                         file->path, inputs, (long long)in, (long long)width);
    if (out->sinusoids.shift >= width / 2 && out->sinusoids.shift)
        return sara_model_config_refuse(file, "freq_shift", "addition_time_embed_dim is too small");
    out->time_id_width = width;
    out->pooled_width = in - SARA_TIME_IDS * width;
done:
    return status;
}

sara_status sara_unet_config_read(const sara_model_config *file, sara_unet_config *out)
{
    int64_t number;
    int count;
    sara_status status;
    TRY(sara_model_config_check(file, supported));
    TRY(refuse_nulls(file));
    TRY(sara_config_int(&file->fields, &number, "norm_num_groups", 32, 1, SARA_MAX_CHANNELS));
    out->groups = (int)number;
    TRY(sara_config_double(&file->fields, &out->norm_eps, "norm_eps", 1e-5, 0, 1));
    TRY(read_levels(file, out));
    TRY(read_channels(file, out));
    TRY(read_time(file, out));
    TRY(read_addition(file, out));
    TRY(sara_config_ints(&file->fields, out->sample_size, &count, "sample_size", 2, 2, 1, 65536));
    TRY(sara_config_int(&file->fields, &number, "downsample_padding", 1, 0, 1));
    out->downsample_padding = (int)number;
    TRY(sara_config_bool(&file->fields, &out->linear_projection, "use_linear_projection", false));
    TRY(sara_config_bool(&file->fields, &out->center_input_sample, "center_input_sample", false));
done:
    return status;
}

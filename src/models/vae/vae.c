#include "models/vae/parts.h"

/* ----------------------------------------------------------------------------------- config */

static const sara_supported supported[] = {
    {"act_fn", {"\"silu\"", "\"swish\""}},
    {"latents_mean", {"null"}},
    {"latents_std", {"null"}},
    {NULL, {NULL}},
};

static sara_status read_stages(const sara_model_config *file, sara_vae_config *out)
{
    bool other[SARA_VAE_MAX_STAGES];
    int64_t groups;
    sara_status status;
    out->channels[0] = 64;
    TRY(sara_config_ints(&file->fields, out->channels, &out->stages, "block_out_channels", 0,
                         SARA_VAE_MAX_STAGES, 1, SARA_MAX_CHANNELS));
    if (out->stages == 0)
        out->stages = 1;
    if (json_is_null(json_object_get(file->object, "norm_num_groups"))) {
        status = sara_model_config_refuse(file, "norm_num_groups", "not supported");
        goto done;
    }
    TRY(sara_config_int(&file->fields, &groups, "norm_num_groups", 32, 1, SARA_MAX_CHANNELS));
    out->groups = (sara_groups){(int)groups, 1e-6f};
    TRY(sara_model_config_groups(file, out->channels, out->stages, groups));
    TRY(sara_model_config_types(file, other, out->stages, "down_block_types", "DownEncoderBlock2D",
                                "DownEncoderBlock2D"));
    TRY(sara_model_config_types(file, other, out->stages, "up_block_types", "UpDecoderBlock2D",
                                "UpDecoderBlock2D"));
done:
    return status;
}

static sara_status vae_read_config(sara_network *network, const sara_model_config *file)
{
    sara_vae_config *out = &((sara_vae *)network)->config;
    sara_vae_info *info = &network->info.vae;
    const sara_config *fields = &file->fields;
    int64_t layers, sample_size[2] = {32, 32};
    int count;
    sara_status status;
    TRY(sara_model_config_check(file, supported));
    TRY(read_stages(file, out));
    TRY(sara_config_int(fields, &layers, "layers_per_block", 1, 1, 16));
    out->layers = (int)layers;
    TRY(sara_config_int(fields, &out->in_channels, "in_channels", 3, 3, 3));
    TRY(sara_config_int(fields, &out->out_channels, "out_channels", 3, 3, 3));
    TRY(sara_config_int(fields, &out->latent_channels, "latent_channels", 4, 1, 1024));
    TRY(sara_config_bool(fields, &out->mid_attention, "mid_block_add_attention", true));
    TRY(sara_config_bool(fields, &out->quant_conv, "use_quant_conv", true));
    TRY(sara_config_bool(fields, &out->post_quant_conv, "use_post_quant_conv", true));
    TRY(sara_config_ints(fields, sample_size, &count, "sample_size", 2, 2, 1, 65536));
    TRY(sara_config_double(fields, &info->scaling_factor, "scaling_factor", 0.18215, 1e-6, 1e6));
    TRY(sara_config_double(fields, &info->shift_factor, "shift_factor", 0, -1e6, 1e6));
    info->latent_channels = (int)out->latent_channels;
    info->factor = 1 << (out->stages - 1);
    info->sample_size = (int)sample_size[0];
done:
    return status;
}

/* ------------------------------------------------------------------------------------ binding */

static const char *const attention_names[][2] = {
    {"to_q", "query"}, {"to_k", "key"}, {"to_v", "value"}, {"to_out.0", "proj_attn"}};

bool sara_vae_other_name(sara_name *out, const char *name)
{
    for (int i = 0; i < 8; i++) {
        sara_name piece = sara_name_of(".attentions.0.%s.", attention_names[i / 2][i % 2]);
        const char *found = strstr(name, piece.text);
        if (found) {
            *out = sara_name_of("%.*s.attentions.0.%s.%s", (int)(found - name), name,
                                attention_names[i / 2][1 - i % 2], found + strlen(piece.text));
            return true;
        }
    }
    return false;
}

/* Files written before diffusers 0.18 name the attention's layers differently, and some keep the
 * 1x1 kernels of the original checkpoint. */
static sara_status accept_old_names(sara_binder *binder, const char *name, int64_t channels)
{
    sara_shape kernel = sara_shape4(channels, channels, 1, 1);
    sara_status status = SARA_OK;
    for (int i = 0; i < 4; i++) {
        sara_name weight = sara_name_of("%s.%s.weight", name, attention_names[i][0]);
        TRY(sara_binder_also_shape(binder, weight.text, &kernel));
        TRY(sara_binder_alias(binder, weight.text,
                              sara_name_of("%s.%s.weight", name, attention_names[i][1]).text));
        TRY(sara_binder_alias(binder, sara_name_of("%s.%s.bias", name, attention_names[i][0]).text,
                              sara_name_of("%s.%s.bias", name, attention_names[i][1]).text));
    }
done:
    return status;
}

static sara_status bind_mid(sara_binder *binder, sara_vae_mid *mid, const char *half,
                            const sara_vae_config *config)
{
    static const sara_attention_names names = {"to_q", "to_k", "to_v", "to_out.0"};
    int64_t channels = config->channels[config->stages - 1];
    sara_name attention = sara_name_of("%s.mid_block.attentions.0", half);
    sara_status status = SARA_OK;
    for (int i = 0; i < 2; i++)
        TRY(sara_resnet_bind(binder, &mid->resnets[i],
                             sara_name_of("%s.mid_block.resnets.%d", half, i).text, channels,
                             channels, 0, &config->groups));
    if (!config->mid_attention)
        goto done;
    mid->attention.heads = 1;
    TRY(sara_norm_bind(binder, &mid->norm, sara_name_of("%s.group_norm", attention.text).text,
                       channels));
    TRY(sara_attention_bind(binder, &mid->attention, attention.text, &names, channels, channels,
                            channels, true));
    TRY(accept_old_names(binder, attention.text, channels));
done:
    return status;
}

/* name: "encoder.down_blocks.0"; resample NULL: the stage keeps its resolution. */
static sara_status bind_stage(sara_vae *vae, sara_binder *binder, sara_vae_stage *stage,
                              const char *name, const char *resample, int count, int64_t in,
                              int64_t out)
{
    size_t bytes = (size_t)count * sizeof(*stage->resnets);
    sara_status status;
    TRY(sara_arena_alloc(&vae->network.arena, &stage->resnets, 1, bytes));
    memset(stage->resnets, 0, bytes);
    stage->count = count;
    for (int i = 0; i < count; i++)
        TRY(sara_resnet_bind(binder, &stage->resnets[i],
                             sara_name_of("%s.resnets.%d", name, i).text, i ? out : in, out, 0,
                             &vae->config.groups));
    if (resample)
        TRY(sara_conv_bind(binder, &stage->resample,
                           sara_name_of("%s.%s.0.conv", name, resample).text, out, out, 3));
done:
    return status;
}

static sara_status bind_encoder(sara_vae *vae, sara_binder *binder)
{
    const sara_vae_config *config = &vae->config;
    const int64_t *channels = config->channels;
    int last = config->stages - 1;
    sara_vae_half *encoder = &vae->encoder;
    sara_status status;
    TRY(sara_conv_bind(binder, &encoder->conv_in, "encoder.conv_in", channels[0],
                       config->in_channels, 3));
    for (int i = 0; i <= last; i++)
        TRY(bind_stage(vae, binder, &encoder->stages[i],
                       sara_name_of("encoder.down_blocks.%d", i).text,
                       i < last ? "downsamplers" : NULL, config->layers, channels[i ? i - 1 : 0],
                       channels[i]));
    TRY(bind_mid(binder, &encoder->mid, "encoder", config));
    TRY(sara_norm_bind(binder, &encoder->norm_out, "encoder.conv_norm_out", channels[last]));
    TRY(sara_conv_bind(binder, &encoder->conv_out, "encoder.conv_out", 2 * config->latent_channels,
                       channels[last], 3));
done:
    return status;
}

static sara_status bind_decoder(sara_vae *vae, sara_binder *binder)
{
    const sara_vae_config *config = &vae->config;
    const int64_t *channels = config->channels;
    int last = config->stages - 1;
    sara_vae_half *decoder = &vae->decoder;
    sara_status status;
    TRY(sara_conv_bind(binder, &decoder->conv_in, "decoder.conv_in", channels[last],
                       config->latent_channels, 3));
    TRY(bind_mid(binder, &decoder->mid, "decoder", config));
    for (int i = 0; i <= last; i++)
        TRY(bind_stage(vae, binder, &decoder->stages[i],
                       sara_name_of("decoder.up_blocks.%d", i).text, i < last ? "upsamplers" : NULL,
                       config->layers + 1, channels[last - i + (i ? 1 : 0)], channels[last - i]));
    TRY(sara_norm_bind(binder, &decoder->norm_out, "decoder.conv_norm_out", channels[0]));
    TRY(sara_conv_bind(binder, &decoder->conv_out, "decoder.conv_out", config->out_channels,
                       channels[0], 3));
done:
    return status;
}

static sara_status vae_bind(sara_network *network, sara_binder *binder, const sara_weights *weights)
{
    sara_vae *vae = (sara_vae *)network;
    int64_t latent = vae->config.latent_channels;
    sara_status status;
    (void)weights;
    TRY(bind_encoder(vae, binder));
    TRY(bind_decoder(vae, binder));
    if (vae->config.quant_conv)
        TRY(sara_conv_bind(binder, &vae->quant_conv, "quant_conv", 2 * latent, 2 * latent, 1));
    if (vae->config.post_quant_conv)
        TRY(sara_conv_bind(binder, &vae->post_quant_conv, "post_quant_conv", latent, latent, 1));
done:
    return status;
}

/* ----------------------------------------------------------------------------------- the class */

static json_t *vae_settings(const sara_network *network)
{
    /* As floats: the metadata of files keep fewer digits than a folder's config. */
    const double scale = (float)network->info.vae.scaling_factor;
    const double shift = (float)network->info.vae.shift_factor;
    return json_pack("{s:f,s:f,s:i}", "scaling_factor", scale, "shift_factor", shift, "groups",
                     ((const sara_vae *)network)->config.groups.groups);
}

const sara_network_class sara_vae_class = {.library = "diffusers",
                                           .name = "AutoencoderKL",
                                           .key = "_class_name",
                                           .value = "AutoencoderKL",
                                           .stem = SARA_DIFFUSERS_STEM,
                                           .title = "VAE",
                                           .size = sizeof(sara_vae),
                                           .read_config = vae_read_config,
                                           .bind = vae_bind,
                                           .single = &sara_vae_single,
                                           .settings = vae_settings};

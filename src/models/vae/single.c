/* A VAE's layout in single files, among other parts or alone. */
#include "models/single_file.h"
#include "models/vae/parts.h"

static const char *const *vae_starts(sara_ldm_part names)
{
    static const char *const halves[] = {"decoder.", "encoder."};
    (void)names;
    return halves;
}

static sara_status vae_read_shape(const sara_single_file *single, sara_single_part *vae)
{
    static const char *const halves[] = {"encoder", "decoder"};
    bool own = vae->diffusers;
    int down = sara_single_count(single, vae, own ? "encoder.down_blocks." : "encoder.down.");
    int up = sara_single_count(single, vae, own ? "decoder.up_blocks." : "decoder.up.");
    const char *first = own ? "encoder.down_blocks.0.resnets." : "encoder.down.0.block.";
    sara_status status = SARA_OK;
    vae->shape.levels = sara_single_clamp(down > up ? down : up, SARA_MAX_LEVELS);
    vae->shape.layers =
        sara_single_clamp(sara_single_count(single, vae, first), SARA_SINGLE_LAYERS);
    for (int i = 0; i < 2 && !vae->fault; i++)
        if (!sara_single_has(single, vae, sara_name_of("%s.", halves[i]).text))
            TRY(sara_format(single->ctx, &vae->fault,
                            "%s: its VAE has no %s (no tensor %s%s.*); %s", single->path, halves[i],
                            vae->prefix, halves[i],
                            single->alone ? "a VAE with encoder and decoder is expected"
                                          : "a whole checkpoint is expected (or --vae PATH, "
                                            "or --unet-only)"));
done:
    return status;
}

static sara_status vae_derive(const sara_single_file *single, const sara_single_part *vae,
                              json_t **out)
{
    const sara_ldm_shape *shape = &vae->shape;
    int64_t channels[SARA_MAX_LEVELS] = {0};
    int64_t latent;
    /* Some VAEs have neither; where one of both is there, the other is missing. */
    bool quant = sara_single_has(single, vae, "quant_conv.") ||
                 sara_single_has(single, vae, "post_quant_conv.");
    sara_status status;
    TRY(sara_single_dim(single, vae, &latent, 4, 1, sara_name_of("decoder.conv_in.weight")));
    for (int i = 0; i < shape->levels; i++) {
        const sara_name block = vae->diffusers ? sara_name_of("encoder.down_blocks.%d.resnets.", i)
                                               : sara_name_of("encoder.down.%d.block.", i);
        TRY(sara_single_dim(
            single, vae, &channels[i], 4, 0,
            sara_single_first(single, vae, block.text, 0, shape->layers, ".conv2.weight")));
    }
    TRY(sara_single_made(
        single,
        json_pack("{s:s,s:s,s:o,s:o,s:o,s:i,s:i,s:I,s:I,s:i,s:b,s:b}", "_class_name",
                  "AutoencoderKL", "act_fn", "silu", "block_out_channels",
                  sara_single_integers(channels, shape->levels), "down_block_types",
                  sara_single_kinds(shape, "DownEncoderBlock2D", "", false), "up_block_types",
                  sara_single_kinds(shape, "UpDecoderBlock2D", "", false), "in_channels", 3,
                  "out_channels", 3, "latent_channels", (json_int_t)latent, "layers_per_block",
                  (json_int_t)shape->layers, "norm_num_groups", 32, "use_quant_conv", quant,
                  "use_post_quant_conv", quant),
        out));
done:
    return status;
}

static sara_status vae_names_of(const sara_network *network, sara_ldm_shape *out)
{
    const sara_vae_config *config = &((const sara_vae *)network)->config;
    *out =
        (sara_ldm_shape){.part = SARA_LDM_VAE, .levels = config->stages, .layers = config->layers};
    return SARA_OK;
}

const sara_single_layout sara_vae_single = {.tensor = "decoder.conv_in.weight",
                                            .starts = vae_starts,
                                            .read_shape = vae_read_shape,
                                            .derive = vae_derive,
                                            .names_of = vae_names_of};

/* A CLIP text encoder's layout in single files, under transformers' names or OpenCLIP's. */
#include "models/clip/parts.h"

#include "models/single_file.h"

#define HEAD_WIDTH      64 /* of all text encoders */
#define SD2_TEXT_LAYERS 23 /* that are used */

static const char *const *clip_starts(sara_ldm_part names)
{
    static const char *const own[] = {"encoder.", "final_layer_norm."};
    static const char *const open[] = {"transformer.", "ln_final."};
    return names == SARA_LDM_OPEN_CLIP ? open : own;
}

/* Stable Diffusion 2 takes the state before the last of 24 layers, so that diffusers leaves it out,
 * and so do the files that diffusers' own script makes of its folders. */
static sara_status clip_read_shape(const sara_single_file *single, sara_single_part *part)
{
    bool open = part->shape.part == SARA_LDM_OPEN_CLIP;
    const char *start = open ? "transformer.resblocks." : "encoder.layers.";
    int *layers = &part->shape.layers;
    *layers = sara_single_clamp(sara_single_count(single, part, start), 256);
    if (open && *layers > 1 && *layers != SD2_TEXT_LAYERS)
        --*layers;
    return SARA_OK;
}

static sara_status clip_derive(const sara_single_file *single, const sara_single_part *text,
                               json_t **out)
{
    bool open = text->shape.part == SARA_LDM_OPEN_CLIP;
    const char *tokens = open ? "token_embedding.weight" : "embeddings.token_embedding.weight";
    int64_t vocabulary, hidden, positions, inner;
    sara_status status;
    TRY(sara_single_dim(single, text, &vocabulary, 2, 0, sara_name_of("%s", tokens)));
    TRY(sara_single_dim(single, text, &hidden, 2, 1, sara_name_of("%s", tokens)));
    TRY(sara_single_dim(
        single, text, &positions, 2, 0,
        sara_name_of(open ? "positional_embedding" : "embeddings.position_embedding.weight")));
    TRY(sara_single_dim(single, text, &inner, 2, 0,
                        sara_name_of(open ? "transformer.resblocks.0.mlp.c_fc.weight"
                                          : "encoder.layers.0.mlp.fc1.weight")));
    TRY(sara_single_made(
        single,
        json_pack("{s:[s],s:s,s:I,s:I,s:I,s:I,s:I,s:I,s:f,s:i,s:i}", "architectures",
                  "CLIPTextModel", "model_type", "clip_text_model", "hidden_size",
                  (json_int_t)hidden, "intermediate_size", (json_int_t)inner, "num_attention_heads",
                  (json_int_t)(hidden / HEAD_WIDTH), "num_hidden_layers",
                  (json_int_t)text->shape.layers, "max_position_embeddings", (json_int_t)positions,
                  "vocab_size", (json_int_t)vocabulary, "layer_norm_eps", 1e-5, "bos_token_id",
                  49406, "eos_token_id", 49407),
        out));
done:
    return status;
}

/* How many layers a text encoder has is its config's to say. */
static sara_status clip_settle(const sara_single_file *single, sara_single_part *part)
{
    const sara_config config = {single->ctx, part->config, part->source};
    int64_t layers;
    sara_status status =
        sara_config_int(&config, &layers, "num_hidden_layers", part->shape.layers, 1, 256);
    if (status == SARA_OK)
        part->shape.layers = (int)layers;
    return status;
}

/* OpenCLIP's where the activation is OpenCLIP's. */
static sara_status clip_names_of(const sara_network *network, sara_ldm_shape *out)
{
    const sara_encoder *encoder = &((const sara_clip_text *)network)->tower.encoder;
    bool open = encoder->activation == SARA_GELU;
    *out = (sara_ldm_shape){.part = open ? SARA_LDM_OPEN_CLIP : SARA_LDM_CLIP,
                            .layers = encoder->count};
    return SARA_OK;
}

const sara_single_layout sara_clip_single = {.tensor = "embeddings.token_embedding.weight",
                                             .starts = clip_starts,
                                             .read_shape = clip_read_shape,
                                             .derive = clip_derive,
                                             .settle = clip_settle,
                                             .names_of = clip_names_of};

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

static bool has_projection(const sara_network_class *class)
{
    return class == &sara_clip_text_projection_class;
}

/* Stable Diffusion 2 takes the state before the last of 24 layers, so that diffusers leaves it out,
 * and so do the files that diffusers' own script makes of its folders. What is projected has gone
 * through all layers. */
static sara_status clip_read_shape(const sara_single_file *single, sara_single_part *part)
{
    bool open = part->shape.part == SARA_LDM_OPEN_CLIP;
    const char *start = open ? "transformer.resblocks." : "encoder.layers.";
    int *layers = &part->shape.layers;
    *layers = sara_single_clamp(sara_single_count(single, part, start), 256);
    part->shape.projection = has_projection(part->class);
    if (open && !part->shape.projection && *layers > 1 && *layers != SD2_TEXT_LAYERS)
        --*layers;
    return SARA_OK;
}

/* The text ends at the largest id, as the published configs have it. Under transformers' names a
 * projection that is the identity may be left out, as in files of SD3. */
static sara_status derive_projection(const sara_single_file *single, const sara_single_part *text,
                                     json_t *config)
{
    bool open = text->shape.part == SARA_LDM_OPEN_CLIP;
    sara_single_part beside = *text; /* the tower, where the projection is */
    int64_t width;
    sara_status status;
    if (!text->shape.projection)
        return SARA_OK;
    beside.stem = "";
    if (!open && !sara_single_find(single, &beside, "text_projection.weight"))
        width = json_integer_value(json_object_get(config, "hidden_size"));
    else
        TRY(sara_single_dim(single, &beside, &width, 2, open,
                            sara_name_of(open ? "text_projection" : "text_projection.weight")));
    if (json_object_set_new(config, "projection_dim", json_integer(width)) ||
        json_object_set_new(config, "eos_token_id", json_integer(2)) ||
        json_object_set_new(config, "architectures", json_pack("[s]", text->class->name)))
        TRY(sara_fail(single->ctx, SARA_ERROR_MEMORY, "%s: out of memory: config", single->path));
done:
    return status;
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
    TRY(derive_projection(single, text, *out));
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
                            .layers = encoder->count,
                            .projection = has_projection(network->class)};
    return SARA_OK;
}

const sara_single_layout sara_clip_single = {.tensor = "embeddings.token_embedding.weight",
                                             .starts = clip_starts,
                                             .read_shape = clip_read_shape,
                                             .derive = clip_derive,
                                             .settle = clip_settle,
                                             .names_of = clip_names_of};

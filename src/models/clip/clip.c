/* CLIPModel: both towers and what leads from each to their common space. */
#include "models/clip/parts.h"

#include <math.h>

typedef struct sara_clip_vision {
    sara_patches patches;
    sara_encoder encoder;
    sara_layer pre_norm, post_norm;
} sara_clip_vision;

typedef struct sara_clip {
    sara_network network;
    sara_clip_tower text;
    sara_clip_vision vision;
    sara_layer text_projection, visual_projection;
    sara_param *logit_scale;
} sara_clip;

/* ------------------------------------------------------------------------------------- config */

static sara_status read_text(sara_clip *clip, const sara_model_config *file)
{
    return sara_clip_tower_read(&clip->text, file);
}

static sara_status read_vision(sara_clip *clip, const sara_model_config *file)
{
    sara_encoder *encoder = &clip->vision.encoder;
    sara_patches *patches = &clip->vision.patches;
    sara_status status;
    *encoder = (sara_encoder){.width = 768,
                              .heads = 12,
                              .count = 12,
                              .qkv_bias = true,
                              .eps = 1e-5f,
                              .activation = SARA_QUICK_GELU};
    *patches = (sara_patches){.side = 224, .patch = 32};
    TRY(sara_config_int(&file->fields, &encoder->inner, "intermediate_size", 3072, 1,
                        4 * SARA_MAX_CHANNELS));
    TRY(sara_encoder_read(encoder, file));
    TRY(sara_patches_read(patches, file));
    patches->width = encoder->width;
done:
    return status;
}

/* A tower's config in the model's. Old files have another copy as NAME_dict, which transformers
 * lets rule with the defaults of what it leaves out. */
static sara_status read_section(sara_clip *clip, const sara_model_config *file, const char *name,
                                const char *expected,
                                sara_status (*read)(sara_clip *, const sara_model_config *))
{
    sara_component part = {.ctx = file->fields.ctx};
    sara_model_config section;
    sara_status status;
    part.config = json_object_get(file->object, sara_name_of("%s_dict", name).text);
    if (!part.config || json_is_null(part.config))
        part.config = json_object_get(file->object, name);
    if (!part.config)
        return sara_fail(part.ctx, SARA_ERROR_INPUT, "%s: %s is missing", file->path, name);
    TRY(sara_format(part.ctx, &part.source, "%s: %s", file->path, name));
    TRY(sara_model_config_of(part.ctx, &section, &part, "model_type", expected));
    TRY(read(clip, &section));
done:
    sara_free(part.ctx, part.source);
    return status;
}

static sara_status clip_read(sara_network *network, const sara_model_config *file)
{
    sara_clip *clip = (sara_clip *)network;
    sara_vision_info *info = &network->info.vision;
    sara_status status;
    TRY(read_section(clip, file, "text_config", "clip_text_model", read_text));
    TRY(read_section(clip, file, "vision_config", "clip_vision_model", read_vision));
    *info = (sara_vision_info){.side = clip->vision.patches.side, .text = clip->text.info};
    TRY(sara_config_int(&file->fields, &info->width, "projection_dim", 512, 1, SARA_MAX_CHANNELS));
done:
    return status;
}

/* ------------------------------------------------------------------------------------ binding */

static sara_status bind_vision(sara_clip_vision *vision, sara_binder *binder, sara_arena *arena)
{
    sara_patches *patches = &vision->patches;
    const int64_t width = patches->width;
    const sara_shape token = sara_shape1(width);
    const sara_shape patch = sara_shape4(width, 3, patches->patch, patches->patch);
    const sara_shape positions = sara_shape2(sara_patches_positions(patches), width);
    sara_status status;
    TRY(sara_binder_want(binder, &patches->token, &token,
                         "vision_model.embeddings.class_embedding"));
    TRY(sara_binder_want(binder, &patches->projection.weight, &patch,
                         "vision_model.embeddings.patch_embedding.weight"));
    TRY(sara_binder_want(binder, &patches->positions, &positions,
                         "vision_model.embeddings.position_embedding.weight"));
    TRY(sara_norm_bind(binder, &vision->pre_norm, "vision_model.pre_layrnorm", width));
    TRY(sara_encoder_bind(&vision->encoder, binder, arena, "vision_model.encoder.layers",
                          &sara_clip_names));
    TRY(sara_norm_bind(binder, &vision->post_norm, "vision_model.post_layernorm", width));
done:
    return status;
}

static sara_status clip_model_bind(sara_network *network, sara_binder *binder,
                                   const sara_weights *weights)
{
    static const sara_shape scalar = {0};
    sara_clip *clip = (sara_clip *)network;
    const int64_t width = network->info.vision.width;
    sara_status status;
    (void)weights;
    TRY(sara_clip_tower_bind(&clip->text, binder, &network->arena, "text_model."));
    TRY(bind_vision(&clip->vision, binder, &network->arena));
    TRY(sara_linear_bind(binder, &clip->text_projection, "text_projection", width,
                         clip->text.encoder.width, false));
    TRY(sara_linear_bind(binder, &clip->visual_projection, "visual_projection", width,
                         clip->vision.encoder.width, false));
    TRY(sara_binder_want(binder, &clip->logit_scale, &scalar, "logit_scale"));
done:
    return status;
}

/* ------------------------------------------------------------------------------------ forward */

sara_status sara_clip_text_features(sara_tape *tape, sara_var **features, sara_network *network,
                                    const int32_t *ids, int64_t batch, int64_t count)
{
    sara_clip *clip = (sara_clip *)network;
    size_t scope = sara_tape_open(tape);
    sara_var *states, *pooled;
    sara_status status;
    TRY(sara_clip_tower_forward(tape, &states, &pooled, &clip->text, 0, ids, batch, count, NULL));
    TRY(sara_linear_forward(tape, features, &clip->text_projection, pooled)); /* [N,width] */
    sara_tape_close(tape, scope, features, 1);
done:
    return status;
}

sara_status sara_clip_image_features(sara_tape *tape, sara_var **features, sara_network *network,
                                     sara_var *pixels)
{
    sara_clip *clip = (sara_clip *)network;
    const sara_clip_vision *vision = &clip->vision;
    const float eps = vision->encoder.eps;
    size_t scope = sara_tape_open(tape);
    sara_var *h;
    sara_status status;
    TRY(sara_patches_forward(tape, &h, &vision->patches, pixels)); /* [N,T,C] */
    TRY(sara_nn_layer_norm(tape, &h, h, vision->pre_norm.weight, vision->pre_norm.bias, eps));
    TRY(sara_encoder_forward(tape, &h, &vision->encoder, h, scope, false)); /* [N,T,C] */
    TRY(sara_patches_token(tape, &h, h));                                   /* [N,C] */
    TRY(sara_nn_layer_norm(tape, &h, h, vision->post_norm.weight, vision->post_norm.bias, eps));
    TRY(sara_linear_forward(tape, features, &clip->visual_projection, h)); /* [N,width] */
    sara_tape_close(tape, scope, features, 1);
done:
    return status;
}

sara_status sara_clip_logit_scale(sara_network *network, double *out)
{
    const sara_clip *clip = (const sara_clip *)network;
    sara_param copy = {0};
    sara_status status;
    TRY(sara_param_read(network->ctx, &copy, clip->logit_scale));
    *out = exp((double)sara_param_get(&copy, 0));
done:
    sara_param_read_end(network->ctx, &copy, clip->logit_scale);
    return status;
}

/* ----------------------------------------------------------------------------------- the class */

static json_t *clip_model_settings(const sara_network *network)
{
    const sara_clip *clip = (const sara_clip *)network;
    return json_pack("{s:o,s:o}", "text", sara_encoder_settings(&clip->text.encoder), "vision",
                     sara_encoder_settings(&clip->vision.encoder));
}

const sara_network_class sara_clip_class = {.library = "transformers",
                                            .name = "CLIPModel",
                                            .key = "model_type",
                                            .value = "clip",
                                            .stem = SARA_TRANSFORMERS_STEM,
                                            .title = "CLIP model",
                                            .size = sizeof(sara_clip),
                                            .read_config = clip_read,
                                            .bind = clip_model_bind,
                                            .settings = clip_model_settings};

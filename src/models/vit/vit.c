#include "models/vit.h"

#include "models/encoder.h"
#include "models/patches.h"

typedef struct sara_vit {
    sara_network network;
    sara_patches patches;
    sara_encoder encoder;
    sara_layer norm;
} sara_vit;

/* ------------------------------------------------------------------------------------- config */

/* How wide the feed-forward part of DINOv2 is, of which its config has but the ratio. */
static sara_status read_inner(sara_encoder *encoder, const sara_model_config *file)
{
    double ratio;
    sara_status status;
    TRY(sara_config_bool(&file->fields, &encoder->gated, "use_swiglu_ffn", false));
    TRY(sara_config_double(&file->fields, &ratio, "mlp_ratio", 4, 1e-3, 64));
    encoder->inner = (int64_t)((double)encoder->width * ratio);
    if (encoder->gated)
        encoder->inner = ((int64_t)((double)(encoder->inner * 2) / 3) + 7) / 8 * 8;
    if (encoder->inner < 1)
        status = sara_model_config_refuse(file, "mlp_ratio", "too small for hidden_size");
done:
    return status;
}

/* What the classes' configs have in common; vit has their defaults. */
static sara_status read_common(sara_vit *vit, const sara_model_config *file)
{
    sara_status status;
    TRY(sara_encoder_read(&vit->encoder, file));
    TRY(sara_patches_read(&vit->patches, file));
    TRY(sara_config_bool(&file->fields, &vit->encoder.qkv_bias, "qkv_bias", true));
    vit->patches.width = vit->encoder.width;
    vit->network.info.vision =
        (sara_vision_info){.width = vit->encoder.width,
                           .side = vit->patches.side,
                           .any_size = vit->patches.resize != SARA_PATCHES_REFUSE};
done:
    return status;
}

static sara_encoder vit_defaults(float eps)
{
    return (sara_encoder){
        .width = 768, .heads = 12, .count = 12, .eps = eps, .activation = SARA_GELU};
}

static sara_status vit_read(sara_network *network, const sara_model_config *file)
{
    sara_vit *vit = (sara_vit *)network;
    sara_status status;
    vit->encoder = vit_defaults(1e-12f);
    vit->patches = (sara_patches){.side = 224, .patch = 16};
    TRY(sara_config_int(&file->fields, &vit->encoder.inner, "intermediate_size", 3072, 1,
                        4 * SARA_MAX_CHANNELS));
    TRY(read_common(vit, file));
done:
    return status;
}

static sara_status dinov2_read(sara_network *network, const sara_model_config *file)
{
    sara_vit *vit = (sara_vit *)network;
    sara_status status;
    vit->encoder = vit_defaults(1e-6f);
    vit->patches = (sara_patches){.side = 224, .patch = 14, .resize = SARA_PATCHES_CUBIC};
    TRY(read_common(vit, file));
    TRY(read_inner(&vit->encoder, file));
done:
    return status;
}

static sara_status registers_read(sara_network *network, const sara_model_config *file)
{
    sara_vit *vit = (sara_vit *)network;
    sara_patches *patches = &vit->patches;
    sara_status status;
    vit->encoder = vit_defaults(1e-6f);
    *patches = (sara_patches){.side = 224, .patch = 16, .resize = SARA_PATCHES_SMOOTH};
    TRY(sara_config_int(&file->fields, &patches->register_count, "num_register_tokens", 4, 1,
                        1 << 12));
    TRY(read_common(vit, file));
    TRY(read_inner(&vit->encoder, file));
done:
    return status;
}

/* ------------------------------------------------------------------------------------ binding */

#define PROJECTIONS                                                                                \
    {                                                                                              \
        "attention.query", "attention.key", "attention.value", "output.dense"                      \
    }

static const sara_encoder_names vit_names = {.norm1 = "layernorm_before",
                                             .attention = "attention",
                                             .projections = PROJECTIONS,
                                             .norm2 = "layernorm_after",
                                             .fc1 = "intermediate.dense",
                                             .fc2 = "output.dense"};
static const sara_encoder_names dinov2_names = {.norm1 = "norm1",
                                                .attention = "attention",
                                                .projections = PROJECTIONS,
                                                .norm2 = "norm2",
                                                .fc1 = "mlp.fc1",
                                                .fc2 = "mlp.fc2",
                                                .scale1 = "layer_scale1.lambda1",
                                                .scale2 = "layer_scale2.lambda1"};

static sara_status bind_embeddings(sara_patches *patches, sara_binder *binder, const char *prefix)
{
    const int64_t width = patches->width;
    const sara_shape token = sara_shape3(1, 1, width);
    const sara_shape positions = sara_shape3(1, sara_patches_positions(patches), width);
    const sara_shape registers = sara_shape3(1, patches->register_count, width);
    sara_status status;
    TRY(sara_binder_want(binder, &patches->token, &token, "%sembeddings.cls_token", prefix));
    TRY(sara_binder_want(binder, &patches->positions, &positions,
                         "%sembeddings.position_embeddings", prefix));
    TRY(sara_conv_bind(binder, &patches->projection,
                       sara_name_of("%sembeddings.patch_embeddings.projection", prefix).text, width,
                       3, patches->patch));
    if (patches->register_count)
        TRY(sara_binder_want(binder, &patches->registers, &registers,
                             "%sembeddings.register_tokens", prefix));
done:
    return status;
}

/* What a folder may hold beside it: of training, and heads. */
static sara_status ignore_others(sara_binder *binder)
{
    static const char *const others[] = {"embeddings.mask_token", "pooler.dense.weight",
                                         "pooler.dense.bias", "classifier.weight",
                                         "classifier.bias"};
    sara_status status = SARA_OK;
    for (int i = 0; i < 5; i++)
        TRY(sara_binder_ignore(binder, others[i]));
done:
    return status;
}

/* The names begin with the model's where it was saved with a head. */
static sara_status vit_bind(sara_network *network, sara_binder *binder,
                            const sara_weights *weights)
{
    sara_vit *vit = (sara_vit *)network;
    const bool old = network->class == &sara_vit_class;
    const char *prefix =
        sara_encoder_prefix(weights, sara_name_of("%s.", network->class->value).text);
    sara_encoder_names names = old ? vit_names : dinov2_names;
    sara_status status;
    if (vit->encoder.gated) {
        names.fc1 = "mlp.weights_in";
        names.fc2 = "mlp.weights_out";
    }
    TRY(bind_embeddings(&vit->patches, binder, prefix));
    TRY(sara_encoder_bind(&vit->encoder, binder, &network->arena,
                          sara_name_of("%sencoder.layer", prefix).text, &names));
    TRY(sara_norm_bind(binder, &vit->norm, sara_name_of("%slayernorm", prefix).text,
                       vit->encoder.width));
    TRY(ignore_others(binder));
done:
    return status;
}

/* ------------------------------------------------------------------------------------ forward */

sara_status sara_vit_features(sara_tape *tape, sara_var **features, sara_network *network,
                              sara_var *pixels)
{
    const sara_vit *vit = (const sara_vit *)network;
    size_t scope = sara_tape_open(tape);
    sara_var *h;
    sara_status status;
    TRY(sara_patches_forward(tape, &h, &vit->patches, pixels));          /* [N,T,C] */
    TRY(sara_encoder_forward(tape, &h, &vit->encoder, h, scope, false)); /* [N,T,C] */
    TRY(sara_patches_token(tape, &h, h));                                /* [N,C] */
    TRY(sara_nn_layer_norm(tape, features, h, vit->norm.weight, vit->norm.bias,
                           vit->encoder.eps)); /* [N,C] */
    sara_tape_close(tape, scope, features, 1);
done:
    return status;
}

/* ---------------------------------------------------------------------------------- the classes */

static json_t *vit_settings(const sara_network *network)
{
    return sara_encoder_settings(&((const sara_vit *)network)->encoder);
}

#define VIT_CLASS(class_name, type, reader)                                                        \
    {                                                                                              \
        .library = "transformers", .name = class_name, .key = "model_type", .value = type,         \
        .stem = SARA_TRANSFORMERS_STEM, .title = "vision transformer", .size = sizeof(sara_vit),   \
        .read_config = reader, .bind = vit_bind, .settings = vit_settings                          \
    }
const sara_network_class sara_vit_class = VIT_CLASS("ViTModel", "vit", vit_read);
const sara_network_class sara_dinov2_class = VIT_CLASS("Dinov2Model", "dinov2", dinov2_read);
const sara_network_class sara_dinov2_registers_class =
    VIT_CLASS("Dinov2WithRegistersModel", "dinov2_with_registers", registers_read);

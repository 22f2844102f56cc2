/* DINO and DINOv2: any folder of a ViTModel, a Dinov2Model or a Dinov2WithRegistersModel. */
#include "eval/vision.h"
#include "models/vit.h"

static const struct {
    const sara_network_class *class;
    const sara_preprocess *fallback;
} vits[] = {
    {&sara_vit_class, &sara_preprocess_vit},
    {&sara_dinov2_class, &sara_preprocess_bit},
    {&sara_dinov2_registers_class, &sara_preprocess_bit},
};
#define VIT_COUNT ((int)(sizeof(vits) / sizeof(vits[0])))

/* Which of them the folder's config.json says it is. */
static sara_status find_vit(sara_context *ctx, int *out, const char *folder)
{
    json_t *config = NULL;
    char *path = NULL;
    const char *type;
    sara_status status;
    TRY(sara_path_join(ctx, &path, folder, "config.json"));
    TRY(sara_json_load(ctx, &config, path, true));
    const sara_config fields = {ctx, config, path};
    TRY(sara_config_string(&fields, &type, "model_type", "vit"));
    for (*out = 0; *out < VIT_COUNT; ++*out)
        if (strcmp(vits[*out].class->value, type) == 0)
            goto done;
    status = sara_fail(ctx, SARA_ERROR_INPUT,
                       "%s: model_type: \"%s\", expected \"vit\", \"dinov2\" or "
                       "\"dinov2_with_registers\"",
                       path, type);
done:
    json_decref(config);
    sara_free(ctx, path);
    return status;
}

static sara_status dino_open(sara_backbone *backbone, const sara_backbone_options *options)
{
    sara_vision *vision;
    int which = 0;
    sara_status status;
    TRY(find_vit(backbone->ctx, &which, options->path));
    TRY(sara_vision_open(backbone, &vision, vits[which].class, sara_vit_features,
                         vits[which].fallback, options->path));
done:
    return status;
}

const sara_backbone_kind sara_backbone_dino = {
    .name = "dino", .open = dino_open, .close = sara_vision_close, .image = sara_vision_image};

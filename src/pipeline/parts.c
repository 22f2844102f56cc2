/* Where a model's parts are: in its folder, plain or in a variant, or in its file. */
#include "pipeline/pipeline.h"

static const struct {
    const char *folder, *stem;
} places[SARA_MODULE_COUNT] = {[SARA_MODULE_UNET] = {"unet", SARA_DIFFUSERS_STEM},
                               [SARA_MODULE_VAE] = {"vae", SARA_DIFFUSERS_STEM},
                               [SARA_MODULE_TEXT] = {"text_encoder", SARA_TRANSFORMERS_STEM}};

/* *out: sara_free(); of a model that is a folder, or a bare unet/ */
static sara_status part_folder(sara_context *ctx, char **out, const char *path, bool unet_only,
                               sara_module module)
{
    return unet_only ? sara_strdup(ctx, out, path)
                     : sara_path_join(ctx, out, path, places[module].folder);
}

sara_status sara_model_component(const sara_model *model, sara_component *out, sara_module module)
{
    sara_context *ctx = model->ctx;
    char *folder = NULL;
    sara_status status;
    *out = (sara_component){.ctx = ctx};
    if (model->single)
        return sara_single_file_component(model->single, out, module);
    TRY(part_folder(ctx, &folder, model->path, model->unet_only, module));
    TRY(sara_component_open(ctx, out, folder, places[module].stem,
                            model->has_variant[module] ? model->variant : NULL));
done:
    sara_free(ctx, folder);
    return status;
}

/* ---------------------------------------------------------------------------------- the variant */

/* has [SARA_MODULE_COUNT]; *any: of the parts that the model has. */
static sara_status find_variant(sara_context *ctx, bool *has, bool *any, const char *path,
                                bool unet_only, const char *variant)
{
    char *folder = NULL;
    sara_status status = SARA_OK;
    *any = false;
    for (int i = 0; i < (unet_only ? 1 : SARA_MODULE_COUNT); i++) {
        TRY(part_folder(ctx, &folder, path, unet_only, (sara_module)i));
        TRY(sara_weights_are_there(ctx, &has[i], folder, places[i].stem, variant));
        *any |= has[i];
        sara_free(ctx, folder);
        folder = NULL;
    }
done:
    sara_free(ctx, folder);
    return status;
}

static sara_status refuse_variant(const sara_model *model)
{
    sara_context *ctx = model->ctx;
    char *folder = NULL, *what = NULL, *text = NULL, *longer;
    sara_status status = SARA_OK;
    for (int i = 0; i < (model->unet_only ? 1 : SARA_MODULE_COUNT); i++) {
        TRY(part_folder(ctx, &folder, model->path, model->unet_only, (sara_module)i));
        TRY(sara_weights_describe(ctx, &what, folder, places[i].stem));
        TRY(sara_format(ctx, &longer, "%s%s%s: %s", text ? text : "", text ? "; " : "",
                        places[i].folder, what));
        sara_free(ctx, text);
        sara_free(ctx, what);
        sara_free(ctx, folder);
        text = longer;
        what = folder = NULL;
    }
    status = sara_fail(ctx, SARA_ERROR_INPUT,
                       "%s: no weight files of the variant %s; there are (%s)", model->path,
                       model->variant, text);
done:
    sara_free(ctx, text);
    sara_free(ctx, what);
    sara_free(ctx, folder);
    return status;
}

static void tell_plain(const sara_model *model)
{
    sara_name plain = {""};
    int count = 0;
    for (int i = 0; i < (model->unet_only ? 1 : SARA_MODULE_COUNT); i++)
        if (!model->has_variant[i])
            plain = sara_name_of("%s%s%s", plain.text, count++ ? ", " : "", places[i].folder);
    if (count)
        sara_log(model->ctx, SARA_LOG_INFO,
                 "%s: variant %s: not of %s, read from the plain weight files", model->path,
                 model->variant, plain.text);
}

sara_status sara_model_choose_variant(sara_model *model, const char *variant)
{
    bool any;
    sara_status status;
    if (!variant || !*variant)
        return SARA_OK;
    TRY(sara_strdup(model->ctx, &model->variant, variant));
    TRY(find_variant(model->ctx, model->has_variant, &any, model->path, model->unet_only, variant));
    if (!any)
        return refuse_variant(model);
    tell_plain(model);
done:
    return status;
}

sara_status sara_model_has_variant(sara_context *ctx, bool *out, const char *path, bool unet_only,
                                   const char *variant)
{
    bool has[SARA_MODULE_COUNT];
    *out = false;
    return sara_path_is_directory(path) ? find_variant(ctx, has, out, path, unet_only, variant)
                                        : SARA_OK;
}

/* Where a model's parts are: in its folder, plain or in a variant, or in its file. */
#include "pipeline/pipeline.h"

static const struct {
    const char *folder, *stem;
} places[SARA_MODULE_COUNT] = {[SARA_MODULE_UNET] = {"unet", SARA_DIFFUSERS_STEM},
                               [SARA_MODULE_VAE] = {"vae", SARA_DIFFUSERS_STEM},
                               [SARA_MODULE_TEXT] = {"text_encoder", SARA_TRANSFORMERS_STEM}};

const char *sara_part_folder_name(sara_module module)
{
    return places[module].folder;
}

const char *sara_part_stem(sara_module module)
{
    return places[module].stem;
}

bool sara_model_has_part(const sara_model *model, sara_module module)
{
    if (model->elsewhere[module] || (module == SARA_MODULE_VAE && model->vae_file))
        return true;
    return model->single ? sara_single_file_prefix(model->single, module) != NULL
                         : module == SARA_MODULE_UNET || !model->unet_only;
}

/* *out: sara_free(); NULL: the part is in a file, or there is none */
static sara_status part_folder(const sara_model *model, char **out, sara_module module)
{
    sara_context *ctx = model->ctx;
    bool in_file = model->single || (module == SARA_MODULE_VAE && model->vae_file);
    *out = NULL;
    if (model->elsewhere[module])
        return sara_strdup(ctx, out, model->elsewhere[module]);
    if (in_file || (model->unet_only && module != SARA_MODULE_UNET))
        return SARA_OK;
    return model->unet_only ? sara_strdup(ctx, out, model->path)
                            : sara_path_join(ctx, out, model->path, places[module].folder);
}

sara_status sara_model_component(const sara_model *model, sara_component *out, sara_module module)
{
    const sara_single_file *file =
        module == SARA_MODULE_VAE && model->vae_file ? model->vae_file : model->single;
    char *folder = NULL;
    sara_status status;
    *out = (sara_component){.ctx = model->ctx};
    TRY(part_folder(model, &folder, module));
    TRY(folder ? sara_component_open(model->ctx, out, folder, places[module].stem,
                                     model->has_variant[module] ? model->variant : NULL)
               : sara_single_file_component(file, out, module));
done:
    sara_free(model->ctx, folder);
    return status;
}

sara_status sara_model_has_ema_weights(sara_context *ctx, bool *out, const char *path)
{
    *out = false;
    return sara_path_is_directory(path) ? SARA_OK : sara_single_file_has_ema(ctx, out, path);
}

/* ---------------------------------------------------------------------------------- the variant */

/* has [SARA_MODULE_COUNT]; *any: of the parts that are in folders. */
static sara_status find_variant(const sara_model *model, bool *has, bool *any, const char *variant)
{
    char *folder = NULL;
    sara_status status = SARA_OK;
    *any = false;
    for (int i = 0; i < SARA_MODULE_COUNT; i++) {
        TRY(part_folder(model, &folder, (sara_module)i));
        has[i] = false;
        if (folder)
            TRY(sara_weights_are_there(model->ctx, &has[i], folder, places[i].stem, variant));
        *any |= has[i];
        sara_free(model->ctx, folder);
        folder = NULL;
    }
done:
    sara_free(model->ctx, folder);
    return status;
}

/* Appends "; unet: plain, fp16" to *text. */
static sara_status describe_part(const sara_model *model, char **text, sara_module module)
{
    sara_context *ctx = model->ctx;
    char *folder = NULL, *what = NULL, *longer;
    sara_status status;
    TRY(part_folder(model, &folder, module));
    if (!folder)
        return SARA_OK;
    TRY(sara_weights_describe(ctx, &what, folder, places[module].stem));
    TRY(sara_format(ctx, &longer, "%s%s%s: %s", *text ? *text : "", *text ? "; " : "",
                    places[module].folder, what));
    sara_free(ctx, *text);
    *text = longer;
done:
    sara_free(ctx, what);
    sara_free(ctx, folder);
    return status;
}

static sara_status refuse_variant(const sara_model *model)
{
    char *text = NULL;
    sara_status status = SARA_OK;
    for (int i = 0; i < SARA_MODULE_COUNT; i++)
        TRY(describe_part(model, &text, (sara_module)i));
    status = sara_fail(model->ctx, SARA_ERROR_INPUT,
                       "%s: no weight files of the variant %s; there are (%s)", model->path,
                       model->variant, text ? text : "none");
done:
    sara_free(model->ctx, text);
    return status;
}

static sara_status tell_plain(const sara_model *model)
{
    sara_name plain = {""};
    int count = 0;
    char *folder = NULL;
    sara_status status = SARA_OK;
    for (int i = 0; i < SARA_MODULE_COUNT; i++) {
        TRY(part_folder(model, &folder, (sara_module)i));
        if (folder && !model->has_variant[i])
            plain = sara_name_of("%s%s%s", plain.text, count++ ? ", " : "", places[i].folder);
        sara_free(model->ctx, folder);
        folder = NULL;
    }
    if (count)
        sara_log(model->ctx, SARA_LOG_INFO,
                 "%s: variant %s: not of %s, read from the plain weight files", model->path,
                 model->variant, plain.text);
done:
    return status;
}

sara_status sara_model_choose_variant(sara_model *model, const char *variant)
{
    bool any;
    sara_status status;
    if (!variant || !*variant)
        return SARA_OK;
    TRY(sara_strdup(model->ctx, &model->variant, variant));
    TRY(find_variant(model, model->has_variant, &any, variant));
    if (!any)
        return refuse_variant(model);
    TRY(tell_plain(model));
done:
    return status;
}

sara_status sara_model_has_variant(sara_context *ctx, bool *out, const char *path, bool unet_only,
                                   const char *variant)
{
    const sara_model model = {.ctx = ctx, .path = (char *)(uintptr_t)path, .unet_only = unet_only};
    bool has[SARA_MODULE_COUNT];
    *out = false;
    return sara_path_is_directory(path) ? find_variant(&model, has, out, variant) : SARA_OK;
}

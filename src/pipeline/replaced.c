/* Parts that are not the model's own: another VAE that was asked for, and what a single file lacks
 * and the folder of its configs has. */
#include "pipeline/pipeline.h"

#include <math.h>

/* A folder of a VAE, or of a whole model. */
static sara_status take_folder(sara_model *model, const char *path)
{
    char *inner = NULL;
    sara_status status;
    TRY(sara_path_join(model->ctx, &inner, path, "vae"));
    if (sara_path_is_directory(inner)) {
        model->elsewhere[SARA_MODULE_VAE] = inner;
        return SARA_OK;
    }
    TRY(sara_strdup(model->ctx, &model->elsewhere[SARA_MODULE_VAE], path));
done:
    sara_free(model->ctx, inner);
    return status;
}

/* Of a file that lacks its VAE, as metadata may still tell it. *out: json_decref() */
static sara_status config_of_lacking(const sara_model *model, json_t **out)
{
    static const char key[] = "sara.config.vae";
    const char *text = sara_single_file_metadata(model->single, key);
    return text ? sara_json_parse(model->ctx, out, text, strlen(text), key, true) : SARA_OK;
}

/* The config of the VAE that the model has itself; NULL: it is not known. *out: json_decref() */
static sara_status own_config(const sara_model *model, json_t **out, const char *model_config)
{
    const char *folder = model->single ? model_config : model->path;
    char *path = NULL;
    sara_status status = SARA_OK;
    *out =
        model->single ? json_incref(sara_single_file_config(model->single, SARA_MODULE_VAE)) : NULL;
    if (*out)
        return SARA_OK;
    if (folder)
        TRY(sara_format(model->ctx, &path, "%s/vae/config.json", folder));
    if (path && sara_path_is_named(path))
        status = sara_json_load(model->ctx, out, path, true);
    else if (model->single)
        status = config_of_lacking(model, out);
    if (status != SARA_ERROR_MEMORY)
        status = SARA_OK; /* what is wrong with it is of no matter where another is read */
done:
    sara_free(model->ctx, path);
    return status;
}

static sara_status take_file(sara_model *model, const char *path, const char *model_config)
{
    json_t *own = NULL;
    sara_status status;
    TRY(own_config(model, &own, model_config));
    TRY(sara_single_file_open_vae(model->ctx, &model->vae_file, path, own));
done:
    json_decref(own);
    return status;
}

static sara_status take_vae(sara_model *model, const sara_model_options *options)
{
    const char *path = options->vae;
    sara_status status;
    if (model->unet_only)
        return sara_fail(model->ctx, SARA_ERROR_USAGE,
                         "vae %s: of %s the U-Net alone is loaded, which needs none", path,
                         model->path);
    if (!sara_path_is_named(path))
        return sara_fail(model->ctx, SARA_ERROR_IO, "vae %s: no such file or folder", path);
    TRY(sara_strdup(model->ctx, &model->vae_path, path));
    for (size_t i = strlen(path); i > 1 && path[i - 1] == '/'; i--)
        model->vae_path[i - 1] = '\0'; /* the last part is its name in pictures */
    TRY(sara_path_is_directory(path) ? take_folder(model, path)
                                     : take_file(model, path, options->model_config));
done:
    return status;
}

/* there: the weights that the folder has of the part, of variants alone */
static sara_status refuse_variants(const sara_model *model, const char *name, const char *folder,
                                   const char *there)
{
    const char *comma = strchr(there, ',');
    return sara_fail(model->ctx, SARA_ERROR_INPUT,
                     "%s: holds no %s, and %s only as the variant%s %s: --variant %.*s reads it",
                     model->path, name, folder, comma ? "s" : "", there,
                     comma ? (int)(comma - there) : (int)strlen(there), there);
}

static sara_status refuse_missing_part(const sara_model *model, sara_module module,
                                       const char *config, const char *folder, const char *there)
{
    const char *name = sara_module_name(module);
    if (there && strcmp(there, "none") != 0)
        return refuse_variants(model, name, folder, there);
    return sara_fail(model->ctx, SARA_ERROR_INPUT,
                     "%s: holds no %s%s%s: %s--model_config DIR names a diffusers folder that has "
                     "it (where the U-Net is enough, --unet-only)",
                     model->path, name, config ? ", nor does the folder " : "",
                     config ? config : "",
                     module == SARA_MODULE_VAE ? "--vae PATH names one, or " : "");
}

/* A part that the single file lacks, from the folder of its configs. */
static sara_status take_missing(sara_model *model, sara_module module,
                                const sara_model_options *options)
{
    const char *config = options->model_config;
    const char *stem = sara_part_stem(module);
    sara_context *ctx = model->ctx;
    bool plain = false, variant = false;
    char *folder = NULL, *there = NULL;
    sara_status status = SARA_OK;
    if (sara_model_has_part(model, module))
        return SARA_OK;
    if (config) {
        TRY(sara_path_join(ctx, &folder, config, sara_part_folder_name(module)));
        TRY(sara_weights_are_there(ctx, &plain, folder, stem, NULL));
        if (options->variant && *options->variant)
            TRY(sara_weights_are_there(ctx, &variant, folder, stem, options->variant));
    }
    if (!plain && !variant) {
        if (folder)
            TRY(sara_weights_describe(ctx, &there, folder, stem));
        status = refuse_missing_part(model, module, config, folder, there);
        goto done;
    }
    sara_log(ctx, SARA_LOG_INFO, "%s: holds no %s, which is read from %s", model->path,
             sara_module_name(module), folder);
    model->elsewhere[module] = folder;
    folder = NULL;
done:
    sara_free(ctx, there);
    sara_free(ctx, folder);
    return status;
}

sara_status sara_model_choose_parts(sara_model *model, const sara_model_options *options)
{
    sara_status status = SARA_OK;
    if (options->vae)
        TRY(take_vae(model, options));
    if (model->single && !model->unet_only) {
        TRY(take_missing(model, SARA_MODULE_VAE, options));
        TRY(take_missing(model, SARA_MODULE_TEXT, options));
    }
done:
    return status;
}

/* ----------------------------------------------------------------------------- whether it fits */

/* The U-Net was trained on what the model's own VAE makes of images. */
static sara_status compare_with_own(const sara_model *model, const sara_vae_info *info,
                                    const json_t *own)
{
    size_t levels = json_array_size(json_object_get(own, "block_out_channels"));
    double scaling = 0.18215;
    sara_json_number(&scaling, json_object_get(own, "scaling_factor"));
    if (levels > 0 && levels <= SARA_MAX_LEVELS && info->factor != 1 << (levels - 1))
        return sara_fail(model->ctx, SARA_ERROR_INPUT,
                         "%s: a VAE of factor %d, the one of %s has %d: they must agree",
                         model->vae_path, info->factor, model->path, 1 << (levels - 1));
    if (!(fabs(scaling - info->scaling_factor) <= 1e-6 * scaling)) /* files round it */
        sara_log(model->ctx, SARA_LOG_WARNING,
                 "%s: scaling_factor %g, the VAE of %s has %g: it may be another kind of model's",
                 model->vae_path, info->scaling_factor, model->path, scaling);
    return SARA_OK;
}

sara_status sara_model_check_vae(const sara_model *model)
{
    const sara_vae_info *info = &model->vae->info.vae;
    int wanted = model->denoiser->info.denoiser.in_channels;
    json_t *own = NULL;
    sara_status status = SARA_OK;
    if (info->latent_channels != wanted)
        return sara_fail(model->ctx, SARA_ERROR_INPUT,
                         "%s: vae latent_channels %d, unet in_channels %d: they must agree",
                         model->vae_path ? model->vae_path : model->path, info->latent_channels,
                         wanted);
    if (!model->vae_path)
        return SARA_OK;
    TRY(own_config(model, &own, NULL));
    if (own)
        TRY(compare_with_own(model, info, own));
done:
    json_decref(own);
    return status;
}

/* Parts that are not the model's own: another denoiser or VAE that was asked for, and what a single
 * file lacks and the folder of its configs has. */
#include "pipeline/pipeline.h"

#include <math.h>

/* A folder of a VAE, or of a whole model. */
static sara_status take_folder(sara_model *model, int part, const char *path)
{
    char *inner = NULL;
    sara_status status;
    TRY(sara_path_join(model->ctx, &inner, path, model->family->parts[part].folder));
    if (sara_path_is_directory(inner)) {
        model->parts[part].elsewhere = inner;
        return SARA_OK;
    }
    TRY(sara_strdup(model->ctx, &model->parts[part].elsewhere, path));
done:
    sara_free(model->ctx, inner);
    return status;
}

/* Of a file that lacks its VAE, as metadata may still tell it. *out: json_decref() */
static sara_status config_of_lacking(const sara_model *model, json_t **out, int part)
{
    const sara_name key = sara_name_of("sara.config.%s", model->family->parts[part].folder);
    const char *text = sara_safetensors_metadata(model->single->file, key.text);
    return text ? sara_json_parse(model->ctx, out, text, strlen(text), key.text, true) : SARA_OK;
}

/* The config of the VAE that the model has itself; NULL: it is not known. *out: json_decref() */
static sara_status own_config(const sara_model *model, json_t **out, int part,
                              const char *model_config)
{
    const char *folder = model->single ? model_config : model->path;
    char *path = NULL;
    sara_status status = SARA_OK;
    *out = model->single ? json_incref(model->single->parts[part].config) : NULL;
    if (*out)
        return SARA_OK;
    if (folder)
        TRY(sara_format(model->ctx, &path, "%s/%s/config.json", folder,
                        model->family->parts[part].folder));
    if (path && sara_path_is_named(path))
        status = sara_json_load(model->ctx, out, path, true);
    else if (model->single)
        status = config_of_lacking(model, out, part);
    if (status != SARA_ERROR_MEMORY)
        status = SARA_OK; /* what is wrong with it is of no matter where another is read */
done:
    sara_free(model->ctx, path);
    return status;
}

static sara_status take_file(sara_model *model, int part, const char *path,
                             const char *model_config)
{
    json_t *own = NULL;
    sara_status status;
    TRY(own_config(model, &own, part, model_config));
    TRY(sara_family_open_vae(model->ctx, model->family, part, &model->vae_file, path, own));
done:
    json_decref(own);
    return status;
}

/* What is of no width that was published has no name. */
static sara_name family_title(const sara_family *family)
{
    return family->name ? sara_name_of("%s", family->name)
                        : sara_name_of("%s of a width of its own", family->product);
}

/* That it is of the model's family is told before its weights are read. */
static sara_status check_denoiser(const sara_model *model, const char *path)
{
    const sara_family *family;
    json_t *config = NULL;
    char *file = NULL;
    sara_status status;
    TRY(sara_path_join(model->ctx, &file, model->parts[0].elsewhere, "config.json"));
    TRY(sara_json_load(model->ctx, &config, file, true));
    TRY(sara_family_of_config(model->ctx, &family, config, file));
    if (family != model->family && (!family->without || family->without != model->family->without))
        status =
            sara_fail(model->ctx, SARA_ERROR_INPUT, "denoiser %s: is of %s, %s is of %s", path,
                      family_title(family).text, model->path, family_title(model->family).text);
done:
    json_decref(config);
    sara_free(model->ctx, file);
    return status;
}

static sara_status take_denoiser(sara_model *model, const char *path)
{
    sara_status status;
    if (model->denoiser_only && !model->single)
        return sara_fail(model->ctx, SARA_ERROR_USAGE,
                         "denoiser %s: stands in for a model's own; %s is one itself, give one of "
                         "them",
                         path, model->path);
    if (!sara_path_is_directory(path))
        return sara_fail(model->ctx, SARA_ERROR_IO,
                         "denoiser %s: %s; expected one with config.json and weights", path,
                         sara_path_exists(path) ? "is no folder" : "no such folder");
    TRY(take_folder(model, 0, path));
    TRY(check_denoiser(model, path));
done:
    return status;
}

static int vae_part(const sara_model *model)
{
    int part = 0;
    while (!sara_model_is_vae(model, part))
        part++;
    return part;
}

static sara_status take_vae(sara_model *model, const sara_model_options *options)
{
    const char *path = options->vae;
    int part = vae_part(model);
    sara_status status;
    if (model->denoiser_only)
        return sara_fail(model->ctx, SARA_ERROR_USAGE,
                         "vae %s: of %s the %s alone is loaded, which needs none", path,
                         model->path, model->family->parts[0].class->title);
    if (!sara_path_is_named(path))
        return sara_fail(model->ctx, SARA_ERROR_IO, "vae %s: no such file or folder", path);
    TRY(sara_strdup(model->ctx, &model->vae_path, path));
    for (size_t i = strlen(path); i > 1 && path[i - 1] == '/'; i--)
        model->vae_path[i - 1] = '\0'; /* the last part is its name in pictures */
    TRY(sara_path_is_directory(path) ? take_folder(model, part, path)
                                     : take_file(model, part, path, options->model_config));
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

static sara_status refuse_missing_part(const sara_model *model, int part, const char *config,
                                       const char *folder, const char *there)
{
    const char *name = model->family->parts[part].class->title;
    if (there && strcmp(there, "none") != 0)
        return refuse_variants(model, name, folder, there);
    return sara_fail(model->ctx, SARA_ERROR_INPUT,
                     "%s: holds no %s%s%s: %s--model_config DIR names a diffusers folder that has "
                     "it (where the %s is enough, --unet-only)",
                     model->path, name, config ? ", nor does the folder " : "",
                     config ? config : "",
                     sara_model_is_vae(model, part) ? "--vae PATH names one, or " : "",
                     model->family->parts[0].class->title);
}

/* A part that the single file lacks, from the folder of its configs. */
static sara_status take_missing(sara_model *model, int part, const sara_model_options *options)
{
    const sara_family_part *record = &model->family->parts[part];
    const char *config = options->model_config;
    const char *stem = record->class->stem;
    sara_context *ctx = model->ctx;
    bool plain = false, variant = false;
    char *folder = NULL, *there = NULL;
    sara_status status = SARA_OK;
    if (sara_model_has_part(model, part))
        return SARA_OK;
    if (config) {
        TRY(sara_path_join(ctx, &folder, config, record->folder));
        TRY(sara_weights_are_there(ctx, &plain, folder, stem, NULL));
        if (options->variant && *options->variant)
            TRY(sara_weights_are_there(ctx, &variant, folder, stem, options->variant));
    }
    if (!plain && !variant) {
        if (folder)
            TRY(sara_weights_describe(ctx, &there, folder, stem));
        status = refuse_missing_part(model, part, config, folder, there);
        goto done;
    }
    sara_log(ctx, SARA_LOG_INFO, "%s: holds no %s, which is read from %s", model->path,
             record->class->title, folder);
    model->parts[part].elsewhere = folder;
    folder = NULL;
done:
    sara_free(ctx, there);
    sara_free(ctx, folder);
    return status;
}

sara_status sara_model_choose_parts(sara_model *model, const sara_model_options *options)
{
    sara_status status = SARA_OK;
    if (options->denoiser)
        TRY(take_denoiser(model, options->denoiser));
    if (options->vae)
        TRY(take_vae(model, options));
    for (int i = 1; i < model->family->part_count && model->single && !model->denoiser_only; i++)
        TRY(take_missing(model, i, options));
done:
    return status;
}

/* ---------------------------------------------------------------------------------- tokenizers */

static int count_tokenizers(const sara_family *family, bool t5)
{
    int count = 0;
    for (int i = 0; i < family->part_count; i++)
        count += family->parts[i].tokenizer != NULL && (!t5 || family->parts[i].t5_tokenizer);
    return count;
}

/* A folder of one, or of several under their names where the family has several. Beside T5's the
 * others may be the built-in ones. *out NULL: it is. */
static sara_status choose_tokenizer(const sara_model *model, char **out,
                                    const sara_family_part *record, const char *folder)
{
    bool alone = count_tokenizers(model->family, false) == 1;
    sara_status status = SARA_OK;
    if (!alone)
        TRY(sara_path_join(model->ctx, out, folder, record->tokenizer));
    if (!alone && sara_path_is_directory(*out))
        return SARA_OK;
    sara_free(model->ctx, *out);
    *out = NULL;
    if (alone || record->t5_tokenizer)
        return sara_strdup(model->ctx, out, folder);
    if (!sara_tokenizer_has_builtin() || !count_tokenizers(model->family, true))
        status = sara_fail(model->ctx, SARA_ERROR_USAGE,
                           "tokenizer %s: %s has several; name a folder in which %s and the others "
                           "are",
                           folder, model->family->name, record->tokenizer);
done:
    return status;
}

static sara_status find_tokenizer(const sara_model *model, char **out,
                                  const sara_family_part *record,
                                  const sara_model_options *options)
{
    if (!model->single)
        return sara_path_join(model->ctx, out, model->path, record->tokenizer);
    if (options->tokenizer)
        return choose_tokenizer(model, out, record, options->tokenizer);
    if (options->model_config)
        return sara_path_join(model->ctx, out, options->model_config, record->tokenizer);
    if (record->t5_tokenizer)
        return sara_fail(model->ctx, SARA_ERROR_USAGE,
                         "%s: a single file holds no vocabulary of T5; --tokenizer DIR names a "
                         "folder with spiece.model or tokenizer.json, --no-t5 goes without",
                         model->path);
    if (sara_tokenizer_has_builtin())
        return SARA_OK;
    return sara_fail(model->ctx, SARA_ERROR_USAGE,
                     "%s: a single file holds no vocabulary; --tokenizer DIR names a tokenizer "
                     "folder with vocab.json and merges.txt",
                     model->path);
}

sara_status sara_model_load_tokenizer(sara_model *model, int index,
                                      const sara_model_options *options)
{
    sara_model_part *part = &model->parts[index];
    const sara_family_part *record = &model->family->parts[index];
    int length = part->network->info.text.max_positions;
    sara_status status = SARA_OK;
    if (!record->tokenizer)
        return SARA_OK;
    TRY(find_tokenizer(model, &part->tokenizer_path, record, options));
    if (record->t5_tokenizer)
        TRY(sara_tokenizer_load_t5(model->ctx, &part->tokenizer, part->tokenizer_path));
    else if (part->tokenizer_path)
        TRY(sara_tokenizer_load(model->ctx, &part->tokenizer, part->tokenizer_path, length));
    else
        TRY(sara_tokenizer_load_builtin(model->ctx, &part->tokenizer, record->second_padding));
done:
    return status;
}

/* ----------------------------------------------------------------------------- whether it fits */

/* The denoiser was trained on what the model's own VAE makes of images. */
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
    if (info->latent_channels != wanted && model->parts[0].elsewhere)
        return sara_fail(
            model->ctx, SARA_ERROR_INPUT,
            "%s: in_channels %d, the VAE of %s has latent_channels %d: they must agree",
            model->parts[0].elsewhere, wanted, model->vae_path ? model->vae_path : model->path,
            info->latent_channels);
    if (info->latent_channels != wanted)
        return sara_fail(model->ctx, SARA_ERROR_INPUT,
                         "%s: vae latent_channels %d, %s in_channels %d: they must agree",
                         model->vae_path ? model->vae_path : model->path, info->latent_channels,
                         model->family->parts[0].folder, wanted);
    if (!model->vae_path)
        return SARA_OK;
    TRY(own_config(model, &own, vae_part(model), NULL));
    if (own)
        TRY(compare_with_own(model, info, own));
done:
    json_decref(own);
    return status;
}

/* Loading a model folder. */
#include "pipeline/pipeline.h"

#include "models/clip.h"
#include "models/unet.h"
#include "models/vae.h"

static sara_status missing_model(sara_context *ctx, const char *path)
{
    return sara_fail(ctx, SARA_ERROR_IO,
                     "%s: no such file or folder; sara reads local diffusers folders and "
                     ".safetensors files and downloads nothing",
                     path);
}

/* The scheduler's class that model_index.json names; checks that the pipeline is one we know. */
static sara_status read_index(sara_context *ctx, json_t **index, const char **scheduler_class,
                              const char *path)
{
    char *file = NULL;
    const char *class_name = NULL;
    sara_status status;
    TRY(sara_path_join(ctx, &file, path, "model_index.json"));
    if (!sara_path_is_named(file)) {
        status = sara_fail(ctx, SARA_ERROR_INPUT,
                           "%s: no model_index.json; a diffusers folder is expected (a bare unet/ "
                           "folder goes with --unet-only)",
                           path);
        goto done;
    }
    TRY(sara_json_load(ctx, index, file, true));
    if (!json_is_object(*index))
        TRY(sara_fail(ctx, SARA_ERROR_INPUT, "%s: expected an object", file));
    const sara_config config = {ctx, *index, file};
    TRY(sara_config_string(&config, &class_name, "_class_name", "StableDiffusionPipeline"));
    if (strncmp(class_name, "StableDiffusion", 15) != 0 ||
        json_object_get(*index, "text_encoder_2") || json_object_get(*index, "transformer") ||
        strstr(class_name, "XL")) {
        status = sara_fail(
            ctx, SARA_ERROR_INPUT,
            "%s: _class_name %s is not supported; expected StableDiffusionPipeline (SD1.x, SD2.x)",
            file, class_name);
        goto done;
    }
    const json_t *pair = json_object_get(*index, "scheduler");
    *scheduler_class = json_string_value(json_array_get(pair, 1));
done:
    sara_free(ctx, file);
    return status;
}

static sara_status load_scheduler(sara_model *model)
{
    sara_context *ctx = model->ctx;
    json_t *index = NULL;
    const char *class_name = NULL;
    char *folder = NULL, *file = NULL;
    sara_status status;
    TRY(read_index(ctx, &index, &class_name, model->path));
    TRY(sara_path_join(ctx, &folder, model->path, "scheduler"));
    TRY(sara_path_join(ctx, &file, folder, "scheduler_config.json"));
    TRY(sara_json_load(ctx, &model->scheduler_json, file, true));
    TRY(sara_scheduler_config_parse(ctx, &model->scheduler, model->scheduler_json, file,
                                    class_name));
    /* The index's class is what counts; a file that is written has no index. */
    if (class_name && json_object_set_new(model->scheduler_json, "_class_name",
                                          json_string(class_name)) != 0)
        TRY(sara_fail(ctx, SARA_ERROR_MEMORY, "%s: out of memory: scheduler's class", file));
    TRY(sara_model_correct_scheduler(model, file));
    model->has_scheduler = true;
done:
    json_decref(index);
    sara_free(ctx, folder);
    sara_free(ctx, file);
    return status;
}

/* ------------------------------------------------------------------------------- the networks */

static sara_status check_text(const sara_model *model)
{
    const sara_text_info *info = &model->text->info.text;
    int width = model->denoiser->info.denoiser.state_width;
    int ids = sara_tokenizer_vocab_size(model->tokenizer);
    if (info->hidden_size != width)
        return sara_fail(
            model->ctx, SARA_ERROR_INPUT,
            "%s: text_encoder hidden_size %d, unet cross_attention_dim %d: they must agree",
            model->path, info->hidden_size, width);
    if (info->vocab_size < ids)
        return sara_fail(model->ctx, SARA_ERROR_INPUT,
                         "%s: text_encoder vocab_size %d, the tokenizer has ids up to %d%s",
                         model->path, info->vocab_size, ids - 1,
                         model->single ? "; --tokenizer DIR names another" : "");
    return SARA_OK;
}

static sara_status find_tokenizer(sara_model *model, const sara_model_options *options)
{
    if (!model->single)
        return sara_path_join(model->ctx, &model->tokenizer_path, model->path, "tokenizer");
    if (options->tokenizer)
        return sara_strdup(model->ctx, &model->tokenizer_path, options->tokenizer);
    if (options->model_config)
        return sara_path_join(model->ctx, &model->tokenizer_path, options->model_config,
                              "tokenizer");
    if (sara_tokenizer_has_builtin())
        return SARA_OK;
    return sara_fail(model->ctx, SARA_ERROR_USAGE,
                     "%s: a single file holds no vocabulary; --tokenizer DIR names a tokenizer "
                     "folder with vocab.json and merges.txt",
                     model->path);
}

static sara_status load_tokenizer(sara_model *model, const sara_model_options *options)
{
    int length = model->text->info.text.max_positions;
    sara_status status;
    TRY(find_tokenizer(model, options));
    if (model->tokenizer_path)
        TRY(sara_tokenizer_load(model->ctx, &model->tokenizer, model->tokenizer_path, length));
    else
        TRY(sara_tokenizer_load_builtin(model->ctx, &model->tokenizer,
                                        sara_model_is_second(model)));
done:
    return status;
}

static sara_status load_text(sara_model *model, const sara_model_options *options)
{
    sara_component component;
    sara_status status;
    TRY(sara_model_component(model, &component, SARA_MODULE_TEXT));
    TRY(sara_network_open(model->device, &model->text, &sara_clip_text_class, &component,
                          SARA_STORE_F32));
    TRY(load_tokenizer(model, options));
    TRY(check_text(model));
done:
    sara_component_close(&component);
    return status;
}

static sara_status load_vae(sara_model *model)
{
    sara_component component;
    sara_status status;
    TRY(sara_model_component(model, &component, SARA_MODULE_VAE));
    TRY(sara_network_open(model->device, &model->vae, &sara_vae_class, &component, SARA_STORE_F32));
    TRY(sara_model_check_vae(model));
done:
    sara_component_close(&component);
    return status;
}

static sara_status load_unet(sara_model *model)
{
    sara_component component;
    sara_status status;
    TRY(sara_model_component(model, &component, SARA_MODULE_UNET));
    TRY(sara_network_open(model->device, &model->denoiser, &sara_unet_class, &component,
                          model->storage));
    if (!model->unet_only)
        sara_model_correct_unet(model, &component);
done:
    sara_component_close(&component);
    return status;
}

/* ----------------------------------------------------------------------------------- the model */

/* Whether parts of a single file may be in folders. */
static bool has_folders(const sara_model_options *options)
{
    return options->model_config || (options->vae && sara_path_is_directory(options->vae));
}

/* What would have no effect is a slip, or a wish that is not met. */
static sara_status model_check_options(sara_context *ctx, const char *path,
                                       const sara_model_options *options)
{
    const char *config = options->model_config, *tokenizer = options->tokenizer;
    const char *variant = options->variant ? options->variant : "";
    if (tokenizer && options->unet_only)
        return sara_fail(ctx, SARA_ERROR_USAGE,
                         "tokenizer %s: of %s the U-Net alone is loaded, which needs none",
                         tokenizer, path);
    if ((config || tokenizer) && sara_path_is_directory(path))
        return sara_fail(ctx, SARA_ERROR_USAGE,
                         "%s %s: %s is a folder, which has its own; that goes with a .safetensors "
                         "file",
                         config ? "model_config" : "tokenizer", config ? config : tokenizer, path);
    if (options->use_ema_weights && sara_path_is_directory(path))
        return sara_fail(
            ctx, SARA_ERROR_USAGE,
            "use_ema_weights: %s is a folder, whose averages, where it has them, are a "
            "folder or variant of their own; that goes with a .safetensors file",
            path);
    if (*variant && !sara_path_is_directory(path) && !has_folders(options))
        return sara_fail(ctx, SARA_ERROR_USAGE,
                         "variant %s: %s is one file, which has no variants; that goes with a "
                         "folder",
                         variant, path);
    return SARA_OK;
}

static sara_status open_source(sara_model *model, const char *path,
                               const sara_model_options *options)
{
    sara_context *ctx = model->ctx;
    sara_status status;
    TRY(model_check_options(ctx, path, options));
    TRY(sara_strdup(ctx, &model->path, path));
    if (!sara_path_is_directory(path))
        TRY(sara_single_file_open(ctx, &model->single, path, options->model_config,
                                  options->use_ema_weights));
    for (size_t i = strlen(path); !model->single && i > 1 && path[i - 1] == '/'; i--)
        model->path[i - 1] = '\0'; /* the last part is the model's name in pictures */
    TRY(sara_model_choose_parts(model, options));
    TRY(sara_model_choose_variant(model, options->variant));
done:
    return status;
}

/* A folder's scheduler config names its prediction type, which an option may overrule. */
static sara_status model_choose_prediction(sara_model *model, const sara_model_options *options)
{
    const sara_prediction *type = &model->scheduler.prediction_type, own = *type;
    sara_status status = SARA_OK;
    if (model->single)
        return sara_single_prediction(model, options);
    if (options->prediction_type)
        TRY(sara_scheduler_config_predict(model->ctx, &model->scheduler, options->prediction_type));
    model->scheduler_changed = model->scheduler_json && *type != own;
    if (model->scheduler_changed &&
        json_object_set_new(model->scheduler_json, "prediction_type",
                            json_string(sara_prediction_name(*type))) != 0)
        status = sara_fail(model->ctx, SARA_ERROR_MEMORY, "%s: out of memory: prediction type",
                           model->path);
done:
    return status;
}

static size_t count_doubles(const sara_params *params)
{
    size_t count = 0;
    for (size_t i = 0; i < params->count; i++)
        count += params->items[i].stored == SARA_F64;
    return count;
}

static void warn_of_count(const sara_model *model, const char *path, size_t count)
{
    if (count)
        sara_log(model->ctx, SARA_LOG_WARNING,
                 "%s: %zu tensors are float64; they are rounded to float32", path, count);
}

/* Arithmetic is in float32: what is said of such a model is said of the rounded one. */
static void warn_of_doubles(const sara_model *model)
{
    const struct {
        const sara_params *params;
        const char *elsewhere;
    } parts[] = {
        {&model->denoiser->params, NULL},
        {model->vae ? &model->vae->params : NULL,
         model->vae_path ? model->vae_path : model->elsewhere[SARA_MODULE_VAE]},
        {model->text ? &model->text->params : NULL, model->elsewhere[SARA_MODULE_TEXT]},
    };
    size_t own = 0;
    for (size_t i = 0; i < sizeof(parts) / sizeof(*parts); i++) {
        size_t count = parts[i].params ? count_doubles(parts[i].params) : 0;
        if (parts[i].elsewhere)
            warn_of_count(model, parts[i].elsewhere, count);
        else
            own += count;
    }
    warn_of_count(model, model->path, own);
}

static sara_status load_parts(sara_model *model, const sara_model_options *options)
{
    sara_status status;
    TRY(sara_nn_device_open(model->ctx, &model->device, "cpu"));
    if (model->single)
        TRY(sara_single_scheduler(model, options));
    else if (model->unet_only)
        TRY(sara_scheduler_config_parse(model->ctx, &model->scheduler, NULL, "default", NULL));
    else
        TRY(load_scheduler(model));
    TRY(load_unet(model));
    TRY(model_choose_prediction(model, options));
    if (!model->unet_only) {
        TRY(load_vae(model));
        TRY(load_text(model, options));
    }
    warn_of_doubles(model);
done:
    return status;
}

static const sara_options_type model_options_type =
    SARA_OPTIONS_TYPE(sara_model_options, weight_dtype);

void sara_model_options_init_sized(sara_model_options *options, size_t size)
{
    const sara_model_options defaults = {0};
    sara_options_init(options, size, &defaults, &model_options_type);
}

sara_status sara_model_load(sara_context *ctx, sara_model **out, const char *path,
                            const sara_model_options *given)
{
    sara_model_options own = {0}, *options = &own;
    sara_model *model = NULL;
    sara_status status;
    *out = NULL;
    if (given)
        TRY(sara_options_read(ctx, options, &model_options_type, given));
    if (!path || !*path)
        return sara_fail(ctx, SARA_ERROR_USAGE, "no model given; name a diffusers folder");
    if (!sara_path_is_named(path))
        return missing_model(ctx, path);
    TRY(sara_alloc_zero(ctx, &model, 1, sizeof(*model)));
    model->ctx = ctx;
    model->unet_only = options->unet_only;
    TRY(sara_storage_parse(ctx, &model->storage, options->weight_dtype, "weight_dtype"));
    TRY(open_source(model, path, options));
    TRY(load_parts(model, options));
    *out = model;
    return SARA_OK;
done:
    sara_model_free(model);
    return status;
}

sara_status sara_model_new_random(sara_context *ctx, sara_model **out, const char *shape,
                                  uint64_t seed, const char *weight_dtype)
{
    sara_component component;
    sara_model *model = NULL;
    sara_status status;
    *out = NULL;
    status = sara_network_shape_of(ctx, &component, &sara_unet_class, shape);
    if (status == SARA_ERROR_USAGE)
        return sara_fail(ctx, status, "--shape %.100s: expected sd15, sd21 or tiny", shape);
    TRY(status);
    TRY(sara_alloc_zero(ctx, &model, 1, sizeof(*model)));
    model->ctx = ctx;
    model->unet_only = true;
    TRY(sara_storage_parse(ctx, &model->storage, weight_dtype, "weight_dtype"));
    TRY(sara_strdup(ctx, &model->path, shape));
    TRY(sara_nn_device_open(ctx, &model->device, "cpu"));
    TRY(sara_scheduler_config_parse(ctx, &model->scheduler, NULL, "default", NULL));
    TRY(sara_network_draw(model->device, &model->denoiser, &sara_unet_class, &component, seed,
                          model->storage));
    *out = model;
    model = NULL;
done:
    sara_component_close(&component);
    sara_model_free(model);
    return status;
}

void sara_model_free(sara_model *model)
{
    if (!model)
        return;
    for (size_t i = 0; i < model->adapter_count; i++)
        sara_free(model->ctx, model->adapters[i].name);
    sara_applied_free(model->applied);
    sara_free(model->ctx, model->adapters);
    sara_tokenizer_free(model->tokenizer);
    sara_network_free(model->text);
    sara_network_free(model->vae);
    sara_network_free(model->denoiser);
    sara_nn_device_close(model->device);
    sara_single_file_close(model->single);
    sara_single_file_close(model->vae_file);
    for (int i = 0; i < SARA_MODULE_COUNT; i++)
        sara_free(model->ctx, model->elsewhere[i]);
    sara_free(model->ctx, model->vae_path);
    json_decref(model->scheduler_json);
    sara_free(model->ctx, model->scheduler_source);
    sara_free(model->ctx, model->tokenizer_path);
    sara_free(model->ctx, model->variant);
    sara_free(model->ctx, model->path);
    sara_free(model->ctx, model);
}

static sara_status model_check_finite(const sara_model *model, const sara_param *param)
{
    sara_param as = *param; /* as the file calls it */
    sara_ldm_shape shape;
    char *ldm = NULL, *name = NULL;
    sara_status status = SARA_OK;
    if (model->single) {
        TRY(sara_network_ldm_shape(model->denoiser, &shape));
        shape.flat = sara_single_file_shape(model->single, SARA_MODULE_UNET)->flat;
        TRY(sara_ldm_from_diffusers(model->ctx, &ldm, &shape, param->name));
        TRY(sara_format(model->ctx, &name, "%s%s",
                        sara_single_file_prefix(model->single, SARA_MODULE_UNET),
                        ldm ? ldm : param->name));
        as.name = name;
    }
    TRY(sara_param_check_finite(model->ctx, &as));
done:
    sara_free(model->ctx, ldm);
    sara_free(model->ctx, name);
    return status;
}

sara_status sara_model_tell_not_finite(const sara_model *model, sara_status status)
{
    const sara_params *params = &model->denoiser->params;
    for (size_t i = 0; status == SARA_ERROR_INPUT && i < params->count; i++)
        if (model_check_finite(model, &params->items[i]) != SARA_OK)
            return sara_fail_in(model->ctx, SARA_ERROR_INPUT, model->path);
    return status;
}

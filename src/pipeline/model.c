/* Loading a model folder. */
#include "pipeline/embedding.h"

static sara_status missing_model(sara_context *ctx, const char *path)
{
    return sara_fail(ctx, SARA_ERROR_IO,
                     "%s: no such file or folder; sara reads local diffusers folders and "
                     ".safetensors files and downloads nothing",
                     path);
}

/* The index's class is what counts. */
static sara_status load_scheduler(sara_model *model)
{
    sara_context *ctx = model->ctx;
    const char *class_name = model->scheduler_class;
    char *folder = NULL, *file = NULL;
    sara_status status;
    TRY(sara_path_join(ctx, &folder, model->path, "scheduler"));
    TRY(sara_path_join(ctx, &file, folder, "scheduler_config.json"));
    TRY(sara_json_load(ctx, &model->scheduler_json, file, true));
    TRY(sara_scheduler_config_parse(ctx, &model->scheduler, model->scheduler_json, file,
                                    class_name));
    /* A file that is written has no index. */
    if (class_name &&
        json_object_set_new(model->scheduler_json, "_class_name", json_string(class_name)) != 0)
        TRY(sara_fail(ctx, SARA_ERROR_MEMORY, "%s: out of memory: scheduler's class", file));
    if (model->family->correct_scheduler)
        TRY(model->family->correct_scheduler(model, file));
    model->has_scheduler = true;
done:
    sara_free(ctx, folder);
    sara_free(ctx, file);
    return status;
}

/* ------------------------------------------------------------------------------- the networks */

static sara_status load_part(sara_model *model, int index, sara_storage storage)
{
    sara_network **network = &model->parts[index].network;
    sara_component component;
    sara_status status;
    TRY(sara_model_component(model, &component, index));
    TRY((index == 0 && model->offload ? sara_network_open_offloaded : sara_network_open)(
        model->device, network, model->family->parts[index].class, &component, storage));
    model->denoiser = model->parts[0].network;
    if (sara_model_is_vae(model, index))
        model->vae = *network;
    if (index == 0 && !model->denoiser_only && model->family->correct_denoiser)
        model->family->correct_denoiser(model, &component);
done:
    sara_component_close(&component);
    return status;
}

static sara_status load_others(sara_model *model, const sara_model_options *options)
{
    sara_status status = SARA_OK;
    for (int i = 1; i < model->family->part_count; i++) {
        TRY(load_part(model, i, model->encoder_storage));
        TRY(sara_model_load_tokenizer(model, i, options));
    }
    TRY(sara_model_check_vae(model));
    TRY(model->family->check_texts(model));
done:
    return status;
}

/* ----------------------------------------------------------------------------------- the model */

/* Whether parts of a single file may be in folders. */
static bool has_folders(const sara_model_options *options)
{
    return options->model_config || options->denoiser ||
           (options->vae && sara_path_is_directory(options->vae));
}

/* What would have no effect is a slip, or a wish that is not met. */
static sara_status model_check_options(const sara_model *model, const char *path,
                                       const sara_model_options *options)
{
    sara_context *ctx = model->ctx;
    const char *config = options->model_config;
    const char *tokenizer = model->denoiser_only ? NULL : options->tokenizer; /* told of later */
    const char *variant = options->variant ? options->variant : "";
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
    if (options->use_ema_weights && options->denoiser)
        return sara_fail(ctx, SARA_ERROR_USAGE,
                         "use_ema_weights: the denoiser is read from %s and not from %s; give one "
                         "of them",
                         options->denoiser, path);
    if (*variant && !sara_path_is_directory(path) && !has_folders(options))
        return sara_fail(ctx, SARA_ERROR_USAGE,
                         "variant %s: %s is one file, which has no variants; that goes with a "
                         "folder",
                         variant, path);
    return SARA_OK;
}

/* *out: of a denoiser in a folder of its own */
static sara_status recognise_alone(sara_context *ctx, const sara_family **out, const char *folder)
{
    json_t *config = NULL;
    char *file = NULL;
    sara_status status;
    TRY(sara_path_join(ctx, &file, folder, "config.json"));
    TRY(sara_json_load(ctx, &config, file, true));
    TRY(sara_family_of_config(ctx, out, config, file));
done:
    json_decref(config);
    sara_free(ctx, file);
    return status;
}

/* What else a folder's index tells. */
static sara_status take_index(sara_model *model, const json_t *index)
{
    const sara_config fields = {model->ctx, index, "model_index.json"};
    const char *scheduler =
        json_string_value(json_array_get(json_object_get(index, "scheduler"), 1));
    sara_status status = SARA_OK;
    if (scheduler)
        TRY(sara_strdup(model->ctx, &model->scheduler_class, scheduler));
    if (model->zero_negative)
        TRY(sara_config_bool(&fields, &model->zero_negative, "force_zeros_for_empty_prompt", true));
done:
    return status == SARA_ERROR_INPUT ? sara_fail_in(model->ctx, status, model->path) : status;
}

static sara_status recognise_folder(sara_model *model, const char *path)
{
    json_t *index = NULL;
    sara_status status;
    TRY(sara_family_of_folder(model->ctx, &model->family, &index, path));
    model->zero_negative = model->family->zero_negative;
    TRY(take_index(model, index));
done:
    json_decref(index);
    return status;
}

/* The last part of a family that may lack it, where neither the file nor the folder of its configs
 * has it. */
static sara_status take_absent(sara_model *model, const sara_model_options *options)
{
    const sara_family *family = model->family;
    const int last = family->part_count - 1;
    char *folder = NULL;
    bool there = model->single->parts[last].prefix != NULL;
    sara_status status = SARA_OK;
    if (!family->without || family->without == family || options->no_t5)
        return SARA_OK;
    if (options->model_config) {
        TRY(sara_path_join(model->ctx, &folder, options->model_config, family->parts[last].folder));
        there |= sara_path_is_directory(folder);
    }
    if (there)
        goto done;
    model->family = family->without;
    if (!model->denoiser_only)
        sara_log(model->ctx, SARA_LOG_INFO, "%s: holds no %s; zeros stand for its states",
                 model->path, family->parts[last].class->title);
done:
    sara_free(model->ctx, folder);
    return status;
}

static sara_status recognise(sara_model *model, const char *path, const sara_model_options *options)
{
    sara_status status;
    if (sara_path_is_directory(path))
        return model->denoiser_only ? recognise_alone(model->ctx, &model->family, path)
                                    : recognise_folder(model, path);
    TRY(sara_family_open_file(model->ctx, &model->family, &model->single, path,
                              options->model_config, options->use_ema_weights));
    model->zero_negative = model->family->zero_negative;
    TRY(take_absent(model, options));
done:
    return status;
}

/* T5, of a family that may lack it. */
static sara_status leave_out_last(sara_model *model)
{
    if (!model->family->without)
        return sara_fail(model->ctx, SARA_ERROR_USAGE,
                         "no_t5: %s has no T5 text encoder; that goes with SD3 and SD3.5",
                         model->path);
    model->family = model->family->without;
    return SARA_OK;
}

static sara_status open_source(sara_model *model, const char *path,
                               const sara_model_options *options)
{
    sara_context *ctx = model->ctx;
    sara_status status;
    TRY(model_check_options(model, path, options));
    TRY(sara_strdup(ctx, &model->path, path));
    TRY(recognise(model, path, options));
    if (options->no_t5)
        TRY(leave_out_last(model));
    if (options->tokenizer && model->denoiser_only)
        TRY(sara_fail(ctx, SARA_ERROR_USAGE,
                      "tokenizer %s: of %s the %s alone is loaded, which needs none",
                      options->tokenizer, path, model->family->parts[0].class->title));
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
    size_t own = 0;
    for (int i = 0; i < model->family->part_count; i++) {
        const sara_model_part *part = &model->parts[i];
        const char *elsewhere =
            model->vae_path && sara_model_is_vae(model, i) ? model->vae_path : part->elsewhere;
        size_t count = part->network ? count_doubles(&part->network->params) : 0;
        if (elsewhere)
            warn_of_count(model, elsewhere, count);
        else
            own += count;
    }
    warn_of_count(model, model->path, own);
}

static sara_status load_parts(sara_model *model, const sara_model_options *options)
{
    sara_status status;
    TRY(sara_nn_device_open(model->ctx, &model->device, options->device));
    if (model->single)
        TRY(sara_single_scheduler(model, options));
    else if (model->denoiser_only)
        TRY(sara_model_published_scheduler(model));
    else
        TRY(load_scheduler(model));
    TRY(load_part(model, 0, model->storage));
    TRY(model_choose_prediction(model, options));
    if (model->denoiser_only) { /* nothing comes before it */
        TRY(sara_network_read(model->denoiser));
        sara_network_close_files(model->denoiser);
    } else {
        TRY(load_others(model, options));
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

static sara_status choose_encoder_storage(sara_model *model, const sara_model_options *options)
{
    const char *name = options->encoder_dtype ? options->encoder_dtype : "auto";
    sara_storage storage;
    sara_status status;
    TRY(sara_storage_parse(model->ctx, &storage, name, "encoder_dtype"));
    model->encoder_storage = sara_storage_exact(storage);
    if (model->denoiser_only && storage != SARA_STORE_AUTO)
        status = sara_fail(model->ctx, SARA_ERROR_USAGE,
                           "encoder_dtype %s: of text encoders and VAE, and the denoiser alone is "
                           "loaded; leave it out",
                           name);
done:
    return status;
}

static sara_status model_open(sara_context *ctx, sara_model **out, const char *path,
                              const sara_model_options *options, bool denoiser_only, bool offload)
{
    sara_model *model = NULL;
    sara_status status;
    if (!path || !*path)
        return sara_fail(ctx, SARA_ERROR_USAGE, "no model given; name a diffusers folder");
    if (!sara_path_is_named(path))
        return missing_model(ctx, path);
    TRY(sara_alloc_zero(ctx, &model, 1, sizeof(*model)));
    model->ctx = ctx;
    model->denoiser_only = denoiser_only;
    model->offload = offload;
    TRY(sara_storage_parse(ctx, &model->storage, options->weight_dtype, "weight_dtype"));
    TRY(choose_encoder_storage(model, options));
    TRY(sara_nn_device_check(ctx, options->device, "device"));
    TRY(open_source(model, path, options));
    TRY(load_parts(model, options));
    *out = model;
    return SARA_OK;
done:
    sara_model_free(model);
    return status;
}

sara_status sara_model_load(sara_context *ctx, sara_model **out, const char *path,
                            const sara_model_options *given)
{
    sara_model_options options = {0};
    sara_status status;
    *out = NULL;
    if (given)
        TRY(sara_options_read(ctx, &options, &model_options_type, given));
    TRY(model_open(ctx, out, path, &options, options.unet_only, false));
done:
    return status;
}

sara_status sara_model_load_denoiser(sara_context *ctx, sara_model **out, const char *path,
                                     const sara_model_options *options)
{
    *out = NULL;
    return model_open(ctx, out, path, options, true, false);
}

sara_status sara_model_load_offloaded(sara_context *ctx, sara_model **out, const char *path,
                                      const sara_model_options *options, bool denoiser_only)
{
    *out = NULL;
    return model_open(ctx, out, path, options, denoiser_only, true);
}

sara_status sara_model_new_random(sara_context *ctx, sara_model **out, const char *shape,
                                  uint64_t seed, const char *weight_dtype, const char *device)
{
    sara_component component;
    sara_model *model = NULL;
    const sara_family *family;
    sara_status status;
    *out = NULL;
    TRY(sara_family_of_shape(ctx, &family, &component, shape));
    TRY(sara_alloc_zero(ctx, &model, 1, sizeof(*model)));
    model->ctx = ctx;
    model->family = family;
    model->denoiser_only = true;
    TRY(sara_storage_parse(ctx, &model->storage, weight_dtype, "weight_dtype"));
    TRY(sara_strdup(ctx, &model->path, shape));
    TRY(sara_nn_device_open(ctx, &model->device, device));
    TRY(sara_model_published_scheduler(model));
    TRY(sara_network_draw(model->device, &model->parts[0].network, family->parts[0].class,
                          &component, seed, model->storage));
    model->denoiser = model->parts[0].network;
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
    for (size_t i = 0; i < model->prompt_count; i++)
        sara_kept_prompt_free(model->ctx, &model->prompts[i]);
    sara_free(model->ctx, model->prompts);
    sara_embedding_folder_free(model->embeddings);
    sara_free(model->ctx, model->adapters);
    for (int i = 0; i < SARA_MOST_PARTS; i++) {
        sara_tokenizer_free(model->parts[i].tokenizer);
        sara_applied_free(model->parts[i].applied);
        sara_network_free(model->parts[i].network);
        sara_free(model->ctx, model->parts[i].tokenizer_path);
        sara_free(model->ctx, model->parts[i].elsewhere);
    }
    sara_nn_device_close(model->device);
    sara_single_close(model->single);
    sara_single_close(model->vae_file);
    sara_free(model->ctx, model->vae_path);
    json_decref(model->scheduler_json);
    sara_free(model->ctx, model->scheduler_class);
    sara_free(model->ctx, model->scheduler_source);
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
    if (model->single && !model->parts[0].elsewhere) {
        TRY(sara_network_ldm_shape(model->denoiser, &shape));
        shape.flat = model->single->parts[0].shape.flat;
        TRY(sara_ldm_from_diffusers(model->ctx, &ldm, &shape, param->name));
        TRY(sara_format(model->ctx, &name, "%s%s", model->single->parts[0].prefix,
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
    for (size_t i = 0; status == SARA_ERROR_INPUT && i < params->count; i++) {
        sara_status found = model_check_finite(model, &params->items[i]);
        if (found == SARA_ERROR_INPUT)
            return sara_fail_in(model->ctx, SARA_ERROR_INPUT,
                                model->parts[0].elsewhere ? model->parts[0].elsewhere
                                                          : model->path);
        if (found != SARA_OK)
            return found;
    }
    return status;
}

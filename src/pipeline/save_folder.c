/* Writing a diffusers folder: the U-Net from memory, everything else from the source. */
#include "pipeline/save.h"

#include <sys/stat.h>

#define DEEPEST_FOLDER 8

static sara_status write_list(const sara_save_list *list, const char *folder, const char *stem)
{
    const sara_metadata format = {"format", "pt"};
    sara_context *ctx = list->ctx;
    char *name = NULL, *path = NULL;
    sara_status status;
    TRY(sara_save_check_interrupted(ctx));
    TRY(sara_format(ctx, &name, "%s.safetensors", stem));
    TRY(sara_path_join(ctx, &path, folder, name));
    TRY(sara_safetensors_save(ctx, path, list->sources, list->count, &format, 1));
done:
    sara_free(ctx, name);
    sara_free(ctx, path);
    return status;
}

static sara_status save_params(sara_context *ctx, const char *folder, const char *stem,
                               const sara_params *params, const sara_dtype *dtype)
{
    sara_save_list list;
    sara_status status = SARA_OK;
    sara_save_list_init(&list, ctx);
    for (size_t i = 0; i < params->count; i++)
        TRY(sara_save_list_param(&list, NULL, NULL, &params->items[i], dtype));
    TRY(write_list(&list, folder, stem));
done:
    sara_save_list_free(&list);
    return status;
}

/* The component's own tensors, those that sara does not use among them, in one file. */
static sara_status save_component(sara_context *ctx, const char *to, const sara_model *model,
                                  sara_module module, const sara_dtype *dtype)
{
    sara_component component;
    sara_weights *weights = NULL;
    sara_save_list list;
    char *folder = NULL;
    sara_status status;
    sara_save_list_init(&list, ctx);
    TRY(sara_model_component(model, &component, module));
    TRY(sara_component_weights(&component, &weights));
    for (size_t i = 0; i < sara_weights_count(weights); i++)
        TRY(sara_save_list_weight(&list, NULL, NULL, weights, sara_weights_at(weights, i), dtype));
    TRY(sara_path_join(ctx, &folder, to, sara_part_folder_name(module)));
    TRY(write_list(&list, folder, sara_part_stem(module)));
done:
    sara_save_list_free(&list);
    sara_weights_close(weights);
    sara_component_close(&component);
    sara_free(ctx, folder);
    return status;
}

/* ------------------------------------------------------------------------------ from a folder */

/* Weights under any name: what is written anew, or would no longer be the model's. */
static bool is_weights(const char *name)
{
    static const char *const endings[] = {".safetensors", ".bin",     ".ckpt", ".pt",  ".pth",
                                          ".msgpack",     ".h5",      ".onnx", ".gguf"};
    for (size_t i = 0; i < sizeof(endings) / sizeof(*endings); i++)
        if (sara_text_ends_with(name, endings[i]))
            return true;
    /* An index, whose variant stands before or after that word. */
    return strstr(name, ".index.") && (strstr(name, ".safetensors.") || strstr(name, ".bin."));
}

/* What is written anew; the folders of others (safety checker, ...) keep their weights. */
static bool is_component(const char *name)
{
    return strcmp(name, "unet") == 0 || strcmp(name, "vae") == 0 ||
           strcmp(name, "text_encoder") == 0;
}

/* Not a link that leads nowhere, a FIFO or the like, of which the model needs none. */
static bool is_file(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0 && S_ISREG(info.st_mode);
}

/* A link back to the folder, or to one above it, has no end. */
static sara_status check_no_circle(sara_context *ctx, const char *link, const char *folder)
{
    bool circle;
    sara_status status;
    TRY(sara_path_is_within(ctx, &circle, folder, link));
    if (circle)
        status = sara_fail(ctx, SARA_ERROR_INPUT,
                           "%s: a link back to a folder that it lies in: it cannot be copied; "
                           "remove it",
                           link);
done:
    return status;
}

/* What is written has no variants: a file that stands for the plain one gets its name.
 * *out: sara_free() */
static sara_status name_carried(sara_context *ctx, char **out, const char *from, const char *name,
                                const char *variant)
{
    const sara_name ending = sara_name_of(".%s.safetensors", variant ? variant : "");
    char *plain = NULL;
    sara_status status;
    *out = NULL;
    if (variant && sara_text_ends_with(name, ending.text)) {
        int stem = (int)(strlen(name) - strlen(ending.text));
        TRY(sara_format(ctx, &plain, "%s/%.*s.safetensors", from, stem, name));
        if (!sara_path_is_named(plain))
            TRY(sara_format(ctx, out, "%.*s.safetensors", stem, name));
    }
    if (!*out)
        TRY(sara_strdup(ctx, out, name));
done:
    sara_free(ctx, plain);
    return status;
}

typedef struct carrying {
    sara_context *ctx;
    const char *variant; /* NULL: none */
} carrying;

static sara_status carry_file(const carrying *c, const char *to, const char *from, const char *name,
                              bool keep_weights)
{
    char *source = NULL, *target = NULL, *new_name = NULL;
    sara_status status;
    TRY(sara_path_join(c->ctx, &source, from, name));
    if (!is_file(source)) {
        sara_log(c->ctx, SARA_LOG_WARNING, "%s: is no file; it is not carried along", source);
    } else if (keep_weights || !is_weights(name)) {
        TRY(name_carried(c->ctx, &new_name, from, name, keep_weights ? c->variant : NULL));
        TRY(sara_path_join(c->ctx, &target, to, new_name));
        TRY(sara_file_copy(c->ctx, source, target));
    }
done:
    sara_free(c->ctx, source);
    sara_free(c->ctx, target);
    sara_free(c->ctx, new_name);
    return status;
}

/* Copies the tree but for hidden entries, following links; weights only where keep_weights. */
static sara_status carry_along(const carrying *c, const char *to, const char *from, int depth,
                               bool keep_weights)
{
    sara_context *ctx = c->ctx;
    char **names = NULL, *source = NULL, *target = NULL;
    size_t count = 0;
    sara_status status;
    if (depth > DEEPEST_FOLDER)
        return sara_fail(ctx, SARA_ERROR_INPUT, "%s: folders more than %d deep", from,
                         DEEPEST_FOLDER);
    TRY(sara_directory_make(ctx, to));
    TRY(sara_directory_list(ctx, &names, &count, from));
    for (size_t i = 0; i < count; i++) {
        if (names[i][0] == '.')
            continue;
        TRY(sara_save_check_interrupted(ctx));
        TRY(sara_path_join(ctx, &source, from, names[i]));
        TRY(sara_path_join(ctx, &target, to, names[i]));
        if (sara_path_is_directory(source)) {
            TRY(check_no_circle(ctx, source, from));
            bool keep = depth > 0 ? keep_weights : !is_component(names[i]);
            TRY(carry_along(c, target, source, depth + 1, keep));
        } else {
            TRY(carry_file(c, to, from, names[i], keep_weights));
        }
        sara_free(ctx, source);
        sara_free(ctx, target);
        source = target = NULL;
    }
done:
    sara_free(ctx, source);
    sara_free(ctx, target);
    sara_directory_free(ctx, names, count);
    return status;
}

/* -------------------------------------------------------------------------- from a single file */

static sara_status folder_write_json(sara_context *ctx, const char *folder, const char *name,
                                     const json_t *object)
{
    return sara_json_save(ctx, folder, name, object,
                          JSON_INDENT(2) | JSON_SORT_KEYS);
}

static sara_status write_index(sara_context *ctx, const char *to, const char *scheduler)
{
    json_t *index = json_pack(
        "{s:s,s:s,s:[n,n],s:[n,n],s:b,s:[s,s],s:[s,s],s:[s,s],s:[s,s],s:[s,s]}", "_class_name",
        "StableDiffusionPipeline", "_diffusers_version", "0.27.0", "feature_extractor",
        "safety_checker", "requires_safety_checker", 0, "scheduler", "diffusers", scheduler,
        "text_encoder", "transformers", "CLIPTextModel", "tokenizer", "transformers",
        "CLIPTokenizer", "unet", "diffusers", "UNet2DConditionModel", "vae", "diffusers",
        "AutoencoderKL");
    sara_status status = folder_write_json(ctx, to, "model_index.json", index);
    json_decref(index);
    return status;
}

static sara_status write_scheduler(sara_context *ctx, const char *to, const sara_model *model)
{
    char *folder = NULL;
    sara_status status;
    TRY(sara_path_join(ctx, &folder, to, "scheduler"));
    TRY(folder_write_json(ctx, folder, "scheduler_config.json", model->scheduler_json));
done:
    sara_free(ctx, folder);
    return status;
}

static sara_status write_part_config(sara_context *ctx, const char *to, const sara_model *model,
                                     sara_module module)
{
    sara_component component;
    char *folder = NULL, *path = NULL;
    sara_status status;
    TRY(sara_model_component(model, &component, module));
    TRY(sara_path_join(ctx, &folder, to, sara_part_folder_name(module)));
    if (component.stem) { /* as it is written there */
        TRY(sara_directory_make(ctx, folder));
        TRY(sara_path_join(ctx, &path, folder, "config.json"));
        TRY(sara_file_copy(ctx, component.source, path));
    } else {
        TRY(folder_write_json(ctx, folder, "config.json", component.config));
    }
done:
    sara_component_close(&component);
    sara_free(ctx, path);
    sara_free(ctx, folder);
    return status;
}

static sara_status write_configs(sara_context *ctx, const char *to, const sara_model *model)
{
    const char *kind = json_string_value(json_object_get(model->scheduler_json, "_class_name"));
    char *folder = NULL;
    sara_status status = SARA_OK;
    for (int i = 0; i < SARA_MODULE_COUNT; i++)
        TRY(write_part_config(ctx, to, model, (sara_module)i));
    TRY(write_scheduler(ctx, to, model));
    TRY(sara_path_join(ctx, &folder, to, "tokenizer"));
    if (model->tokenizer_path)
        TRY(carry_along(&(carrying){ctx, NULL}, folder, model->tokenizer_path, 1, false));
    else
        TRY(sara_tokenizer_save_builtin(ctx, folder, sara_model_is_second(model)));
    TRY(write_index(ctx, to, kind ? kind : "DDIMScheduler"));
done:
    sara_free(ctx, folder);
    return status;
}

/* ---------------------------------------------------------------------------------- the folder */

/* A U-Net alone is written as a bare unet/ folder. */
static sara_status save_unet_alone(sara_context *ctx, const char *to, const sara_model *model,
                                   const sara_dtype *dtype)
{
    sara_status status;
    if (model->single)
        TRY(folder_write_json(ctx, to, "config.json",
                              sara_single_file_config(model->single, SARA_MODULE_UNET)));
    else
        TRY(carry_along(&(carrying){ctx, model->variant}, to, model->path, 0, false));
    TRY(save_params(ctx, to, SARA_DIFFUSERS_STEM, &model->denoiser->params, dtype));
done:
    return status;
}

sara_status sara_save_folder(sara_context *ctx, const char *to, const sara_model *model,
                             const sara_dtype *dtype)
{
    char *unet = NULL;
    sara_status status;
    if (model->unet_only)
        return save_unet_alone(ctx, to, model, dtype);
    if (model->single)
        TRY(write_configs(ctx, to, model));
    else
        TRY(carry_along(&(carrying){ctx, model->variant}, to, model->path, 0, false));
    if (!model->single && model->vae_path)
        TRY(write_part_config(ctx, to, model, SARA_MODULE_VAE));
    if (model->scheduler_changed)
        TRY(write_scheduler(ctx, to, model));
    TRY(sara_path_join(ctx, &unet, to, "unet"));
    TRY(save_params(ctx, unet, SARA_DIFFUSERS_STEM, &model->denoiser->params, dtype));
    TRY(save_component(ctx, to, model, SARA_MODULE_VAE, dtype));
    TRY(save_component(ctx, to, model, SARA_MODULE_TEXT, dtype));
done:
    sara_free(ctx, unet);
    return status;
}

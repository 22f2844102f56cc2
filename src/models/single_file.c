#include "models/single_file.h"

/* -------------------------------------------------------------------------- what else it may be */

/* Files that people try, by a piece of a tensor's name. */
static const struct {
    const char *piece, *what;
} others[] = {
    {".positions", "an adapter of sara; give it with --adapter"},
    {"lora_down", "a LoRA, not a checkpoint"},
    {"lora_A", "a LoRA, not a checkpoint"},
    {"conditioner.embedders.", "an SDXL checkpoint; SD1.x and SD2.x are supported"},
    {".label_emb.", "a checkpoint with class embeddings (SDXL, unCLIP); SD1.x and SD2.x are "
                    "supported"},
    {"joint_blocks.", "an SD3 checkpoint; SD1.x and SD2.x are supported"},
    {"double_blocks.", "a FLUX checkpoint; SD1.x and SD2.x are supported"},
    {"motion_modules.", "an AnimateDiff module, not a checkpoint"},
    {"control_model.", "a ControlNet, not a checkpoint"},
    {"input_hint_block.", "a ControlNet, not a checkpoint"},
    {"down_blocks.0.resnets.", "a module in diffusers' layout; put it into its folder with its "
                               "config.json"},
};

/* vae: the VAE alone is wanted, for which diffusers' names do */
static sara_status refuse_others(const sara_single_file *single, bool vae)
{
    for (size_t i = 0; i < sizeof(others) / sizeof(*others) - vae; i++)
        for (size_t j = 0; j < sara_safetensors_count(single->file); j++) {
            const char *name = sara_safetensors_at(single->file, j)->name;
            if (strstr(name, others[i].piece))
                return sara_fail(single->ctx, SARA_ERROR_INPUT, "%s: is %s (it holds %.200s)",
                                 single->path, others[i].what, name);
        }
    return SARA_OK;
}

/* ---------------------------------------------------------------------------------- the configs */

/* From folder/config.json; from the file's metadata, where sara put it; or from the shapes. Without
 * the U-Net's there is nothing to do; another part that does not tell its own may not be wanted. */
static sara_status choose_config(sara_single_file *single, sara_single_part *part, const char *name,
                                 const char *model_config,
                                 sara_status (*derive)(const sara_single_file *, json_t **))
{
    sara_context *ctx = single->ctx;
    sara_name key = sara_name_of("sara.config.%s", name);
    const char *text = sara_safetensors_metadata(single->file, key.text);
    char *folder = NULL;
    sara_status status;
    if (model_config) {
        TRY(sara_path_join(ctx, &folder, model_config, name));
        TRY(sara_path_join(ctx, &part->source, folder, "config.json"));
        TRY(sara_json_load(ctx, &part->config, part->source, true));
    } else if (text) {
        TRY(sara_format(ctx, &part->source, "%s: metadata %s", single->path, key.text));
        TRY(sara_json_parse(ctx, &part->config, text, strlen(text), part->source, true));
    } else {
        TRY(sara_format(ctx, &part->source, "%s: %s", single->path, name));
        status = derive(single, &part->config);
        if (status == SARA_ERROR_INPUT && part != &single->unet)
            status = sara_strdup(ctx, &part->fault, sara_context_error(ctx));
    }
done:
    sara_free(ctx, folder);
    return status;
}

/* How many layers a text encoder has is its config's to say. */
static sara_status count_text_layers(sara_single_file *single)
{
    const sara_config config = {single->ctx, single->text.config, single->text.source};
    int64_t layers;
    sara_status status =
        sara_config_int(&config, &layers, "num_hidden_layers", single->text.shape.layers, 1, 256);
    if (status == SARA_OK)
        single->text.shape.layers = (int)layers;
    return status;
}

static sara_status choose_configs(sara_single_file *single, const char *model_config)
{
    sara_status status;
    TRY(choose_config(single, &single->unet, "unet", model_config, sara_single_unet_config));
    TRY(sara_single_check_channels(
        single, json_integer_value(json_object_get(single->unet.config, "in_channels"))));
    if (single->vae.prefix && !single->vae.fault)
        TRY(choose_config(single, &single->vae, "vae", model_config, sara_single_vae_config));
    if (single->text.prefix) {
        TRY(choose_config(single, &single->text, "text_encoder", model_config,
                          sara_single_text_config));
        if (!single->text.fault)
            TRY(count_text_layers(single));
    }
done:
    return status;
}

/* ------------------------------------------------------------------------------------ interface */

/* vae: as refuse_others(). *out: sara_single_file_close(), even after an error */
static sara_status open_file(sara_context *ctx, sara_single_file **out, const char *path, bool vae)
{
    sara_single_file *single;
    sara_status status;
    TRY(sara_alloc_zero(ctx, out, 1, sizeof(**out)));
    single = *out;
    single->ctx = ctx;
    TRY(sara_strdup(ctx, &single->path, path));
    TRY(sara_safetensors_open(ctx, &single->file, path));
    TRY(refuse_others(single, vae));
done:
    return status;
}

sara_status sara_single_file_open(sara_context *ctx, sara_single_file **out, const char *path,
                                  const char *model_config, bool use_ema)
{
    sara_single_file *single = NULL;
    sara_status status;
    *out = NULL;
    TRY(open_file(ctx, &single, path, false));
    TRY(sara_single_find_parts(single, use_ema));
    TRY(choose_configs(single, model_config));
    *out = single;
    single = NULL;
done:
    sara_single_file_close(single);
    return status;
}

/* Beside the file, as a folder that was downloaded has it; *out NULL: there is none of a VAE. */
static sara_status config_beside(const sara_single_file *single, json_t **out, char **source)
{
    const char *slash = strrchr(single->path, '/');
    json_t *config = NULL;
    char *path = NULL;
    sara_status status;
    *out = NULL;
    TRY(sara_format(single->ctx, &path, "%.*sconfig.json",
                    slash ? (int)(slash + 1 - single->path) : 0, single->path));
    if (!sara_path_exists(path))
        goto done;
    TRY(sara_json_load(single->ctx, &config, path, true));
    const char *kind = json_string_value(json_object_get(config, "_class_name"));
    if (kind && strcmp(kind, "AutoencoderKL") == 0) {
        *out = json_incref(config);
        *source = path;
        path = NULL;
    }
done:
    json_decref(config);
    sara_free(single->ctx, path);
    return status;
}

/* What shapes do not tell, the config of the VAE in whose place it is does. */
static sara_status add_untold(sara_single_file *single, const json_t *like)
{
    static const char *const keys[] = {"scaling_factor", "norm_num_groups"};
    for (size_t i = 0; like && single->vae.config && i < sizeof(keys) / sizeof(*keys); i++) {
        json_t *value = json_object_get(like, keys[i]);
        if (value && json_object_set(single->vae.config, keys[i], value) != 0)
            return sara_fail(single->ctx, SARA_ERROR_MEMORY, "%s: out of memory: config",
                             single->path);
    }
    return SARA_OK;
}

static sara_status choose_vae_config(sara_single_file *single, const json_t *like)
{
    bool told = sara_safetensors_metadata(single->file, "sara.config.vae") != NULL;
    sara_single_part *vae = &single->vae;
    sara_status status = SARA_OK;
    if (vae->fault)
        return SARA_OK;
    if (!told)
        TRY(config_beside(single, &vae->config, &vae->source));
    if (vae->config)
        return SARA_OK;
    TRY(choose_config(single, vae, "vae", NULL, sara_single_vae_config));
    if (!told)
        TRY(add_untold(single, like));
done:
    return status;
}

sara_status sara_single_file_open_vae(sara_context *ctx, sara_single_file **out, const char *path,
                                      const json_t *like)
{
    sara_single_file *single = NULL;
    sara_status status;
    *out = NULL;
    TRY(open_file(ctx, &single, path, true));
    TRY(sara_single_find_vae(single));
    TRY(choose_vae_config(single, like));
    *out = single;
    single = NULL;
done:
    sara_single_file_close(single);
    return status;
}

sara_status sara_single_file_has_ema(sara_context *ctx, bool *out, const char *path)
{
    sara_single_file single = {.ctx = ctx};
    sara_status status;
    *out = false;
    TRY(sara_safetensors_open(ctx, &single.file, path));
    *out = sara_single_has_averages(&single);
done:
    sara_safetensors_close(single.file);
    return status;
}

void sara_single_file_close(sara_single_file *single)
{
    if (!single)
        return;
    sara_context *ctx = single->ctx;
    sara_single_part *parts[] = {&single->unet, &single->vae, &single->text};
    for (size_t i = 0; i < sizeof(parts) / sizeof(*parts); i++) {
        json_decref(parts[i]->config);
        sara_free(ctx, parts[i]->source);
        sara_free(ctx, parts[i]->fault);
    }
    sara_safetensors_close(single->file);
    sara_free(ctx, single->path);
    sara_free(ctx, single);
}

static const sara_single_part *part_of(const sara_single_file *single, sara_module module)
{
    return module == SARA_MODULE_UNET  ? &single->unet
           : module == SARA_MODULE_VAE ? &single->vae
                                       : &single->text;
}

json_t *sara_single_file_config(const sara_single_file *single, sara_module module)
{
    return part_of(single, module)->config;
}

const sara_ldm_shape *sara_single_file_shape(const sara_single_file *single, sara_module module)
{
    return &part_of(single, module)->shape;
}

const char *sara_single_file_prefix(const sara_single_file *single, sara_module module)
{
    return part_of(single, module)->prefix;
}

const sara_metadata *sara_single_file_metadata_all(const sara_single_file *single, size_t *count)
{
    return sara_safetensors_metadata_all(single->file, count);
}

const char *sara_single_file_metadata(const sara_single_file *single, const char *key)
{
    return sara_safetensors_metadata(single->file, key);
}

sara_status sara_single_file_component(const sara_single_file *single, sara_component *out,
                                       sara_module module)
{
    const sara_single_part *part = part_of(single, module);
    sara_status status;
    *out = (sara_component){.ctx = single->ctx};
    if (!part->prefix)
        return sara_fail(single->ctx, SARA_ERROR_INPUT, "%s: holds no %s", single->path,
                         sara_module_name(module));
    if (part->source)
        TRY(sara_strdup(single->ctx, &out->source, part->source));
    if (part->fault)
        TRY(sara_strdup(single->ctx, &out->fault, part->fault));
    TRY(sara_strdup(single->ctx, &out->path, single->path));
    out->config = json_incref(part->config);
    out->prefix = part->diffusers ? NULL : part->prefix;
    out->shape = part->shape;
done:
    return status;
}

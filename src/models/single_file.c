#include "models/single_file.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#define SD2_TEXT_LAYERS 23 /* that are used */

const sara_tensor_info *sara_single_find(const sara_single_file *single,
                                         const sara_single_part *part, const char *format, ...)
{
    char name[256];
    va_list args;
    int length = part->prefix ? snprintf(name, sizeof(name), "%s%s", part->prefix, part->stem) : 0;
    va_start(args, format);
    vsnprintf(name + length, sizeof(name) - (size_t)length, format, args);
    va_end(args);
    return part->prefix ? sara_safetensors_find(single->file, name) : NULL;
}

int64_t sara_single_dim(const sara_tensor_info *info, int index)
{
    return info && info->shape.rank > index ? info->shape.dims[index] : -1;
}

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

static sara_status refuse_others(const sara_single_file *single)
{
    for (size_t i = 0; i < sizeof(others) / sizeof(*others); i++)
        for (size_t j = 0; j < sara_safetensors_count(single->file); j++) {
            const char *name = sara_safetensors_at(single->file, j)->name;
            if (strstr(name, others[i].piece))
                return sara_fail(single->ctx, SARA_ERROR_INPUT, "%s: is %s (it holds %.200s)",
                                 single->path, others[i].what, name);
        }
    return SARA_OK;
}

/* ------------------------------------------------------------------------------------ the parts */

/* The first of the prefixes under which the tensor is there, followed by the stem. */
static void find_prefix(const sara_single_file *single, sara_single_part *part,
                        const char *const *prefixes, const char *stem, const char *name)
{
    part->stem = stem;
    for (; *prefixes; prefixes++) {
        part->prefix = *prefixes;
        if (sara_single_find(single, part, "%s", name))
            return;
    }
    part->prefix = NULL;
}

static bool has_resnet(const sara_single_file *single, int block)
{
    return sara_single_find(single, &single->unet, "input_blocks.%d.0.in_layers.0.weight", block);
}

static sara_status shape_unet(sara_single_file *single)
{
    const sara_single_part *unet = &single->unet;
    sara_ldm_shape *shape = &single->unet.shape;
    shape->part = SARA_LDM_UNET;
    while (shape->layers < 16 && has_resnet(single, shape->layers + 1))
        shape->layers++;
    for (int block = 1; shape->levels < SARA_MAX_LEVELS && has_resnet(single, block);
         block += shape->layers + 1)
        shape->attention[shape->levels++] =
            sara_single_find(single, unet, "input_blocks.%d.1.norm.weight", block);
    if (shape->layers < 1)
        return sara_fail(single->ctx, SARA_ERROR_INPUT,
                         "%s: no tensor %sinput_blocks.1.0.in_layers.0.weight", single->path,
                         unet->prefix);
    return SARA_OK;
}

static void shape_vae(sara_single_file *single)
{
    sara_ldm_shape *shape = &single->vae.shape;
    shape->part = SARA_LDM_VAE;
    while (shape->levels < SARA_MAX_LEVELS &&
           sara_single_find(single, &single->vae, "encoder.down.%d.block.0.norm1.weight",
                            shape->levels))
        shape->levels++;
    while (shape->layers < 16 &&
           sara_single_find(single, &single->vae, "encoder.down.0.block.%d.norm1.weight",
                            shape->layers))
        shape->layers++;
}

/* Stable Diffusion 2 takes the state before the last of 24 layers, so that diffusers leaves it out,
 * and so do the files that diffusers' own script makes of its folders. */
static void shape_text(sara_single_file *single)
{
    sara_ldm_shape *shape = &single->text.shape;
    bool open = sara_single_find(single, &single->text, "positional_embedding");
    shape->part = open ? SARA_LDM_OPEN_CLIP : SARA_LDM_CLIP;
    while (shape->layers < 256 && sara_single_find(single, &single->text,
                                                   open ? "transformer.resblocks.%d.ln_1.weight"
                                                        : "encoder.layers.%d.layer_norm1.weight",
                                                   shape->layers))
        shape->layers++;
    if (open && shape->layers > 1 && shape->layers != SD2_TEXT_LAYERS)
        shape->layers--;
}

static sara_status find_parts(sara_single_file *single)
{
    static const char *const unet[] = {"model.diffusion_model.", "", NULL};
    static const char *const vae[] = {"first_stage_model.", "vae.", NULL};
    static const char *const clip[] = {"cond_stage_model.transformer.", NULL};
    static const char *const open[] = {"cond_stage_model.model.", NULL};
    sara_status status;
    find_prefix(single, &single->unet, unet, "", "input_blocks.0.0.weight");
    if (!single->unet.prefix)
        return sara_fail(single->ctx, SARA_ERROR_INPUT,
                         "%s: is no Stable Diffusion checkpoint: no tensor "
                         "%sinput_blocks.0.0.weight",
                         single->path, unet[0]);
    TRY(shape_unet(single));
    find_prefix(single, &single->vae, vae, "", "decoder.conv_in.weight");
    shape_vae(single);
    find_prefix(single, &single->text, clip, "text_model.", "final_layer_norm.weight");
    if (!single->text.prefix)
        find_prefix(single, &single->text, clip, "", "final_layer_norm.weight");
    if (!single->text.prefix)
        find_prefix(single, &single->text, open, "", "ln_final.weight");
    shape_text(single);
done:
    return status;
}

/* ---------------------------------------------------------------------------------- the configs */

/* From folder/config.json; from the file's metadata, where sara put it; or from the shapes. */
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
        TRY(derive(single, &part->config));
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
    if (single->vae.prefix)
        TRY(choose_config(single, &single->vae, "vae", model_config, sara_single_vae_config));
    if (single->text.prefix) {
        TRY(choose_config(single, &single->text, "text_encoder", model_config,
                          sara_single_text_config));
        TRY(count_text_layers(single));
    }
done:
    return status;
}

/* ------------------------------------------------------------------------------------ interface */

sara_status sara_single_file_open(sara_context *ctx, sara_single_file **out, const char *path,
                                  const char *model_config)
{
    sara_single_file *single = NULL;
    sara_status status;
    *out = NULL;
    TRY(sara_alloc_zero(ctx, &single, 1, sizeof(*single)));
    single->ctx = ctx;
    TRY(sara_strdup(ctx, &single->path, path));
    TRY(sara_safetensors_open(ctx, &single->file, path));
    TRY(refuse_others(single));
    TRY(find_parts(single));
    TRY(choose_configs(single, model_config));
    *out = single;
    single = NULL;
done:
    sara_single_file_close(single);
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
    static const char *const names[] = {"U-Net", "VAE", "text encoder"};
    const sara_single_part *part = part_of(single, module);
    sara_status status;
    *out = (sara_component){.ctx = single->ctx};
    if (!part->prefix)
        return sara_fail(single->ctx, SARA_ERROR_INPUT,
                         "%s: holds no %s; a whole checkpoint is expected (or --unet-only)",
                         single->path, names[module]);
    TRY(sara_strdup(single->ctx, &out->source, part->source));
    TRY(sara_strdup(single->ctx, &out->path, single->path));
    out->config = json_incref(part->config);
    out->prefix = part->prefix;
    out->shape = part->shape;
done:
    return status;
}

/* Which family a single file is of, and its parts. */
#include "pipeline/family.h"

/* -------------------------------------------------------------------------- what else it may be */

/* Files that people try, by a piece of a tensor's name, and where it needs that by the beginning of
 * another's (NULL: it does not). supported: what is, is told too. Models stand before those that
 * have the same piece and others. */
static const struct {
    const char *piece, *beside, *what;
    bool supported;
} others[] = {
    {".positions", NULL, "an adapter of sara; give it with --adapter", false},
    {"lora_down", NULL, "a LoRA, not a checkpoint; give it with --adapter", false},
    {"lora_A", NULL, "a LoRA, not a checkpoint; give it with --adapter", false},
    {"to_k_ip.", NULL, "an IP-Adapter, not a checkpoint; use a model without it", false},
    {"emb_params", NULL,
     "a textual inversion, not a checkpoint; give its folder with --embedding-dir", false},
    {"conditioner.embedders.0.model.", NULL,
     "SDXL's refiner, which goes over what another model has drawn; use the base model", false},
    {"edm_mean", NULL, "a checkpoint of EDM's noise levels (Playground v2.5)", true},
    {"edm_vpred.", NULL, "a checkpoint of EDM's noise levels (CosXL)", true},
    {".time_stack.", NULL, "a Stable Video Diffusion checkpoint", true},
    {".label_emb.weight", "cond_stage_model.",
     "SD2's upscaler, which is given a picture too; use a model of text to image", false},
    {".label_emb.", "cond_stage_model.", "a checkpoint with class embeddings (unCLIP)", true},
    {"distilled_guidance_layer.", NULL, "a Chroma checkpoint", true},
    {"individual_token_refiner.", NULL, "a HunyuanVideo checkpoint", true},
    {"double_stream_modulation_img.", NULL, "a FLUX.2 checkpoint", true},
    {"double_stream_blocks.", NULL, "a HiDream checkpoint", true},
    {"double_blocks.", NULL, "a FLUX checkpoint", true},
    {"single_transformer_blocks.", NULL, "a FLUX or AuraFlow transformer in diffusers' layout",
     true},
    {"attention_y_norm.weight", NULL, "a Sana checkpoint", true},
    {"t_block.1.weight", NULL, "a PixArt checkpoint", true},
    {"head.modulation", NULL, "a Wan checkpoint", true},
    {"cond_seq_linear.", NULL, "an AuraFlow checkpoint", true},
    {"mlp_t5.0.weight", NULL, "a HunyuanDiT checkpoint", true},
    {"patchify_proj.", NULL, "an LTX-Video checkpoint", true},
    {"txt_norm.weight", NULL, "a Qwen-Image checkpoint", true},
    {"layers.0.adaLN_modulation.0.weight", NULL, "a Z-Image checkpoint", true},
    {"cap_embedder.", NULL, "a Lumina checkpoint", true},
    {"t5_yproj.", NULL, "a Mochi checkpoint", true},
    {"net.x_embedder.proj.1.weight", NULL, "a Cosmos checkpoint", true},
    {"clf.1.weight", NULL, "a Stable Cascade checkpoint", true},
    {"motion_modules.", NULL, "an AnimateDiff module, not a checkpoint; use a model without it",
     false},
    {"control_model.", NULL, "a ControlNet, not a checkpoint; use a model without it", false},
    {"input_hint_block.", NULL, "a ControlNet, not a checkpoint; use a model without it", false},
    {"controlnet_", NULL, "a ControlNet, not a checkpoint; use a model without it", false},
    {"body.0.block1.", NULL, "a T2I-Adapter, not a checkpoint; use a model without it", false},
    {"body.0.in_conv.", NULL, "a T2I-Adapter, not a checkpoint; use a model without it", false},
    {"transformer_blocks.0.attn.add_q_proj.", NULL,
     "a transformer in diffusers' layout; put it into its folder with its config.json", false},
    {"down_blocks.0.resnets.", NULL,
     "a module in diffusers' layout; put it into its folder with its config.json", false},
};

bool sara_family_file_has(const sara_single_file *single, const char *piece)
{
    for (size_t i = 0; i < sara_safetensors_count(single->file); i++)
        if (strstr(sara_safetensors_at(single->file, i)->name, piece))
            return true;
    return false;
}

static sara_status refuse_as(const sara_single_file *single, const char *what, bool supported,
                             const char *name)
{
    char *names = NULL;
    sara_status status = SARA_OK;
    if (supported)
        TRY(sara_family_names(single->ctx, &names, " and "));
    status = sara_fail(single->ctx, SARA_ERROR_INPUT, "%s: is %s%s%s%s (it holds %.200s)",
                       single->path, what, supported ? "; " : "", supported ? names : "",
                       supported ? " are supported" : "", name);
done:
    sara_free(single->ctx, names);
    return status;
}

static bool has_beginning(const sara_single_file *single, const char *start)
{
    for (size_t i = 0; start && i < sara_safetensors_count(single->file); i++)
        if (strncmp(sara_safetensors_at(single->file, i)->name, start, strlen(start)) == 0)
            return true;
    return !start;
}

/* A VAE alone may have diffusers' names, the last piece. */
static sara_status refuse_others(const sara_single_file *single)
{
    for (size_t i = 0; i < sizeof(others) / sizeof(*others) - single->alone; i++)
        for (size_t j = 0; j < sara_safetensors_count(single->file); j++) {
            const char *name = sara_safetensors_at(single->file, j)->name;
            if (strstr(name, others[i].piece) && has_beginning(single, others[i].beside))
                return refuse_as(single, others[i].what, others[i].supported, name);
        }
    return SARA_OK;
}

/* -------------------------------------------------------------------------------- a whole file */

static bool is_there(const sara_single_place *places)
{
    return places && places->prefix;
}

/* The last place is the most general. */
static const char *last_prefix(const sara_single_place *places)
{
    while (is_there(places + 1))
        places++;
    return places->prefix;
}

static bool has_averages(const sara_single_file *single, const sara_family_part *part)
{
    sara_single_part found = {.class = part->class};
    return sara_single_find_place(single, &found, part->averages);
}

static sara_status refuse_without_denoiser(const sara_single_file *single,
                                           const sara_family *family, bool use_ema)
{
    const sara_family_part *part = &family->parts[0];
    const char *title = part->class->title, *prefix = part->places->prefix;
    if (use_ema)
        return sara_fail(single->ctx, SARA_ERROR_INPUT,
                         "%s: holds no averages of the %s's weights (no tensor %s*); leave "
                         "--use_ema_weights out",
                         single->path, title,
                         part->averages ? last_prefix(part->averages) : "model_ema.");
    if (has_averages(single, part))
        return sara_fail(single->ctx, SARA_ERROR_INPUT,
                         "%s: of the %s it holds averages alone (%.*s.*), no %s*; "
                         "--use_ema_weights reads these",
                         single->path, title, (int)strcspn(part->averages->prefix, "."),
                         part->averages->prefix, prefix);
    return sara_fail(single->ctx, SARA_ERROR_INPUT, "%s: is no %s checkpoint: no tensor %s%s",
                     single->path, family->product, prefix, part->class->single->tensor);
}

static void name_part(sara_single_part *out, const sara_family_part *part)
{
    out->name = part->folder;
    out->class = part->class;
}

static sara_status find_denoiser(sara_single_file *single, const sara_family *family,
                                 const char *model_config, bool use_ema)
{
    const sara_family_part *part = &family->parts[0];
    sara_single_part *found = &single->parts[0];
    sara_status status;
    name_part(found, part);
    if (!sara_single_find_place(single, found, use_ema ? part->averages : part->places))
        return refuse_without_denoiser(single, family, use_ema);
    TRY(part->class->single->read_shape(single, found));
    TRY(sara_single_choose_config(single, found, model_config));
done:
    return status;
}

static sara_status complete_config(const sara_single_file *single, const sara_family *family,
                                   sara_single_part *part)
{
    const sara_single_layout *layout = part->class->single;
    sara_status status = SARA_OK;
    if (part->derived)
        TRY(family->tell(single, part));
    if (layout->settle && part->config)
        TRY(layout->settle(single, part));
done:
    return status;
}

static sara_status find_others(sara_single_file *single, const sara_family *family,
                               const char *model_config)
{
    sara_status status = SARA_OK;
    for (int i = 1; i < family->part_count; i++) {
        sara_single_part *part = &single->parts[i];
        name_part(part, &family->parts[i]);
        if (!sara_single_find_place(single, part, family->parts[i].places))
            continue;
        TRY(part->class->single->read_shape(single, part));
        if (!part->fault)
            TRY(sara_single_choose_config(single, part, model_config));
        TRY(complete_config(single, family, part));
    }
done:
    return status;
}

/* *out: the first family that the file and its denoiser are of. */
static sara_status match_file(sara_single_file *single, const sara_family **out,
                              const char *model_config, bool use_ema)
{
    sara_status status = SARA_OK;
    *out = NULL;
    for (int i = 0; sara_families[i] && !*out; i++) {
        const sara_family *family = sara_families[i];
        if (!family->is_file || !family->is_file(single))
            continue;
        sara_single_part_clear(single->ctx, &single->parts[0]);
        TRY(find_denoiser(single, family, model_config, use_ema));
        const json_t *config = single->parts[0].config;
        if (family->is_denoiser(config))
            TRY(sara_family_take(single->ctx, out, family, config, single->path));
    }
    if (!*out)
        status = sara_fail(single->ctx, SARA_ERROR_INPUT, "%s: is no checkpoint that is supported",
                           single->path);
done:
    return status;
}

sara_status sara_family_open_file(sara_context *ctx, const sara_family **out,
                                  sara_single_file **single, const char *path,
                                  const char *model_config, bool use_ema)
{
    sara_single_file *file = NULL;
    sara_status status;
    *single = NULL;
    TRY(sara_single_open(ctx, &file, path));
    TRY(refuse_others(file));
    TRY(match_file(file, out, model_config, use_ema));
    TRY(complete_config(file, *out, &file->parts[0]));
    TRY(find_others(file, *out, model_config));
    *single = file;
    file = NULL;
done:
    sara_single_close(file);
    return status;
}

sara_status sara_model_has_ema_weights(sara_context *ctx, bool *out, const char *path)
{
    sara_single_file *single = NULL;
    sara_status status = SARA_OK;
    *out = false;
    if (sara_path_is_directory(path))
        return SARA_OK;
    TRY(sara_single_open(ctx, &single, path));
    for (int i = 0; sara_families[i] && !*out; i++)
        *out = has_averages(single, &sara_families[i]->parts[0]);
done:
    sara_single_close(single);
    return status;
}

/* ---------------------------------------------------------------------------------- a VAE alone */

static sara_status find_vae_alone(const sara_single_file *single, sara_single_part *vae)
{
    static const char *const prefixes[] = {"first_stage_model.", "vae.", ""};
    for (size_t i = 0; i < sizeof(prefixes) / sizeof(*prefixes); i++) {
        vae->prefix = prefixes[i];
        vae->stem = "";
        if (!sara_single_has(single, vae, "decoder.conv_in.") &&
            !sara_single_has(single, vae, "encoder.conv_in."))
            continue;
        vae->diffusers = !*prefixes[i] && (sara_single_has(single, vae, "encoder.down_blocks.") ||
                                           sara_single_has(single, vae, "decoder.up_blocks."));
        vae->shape.part = SARA_LDM_VAE;
        return vae->class->single->read_shape(single, vae);
    }
    return sara_fail(single->ctx, SARA_ERROR_INPUT,
                     "%s: holds no VAE (no tensor decoder.conv_in.weight, plain or after "
                     "first_stage_model.)",
                     single->path);
}

/* Beside the file, as a folder that was downloaded has it, unless that is another class's. */
static sara_status config_beside(const sara_single_file *single, sara_single_part *part)
{
    const char *slash = strrchr(single->path, '/');
    json_t *config = NULL;
    char *path = NULL;
    sara_status status;
    TRY(sara_format(single->ctx, &path, "%.*sconfig.json",
                    slash ? (int)(slash + 1 - single->path) : 0, single->path));
    if (!sara_path_exists(path))
        goto done;
    TRY(sara_json_load(single->ctx, &config, path, true));
    const char *kind = json_string_value(json_object_get(config, part->class->key));
    if (kind && strcmp(kind, part->class->value) == 0) {
        part->config = json_incref(config);
        part->source = path;
        path = NULL;
    }
done:
    json_decref(config);
    sara_free(single->ctx, path);
    return status;
}

/* What shapes do not tell, the config of the VAE in whose place it is does. */
static sara_status add_untold(const sara_single_file *single, const sara_single_part *vae,
                              const json_t *like)
{
    static const char *const keys[] = {"scaling_factor", "norm_num_groups"};
    for (size_t i = 0; like && vae->config && i < sizeof(keys) / sizeof(*keys); i++) {
        json_t *value = json_object_get(like, keys[i]);
        if (value && json_object_set(vae->config, keys[i], value) != 0)
            return sara_fail(single->ctx, SARA_ERROR_MEMORY, "%s: out of memory: config",
                             single->path);
    }
    return SARA_OK;
}

static sara_status choose_vae_config(sara_single_file *single, const sara_family *family,
                                     sara_single_part *vae, const json_t *like)
{
    const char *told =
        sara_safetensors_metadata(single->file, sara_name_of("sara.config.%s", vae->name).text);
    sara_status status = SARA_OK;
    if (vae->fault)
        return SARA_OK;
    if (!told)
        TRY(config_beside(single, vae));
    if (vae->config)
        return SARA_OK;
    TRY(sara_single_choose_config(single, vae, NULL));
    TRY(complete_config(single, family, vae));
    if (!told)
        TRY(add_untold(single, vae, like));
done:
    return status;
}

sara_status sara_family_open_vae(sara_context *ctx, const sara_family *family, int part,
                                 sara_single_file **single, const char *path, const json_t *like)
{
    sara_single_file *file = NULL;
    sara_status status;
    *single = NULL;
    TRY(sara_single_open(ctx, &file, path));
    file->alone = true;
    name_part(&file->parts[part], &family->parts[part]);
    TRY(refuse_others(file));
    TRY(find_vae_alone(file, &file->parts[part]));
    TRY(choose_vae_config(file, family, &file->parts[part], like));
    *single = file;
    file = NULL;
done:
    sara_single_close(file);
    return status;
}

#include "models/single_file.h"

#include <ctype.h>
#include <stdlib.h>

#define SD2_TEXT_LAYERS 23   /* that are used */
#define MOST_LAYERS     16   /* of a level */
#define MOST_NUMBER     1000 /* in names that are understood */
#define MOST_BLOCKS     (SARA_MAX_LEVELS * (MOST_LAYERS + 1))

/* The part's name is what follows; NULL: it is no name of the part. */
static const char *name_in_part(const sara_single_part *part, const char *name)
{
    size_t prefix = strlen(part->prefix), stem = strlen(part->stem);
    bool inside =
        strncmp(name, part->prefix, prefix) == 0 && strncmp(name + prefix, part->stem, stem) == 0;
    return inside ? name + prefix + stem : NULL;
}

const sara_tensor_info *sara_single_find(const sara_single_file *single,
                                         const sara_single_part *part, const char *name)
{
    const sara_name whole = sara_name_of("%s%s%s", part->prefix, part->stem, name);
    return sara_safetensors_find(single->file, whole.text);
}

int sara_single_count(const sara_single_file *single, const sara_single_part *part,
                      const char *start)
{
    size_t length = strlen(start);
    long most = 0;
    for (size_t i = 0; i < sara_safetensors_count(single->file); i++) {
        const char *name = name_in_part(part, sara_safetensors_at(single->file, i)->name);
        char *end = NULL;
        if (!name || strncmp(name, start, length) != 0 || !isdigit((unsigned char)name[length]))
            continue;
        long number = strtol(name + length, &end, 10);
        if (*end == '.' && number >= most && number < MOST_NUMBER)
            most = number + 1;
    }
    return (int)most;
}

bool sara_single_has(const sara_single_file *single, const sara_single_part *part,
                     const char *start)
{
    for (size_t i = 0; i < sara_safetensors_count(single->file); i++) {
        const char *name = name_in_part(part, sara_safetensors_at(single->file, i)->name);
        if (name && strncmp(name, start, strlen(start)) == 0)
            return true;
    }
    return false;
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

/* Whether there are tensors with the prefix, the stem and one of the starts. */
static bool find_part(const sara_single_file *single, sara_single_part *part, const char *prefix,
                      const char *stem, const char *const starts[2])
{
    part->prefix = prefix;
    part->stem = stem;
    for (int i = 0; i < 2; i++)
        if (sara_single_has(single, part, starts[i]))
            return true;
    part->prefix = NULL;
    return false;
}

/* What a U-Net's names tell of its blocks. */
typedef struct unet_blocks {
    int count;                      /* one more than the largest number */
    bool resnet[MOST_BLOCKS + 1];   /* on the way down */
    bool sampling[MOST_BLOCKS + 1]; /* this block on the way down, or the one before it upwards */
    bool attention[2][MOST_BLOCKS]; /* on the way down, up */
} unet_blocks;

/* rest: of a name, after "input_blocks." (up: "output_blocks."). */
static void note_block(unet_blocks *blocks, const char *rest, bool up)
{
    char *end = NULL;
    long number = isdigit((unsigned char)*rest) ? strtol(rest, &end, 10) : MOST_BLOCKS;
    if (number >= MOST_BLOCKS || *end != '.')
        return;
    if (number >= blocks->count)
        blocks->count = (int)number + 1;
    bool first = strncmp(end, ".0.", 3) == 0, second = strncmp(end, ".1.", 3) == 0;
    bool sampling =
        up ? (second && strncmp(end + 3, "conv.", 5) == 0) || strncmp(end, ".2.conv.", 8) == 0
           : first && strncmp(end + 3, "op.", 3) == 0;
    if (sampling)
        blocks->sampling[number + up] = true;
    else if (second)
        blocks->attention[up][number] = true;
    else if (first && !up && number > 0)
        blocks->resnet[number] = true;
}

static void note_blocks(const sara_single_file *single, unet_blocks *blocks)
{
    static const char *const starts[] = {"input_blocks.", "output_blocks."};
    for (size_t i = 0; i < sara_safetensors_count(single->file); i++) {
        const char *name = name_in_part(&single->unet, sara_safetensors_at(single->file, i)->name);
        for (int up = 0; name && up < 2; up++)
            if (strncmp(name, starts[up], strlen(starts[up])) == 0)
                note_block(blocks, name + strlen(starts[up]), up);
    }
}

/* A level's blocks are its layers and the downsampling, which the last level does not have. The
 * smallest number of them that the fewest blocks speak against: a tensor that is missing speaks
 * against none, and is not to make it another architecture. */
static int stride_of(const unet_blocks *blocks)
{
    int stride = 0, least = MOST_BLOCKS + 1;
    for (int s = 2; s <= MOST_LAYERS + 1 && s <= blocks->count; s++) {
        int against = 0;
        for (int i = 1; i <= blocks->count; i++)
            against += i % s ? blocks->sampling[i] : blocks->resnet[i];
        if (against < least) {
            least = against;
            stride = s;
        }
    }
    return stride;
}

static bool level_has_attention(const unet_blocks *blocks, const sara_ldm_shape *shape, int level)
{
    int stride = shape->layers + 1, up = (shape->levels - 1 - level) * stride;
    for (int i = 0; i < stride; i++) {
        int down = level * stride + 1 + i;
        if ((i < shape->layers && blocks->attention[0][down]) || blocks->attention[1][up + i])
            return true;
    }
    return false;
}

static sara_status shape_unet(sara_single_file *single)
{
    sara_ldm_shape *shape = &single->unet.shape;
    unet_blocks blocks = {0};
    note_blocks(single, &blocks);
    int stride = stride_of(&blocks);
    shape->part = SARA_LDM_UNET;
    shape->layers = stride - 1;
    if (shape->layers < 1)
        return sara_fail(single->ctx, SARA_ERROR_INPUT,
                         "%s: no tensor %sinput_blocks.1.0.in_layers.0.weight", single->path,
                         single->unet.prefix);
    while (shape->levels < SARA_MAX_LEVELS && shape->levels * stride < blocks.count)
        shape->levels++;
    for (int i = 0; i < shape->levels; i++)
        shape->attention[i] = level_has_attention(&blocks, shape, i);
    return SARA_OK;
}

static int at_least_one(int count, int most)
{
    return count < 1 ? 1 : count > most ? most : count;
}

static sara_status shape_vae(sara_single_file *single)
{
    static const char *const halves[] = {"encoder", "decoder"};
    sara_single_part *vae = &single->vae;
    int down = sara_single_count(single, vae, "encoder.down.");
    int up = sara_single_count(single, vae, "decoder.up.");
    sara_status status = SARA_OK;
    vae->shape.part = SARA_LDM_VAE;
    vae->shape.levels = at_least_one(down > up ? down : up, SARA_MAX_LEVELS);
    vae->shape.layers =
        at_least_one(sara_single_count(single, vae, "encoder.down.0.block."), MOST_LAYERS);
    for (int i = 0; i < 2 && !vae->fault; i++)
        if (!sara_single_has(single, vae, sara_name_of("%s.", halves[i]).text))
            TRY(sara_format(single->ctx, &vae->fault,
                            "%s: its VAE has no %s (no tensor %s%s.*); a whole checkpoint is "
                            "expected (or --unet-only)",
                            single->path, halves[i], vae->prefix, halves[i]));
done:
    return status;
}

/* Stable Diffusion 2 takes the state before the last of 24 layers, so that diffusers leaves it out,
 * and so do the files that diffusers' own script makes of its folders. */
static void shape_text(sara_single_file *single, sara_ldm_part kind)
{
    sara_ldm_shape *shape = &single->text.shape;
    bool open = kind == SARA_LDM_OPEN_CLIP;
    const char *start = open ? "transformer.resblocks." : "encoder.layers.";
    shape->part = kind;
    shape->layers = at_least_one(sara_single_count(single, &single->text, start), 256);
    if (open && shape->layers > 1 && shape->layers != SD2_TEXT_LAYERS)
        shape->layers--;
}

static void find_text(sara_single_file *single)
{
    static const char prefix[] = "cond_stage_model.transformer.";
    static const char *const layers[] = {"encoder.", "final_layer_norm."};
    static const char *const open[] = {"transformer.", "ln_final."};
    sara_single_part *text = &single->text;
    if (find_part(single, text, prefix, "text_model.", layers) ||
        find_part(single, text, prefix, "", layers))
        shape_text(single, SARA_LDM_CLIP);
    else if (find_part(single, text, "cond_stage_model.model.", "", open))
        shape_text(single, SARA_LDM_OPEN_CLIP);
}

static sara_status find_parts(sara_single_file *single)
{
    static const char *const unet[] = {"input_blocks.", "output_blocks."};
    static const char *const vae[] = {"decoder.", "encoder."};
    sara_status status;
    if (!find_part(single, &single->unet, "model.diffusion_model.", "", unet) &&
        !find_part(single, &single->unet, "", "", unet))
        return sara_fail(single->ctx, SARA_ERROR_INPUT,
                         "%s: is no Stable Diffusion checkpoint: no tensor "
                         "model.diffusion_model.input_blocks.0.0.weight",
                         single->path);
    TRY(shape_unet(single));
    if (find_part(single, &single->vae, "first_stage_model.", "", vae) ||
        find_part(single, &single->vae, "vae.", "", vae))
        TRY(shape_vae(single));
    find_text(single);
done:
    return status;
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
    static const char *const names[] = {"U-Net", "VAE", "text encoder"};
    const sara_single_part *part = part_of(single, module);
    sara_status status;
    *out = (sara_component){.ctx = single->ctx};
    if (!part->prefix)
        return sara_fail(single->ctx, SARA_ERROR_INPUT,
                         "%s: holds no %s; a whole checkpoint is expected (or --unet-only)",
                         single->path, names[module]);
    if (part->source)
        TRY(sara_strdup(single->ctx, &out->source, part->source));
    if (part->fault)
        TRY(sara_strdup(single->ctx, &out->fault, part->fault));
    TRY(sara_strdup(single->ctx, &out->path, single->path));
    out->config = json_incref(part->config);
    out->prefix = part->prefix;
    out->shape = part->shape;
done:
    return status;
}

/* Which parts a single file holds, and what their tensors' names tell of their architecture. */
#include "models/single_file.h"

#include <ctype.h>
#include <stdlib.h>

#define SD2_TEXT_LAYERS 23   /* that are used */
#define MOST_LAYERS     16   /* of a level */
#define MOST_NUMBER     1000 /* in names that are understood */
#define MOST_BLOCKS     (SARA_MAX_LEVELS * (MOST_LAYERS + 1))

/* The part's name is what follows; NULL: it is no name of the part. flat: memory for it */
static const char *name_in_part(const sara_single_part *part, const char *name, sara_name *flat)
{
    size_t prefix = strlen(part->prefix), stem = strlen(part->stem);
    bool inside =
        strncmp(name, part->prefix, prefix) == 0 && strncmp(name + prefix, part->stem, stem) == 0;
    if (!inside || !part->shape.flat)
        return inside ? name + prefix + stem : NULL;
    return sara_ldm_unflatten(flat, name + prefix) ? flat->text : NULL;
}

const sara_tensor_info *sara_single_find(const sara_single_file *single,
                                         const sara_single_part *part, const char *name)
{
    const sara_name flat = sara_ldm_flatten(name);
    const sara_name whole =
        sara_name_of("%s%s%s", part->prefix, part->stem, part->shape.flat ? flat.text : name);
    return sara_safetensors_find(single->file, whole.text);
}

int sara_single_count(const sara_single_file *single, const sara_single_part *part,
                      const char *start)
{
    size_t length = strlen(start);
    long most = 0;
    sara_name flat;
    for (size_t i = 0; i < sara_safetensors_count(single->file); i++) {
        const char *name = name_in_part(part, sara_safetensors_at(single->file, i)->name, &flat);
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
    sara_name flat;
    for (size_t i = 0; i < sara_safetensors_count(single->file); i++) {
        const char *name = name_in_part(part, sara_safetensors_at(single->file, i)->name, &flat);
        if (name && strncmp(name, start, strlen(start)) == 0)
            return true;
    }
    return false;
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
    sara_name flat;
    for (size_t i = 0; i < sara_safetensors_count(single->file); i++) {
        const char *name =
            name_in_part(&single->unet, sara_safetensors_at(single->file, i)->name, &flat);
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
    bool own = vae->diffusers;
    int down = sara_single_count(single, vae, own ? "encoder.down_blocks." : "encoder.down.");
    int up = sara_single_count(single, vae, own ? "decoder.up_blocks." : "decoder.up.");
    const char *first = own ? "encoder.down_blocks.0.resnets." : "encoder.down.0.block.";
    sara_status status = SARA_OK;
    vae->shape.part = SARA_LDM_VAE;
    vae->shape.levels = at_least_one(down > up ? down : up, SARA_MAX_LEVELS);
    vae->shape.layers = at_least_one(sara_single_count(single, vae, first), MOST_LAYERS);
    for (int i = 0; i < 2 && !vae->fault; i++)
        if (!sara_single_has(single, vae, sara_name_of("%s.", halves[i]).text))
            TRY(sara_format(single->ctx, &vae->fault,
                            "%s: its VAE has no %s (no tensor %s%s.*); %s", single->path,
                            halves[i], vae->prefix, halves[i],
                            single->unet.prefix ? "a whole checkpoint is expected (or --vae PATH, "
                                                  "or --unet-only)"
                                                : "a VAE with encoder and decoder is expected"));
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

/* The averages of the U-Net's weights, under names with dots or, as LDM writes them, without. */
static bool find_averages(const sara_single_file *single, sara_single_part *part)
{
    static const char *const starts[] = {"input_blocks.", "output_blocks."};
    if (find_part(single, part, "model_ema.diffusion_model.", "", starts))
        return true;
    part->shape.flat = true;
    if (find_part(single, part, "model_ema.diffusion_model", "", starts))
        return true;
    part->shape.flat = false;
    return false;
}

bool sara_single_has_averages(const sara_single_file *single)
{
    sara_single_part part = {.prefix = NULL};
    return find_averages(single, &part);
}

static sara_status find_single_unet(sara_single_file *single, bool use_ema)
{
    static const char *const starts[] = {"input_blocks.", "output_blocks."};
    sara_single_part *unet = &single->unet;
    if (use_ema ? find_averages(single, unet)
                : find_part(single, unet, "model.diffusion_model.", "", starts) ||
                      find_part(single, unet, "", "", starts))
        return SARA_OK;
    if (use_ema)
        return sara_fail(single->ctx, SARA_ERROR_INPUT,
                         "%s: holds no averages of the U-Net's weights (no tensor "
                         "model_ema.diffusion_model*); leave --use_ema_weights out",
                         single->path);
    if (sara_single_has_averages(single))
        return sara_fail(single->ctx, SARA_ERROR_INPUT,
                         "%s: of the U-Net it holds averages alone (model_ema.*), no "
                         "model.diffusion_model.*; --use_ema_weights reads these",
                         single->path);
    return sara_fail(single->ctx, SARA_ERROR_INPUT,
                     "%s: is no Stable Diffusion checkpoint: no tensor "
                     "model.diffusion_model.input_blocks.0.0.weight",
                     single->path);
}

sara_status sara_single_find_parts(sara_single_file *single, bool use_ema)
{
    static const char *const vae[] = {"decoder.", "encoder."};
    sara_status status;
    TRY(find_single_unet(single, use_ema));
    TRY(shape_unet(single));
    if (find_part(single, &single->vae, "first_stage_model.", "", vae) ||
        find_part(single, &single->vae, "vae.", "", vae))
        TRY(shape_vae(single));
    find_text(single);
done:
    return status;
}

sara_status sara_single_find_vae(sara_single_file *single)
{
    static const char *const starts[] = {"decoder.conv_in.", "encoder.conv_in."};
    static const char *const prefixes[] = {"first_stage_model.", "vae.", ""};
    sara_single_part *vae = &single->vae;
    for (size_t i = 0; i < sizeof(prefixes) / sizeof(*prefixes); i++) {
        if (!find_part(single, vae, prefixes[i], "", starts))
            continue;
        vae->diffusers = !*prefixes[i] && (sara_single_has(single, vae, "encoder.down_blocks.") ||
                                           sara_single_has(single, vae, "decoder.up_blocks."));
        return shape_vae(single);
    }
    return sara_fail(single->ctx, SARA_ERROR_INPUT,
                     "%s: holds no VAE (no tensor decoder.conv_in.weight, plain or after "
                     "first_stage_model.)",
                     single->path);
}

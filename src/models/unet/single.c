/* A U-Net's layout in single files. */
#include "models/unet/parts.h"

#include "models/single_file.h"

#include <ctype.h>
#include <stdlib.h>

#define MOST_BLOCKS (SARA_MAX_LEVELS * (SARA_SINGLE_LAYERS + 1))

static const char *const sides[] = {"input_blocks.", "output_blocks."};
static const char *const bare[] = {
    "input_blocks.", "middle_block.", "output_blocks.", "time_embed.", "label_emb.", "out.", NULL};
static const char input_conv[] = "input_blocks.0.0.weight";

static const char *const *unet_starts(sara_ldm_part names)
{
    (void)names;
    return sides;
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

static void note_blocks(const sara_single_file *single, const sara_single_part *part,
                        unet_blocks *blocks)
{
    sara_name flat;
    for (size_t i = 0; i < sara_safetensors_count(single->file); i++) {
        const char *name =
            sara_single_name(part, sara_safetensors_at(single->file, i)->name, &flat);
        for (int up = 0; name && up < 2; up++)
            if (strncmp(name, sides[up], strlen(sides[up])) == 0)
                note_block(blocks, name + strlen(sides[up]), up);
    }
}

/* A level's blocks are its layers and the downsampling, which the last level does not have. The
 * smallest number of them that the fewest blocks speak against: a tensor that is missing speaks
 * against none, and is not to make it another architecture. */
static int stride_of(const unet_blocks *blocks)
{
    int stride = 0, least = MOST_BLOCKS + 1;
    for (int s = 2; s <= SARA_SINGLE_LAYERS + 1 && s <= blocks->count; s++) {
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

static sara_status unet_read_shape(const sara_single_file *single, sara_single_part *part)
{
    sara_ldm_shape *shape = &part->shape;
    unet_blocks blocks = {0};
    note_blocks(single, part, &blocks);
    int stride = stride_of(&blocks);
    shape->layers = stride - 1;
    if (shape->layers < 1)
        return sara_fail(single->ctx, SARA_ERROR_INPUT,
                         "%s: no tensor %sinput_blocks.1.0.in_layers.0.weight", single->path,
                         part->prefix);
    while (shape->levels < SARA_MAX_LEVELS && shape->levels * stride < blocks.count)
        shape->levels++;
    for (int i = 0; i < shape->levels; i++)
        shape->attention[i] = level_has_attention(&blocks, shape, i);
    return SARA_OK;
}

/* SARA_ERROR_INPUT where the U-Net takes other than 4 channels, unless these are what its config
 * says; inpainting models' 9 are always refused. */
static sara_status check_input_channels(const sara_single_file *single,
                                        const sara_single_part *part, int64_t configured)
{
    const sara_tensor_info *conv = sara_single_find(single, part, input_conv);
    int64_t in = conv && conv->shape.rank == 4 ? conv->shape.dims[1] : 4; /* else told of later */
    const char *what = sara_unet_other_kind(in);
    if (in == 4 || (in == configured && in != 9))
        return SARA_OK;
    return sara_fail(single->ctx, SARA_ERROR_INPUT, "%s: %s takes %lld channels, expected 4: %s",
                     single->path, conv->name, (long long)in,
                     what ? what : "a model of another kind");
}

/* Of a level's transformers. */
static int64_t depth_of(const sara_single_file *single, const sara_single_part *part, int level)
{
    const sara_ldm_shape *shape = &part->shape;
    const int stride = shape->layers + 1, last = shape->levels - 1;
    int depth = 0;
    for (int j = 0; j < stride; j++) {
        const int blocks[] = {level * stride + 1 + j, (last - level) * stride + j};
        for (int up = j == shape->layers; up < 2; up++) {
            const sara_name start =
                sara_name_of("%s%d.1.transformer_blocks.", sides[up], blocks[up]);
            int count = sara_single_count(single, part, start.text);
            depth = count > depth ? count : depth;
        }
    }
    return depth;
}

/* A number where it is the same everywhere; the middle has the last level's. */
static json_t *depths_of(const sara_single_file *single, const sara_single_part *part)
{
    const sara_ldm_shape *shape = &part->shape;
    int middle = sara_single_count(single, part, "middle_block.1.transformer_blocks.");
    int64_t depths[SARA_MAX_LEVELS];
    bool same = true;
    for (int i = 0; i < shape->levels; i++) {
        depths[i] = shape->attention[i] ? depth_of(single, part, i) : 1;
        same &= !shape->attention[i] || depths[i] == middle;
    }
    if (!shape->attention[shape->levels - 1])
        depths[shape->levels - 1] = middle;
    return same ? json_integer(middle) : sara_single_integers(depths, shape->levels);
}

/* How many of the inputs are of the pooled text it does not tell. */
static sara_status derive_addition(const sara_single_file *single, const sara_single_part *part,
                                   json_t *config)
{
    int64_t in;
    sara_status status;
    if (!sara_single_has(single, part, "label_emb."))
        return SARA_OK;
    TRY(sara_single_dim(single, part, &in, 2, 1, sara_name_of("label_emb.0.0.weight")));
    if (json_object_set_new(config, "addition_embed_type", json_string("text_time")) ||
        json_object_set_new(config, "projection_class_embeddings_input_dim", json_integer(in)))
        TRY(sara_fail(single->ctx, SARA_ERROR_MEMORY, "%s: out of memory: config", single->path));
done:
    return status;
}

static sara_status unet_derive(const sara_single_file *single, const sara_single_part *part,
                               json_t **out)
{
    const sara_ldm_shape *shape = &part->shape;
    int64_t channels[SARA_MAX_LEVELS] = {0}, in, cross;
    const sara_tensor_info *proj = sara_single_find(single, part, "middle_block.1.proj_in.weight");
    sara_status status;
    *out = NULL;
    TRY(check_input_channels(single, part, 4));
    TRY(sara_single_dim(single, part, &in, 4, 1, sara_name_of("%s", input_conv)));
    TRY(sara_single_dim(single, part, &cross, 2, 1,
                        sara_name_of("middle_block.1.transformer_blocks.0.attn2.to_k.weight")));
    for (int i = 0; i < shape->levels; i++)
        TRY(sara_single_dim(single, part, &channels[i], 4, 0,
                            sara_single_first(single, part, "input_blocks.",
                                              (shape->layers + 1) * i + 1, shape->layers,
                                              ".0.out_layers.3.weight")));
    TRY(sara_single_made(
        single,
        json_pack("{s:s,s:s,s:I,s:b,s:o,s:o,s:I,s:I,s:b,s:I,s:i,s:f,s:i,s:i,s:o,s:b,s:o}",
                  "_class_name", "UNet2DConditionModel", "act_fn", "silu", "cross_attention_dim",
                  (json_int_t)cross, "center_input_sample", 0, "block_out_channels",
                  sara_single_integers(channels, shape->levels), "down_block_types",
                  sara_single_kinds(shape, "DownBlock2D", "CrossAttnDownBlock2D", false),
                  "in_channels", (json_int_t)in, "out_channels", (json_int_t)in, "flip_sin_to_cos",
                  1, "layers_per_block", (json_int_t)shape->layers, "norm_num_groups", 32,
                  "norm_eps", 1e-5, "freq_shift", 0, "downsample_padding", 1,
                  "transformer_layers_per_block", depths_of(single, part), "use_linear_projection",
                  proj && proj->shape.rank == 2, "up_block_types",
                  sara_single_kinds(shape, "UpBlock2D", "CrossAttnUpBlock2D", true)),
        out));
    TRY(derive_addition(single, part, *out));
done:
    return status;
}

static sara_status unet_settle(const sara_single_file *single, sara_single_part *part)
{
    return check_input_channels(single, part,
                                json_integer_value(json_object_get(part->config, "in_channels")));
}

static sara_status unet_names_of(const sara_network *network, sara_ldm_shape *out)
{
    const sara_unet_config *config = &((const sara_unet *)network)->config;
    *out = (sara_ldm_shape){.part = SARA_LDM_UNET, .levels = config->levels};
    out->layers = config->level[0].layers;
    for (int i = 0; i < config->levels; i++) {
        const sara_unet_level_config *level = &config->level[i];
        if (level->layers != out->layers || level->down_attention != level->up_attention)
            return sara_fail(network->ctx, SARA_ERROR_INPUT,
                             "level %d of the U-Net: single-file checkpoints have no names for "
                             "levels that differ in their layers, or on the way down and up",
                             i);
        out->attention[i] = level->down_attention;
    }
    return SARA_OK;
}

const sara_single_layout sara_unet_single = {.tensor = input_conv,
                                             .starts = unet_starts,
                                             .bare = bare,
                                             .read_shape = unet_read_shape,
                                             .derive = unet_derive,
                                             .settle = unet_settle,
                                             .names_of = unet_names_of};

/* An MMDiT's layout in single files. */
#include "models/mmdit/parts.h"

#include "models/single_file.h"

#define HEAD_WIDTH  64  /* of the published models, where no norm of a head tells */
#define SAMPLE_SIZE 128 /* which no shape tells */

static const char *const mmdit_bare[] = {"joint_blocks.", "x_embedder.", "context_embedder.",
                                         "t_embedder.",   "y_embedder.", "final_layer.",
                                         "pos_embed",     NULL};

static const char *const *mmdit_starts(sara_ldm_part names)
{
    (void)names;
    return mmdit_bare;
}

static sara_status mmdit_read_shape(const sara_single_file *single, sara_single_part *part)
{
    part->shape.layers =
        sara_single_clamp(sara_single_count(single, part, "joint_blocks."), SARA_MMDIT_BLOCKS);
    return SARA_OK;
}

/* The side of the table that has so many rows. */
static sara_status side_of(const sara_single_file *single, int64_t *out, int64_t rows)
{
    int64_t side = 1;
    while (side * side < rows && side < 4096)
        side++;
    *out = side;
    return side * side == rows ? SARA_OK
                               : sara_fail(single->ctx, SARA_ERROR_INPUT,
                                           "%s: tensor pos_embed: %lld positions, expected those "
                                           "of a square",
                                           single->path, (long long)rows);
}

/* *normed: queries and keys are; their norm is as wide as a head. */
static sara_status head_width_of(const sara_single_file *single, const sara_single_part *part,
                                 int64_t *out, bool *normed, int64_t width)
{
    const sara_name norm = sara_single_first(single, part, "joint_blocks.", 0, part->shape.layers,
                                             ".x_block.attn.ln_q.weight");
    *normed = sara_single_find(single, part, norm.text) != NULL;
    *out = HEAD_WIDTH;
    if (*normed)
        return sara_single_dim(single, part, out, 1, 0, norm);
    if (width % HEAD_WIDTH != 0)
        return sara_fail(single->ctx, SARA_ERROR_INPUT,
                         "%s: nothing tells how many heads a transformer of width %lld has; "
                         "--model_config DIR does",
                         single->path, (long long)width);
    return SARA_OK;
}

/* The numbers of the blocks that have a second attention. */
static json_t *dual_blocks(const sara_single_file *single, const sara_single_part *part)
{
    json_t *list = json_array();
    for (int i = 0; i < part->shape.layers; i++)
        if (sara_single_has(single, part, sara_name_of("joint_blocks.%d.x_block.attn2.", i).text))
            json_array_append_new(list, json_integer(i));
    return list;
}

static sara_status mmdit_derive(const sara_single_file *single, const sara_single_part *part,
                                json_t **out)
{
    static const char patches[] = "x_embedder.proj.weight";
    int64_t width, channels, patch, joint, pooled, rows, side, head, outputs;
    bool normed;
    sara_status status;
    *out = NULL;
    TRY(sara_single_dim(single, part, &width, 4, 0, sara_name_of("%s", patches)));
    TRY(sara_single_dim(single, part, &channels, 4, 1, sara_name_of("%s", patches)));
    TRY(sara_single_dim(single, part, &patch, 4, 2, sara_name_of("%s", patches)));
    TRY(sara_single_dim(single, part, &joint, 2, 1, sara_name_of("context_embedder.weight")));
    TRY(sara_single_dim(single, part, &pooled, 2, 1, sara_name_of("y_embedder.mlp.0.weight")));
    TRY(sara_single_dim(single, part, &outputs, 2, 0, sara_name_of("final_layer.linear.weight")));
    TRY(sara_single_dim(single, part, &rows, 3, 1, sara_name_of("pos_embed")));
    TRY(side_of(single, &side, rows));
    TRY(head_width_of(single, part, &head, &normed, width));
    TRY(sara_single_made(
        single,
        json_pack("{s:s,s:I,s:I,s:I,s:I,s:I,s:i,s:I,s:I,s:I,s:I,s:i,s:o,s:o}", "_class_name",
                  "SD3Transformer2DModel", "attention_head_dim", (json_int_t)head,
                  "caption_projection_dim", (json_int_t)width, "in_channels", (json_int_t)channels,
                  "joint_attention_dim", (json_int_t)joint, "num_attention_heads",
                  (json_int_t)(width / (head > 0 ? head : 1)), "num_layers", part->shape.layers,
                  "out_channels", (json_int_t)(outputs / (patch > 0 ? patch * patch : 1)),
                  "patch_size", (json_int_t)patch, "pooled_projection_dim", (json_int_t)pooled,
                  "pos_embed_max_size", (json_int_t)side, "sample_size", SAMPLE_SIZE, "qk_norm",
                  normed ? json_string("rms_norm") : json_null(), "dual_attention_layers",
                  dual_blocks(single, part)),
        out));
done:
    return status;
}

static sara_status mmdit_names_of(const sara_network *network, sara_ldm_shape *out)
{
    *out = (sara_ldm_shape){.part = SARA_LDM_MMDIT,
                            .layers = ((const sara_mmdit *)network)->config.blocks};
    return SARA_OK;
}

const sara_single_layout sara_mmdit_single = {.tensor = "x_embedder.proj.weight",
                                              .starts = mmdit_starts,
                                              .bare = mmdit_bare,
                                              .read_shape = mmdit_read_shape,
                                              .derive = mmdit_derive,
                                              .names_of = mmdit_names_of};

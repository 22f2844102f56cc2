#include "models/mmdit/config.h"

/* Options of SD3Transformer2DModel that this network has only these ways of. */
static const sara_supported mmdit_supported[] = {
    {"qk_norm", {"null", "\"rms_norm\""}},
    {NULL, {NULL}},
};

static sara_status read_widths(const sara_model_config *file, sara_mmdit_config *out)
{
    int64_t heads, caption;
    sara_status status;
    TRY(sara_config_int(&file->fields, &heads, "num_attention_heads", 18, 1, 1024));
    TRY(sara_config_int(&file->fields, &out->head_width, "attention_head_dim", 64, 1, 1024));
    TRY(sara_config_int(&file->fields, &caption, "caption_projection_dim", 1152, 1,
                        SARA_MAX_CHANNELS));
    TRY(sara_config_int(&file->fields, &out->joint_width, "joint_attention_dim", 4096, 1,
                        SARA_MAX_CHANNELS));
    TRY(sara_config_int(&file->fields, &out->pooled_width, "pooled_projection_dim", 2048, 1,
                        SARA_MAX_CHANNELS));
    out->heads = (int)heads;
    out->width = heads * out->head_width;
    if (caption != out->width)
        status = sara_model_config_refuse(file, "caption_projection_dim",
                                          "expected num_attention_heads times attention_head_dim");
done:
    return status;
}

static sara_status read_patches(const sara_model_config *file, sara_mmdit_config *out)
{
    const json_t *output = json_object_get(file->object, "out_channels");
    int64_t out_channels;
    sara_status status;
    TRY(sara_config_int(&file->fields, &out->patch, "patch_size", 2, 1, 64));
    TRY(sara_config_int(&file->fields, &out->channels, "in_channels", 16, 1, 1024));
    TRY(sara_config_int(&file->fields, &out_channels, "out_channels", 16, 1, 1024));
    TRY(sara_config_int(&file->fields, &out->positions, "pos_embed_max_size", 96, 1, 4096));
    TRY(sara_config_int(&file->fields, &out->sample_size, "sample_size", 128, 1, 65536));
    if (json_is_null(json_object_get(file->object, "pos_embed_max_size")))
        status = sara_model_config_refuse(file, "pos_embed_max_size", "not supported");
    else if (!json_is_null(output) && out_channels != out->channels)
        status = sara_fail(file->fields.ctx, SARA_ERROR_INPUT,
                           "%s: in_channels %lld, out_channels %lld: models whose output is not "
                           "shaped like their input (inpainting, edit) are not supported",
                           file->path, (long long)out->channels, (long long)out_channels);
done:
    return status;
}

/* As some configs have it, the list holds what is no number of a block, too: those of others. */
static sara_status read_blocks(const sara_model_config *file, sara_mmdit_config *out)
{
    int64_t blocks, dual[SARA_MMDIT_BLOCKS];
    int count = 0;
    sara_status status;
    TRY(sara_config_int(&file->fields, &blocks, "num_layers", 18, 1, SARA_MMDIT_BLOCKS));
    out->blocks = (int)blocks;
    if (json_array_size(json_object_get(file->object, "dual_attention_layers")) > 0)
        TRY(sara_config_ints(&file->fields, dual, &count, "dual_attention_layers", 0,
                             SARA_MMDIT_BLOCKS, 0, SARA_MMDIT_BLOCKS - 1));
    for (int i = 0; i < count; i++)
        out->dual[dual[i]] = dual[i] < blocks;
done:
    return status;
}

sara_status sara_mmdit_config_read(const sara_model_config *file, sara_mmdit_config *out)
{
    const char *norm;
    sara_status status;
    TRY(sara_model_config_check(file, mmdit_supported));
    TRY(sara_config_string(&file->fields, &norm, "qk_norm", NULL));
    out->qk_norm = norm != NULL;
    TRY(read_widths(file, out));
    TRY(read_patches(file, out));
    TRY(read_blocks(file, out));
done:
    return status;
}

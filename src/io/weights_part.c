/* A part of a single-file checkpoint as a source of weights: only names, shapes and offsets change,
 * no values. */
#include "io/weights.h"

#include <stdlib.h>

/* info: the tensor as it is here, but for its name; stored: as the file has it */
static sara_status part_add_item(sara_weights *weights, const sara_safetensors *file,
                                 const sara_tensor_info *info, const sara_tensor_info *stored,
                                 const char *name)
{
    const char *own;
    sara_status status;
    TRY(sara_arena_strdup(&weights->names, &own, name));
    TRY(sara_grow(weights->ctx, &weights->items, &weights->capacity, weights->count + 1,
                  sizeof(*weights->items)));
    weights->items[weights->count] = (sara_weight){.info = *info, .stored = stored, .file = file};
    weights->items[weights->count++].info.name = own;
done:
    return status;
}

/* Query, key and value, one below the other. */
static sara_status add_thirds(sara_weights *weights, const sara_safetensors *file,
                              const sara_tensor_info *info, const sara_name thirds[3])
{
    sara_tensor_info part = *info;
    sara_shape_text shape;
    sara_status status = SARA_OK;
    if (info->shape.rank < 1 || info->shape.dims[0] % 3 != 0)
        return sara_fail(weights->ctx, SARA_ERROR_INPUT,
                         "%s: tensor %.200s: shape %s, expected a first dimension that is a "
                         "multiple of 3",
                         weights->path, info->name, sara_shape_format(&shape, &info->shape));
    part.shape.dims[0] /= 3;
    part.size /= 3;
    for (int i = 0; i < 3; i++) {
        part.offset = info->offset + (uint64_t)i * part.size;
        TRY(part_add_item(weights, file, &part, info, thirds[i].text));
    }
done:
    return status;
}

/* A matrix that the file has transposed. */
static sara_status add_transposed(sara_weights *weights, const sara_safetensors *file,
                                  const sara_tensor_info *info, const char *name)
{
    sara_tensor_info as = *info;
    sara_shape_text shape;
    sara_status status;
    if (info->shape.rank != 2)
        return sara_fail(weights->ctx, SARA_ERROR_INPUT,
                         "%s: tensor %.200s: shape %s, expected a matrix", weights->path,
                         info->name, sara_shape_format(&shape, &info->shape));
    as.shape = sara_shape2(info->shape.dims[1], info->shape.dims[0]);
    TRY(part_add_item(weights, file, &as, info, name));
    weights->items[weights->count - 1].transposed = true;
done:
    return status;
}

/* Among a part's tensors, but no part of it: projections to CLIP's common space, averages and
 * losses of the VAE's training, the other parts of a file whose U-Net has no prefix. */
static const struct {
    sara_ldm_part part;
    const char *start;
} left_out[] = {
    {SARA_LDM_OPEN_CLIP, "text_projection"},
    {SARA_LDM_OPEN_CLIP, "logit_scale"},
    {SARA_LDM_OPEN_CLIP, "attn_mask"},
    {SARA_LDM_CLIP, "text_projection."},
    {SARA_LDM_VAE, "model_ema."},
    {SARA_LDM_VAE, "loss."},
    {SARA_LDM_UNET, "first_stage_model."},
    {SARA_LDM_UNET, "vae."},
    {SARA_LDM_UNET, "cond_stage_model."},
    {SARA_LDM_UNET, "conditioner."},
    {SARA_LDM_UNET, "denoiser."},
    {SARA_LDM_UNET, "model_ema."},
    {SARA_LDM_MMDIT, "first_stage_model."},
    {SARA_LDM_MMDIT, "vae."},
    {SARA_LDM_MMDIT, "text_encoders."},
};

/* name: without the prefix */
static bool is_left_out(const sara_ldm_shape *shape, const char *name)
{
    static const char blocks[] = "transformer.resblocks.", projection[] = "text_projection";
    if (shape->projection && strncmp(name, projection, strlen(projection)) == 0)
        return false;
    for (size_t i = 0; i < sizeof(left_out) / sizeof(*left_out); i++)
        if (left_out[i].part == shape->part &&
            strncmp(name, left_out[i].start, strlen(left_out[i].start)) == 0)
            return true;
    return shape->part == SARA_LDM_OPEN_CLIP && strncmp(name, blocks, strlen(blocks)) == 0 &&
           strtol(name + strlen(blocks), NULL, 10) >= shape->layers;
}

static sara_status add_tensor(sara_weights *weights, const sara_safetensors *file,
                              const sara_tensor_info *info, const sara_ldm_shape *shape,
                              const char *name)
{
    sara_tensor_info as = *info;
    sara_name thirds[3];
    char *other = NULL;
    sara_status status;
    TRY(sara_ldm_to_diffusers(weights->ctx, &other, shape, name));
    if (shape->part == SARA_LDM_VAE && other && strstr(other, ".attentions.") &&
        as.shape.rank == 4 && as.shape.dims[2] == 1 && as.shape.dims[3] == 1)
        as.shape.rank = 2;
    if (other && sara_ldm_split(shape, thirds, other))
        TRY(add_thirds(weights, file, info, thirds));
    else if (shape->part == SARA_LDM_OPEN_CLIP && strcmp(name, "text_projection") == 0)
        TRY(add_transposed(weights, file, info, other));
    else
        TRY(part_add_item(weights, file, &as, info, other ? other : name));
    if (other && sara_ldm_is_swapped(shape, other))
        weights->items[weights->count - 1].swapped = true;
    if (shape->part == SARA_LDM_CLIP && other && strcmp(other, name) != 0)
        weights->bare = true;
done:
    sara_free(weights->ctx, other);
    return status;
}

static const sara_weight *item_ending(const sara_weights *weights, const char *end)
{
    size_t length = strlen(end);
    for (size_t i = 0; i < weights->count; i++) {
        const char *name = weights->items[i].info.name;
        if (strlen(name) >= length && strcmp(name + strlen(name) - length, end) == 0)
            return &weights->items[i];
    }
    return NULL;
}

/* Files of SD3 lack the projection of the text encoder whose own is the identity. It is of the
 * dtype of the encoder's tokens. */
static sara_status add_projection(sara_weights *weights, const sara_safetensors *file)
{
    const sara_weight *tokens = item_ending(weights, "embeddings.token_embedding.weight");
    sara_tensor_info as;
    sara_status status = SARA_OK;
    if (weights->shape.part != SARA_LDM_CLIP || !weights->shape.projection || !tokens ||
        tokens->info.shape.rank != 2 || item_ending(weights, "text_projection.weight"))
        return SARA_OK;
    as = tokens->info;
    as.shape.dims[0] = as.shape.dims[1];
    as.size = (size_t)sara_shape_count(&as.shape) * sara_dtype_size(as.dtype);
    TRY(part_add_item(weights, file, &as, tokens->stored, "text_projection.weight"));
    weights->items[weights->count - 1].identity = true;
done:
    return status;
}

/* Whether the tensor marks as scaled all whose names begin with `prefix`, and more. */
static bool is_marker_above(const char *name, const char *prefix)
{
    int length = sara_weights_marked_by(name);
    return length >= 0 && strncmp(name, prefix, (size_t)length) == 0;
}

sara_status sara_weights_open_part(sara_context *ctx, sara_weights **out, const char *path,
                                   const char *prefix, const sara_ldm_shape *shape)
{
    sara_weights *weights = NULL;
    sara_safetensors *file = NULL;
    size_t length = strlen(prefix);
    sara_status status;
    *out = NULL;
    TRY(sara_weights_new(ctx, &weights));
    TRY(sara_strdup(ctx, &weights->path, path));
    TRY(sara_strdup(ctx, &weights->prefix, prefix));
    weights->shape = *shape;
    TRY(sara_safetensors_open(ctx, &file, path));
    TRY(sara_weights_own(weights, file));
    for (size_t i = 0; i < sara_safetensors_count(file); i++) {
        const sara_tensor_info *info = sara_safetensors_at(file, i);
        weights->scaled |= is_marker_above(info->name, prefix);
        if (strncmp(info->name, prefix, length) == 0 && !is_left_out(shape, info->name + length))
            TRY(add_tensor(weights, file, info, shape, info->name + length));
    }
    TRY(add_projection(weights, file));
    sara_weights_sort(weights);
    TRY(sara_weights_take_scales(weights));
    *out = weights;
    weights = NULL;
done:
    sara_weights_close(weights);
    return status;
}

/* ---------------------------------------------------------------------------------- for errors */

const sara_tensor_info *sara_weights_in_file(const sara_tensor_info *info)
{
    const sara_weight *weight = (const void *)info;
    return weight->stored;
}

sara_shape sara_weights_shape_in_file(const sara_tensor_info *info, const sara_shape *shape)
{
    const sara_tensor_info *stored = sara_weights_in_file(info);
    const sara_weight *weight = (const void *)info;
    sara_shape there = *shape;
    if (weight->transposed && shape->rank == 2)
        there = sara_shape2(shape->dims[1], shape->dims[0]);
    else if (shape->rank == 2 && stored->shape.rank == 4 && info->shape.rank == 2)
        there = sara_shape4(shape->dims[0], shape->dims[1], 1, 1);
    else if (shape->rank > 0 && stored->size != info->size)
        there.dims[0] *= 3;
    return there;
}

sara_status sara_weights_name_in_file(const sara_weights *weights, sara_name *out, const char *name)
{
    static const char stem[] = "text_model.";
    const char *there = name;
    char *ldm = NULL;
    sara_status status = SARA_OK;
    if (weights->prefix)
        TRY(sara_ldm_from_diffusers(weights->ctx, &ldm, &weights->shape, name));
    if (ldm)
        there = ldm;
    if (weights->bare && strncmp(there, stem, strlen(stem)) == 0)
        there += strlen(stem);
    *out = sara_name_of("%s%s", weights->prefix ? weights->prefix : "", there);
done:
    sara_free(weights->ctx, ldm);
    return status;
}

bool sara_weights_is_told_of(const sara_weights *weights, const char *name)
{
    sara_name thirds[3];
    return !weights->prefix || sara_ldm_third(&weights->shape, thirds, name) <= 0;
}

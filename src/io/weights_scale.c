/* 8-bit weights with scales: X.weight is to be multiplied by X.scale_weight (ComfyUI) or
 * X.weight_scale (torchao, newer ComfyUI), one number or one for each row. Scales of inputs are for
 * arithmetic in 8 bits, which is not done here. */
#include "io/weights.h"

#include <float.h>
#include <math.h>

static const char *const weight_scales[] = {".scale_weight", ".weight_scale"};
static const char *const input_scales[] = {".scale_input", ".input_scale"};

/* The name's length without the ending, which it has; -1: it has another. */
static int without(const char *name, const char *ending)
{
    size_t length = strlen(name), tail = strlen(ending);
    return length >= tail && strcmp(name + length - tail, ending) == 0 ? (int)(length - tail) : -1;
}

/* -1: it is no scale */
static int layer_of(const char *name, const char *const endings[2])
{
    int first = without(name, endings[0]);
    return first >= 0 ? first : without(name, endings[1]);
}

int sara_weights_marked_by(const char *name)
{
    int length = without(name, SARA_SCALED_MARKER);
    return length > 0 && name[length - 1] != '.' ? -1 : length;
}

static bool is_of_scales(const char *name)
{
    return layer_of(name, weight_scales) >= 0 || layer_of(name, input_scales) >= 0 ||
           sara_weights_marked_by(name) >= 0;
}

/* Moves scales and markers to the end of what there is, in their order; *kept: before them. */
static sara_status set_apart(sara_weights *weights, size_t *kept)
{
    size_t count = 0;
    sara_status status = SARA_OK;
    *kept = 0;
    for (size_t i = 0; i < weights->count; i++)
        count += is_of_scales(weights->items[i].info.name);
    if (count == 0) {
        *kept = weights->count;
        return SARA_OK;
    }
    TRY(sara_alloc(weights->ctx, &weights->scales, count, sizeof(*weights->scales)));
    for (size_t i = 0; i < weights->count; i++) {
        const sara_weight item = weights->items[i];
        if (is_of_scales(item.info.name))
            weights->scales[weights->scale_count++] = item;
        else
            weights->items[(*kept)++] = item;
    }
done:
    return status;
}

static sara_status check_scale(const sara_weights *weights, const sara_weight *scale,
                               const sara_weight *target)
{
    sara_shape_text has, wanted;
    int64_t count = sara_shape_count(&scale->info.shape);
    int64_t rows = target->info.shape.rank > 0 ? target->info.shape.dims[0] : 1;
    bool by_row = scale->info.shape.rank > 0 && scale->info.shape.dims[0] == rows;
    if (target->scale)
        return sara_fail(weights->ctx, SARA_ERROR_INPUT,
                         "%s: tensors %.200s and %.200s: two scales "
                         "of one weight",
                         weights->path, target->scale->stored->name, scale->stored->name);
    if (count == 1 || (count == rows && by_row))
        return SARA_OK;
    return sara_fail(weights->ctx, SARA_ERROR_INPUT,
                     "%s: tensor %.200s: shape %s, expected one scale or one for each row of %s",
                     weights->path, scale->stored->name,
                     sara_shape_format(&has, &scale->info.shape),
                     sara_shape_format(&wanted, &target->info.shape));
}

static sara_weight *find_weight(sara_weights *weights, const char *layer, int length)
{
    const sara_name name = sara_name_of("%.*s.weight", length, layer);
    const sara_tensor_info *info = sara_weights_find(weights, name.text);
    return info ? &weights->items[(const sara_weight *)(const void *)info - weights->items] : NULL;
}

static sara_status give_scale(sara_weights *weights, const sara_weight *scale)
{
    int length = layer_of(scale->info.name, weight_scales);
    sara_weight *target;
    sara_status status;
    if (length < 0)
        return SARA_OK;
    target = find_weight(weights, scale->info.name, length);
    if (!target)
        return sara_fail(weights->ctx, SARA_ERROR_INPUT,
                         "%s: tensor %.200s: a scale, and there is no weight that it is for",
                         weights->path, scale->stored->name);
    TRY(check_scale(weights, scale, target));
    target->scale = scale;
    target->info.dtype = SARA_F32;
done:
    return status;
}

/* What is marked as scaled and has no scale is not what it seems. start: as the file has it */
static sara_status check_marked(const sara_weights *weights, const char *start, int length)
{
    for (size_t i = 0; i < weights->count; i++) {
        const sara_weight *item = &weights->items[i];
        bool is_8bit = item->info.dtype == SARA_F8_E4M3 || item->info.dtype == SARA_F8_E5M2;
        if (is_8bit && strncmp(item->stored->name, start, (size_t)length) == 0)
            return sara_fail(weights->ctx, SARA_ERROR_INPUT,
                             "%s: tensor %.200s: %s without a scale, but the file is marked as "
                             "scaled (" SARA_SCALED_MARKER ")",
                             weights->path, item->stored->name, sara_dtype_name(item->info.dtype));
    }
    return SARA_OK;
}

sara_status sara_weights_take_scales(sara_weights *weights)
{
    size_t kept;
    sara_status status;
    TRY(set_apart(weights, &kept));
    weights->count = kept;
    for (size_t i = 0; i < weights->scale_count; i++)
        TRY(give_scale(weights, &weights->scales[i]));
    for (size_t i = 0; i < weights->scale_count; i++) {
        const char *marker = weights->scales[i].stored->name;
        int length = sara_weights_marked_by(marker);
        if (length >= 0)
            TRY(check_marked(weights, marker, length));
    }
    if (weights->scaled)
        TRY(check_marked(weights, "", 0));
done:
    return status;
}

/* -------------------------------------------------------------------------------------- reading */

/* scales: one, or one for each row */
static void multiply_rows(float *values, size_t count, const float *scales, size_t scale_count)
{
    size_t row = count / scale_count;
    for (size_t i = 0; i < scale_count; i++)
        for (size_t j = 0; j < row; j++)
            values[i * row + j] *= scales[i];
}

static sara_status read_scales(const sara_weights *weights, float *out, const sara_weight *scale)
{
    size_t count = (size_t)sara_shape_count(&scale->info.shape);
    sara_status status;
    TRY(sara_safetensors_read_f32(scale->file, out, scale->stored));
    for (size_t i = 0; i < count; i++)
        if (!isfinite(out[i]))
            return sara_fail(weights->ctx, SARA_ERROR_INPUT,
                             "%s: tensor %.200s: entry %zu is %g, expected a finite scale",
                             weights->path, scale->stored->name, i, (double)out[i]);
done:
    return status;
}

sara_status sara_weights_check_scales(const sara_weights *weights, const sara_weight *item)
{
    size_t count = (size_t)sara_shape_count(&item->scale->info.shape);
    float *scales = NULL;
    sara_status status;
    TRY(sara_alloc(weights->ctx, &scales, count, sizeof(*scales)));
    TRY(read_scales(weights, scales, item->scale));
done:
    sara_free(weights->ctx, scales);
    return status;
}

static sara_status store_scaled(const sara_weights *weights, void *out, sara_dtype dtype,
                                const float *values, size_t count, const char *name)
{
    for (size_t i = 0; dtype == SARA_F16 && i < count; i++)
        if (fabsf(values[i]) >= 65520.0f && fabsf(values[i]) <= FLT_MAX)
            return sara_fail(weights->ctx, SARA_ERROR_INPUT,
                             "%s: tensor %.200s: holds values beyond 65504, where fp16 ends; bf16 "
                             "can hold them",
                             weights->path, name);
    sara_convert_from_f32(out, dtype, values, count);
    return SARA_OK;
}

sara_status sara_weights_read_scaled(const sara_weights *weights, void *out, sara_dtype dtype,
                                     const sara_weight *item, const sara_tensor_info *as)
{
    size_t count = (size_t)sara_shape_count(&as->shape);
    size_t scale_count = (size_t)sara_shape_count(&item->scale->info.shape);
    float *values = NULL, *scales = NULL;
    sara_status status;
    TRY(sara_alloc(weights->ctx, &scales, scale_count, sizeof(*scales)));
    TRY(sara_alloc(weights->ctx, &values, count, sizeof(*values)));
    TRY(read_scales(weights, scales, item->scale));
    TRY(sara_safetensors_read_f32(item->file, values, as));
    multiply_rows(values, count, scales, scale_count);
    TRY(store_scaled(weights, out, dtype, values, count, as->name));
done:
    sara_free(weights->ctx, scales);
    sara_free(weights->ctx, values);
    return status;
}

/* One layer of a LoRA file: its factors' shapes against the weight's, and their values. */
#include "pipeline/lora_read.h"

#include <math.h>

#define MOST_RANK 16384

typedef struct lora_layer {
    const sara_lora_reading *r;
    const sara_lora_tensors *tensors;
    const sara_param *param;
    sara_arena *arena;
    sara_lora_layer *out;
} lora_layer;

/* Beyond the axes given the tensor may have more of one entry each: a matrix as a 1x1 convolution
 * and the other way round. */
static bool is_shaped(const sara_tensor_info *info, const sara_shape *shape)
{
    for (int i = 0; i < SARA_MAX_RANK; i++) {
        int64_t has = i < info->shape.rank ? info->shape.dims[i] : 1;
        int64_t expected = i < shape->rank ? shape->dims[i] : 1;
        if (has != expected)
            return false;
    }
    return true;
}

static sara_status check_shape(const lora_layer *l, const sara_tensor_info *info,
                               const sara_shape *shape)
{
    sara_shape_text has, expected, weight;
    char *fault = NULL;
    sara_status status;
    if (is_shaped(info, shape))
        return SARA_OK;
    TRY(sara_format(l->r->ctx, &fault, "%.200s: shape %s, expected %s for the model's %s %s",
                    info->name, sara_shape_format(&has, &info->shape),
                    sara_shape_format(&expected, shape), l->param->name,
                    sara_shape_format(&weight, &l->param->value.shape)));
    status = sara_lora_refuse_foreign(l->r, fault);
done:
    sara_free(l->r->ctx, fault);
    return status;
}

sara_status sara_lora_read_factor(const sara_adapter_source *source, sara_arena *arena, float **out,
                                  const sara_tensor_info *info)
{
    size_t count = (size_t)sara_shape_count(&info->shape);
    sara_status status;
    TRY(sara_safetensors_check_dtype(source->file, info));
    TRY(sara_arena_alloc(arena, out, count, sizeof(**out)));
    TRY(sara_safetensors_read_f32(source->file, *out, info));
    for (size_t i = 0; i < count; i++)
        if (!isfinite((*out)[i]))
            return sara_fail(source->ctx, SARA_ERROR_INPUT, "%s: %.200s: value %zu is %s",
                             source->path, info->name, i, isnan((*out)[i]) ? "NaN" : "infinite");
done:
    return status;
}

static sara_status read_factor(const lora_layer *l, float **out, const sara_tensor_info *info)
{
    return sara_lora_read_factor(l->r->source, l->arena, out, info);
}

/* How often the weight's outputs are in a tensor of outputs. */
static int64_t weights_in(const lora_layer *l)
{
    return l->tensors->name->third < 0 ? 1 : 3;
}

/* Of a tensor whose first axis is the outputs, those of the weight in its order. */
static sara_status read_outputs(const lora_layer *l, float **out, const sara_tensor_info *info)
{
    const sara_lora_name *name = l->tensors->name;
    size_t rows = (size_t)l->out->out;
    size_t width = (size_t)(sara_shape_count(&info->shape) / (l->out->out * weights_in(l)));
    size_t first = name->third < 0 ? 0 : (size_t)name->third * rows;
    sara_arena scratch;
    float *all;
    sara_status status;
    if (name->third < 0 && !name->swapped)
        return read_factor(l, out, info);
    sara_arena_init(&scratch, l->r->ctx);
    TRY(sara_lora_read_factor(l->r->source, &scratch, &all, info));
    TRY(sara_arena_alloc(l->arena, out, rows * width, sizeof(**out)));
    for (size_t i = 0; i < rows; i++) {
        size_t row = name->swapped ? (i + rows / 2) % rows : i;
        memcpy(*out + i * width, all + (first + row) * width, width * sizeof(**out));
    }
done:
    sara_arena_free(&scratch);
    return status;
}

sara_status sara_lora_check_pair(const sara_adapter_source *source,
                                 const sara_tensor_info *const of[SARA_LORA_ROLES])
{
    static const struct {
        sara_lora_role role;
        const char *name;
    } needed[] = {{SARA_LORA_DOWN, "first factor (lora_down, lora_A)"},
                  {SARA_LORA_UP, "second factor (lora_up, lora_B)"}};
    const sara_tensor_info *some = NULL;
    for (int i = 0; i < SARA_LORA_ROLES; i++)
        some = of[i] ? of[i] : some;
    for (int i = 0; i < 2; i++)
        if (!of[needed[i].role])
            return sara_fail(source->ctx, SARA_ERROR_INPUT,
                             "%s: %.200s: the %s of its layer is missing", source->path, some->name,
                             needed[i].name);
    return SARA_OK;
}

/* ------------------------------------------------------------------------------------ the scale */

/* A number in a tensor of one entry; some tools write it as an integer. */
sara_status sara_lora_read_alpha(const sara_adapter_source *source, double *alpha,
                                 const sara_tensor_info *info)
{
    sara_shape_text text;
    int64_t integer;
    int32_t shorter;
    float value;
    sara_status status;
    if (sara_shape_count(&info->shape) != 1)
        return sara_fail(source->ctx, SARA_ERROR_INPUT, "%s: %.200s: shape %s, expected one number",
                         source->path, info->name, sara_shape_format(&text, &info->shape));
    if (info->dtype == SARA_I64) {
        TRY(sara_safetensors_read(source->file, &integer, info));
        *alpha = (double)integer;
        return SARA_OK;
    }
    if (info->dtype == SARA_I32) {
        TRY(sara_safetensors_read(source->file, &shorter, info));
        *alpha = (double)shorter;
        return SARA_OK;
    }
    TRY(sara_safetensors_check_dtype(source->file, info));
    TRY(sara_safetensors_read_f32(source->file, &value, info));
    *alpha = (double)value;
    if (!isfinite(value))
        status = sara_fail(source->ctx, SARA_ERROR_INPUT, "%s: %.200s: is %s", source->path,
                           info->name, isnan(value) ? "NaN" : "infinite");
done:
    return status;
}

static sara_status find_scale(const lora_layer *l)
{
    const sara_tensor_info *info = l->tensors->of[SARA_LORA_ALPHA];
    const char *key = l->tensors->of[SARA_LORA_DOWN]->name;
    sara_lora_role role;
    size_t length = sara_lora_key(key, &role);
    double alpha = 0;
    char *layer = NULL;
    int part;
    sara_status status;
    if (info) {
        TRY(sara_lora_read_alpha(l->r->source, &alpha, info));
        l->out->scale = alpha / (double)l->out->rank;
        return SARA_OK;
    }
    TRY(sara_format(l->r->ctx, &layer, "%.*s", (int)length, key));
    TRY(sara_lora_config_scale(&l->r->config, &l->out->scale,
                               sara_lora_strip(l->r->model->family, &part, layer), l->out->rank));
done:
    sara_free(l->r->ctx, layer);
    return status;
}

/* ---------------------------------------------------------------------------------- the factors */

/* The weight's axes: the first its outputs, the second its inputs. */
static void set_sizes(sara_lora_layer *out, const sara_shape *shape)
{
    out->out = shape->rank > 0 ? shape->dims[0] : 1;
    out->in = shape->rank > 1 ? shape->dims[1] : 1;
    out->kh = shape->rank > 2 ? shape->dims[2] : 1;
    out->kw = shape->rank > 3 ? shape->dims[3] : 1;
}

static sara_status check_factors(const lora_layer *l)
{
    const sara_tensor_info *down = l->tensors->of[SARA_LORA_DOWN];
    const sara_tensor_info *mid = l->tensors->of[SARA_LORA_MID];
    sara_lora_layer *out = l->out;
    int64_t rank = out->rank = down->shape.rank > 0 ? down->shape.dims[0] : 0;
    bool convolves = l->param->value.shape.rank > 2 && !mid;
    sara_shape shape =
        convolves ? sara_shape4(rank, out->in, out->kh, out->kw) : sara_shape2(rank, out->in);
    sara_status status;
    if (rank < 1 || rank > MOST_RANK)
        return sara_fail(l->r->ctx, SARA_ERROR_INPUT, "%s: %.200s: rank %lld, expected 1 to %d",
                         l->r->source->path, down->name, (long long)rank, MOST_RANK);
    TRY(check_shape(l, down, &shape));
    shape = sara_shape2(out->out * weights_in(l), rank);
    TRY(check_shape(l, l->tensors->of[SARA_LORA_UP], &shape));
    shape = sara_shape4(rank, rank, out->kh, out->kw);
    if (mid)
        TRY(check_shape(l, mid, &shape));
done:
    return status;
}

/* DoRA's: one of each output, as PEFT has it under its own name in whatever shape; kohya's and
 * LyCORIS' have the axis in the shape. */
static sara_status read_magnitude(const lora_layer *l)
{
    const sara_tensor_info *info = l->tensors->of[SARA_LORA_MAGNITUDE];
    sara_lora_layer *out = l->out;
    bool peft = strstr(info->name, "lora_magnitude_vector") != NULL;
    int64_t count = sara_shape_count(&info->shape);
    sara_shape outputs = sara_shape1(out->out * weights_in(l));
    sara_status status;
    out->magnitude_of_inputs = !peft && info->shape.rank > 1 && info->shape.dims[0] == 1 &&
                               out->out != 1 && count == out->in && weights_in(l) == 1;
    if (!out->magnitude_of_inputs && !(peft && count == out->out))
        TRY(check_shape(l, info, &outputs));
    TRY(out->magnitude_of_inputs ? read_factor(l, &out->magnitude, info)
                                 : read_outputs(l, &out->magnitude, info));
done:
    return status;
}

static sara_status read_factors(const lora_layer *l)
{
    sara_status status;
    TRY(sara_lora_check_pair(l->r->source, l->tensors->of));
    TRY(check_factors(l));
    TRY(read_factor(l, &l->out->down, l->tensors->of[SARA_LORA_DOWN]));
    TRY(read_outputs(l, &l->out->up, l->tensors->of[SARA_LORA_UP]));
    if (l->tensors->of[SARA_LORA_MID])
        TRY(read_factor(l, &l->out->mid, l->tensors->of[SARA_LORA_MID]));
    if (l->tensors->of[SARA_LORA_MAGNITUDE])
        TRY(read_magnitude(l));
    else
        TRY(sara_lora_config_plain(&l->r->config, l->tensors->of[SARA_LORA_DOWN]->name));
    TRY(find_scale(l));
done:
    return status;
}

/* Zeros are left out: A1111 wants some beside the change of a bias. */
static sara_status lora_read_whole(const lora_layer *l, bool *kept)
{
    const sara_tensor_info *info = l->tensors->of[SARA_LORA_DIFF];
    sara_shape shape = l->param->value.shape;
    size_t count = (size_t)sara_shape_count(&shape), i = 0;
    sara_status status;
    for (int role = 0; role < SARA_LORA_DIFF; role++)
        if (l->tensors->of[role])
            return sara_fail(l->r->ctx, SARA_ERROR_INPUT, "%s: %.200s: beside %.200s",
                             l->r->source->path, info->name, l->tensors->of[role]->name);
    shape.dims[0] *= weights_in(l);
    TRY(check_shape(l, info, &shape));
    TRY(read_outputs(l, &l->out->whole, info));
    while (i < count && l->out->whole[i] == 0)
        i++;
    *kept = i < count;
done:
    return status;
}

sara_status sara_lora_read_layer(const sara_lora_reading *r, sara_lora_layer *out, bool *kept,
                                 sara_arena *arena, const sara_param *param,
                                 const sara_lora_tensors *tensors)
{
    const lora_layer l = {r, tensors, param, arena, out};
    *out = (sara_lora_layer){.name = param->name};
    *kept = true;
    set_sizes(out, &param->value.shape);
    return tensors->of[SARA_LORA_DIFF] ? lora_read_whole(&l, kept) : read_factors(&l);
}

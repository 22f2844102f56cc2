/* Low-rank branches on a denoiser: made, drawn, attached. */
#include "train/methods/lora.h"

#include <math.h>

/* ---------------------------------------------------------------------------------------- which */

static bool is_target_name(const char *name, const char *ending)
{
    size_t length = strlen(name), tail = strlen(ending);
    return length > tail && strcmp(name + length - tail, ending) == 0;
}

static bool is_attention(const sara_param *param)
{
    return is_target_name(param->name, ".to_q.weight") ||
           is_target_name(param->name, ".to_k.weight") ||
           is_target_name(param->name, ".to_v.weight") ||
           is_target_name(param->name, ".to_out.0.weight");
}

static bool is_linear(const sara_param *param)
{
    return is_target_name(param->name, ".weight") && param->value.shape.rank == 2;
}

static bool is_linear_or_convolution(const sara_param *param)
{
    return is_linear(param) ||
           (is_target_name(param->name, ".weight") && param->value.shape.rank == 4);
}

sara_status sara_lora_targets_parse(sara_context *ctx, sara_lora_targets *out, const char *text)
{
    static const struct {
        const char *name;
        sara_lora_targets is;
    } words[] = {
        {"attention", is_attention}, {"linear", is_linear}, {"all", is_linear_or_convolution}};
    for (size_t i = 0; i < sizeof(words) / sizeof(*words); i++)
        if (strcmp(text ? text : words[0].name, words[i].name) == 0) {
            *out = words[i].is;
            return SARA_OK;
        }
    return sara_fail(ctx, SARA_ERROR_USAGE, "--lora_targets %s: expected attention, linear or all",
                     text);
}

sara_loras_size sara_loras_size_of(const sara_params *params, sara_lora_targets targets)
{
    sara_loras_size size = {0};
    for (size_t i = 0; i < params->count; i++) {
        const sara_shape *shape = &params->items[i].value.shape;
        if (!targets(&params->items[i]))
            continue;
        size.count++;
        size.per_rank += shape->dims[0] + sara_shape_count(shape) / shape->dims[0];
        size.outputs += shape->dims[0];
    }
    return size;
}

/* --------------------------------------------------------------------------------------- making */

static sara_status loras_start(sara_context *ctx, sara_loras *out, size_t layers, bool magnitudes)
{
    sara_status status;
    TRY(sara_params_new(ctx, &out->params, layers * (magnitudes ? 3 : 2)));
    TRY(sara_alloc_zero(ctx, &out->layers, layers, sizeof(*out->layers)));
done:
    return status;
}

static sara_status make_param(sara_context *ctx, sara_param *param, const sara_param *weight,
                              const char *ending, const sara_shape *shape)
{
    int length = (int)(strlen(weight->name) - strlen(".weight"));
    char *name = NULL;
    sara_status status;
    TRY(sara_format(ctx, &name, "%.*s.%s", length, weight->name, ending));
    param->name = name;
    param->stored = SARA_F32;
    TRY(sara_param_alloc(param, weight->device, SARA_F32, shape));
done:
    return status;
}

/* A branch beside the weight, without values. */
static sara_status attach(sara_context *ctx, sara_loras *loras, sara_param *weight, int64_t rank,
                          double scale, bool magnitude)
{
    sara_param *params = loras->params.items + loras->count * (magnitude ? 3 : 2);
    sara_trained_lora *layer = &loras->layers[loras->count];
    sara_shape down = weight->value.shape, up = weight->value.shape;
    const sara_shape outputs = sara_shape1(up.dims[0]);
    sara_status status;
    down.dims[0] = rank;
    for (int i = 1; i < up.rank; i++)
        up.dims[i] = i == 1 ? rank : 1;
    *layer = (sara_trained_lora){.weight = weight, .rank = rank, .scale = scale};
    layer->branch = (sara_branch){.kind = SARA_BRANCH_LOW_RANK,
                                  .down = params,
                                  .magnitude = magnitude ? params + 1 : NULL,
                                  .up = params + (magnitude ? 2 : 1),
                                  .scale = (float)scale,
                                  .next = weight->branch};
    TRY(make_param(ctx, layer->branch.down, weight, "lora_down.weight", &down));
    if (magnitude)
        TRY(make_param(ctx, layer->branch.magnitude, weight, "lora_magnitude", &outputs));
    TRY(make_param(ctx, layer->branch.up, weight, "lora_up.weight", &up));
    weight->branch = &layer->branch;
    loras->count++;
done:
    return status;
}

void sara_loras_free(sara_context *ctx, sara_loras *loras)
{
    for (size_t i = 0; i < loras->count; i++)
        sara_branch_detach(loras->layers[i].weight, &loras->layers[i].branch);
    sara_params_free(ctx, &loras->params);
    sara_free(ctx, loras->layers);
    *loras = (sara_loras){0};
}

/* --------------------------------------------------------------------------------------- values */

static sara_status draw_lora_down(sara_context *ctx, const sara_trained_lora *layer, uint64_t seed,
                                  uint64_t index)
{
    sara_param *down = layer->branch.down, copy = {0};
    size_t count = (size_t)sara_shape_count(&down->value.shape);
    sara_status status;
    TRY(sara_param_stage(ctx, &copy, down));
    float *values = copy.value.data;
    sara_draw_normal(values, count, seed, SARA_DRAW_WEIGHT, index);
    for (size_t i = 0; i < count; i++)
        values[i] /= (float)layer->rank;
    TRY(sara_param_write(down, &copy));
done:
    sara_param_read_end(ctx, &copy, down);
    return status;
}

/* The norm of each output's weights. */
static sara_status measure(sara_context *ctx, const sara_trained_lora *layer)
{
    sara_param *magnitude = layer->branch.magnitude, copy = {0}, weight = {0};
    size_t out = (size_t)magnitude->value.shape.dims[0];
    size_t in = (size_t)sara_shape_count(&layer->weight->value.shape) / out;
    sara_status status;
    TRY(sara_param_stage(ctx, &copy, magnitude));
    TRY(sara_param_read(ctx, &weight, layer->weight));
    for (size_t o = 0; o < out; o++) {
        double sum = 0;
        for (size_t i = 0; i < in; i++)
            sum += pow((double)sara_param_get(&weight, o * in + i), 2);
        ((float *)copy.value.data)[o] = (float)sqrt(sum);
    }
    TRY(sara_param_write(magnitude, &copy));
done:
    sara_param_read_end(ctx, &weight, layer->weight);
    sara_param_read_end(ctx, &copy, magnitude);
    return status;
}

sara_status sara_loras_new(sara_context *ctx, sara_loras *out, const sara_params *params,
                           const sara_loras_options *o)
{
    sara_status status;
    TRY(loras_start(ctx, out, sara_loras_size_of(params, o->targets).count, o->magnitudes));
    for (size_t i = 0; i < params->count; i++) {
        if (!o->targets(&params->items[i]))
            continue;
        const sara_trained_lora *layer = &out->layers[out->count];
        TRY(attach(ctx, out, &params->items[i], o->rank, o->alpha / (double)o->rank,
                   o->magnitudes));
        const sara_param *up = layer->branch.up;
        TRY(draw_lora_down(ctx, layer, o->seed, out->count - 1));
        TRY(sara_device_fill(up->device, up->value.data, 0,
                             (size_t)sara_shape_count(&up->value.shape) * sizeof(float)));
        if (o->magnitudes)
            TRY(measure(ctx, layer));
    }
done:
    return status;
}

sara_status sara_loras_like(sara_context *ctx, sara_loras *out, const sara_params *params,
                            const sara_lora_file *file)
{
    bool magnitudes = file->count > 0 && file->layers[0].magnitude;
    sara_status status;
    TRY(loras_start(ctx, out, file->count, magnitudes));
    for (size_t i = 0; i < file->count; i++) {
        const sara_lora_layer *layer = &file->layers[i];
        sara_param *weight = sara_params_find(params, layer->name);
        SARA_ASSERT(weight); /* as the file was read for them */
        TRY(attach(ctx, out, weight, layer->rank, layer->scale, magnitudes));
    }
done:
    return status;
}

static sara_status set_values(sara_context *ctx, sara_param *param, const float *values,
                              double factor)
{
    size_t count = (size_t)sara_shape_count(&param->value.shape);
    sara_param copy = {0};
    sara_status status;
    TRY(sara_param_stage(ctx, &copy, param));
    for (size_t i = 0; i < count; i++)
        ((float *)copy.value.data)[i] = (float)(values[i] * factor);
    TRY(sara_param_write(param, &copy));
    param->version++;
done:
    sara_param_read_end(ctx, &copy, param);
    return status;
}

/* Whether values of a row are all 0. */
static bool is_zero_row(const sara_param *param, size_t row)
{
    const sara_shape *shape = &param->value.shape;
    size_t count = (size_t)(sara_shape_count(shape) / shape->dims[0]), i = 0;
    while (i < count && sara_param_get(param, row * count + i) == 0)
        i++;
    return i == count;
}

static sara_status check_outputs(sara_context *ctx, const sara_trained_lora *layer)
{
    const size_t out = (size_t)layer->weight->value.shape.dims[0];
    sara_param weight = {0}, up = {0};
    sara_status status;
    TRY(sara_param_read(ctx, &weight, layer->weight));
    TRY(sara_param_read(ctx, &up, layer->branch.up));
    for (size_t o = 0; o < out; o++)
        if (is_zero_row(&weight, o) && is_zero_row(&up, o))
            TRY(sara_fail(ctx, SARA_ERROR_INPUT,
                          "%s: the weights of output %zu are all 0, which have no direction for a "
                          "DoRA's magnitude; --method lora trains them",
                          layer->weight->name, o));
done:
    sara_param_read_end(ctx, &up, layer->branch.up);
    sara_param_read_end(ctx, &weight, layer->weight);
    return status;
}

sara_status sara_loras_check(sara_context *ctx, const sara_loras *loras)
{
    sara_status status = SARA_OK;
    for (size_t i = 0; i < loras->count; i++)
        if (loras->layers[i].branch.magnitude)
            TRY(check_outputs(ctx, &loras->layers[i]));
done:
    return status;
}

static bool is_same_layer(const sara_trained_lora *mine, const sara_lora_layer *layer)
{
    return strcmp(mine->weight->name, layer->name) == 0 && mine->rank == layer->rank &&
           layer->down && !layer->mid && !mine->branch.magnitude == !layer->magnitude;
}

sara_status sara_loras_take(sara_context *ctx, const sara_loras *loras, const sara_lora_file *file,
                            double strength)
{
    sara_status status = SARA_OK;
    if (file->count != loras->count)
        return sara_fail(ctx, SARA_ERROR_INPUT, "%zu layers, this run trains %zu", file->count,
                         loras->count);
    for (size_t i = 0; i < loras->count; i++) {
        const sara_lora_layer *layer = &file->layers[i];
        const sara_trained_lora *mine = &loras->layers[i];
        if (!is_same_layer(mine, layer))
            return sara_fail(ctx, SARA_ERROR_INPUT, "%s: is not as this run trains %s", layer->name,
                             mine->weight->name);
        TRY(set_values(ctx, mine->branch.down, layer->down, 1));
        TRY(set_values(ctx, mine->branch.up, layer->up, strength));
        if (mine->branch.magnitude)
            TRY(set_values(ctx, mine->branch.magnitude, layer->magnitude, 1));
    }
done:
    return status;
}

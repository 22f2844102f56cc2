/* Bottlenecks on a model: made, drawn, attached. */
#include "sparse/bottleneck.h"

#include <math.h>

#define LAST_WEIGHT ".net.2.weight" /* of a feed-forward */

/* The length of "X.ff" in "X.ff.net.2.weight"; 0: another parameter. */
static size_t feed_forward_name(const char *name)
{
    static const char ending[] = ".ff" LAST_WEIGHT;
    size_t length = strlen(name), tail = sizeof(ending) - 1;
    return length > tail && strcmp(name + length - tail, ending) == 0 ? length - strlen(LAST_WEIGHT)
                                                                      : 0;
}

sara_bottleneck_size sara_bottleneck_size_of(const sara_params *params)
{
    sara_bottleneck_size size = {0};
    for (size_t i = 0; i < params->count; i++) {
        const sara_param *param = &params->items[i];
        if (!feed_forward_name(param->name))
            continue;
        size.count++;
        size.per_width += 2 * param->value.shape.dims[0] + 1;
        size.fixed += param->value.shape.dims[0];
    }
    return size;
}

/* -------------------------------------------------------------------------------------- making */

sara_status sara_bottlenecks_start(sara_context *ctx, sara_bottlenecks *out, size_t count,
                                   int64_t width, double scale)
{
    sara_status status;
    out->ctx = ctx;
    out->width = width;
    out->scale = scale;
    sara_metadata_list_init(&out->metadata, ctx);
    TRY(sara_params_new(ctx, &out->params, 4 * count));
    TRY(sara_alloc_zero(ctx, &out->branches, count, sizeof(*out->branches)));
    TRY(sara_alloc_zero(ctx, &out->layers, count, sizeof(sara_param *)));
    out->count = count;
done:
    return status;
}

static sara_status name_param(sara_bottlenecks *b, sara_param *param, const char *layer, int length,
                              const char *ending, sara_device *device, const sara_shape *shape)
{
    char *name = NULL;
    sara_status status;
    TRY(sara_format(b->ctx, &name, "%.*s.%s", length, layer, ending));
    param->name = name;
    param->stored = SARA_F32;
    TRY(sara_param_alloc(param, device, SARA_F32, shape));
done:
    return status;
}

sara_status sara_bottlenecks_place(sara_bottlenecks *b, size_t index, const char *layer,
                                   size_t length, int64_t channels, sara_device *device)
{
    const sara_shape shapes[] = {sara_shape1(b->width), sara_shape2(b->width, channels),
                                 sara_shape1(channels), sara_shape2(channels, b->width)};
    static const char *const endings[] = {"down.bias", "down.weight", "up.bias", "up.weight"};
    sara_param *params = b->params.items + 4 * index;
    sara_status status = SARA_OK;
    for (int i = 0; i < 4; i++)
        TRY(name_param(b, &params[i], layer, (int)length, endings[i], device, &shapes[i]));
    b->branches[index] = (sara_branch){.kind = SARA_BRANCH_BOTTLENECK,
                                       .down_bias = &params[0],
                                       .down = &params[1],
                                       .up_bias = &params[2],
                                       .up = &params[3]};
done:
    return status;
}

/* As the authors' code: torch's kaiming_uniform_(a=sqrt(5)) and zeros. */
static sara_status draw_down(sara_context *ctx, sara_param *down, uint64_t seed, uint64_t index)
{
    size_t count = (size_t)sara_shape_count(&down->value.shape);
    float bound = 1 / sqrtf((float)down->value.shape.dims[1]);
    sara_param copy = {0};
    sara_status status;
    TRY(sara_param_stage(ctx, &copy, down));
    float *values = copy.value.data;
    sara_draw_uniform(values, count, seed, SARA_DRAW_WEIGHT, index);
    for (size_t i = 0; i < count; i++)
        values[i] = (2 * values[i] - 1) * bound;
    TRY(sara_param_write(down, &copy));
done:
    sara_param_read_end(ctx, &copy, down);
    return status;
}

static sara_status fill_with_zeros(sara_param *param)
{
    size_t bytes = (size_t)sara_shape_count(&param->value.shape) * sizeof(float);
    return sara_device_fill(param->device, param->value.data, 0, bytes);
}

sara_status sara_bottlenecks_new(sara_context *ctx, sara_bottlenecks *out,
                                 const sara_params *params, int64_t width, double scale,
                                 uint64_t seed)
{
    size_t next = 0;
    sara_status status;
    TRY(sara_bottlenecks_start(ctx, out, sara_bottleneck_size_of(params).count, width, scale));
    for (size_t i = 0; i < params->count; i++) {
        const sara_param *param = &params->items[i];
        size_t length = feed_forward_name(param->name);
        if (!length)
            continue;
        TRY(sara_bottlenecks_place(out, next, param->name, length, param->value.shape.dims[0],
                                   param->device));
        TRY(draw_down(ctx, out->branches[next].down, seed, next));
        TRY(fill_with_zeros(out->branches[next].down_bias));
        TRY(fill_with_zeros(out->branches[next].up));
        TRY(fill_with_zeros(out->branches[next].up_bias));
        next++;
    }
done:
    return status;
}

void sara_bottlenecks_free(sara_bottlenecks *b)
{
    sara_bottlenecks_detach(b);
    sara_params_free(b->ctx, &b->params);
    sara_free(b->ctx, b->branches);
    sara_free(b->ctx, b->layers);
    sara_metadata_list_free(&b->metadata);
    memset(b, 0, sizeof(*b));
}

static sara_status multiply_param(sara_context *ctx, sara_param *param, double factor)
{
    size_t count = (size_t)sara_shape_count(&param->value.shape);
    sara_param copy = {0};
    sara_status status;
    TRY(sara_param_read(ctx, &copy, param));
    float *values = copy.value.data;
    for (size_t i = 0; i < count; i++)
        values[i] = (float)(values[i] * factor);
    TRY(sara_param_write(param, &copy));
    param->version++;
done:
    sara_param_read_end(ctx, &copy, param);
    return status;
}

sara_status sara_bottlenecks_multiply(sara_bottlenecks *b, double factor)
{
    sara_status status = SARA_OK;
    for (size_t i = 0; i < b->count; i++) {
        TRY(multiply_param(b->ctx, b->branches[i].up, factor));
        TRY(multiply_param(b->ctx, b->branches[i].up_bias, factor));
    }
done:
    return status;
}

/* ----------------------------------------------------------------------------------- attaching */

/* The weight that is to carry a branch. */
static sara_status find_layer(const sara_bottlenecks *b, sara_param **out, size_t index,
                              const sara_params *params)
{
    const sara_param *down = b->branches[index].down;
    int length = (int)(strlen(down->name) - strlen(".down.weight"));
    int64_t channels = down->value.shape.dims[1];
    char *name = NULL;
    sara_status status;
    TRY(sara_format(b->ctx, &name, "%.*s" LAST_WEIGHT, length, down->name));
    *out = sara_params_find(params, name);
    if (!*out)
        status = sara_fail(b->ctx, SARA_ERROR_INPUT, "the model has no feed-forward %.*s", length,
                           down->name);
    else if ((*out)->value.shape.rank != 2 || (*out)->value.shape.dims[0] != channels)
        status = sara_fail(b->ctx, SARA_ERROR_INPUT, "%s: of %lld channels, the model's has %lld",
                           down->name, (long long)channels, (long long)(*out)->value.shape.dims[0]);
done:
    sara_free(b->ctx, name);
    return status;
}

sara_status sara_bottlenecks_check(const sara_bottlenecks *b, const sara_params *params,
                                   const sara_base *base)
{
    const sara_adapter made_for = {.metadata = b->metadata.items,
                                   .metadata_count = b->metadata.count};
    sara_param *layer;
    sara_status status = SARA_OK;
    if (base)
        TRY(sara_adapter_check(b->ctx, &made_for, params, base, false));
    for (size_t i = 0; i < b->count; i++)
        TRY(find_layer(b, &layer, i, params));
done:
    return status;
}

sara_status sara_bottlenecks_attach(sara_bottlenecks *b, const sara_params *params, double strength)
{
    sara_status status = SARA_OK;
    for (size_t i = 0; i < b->count; i++) {
        sara_branch **last;
        TRY(find_layer(b, &b->layers[i], i, params));
        for (last = &b->layers[i]->branch; *last;)
            last = &(*last)->next;
        b->branches[i].scale = (float)(b->scale * strength);
        *last = &b->branches[i];
    }
done:
    return status;
}

void sara_bottlenecks_detach(sara_bottlenecks *b)
{
    for (size_t i = 0; i < b->count; i++) {
        if (b->layers[i])
            sara_branch_detach(b->layers[i], &b->branches[i]);
        b->layers[i] = NULL;
    }
}

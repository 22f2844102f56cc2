/* Random weights, for timing. */
#include "models/models.h"

#include <math.h>
#include <omp.h>

/* Biases are drawn too: equal ones could only be selected all together. spare takes the values on
 * their way to 16 bits. */
static void draw_param(sara_param *param, float *spare, uint64_t seed, uint64_t index)
{
    const sara_shape *shape = &param->value.shape;
    size_t count = (size_t)sara_shape_count(shape), name = strlen(param->name);
    bool bias = name >= 5 && strcmp(param->name + name - 5, ".bias") == 0;
    bool norm = shape->rank == 1 && !bias;
    int64_t outputs = shape->rank > 1 ? shape->dims[0] : 1;
    float factor = (float)sqrt((double)outputs / (double)count);
    float *values = param->value.dtype == SARA_F32 ? param->value.data : spare;
    if (!norm)
        sara_draw_normal(values, count, seed, SARA_DRAW_WEIGHT, index);
    for (size_t i = 0; i < count; i++)
        values[i] = norm ? 1.0f : values[i] * factor;
    if (param->value.dtype != SARA_F32)
        sara_convert_from_f32(param->value.data, param->value.dtype, values, count);
}

/* Of the largest parameter that is not drawn where it lies; 0: there is none. */
static size_t largest_converted(const sara_params *params)
{
    size_t largest = 0;
    for (size_t i = 0; i < sara_params_all(params); i++) {
        size_t count = (size_t)sara_shape_count(&params->items[i].value.shape);
        if (params->items[i].value.dtype != SARA_F32 && count > largest)
            largest = count;
    }
    return largest;
}

sara_status sara_params_draw(sara_context *ctx, sara_params *params, uint64_t seed)
{
    const size_t spare = largest_converted(params);
    sara_params copy = {0};
    float *spares = NULL; /* one for each thread */
    int threads = sara_threads(ctx);
    sara_status status;
    TRY(sara_params_read(ctx, &copy, params));
    TRY(sara_alloc(ctx, &spares, (size_t)threads, spare * sizeof(*spares)));
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (size_t i = 0; i < sara_params_all(params); i++)
        draw_param(&copy.items[i], spares + (size_t)omp_get_thread_num() * spare, seed, i);
    for (size_t i = 0; i < sara_params_all(params); i++)
        TRY(sara_param_write(&params->items[i], &copy.items[i]));
done:
    sara_params_read_end(ctx, &copy, params);
    sara_free(ctx, spares);
    return status;
}

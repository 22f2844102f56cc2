#include "train/batch.h"

static size_t array_size(const sara_tensor *array)
{
    return array->shape.rank ? (size_t)sara_shape_count(&array->shape) : 0;
}

sara_status sara_batch_alloc(sara_context *ctx, sara_batch *batch)
{
    size_t samples = (size_t)batch->latents.shape.dims[0], count = array_size(&batch->latents);
    sara_status status;
    TRY(sara_alloc(ctx, &batch->latents.data, count, sizeof(float)));
    TRY(sara_alloc(ctx, &batch->noise, count, sizeof(float)));
    TRY(sara_alloc(ctx, &batch->timesteps, samples, sizeof(double)));
    for (int i = 0; i < SARA_CONDITION_KINDS; i++)
        TRY(sara_alloc(ctx, &batch->condition[i].data, array_size(&batch->condition[i]),
                       sizeof(float)));
    TRY(sara_alloc(ctx, &batch->mask.data, array_size(&batch->mask), sizeof(float)));
done:
    if (status != SARA_OK)
        sara_batch_clear(ctx, batch);
    return status;
}

void sara_batch_clear(sara_context *ctx, sara_batch *batch)
{
    sara_free(ctx, batch->latents.data);
    sara_free(ctx, batch->noise);
    sara_free(ctx, batch->timesteps);
    sara_free(ctx, batch->sigmas);
    sara_free(ctx, batch->weights);
    sara_free(ctx, batch->mask.data);
    for (int i = 0; i < SARA_CONDITION_KINDS; i++)
        sara_free(ctx, batch->condition[i].data);
    *batch = sara_batch_shape_of(batch, batch->latents.shape.dims[0]);
}

size_t sara_batch_bytes(const sara_batch *batch)
{
    size_t floats = 2 * array_size(&batch->latents) + array_size(&batch->mask);
    for (int i = 0; i < SARA_CONDITION_KINDS; i++)
        floats += array_size(&batch->condition[i]);
    return floats * sizeof(float);
}

bool sara_batch_same_shape(const sara_batch *a, const sara_batch *b)
{
    bool same = sara_shape_equal(&a->latents.shape, &b->latents.shape) &&
                sara_shape_equal(&a->mask.shape, &b->mask.shape);
    for (int i = 0; same && i < SARA_CONDITION_KINDS; i++)
        same = sara_shape_equal(&a->condition[i].shape, &b->condition[i].shape);
    return same;
}

sara_batch sara_batch_shape_of(const sara_batch *batch, int64_t samples)
{
    sara_batch out = {.latents = {SARA_F32, batch->latents.shape, NULL}};
    out.latents.shape.dims[0] = samples;
    for (int i = 0; i < SARA_CONDITION_KINDS; i++) {
        out.condition[i] = (sara_tensor){SARA_F32, batch->condition[i].shape, NULL};
        out.condition[i].shape.dims[0] = samples;
    }
    out.mask = (sara_tensor){SARA_F32, batch->mask.shape, NULL};
    out.mask.shape.dims[0] = samples;
    return out;
}

sara_batch sara_batch_shape_for(const sara_denoiser_info *info, sara_shape latents, int64_t length)
{
    sara_batch out = {.latents.shape = latents};
    for (int i = 0; i < SARA_CONDITION_KINDS; i++) {
        sara_shape *shape = &out.condition[i].shape;
        shape->rank = info->widths[i] ? sara_condition_kinds[i].rank : 0;
        for (int axis = 1; axis < shape->rank; axis++)
            shape->dims[axis] = axis < shape->rank - 1 ? length : info->widths[i];
    }
    return sara_batch_shape_of(&out, latents.dims[0]);
}

/* weights [N] on the tape, the batch's times the objective's; NULL: all are 1. */
static sara_status weigh(sara_tape *tape, const float **out, const sara_objective *objective,
                         const sara_batch *batch)
{
    const int64_t samples = batch->latents.shape.dims[0];
    float *weights;
    sara_status status = SARA_OK;
    *out = batch->weights;
    if (!sara_objective_weighs(objective))
        return SARA_OK;
    TRY(sara_tape_memory(tape, &weights, (size_t)samples, sizeof(*weights)));
    *out = weights;
    if (!batch->latents.data)
        return SARA_OK;
    TRY(sara_objective_weigh(objective, weights, batch->timesteps, batch->sigmas, samples));
    for (int64_t i = 0; batch->weights && i < samples; i++)
        weights[i] *= batch->weights[i];
done:
    return status;
}

sara_status sara_batch_loss(sara_tape *tape, sara_var **loss, sara_network *denoiser,
                            const sara_objective *objective, const sara_batch *batch)
{
    int64_t samples = batch->latents.shape.dims[0], count = sara_shape_count(&batch->latents.shape);
    sara_tensor noisy = {SARA_F32, batch->latents.shape, NULL};
    float *target = NULL; /* [N,C,...] */
    const float *weights;
    sara_var *prediction; /* [N,C,...] */
    sara_status status;
    if (batch->latents.data) {
        TRY(sara_tape_memory(tape, &noisy.data, (size_t)count, sizeof(float)));
        TRY(sara_tape_memory(tape, &target, (size_t)count, sizeof(float)));
        TRY(sara_objective_apply(objective, noisy.data, target, batch->latents.data, batch->noise,
                                 batch->timesteps, batch->sigmas, samples, count / samples));
    }
    TRY(sara_denoiser_predict(tape, &prediction, denoiser, &noisy, batch->timesteps,
                              batch->condition));
    TRY(weigh(tape, &weights, objective, batch));
    TRY(sara_nn_mse_loss(tape, loss, prediction, target, weights, batch->mask.data));
done:
    return status;
}

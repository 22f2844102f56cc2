/* What --mask gradient chooses by: the gradients of all entries, added up over the run's own first
 * micro-batches. */
#include "train/methods/sara.h"

#include <math.h>

#define GRADIENT_STEPS 64

sara_status sara_gradient_steps(const trainer *t, int *out)
{
    int64_t items = t->source->is_replay ? t->source->items : INT64_MAX;
    int given = t->options.mask_steps;
    *out = given ? given : items < GRADIENT_STEPS ? (int)items : GRADIENT_STEPS;
    if (given <= items)
        return SARA_OK;
    return sara_fail(t->ctx, SARA_ERROR_USAGE, "--mask_steps %d: %s holds %lld micro-batches",
                     given, t->options.replay, (long long)items);
}

/* sums: of the parameters' device, one parameter's after the other's. */
static void ask_sums(const trainer *t, float *sums)
{
    const sara_params *params = &t->model->denoiser->params;
    for (size_t i = 0; i < params->count; i++) {
        sara_param *param = &params->items[i];
        sara_trainable_ask_nothing(param);
        if (!sums)
            continue;
        param->want = SARA_GRAD_DENSE;
        param->grad = sums;
        sums += sara_shape_count(&param->value.shape);
    }
}

static sara_status add_micro_batches(trainer *t, int steps)
{
    int used = 0;
    sara_status status = SARA_OK;
    for (int i = 0; i < steps; i++) {
        double loss;
        if (sara_interrupted(t->ctx))
            return sara_fail(t->ctx, SARA_INTERRUPTED,
                             "interrupted while entries were chosen, before the first step");
        TRY(sara_trainer_gradients(t, &loss, i));
        used += isfinite(loss);
    }
    if (used == 0)
        status = sara_fail(t->ctx, SARA_ERROR_DIVERGED,
                           "--mask gradient: no loss of %d micro-batches is finite", steps);
done:
    return status;
}

sara_status sara_gradient_sums(trainer *t, float **sums)
{
    sara_device *device = t->model->device;
    size_t entries = (size_t)sara_params_entries(&t->model->denoiser->params);
    float *there = NULL;
    int steps;
    sara_status status;
    *sums = NULL;
    TRY(sara_gradient_steps(t, &steps));
    TRY(sara_device_alloc(device, &there, entries, sizeof(*there)));
    TRY(sara_device_fill(device, there, 0, entries * sizeof(*there)));
    ask_sums(t, there);
    sara_log(t->ctx, SARA_LOG_INFO, "choosing entries by the gradients of %d micro-batches", steps);
    TRY(add_micro_batches(t, steps));
    sara_tape_trim(t->tape); /* the steps need less */
    if (sara_device_is_host(device)) {
        *sums = there;
        there = NULL;
    } else {
        TRY(sara_alloc(t->ctx, sums, entries, sizeof(**sums)));
        TRY(sara_device_copy_out(device, *sums, there, entries * sizeof(*there)));
    }
done:
    ask_sums(t, NULL);
    sara_device_free(device, there);
    return status;
}

/* What the model is trained on: the forward process and the target, in float32 as diffusers. */
#include "diffusion/schedule.h"

#include <inttypes.h>
#include <math.h>

sara_status sara_objective_new(sara_context *ctx, sara_objective *out,
                               const sara_scheduler_config *config)
{
    sara_status status = SARA_OK;
    sara_objective objective = {.ctx = ctx,
                                .prediction = config->prediction_type,
                                .num_train_timesteps = config->num_train_timesteps};
    bool flow = sara_scheduler_is_flow(config);
    if ((config->prediction_type == SARA_PREDICT_FLOW) != flow)
        TRY(sara_fail(ctx, SARA_ERROR_USAGE, "prediction_type %s does not go with the model's %s",
                      sara_prediction_name(config->prediction_type), scheduler_class_name(config)));
    if (!flow)
        TRY(sara_alphas_cumprod(ctx, &objective.alphas_cumprod, config));
    *out = objective;
done:
    return status;
}

void sara_objective_free(sara_objective *objective)
{
    if (!objective || !objective->ctx)
        return;
    sara_free(objective->ctx, objective->alphas_cumprod);
    sara_free(objective->ctx, objective->sigmas);
    *objective = (sara_objective){0};
}

/* noisy = signal x0 + deviation noise */
static void mix(float *out, const float *x0, const float *noise, float signal, float deviation,
                int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        out[i] = signal * x0[i] + deviation * noise[i];
}

/* sigma: of flow alone */
static void apply_one(const sara_objective *objective, float *noisy, float *target, const float *x0,
                      const float *noise, double timestep, float sigma, int64_t count)
{
    float signal = 1.0f - sigma, deviation = sigma;
    if (objective->alphas_cumprod) {
        float alpha = (float)objective->alphas_cumprod[(int64_t)timestep];
        signal = sqrtf(alpha);
        deviation = sqrtf(1.0f - alpha);
    }
    mix(noisy, x0, noise, signal, deviation, count);
    switch (objective->prediction) {
    case SARA_PREDICT_EPSILON:
        memcpy(target, noise, (size_t)count * sizeof(*target));
        break;
    case SARA_PREDICT_SAMPLE:
        memcpy(target, x0, (size_t)count * sizeof(*target));
        break;
    case SARA_PREDICT_V:
        mix(target, noise, x0, signal, -deviation, count);
        break;
    case SARA_PREDICT_FLOW:
        mix(target, noise, x0, 1, -1, count);
        break;
    }
}

sara_status sara_objective_apply(const sara_objective *objective, float *noisy, float *target,
                                 const float *latents, const float *noise, const double *timesteps,
                                 const float *sigmas, int64_t batch, int64_t count)
{
    /* Flow's sigma is t / N up to and with 1. */
    bool whole = objective->alphas_cumprod != NULL;
    int last = objective->num_train_timesteps - (whole ? 1 : 0);
    for (int64_t b = 0; b < batch; b++) {
        double t = timesteps[b];
        if (!(t >= 0 && t <= last) || (whole && t != floor(t)))
            return sara_fail(objective->ctx, SARA_ERROR_INPUT,
                             "timestep %.15g of sample %" PRId64 ", expected 0..%d", t, b, last);
        if (sigmas && !(sigmas[b] >= 0 && sigmas[b] <= 1))
            return sara_fail(objective->ctx, SARA_ERROR_INPUT,
                             "sigma %.9g of sample %" PRId64 ", expected 0..1", (double)sigmas[b],
                             b);
    }
    for (int64_t b = 0; b < batch; b++)
        apply_one(objective, noisy + b * count, target + b * count, latents + b * count,
                  noise + b * count, timesteps[b],
                  sigmas ? sigmas[b] : (float)timesteps[b] / (float)objective->num_train_timesteps,
                  count);
    return SARA_OK;
}

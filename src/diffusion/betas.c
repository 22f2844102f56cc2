/* Noise schedules, in float32 step by step as diffusers computes them. */
#include "diffusion/schedule.h"

#include <math.h>

/* From both ends towards the middle and rounded once, bit for bit torch.linspace. */
static void linspace(float *out, int count, float start, float end)
{
    float step = (end - start) / (float)(count - 1);
    for (int i = 0; i < count; i++)
        out[i] =
            i < count / 2 ? fmaf(step, (float)i, start) : fmaf(-step, (float)(count - 1 - i), end);
}

static double cosine_alpha_bar(double t)
{
    const double half_pi = 1.57079632679489661923;
    double c = cos((t + 0.008) / 1.008 * half_pi);
    return c * c;
}

static void betas_fill(float *betas, const sara_scheduler_config *config)
{
    int count = config->num_train_timesteps;
    switch (config->beta_schedule) {
    case SARA_BETAS_LINEAR:
        linspace(betas, count, (float)config->beta_start, (float)config->beta_end);
        break;
    case SARA_BETAS_SCALED_LINEAR:
        linspace(betas, count, (float)sqrt(config->beta_start), (float)sqrt(config->beta_end));
        for (int i = 0; i < count; i++)
            betas[i] *= betas[i];
        break;
    case SARA_BETAS_COSINE:
        for (int i = 0; i < count; i++) {
            double ratio =
                cosine_alpha_bar((double)(i + 1) / count) / cosine_alpha_bar((double)i / count);
            betas[i] = (float)fmin(1 - ratio, 0.999);
        }
        break;
    }
}

/* In place; the running product is kept in double, as torch.cumprod does. */
static void cumulate(float *betas, int count)
{
    double product = 1;
    for (int i = 0; i < count; i++) {
        product *= (double)(1.0f - betas[i]);
        betas[i] = (float)product;
    }
}

/* Lin et al., "Common Diffusion Noise Schedules and Sample Steps are Flawed", algorithm 1: shifts
 * and scales the square roots so that the last is 0 and the first stays. */
static void rescale_zero_snr(float *betas, int count)
{
    cumulate(betas, count);
    float *root = betas;
    for (int i = 0; i < count; i++)
        root[i] = sqrtf(betas[i]);
    float first = root[0], last = root[count - 1], scale = first / (first - last), before = 1;
    for (int i = 0; i < count; i++) {
        float scaled = (root[i] - last) * scale, bar = scaled * scaled;
        betas[i] = 1.0f - bar / before;
        before = bar;
    }
}

sara_status schedule_alphas(sara_context *ctx, float **out, const sara_scheduler_config *config)
{
    sara_status status = SARA_OK;
    float *alphas = NULL;
    int count = config->num_train_timesteps;
    TRY(sara_alloc(ctx, &alphas, (size_t)count, sizeof(*alphas)));
    betas_fill(alphas, config);
    if (config->rescale_betas_zero_snr)
        rescale_zero_snr(alphas, count);
    cumulate(alphas, count);
    *out = alphas;
done:
    return status;
}

sara_status sara_alphas_cumprod(sara_context *ctx, double **out,
                                const sara_scheduler_config *config)
{
    sara_status status = SARA_OK;
    float *alphas = NULL;
    double *wide = NULL;
    size_t count = (size_t)config->num_train_timesteps;
    TRY(schedule_alphas(ctx, &alphas, config));
    TRY(sara_alloc(ctx, &wide, count, sizeof(*wide)));
    for (size_t i = 0; i < count; i++)
        wide[i] = alphas[i];
    *out = wide;
done:
    sara_free(ctx, alphas);
    return status;
}

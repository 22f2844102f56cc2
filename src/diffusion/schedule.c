/* Timesteps and sigmas of a trajectory, after diffusers' set_timesteps of each class. */
#include "diffusion/schedule.h"

#include <math.h>

/* numpy.linspace(0, last, count)[i] */
static double grid(double last, int count, int i)
{
    if (count == 1)
        return 0;
    return i == count - 1 ? last : i * (last / (count - 1));
}

/* DPM++ leaves out the timesteps whose log signal-to-noise ratio lies below lambda_min_clipped. */
static int clipped_range(const schedule *s, const sara_scheduler_config *config)
{
    int end = config->num_train_timesteps;
    if (config->kind != SARA_SAMPLER_DPMPP_2M)
        return end;
    for (; end > 0; end--) {
        float alpha = s->alphas[end - 1];
        if (!(logf(sqrtf(alpha)) - logf(sqrtf(1.0f - alpha)) < config->lambda_min_clipped))
            break;
    }
    return end;
}

/* DPM++ lays one point more than it has steps and drops the last, near 0. Trailing never goes below
 * 0, where diffusers, by rounding, has a step more at -1 for 61, 103 and some other counts. Sets
 * s->count. */
static void timesteps_fill(schedule *s, const sara_scheduler_config *config, int steps)
{
    int end = clipped_range(s, config);
    int points = steps + (config->kind == SARA_SAMPLER_DPMPP_2M ? 1 : 0);
    bool whole = config->kind != SARA_SAMPLER_EULER && config->kind != SARA_SAMPLER_EULER_ANCESTRAL;
    double ratio = (double)config->num_train_timesteps / steps;
    double stride = (end - ratio) - end; /* rounded as numpy.arange rounds it */
    s->count = end > 0 ? steps : 0;
    if (config->spacing == SARA_SPACING_TRAILING && !config->use_karras_sigmas &&
        ceil(end / ratio) < steps)
        s->count = (int)ceil(end / ratio);
    for (int i = 0; i < s->count; i++) {
        double *t = &s->timesteps[i];
        switch (config->spacing) {
        case SARA_SPACING_LINSPACE:
            *t = grid(end - 1, points, points - 1 - i);
            *t = whole ? rint(*t) : (double)(float)*t;
            break;
        case SARA_SPACING_LEADING:
            *t = (double)(points - 1 - i) * (end / points) + config->steps_offset;
            break;
        case SARA_SPACING_TRAILING:
            *t = rint(end + i * stride) - 1;
            break;
        }
    }
}

static float sigma_of(float alpha)
{
    return sqrtf((1.0f - alpha) / alpha);
}

/* sigma at a fractional timestep, by linear interpolation; constant beyond the ends. */
static double sigma_at(const float *alphas, int count, double t)
{
    if (t <= 0)
        return sigma_of(alphas[0]);
    if (t >= count - 1)
        return sigma_of(alphas[count - 1]);
    int low = (int)t;
    double a = sigma_of(alphas[low]), b = sigma_of(alphas[low + 1]);
    return (b - a) * (t - low) + a;
}

/* The timestep of a sigma, by linear interpolation of log sigma. */
static double timestep_of(const float *alphas, int count, double sigma)
{
    double wanted = log(fmax(sigma, 1e-10));
    int low = count - 2;
    while (low > 0 && !(wanted >= logf(sigma_of(alphas[low]))))
        low--;
    double a = logf(sigma_of(alphas[low])), b = logf(sigma_of(alphas[low + 1]));
    double weight = fmin(fmax((a - wanted) / (a - b), 0), 1);
    return (1 - weight) * low + weight * (low + 1);
}

/* Karras et al. 2022, equation 5 with rho 7. */
static void karras_fill(double *sigmas, int count, const sara_scheduler_config *config,
                        double first, double last)
{
    const double rho = 7;
    double high = pow(isnan(config->sigma_max) ? first : config->sigma_max, 1 / rho);
    double low = pow(isnan(config->sigma_min) ? last : config->sigma_min, 1 / rho);
    for (int i = 0; i < count; i++)
        sigmas[i] = pow(high + grid(1, count, i) * (low - high), rho);
}

static void karras_timesteps(schedule *s, const sara_scheduler_config *config, const double *sigmas)
{
    for (int i = 0; i < s->count; i++) {
        double t = timestep_of(s->alphas, config->num_train_timesteps, sigmas[i]);
        if (config->kind == SARA_SAMPLER_DPMPP_2M)
            t = config->beta_schedule == SARA_BETAS_COSINE ? trunc(t) : rint(t);
        s->timesteps[i] = (float)t;
    }
}

/* Evenly spaced in log sigma; the last of these count + 1 takes the place of the final sigma. */
static void log_linear_fill(double *sigmas, const schedule *s, float first, float last)
{
    int count = s->count + 1;
    float start = logf(first), end = logf(last), step = (end - start) / (float)(count - 1);
    for (int i = 0; i < count; i++)
        sigmas[i] =
            expf(i < count / 2 ? start + step * (float)i : end - step * (float)(count - 1 - i));
}

/* sigmas [count + 1] of Euler, ancestral Euler and DPM++. */
static void sigmas_fill(schedule *s, const sara_scheduler_config *config, double *sigmas)
{
    int all = config->num_train_timesteps;
    float smallest = sigma_of(s->alphas[0]), largest = sigma_of(s->alphas[all - 1]);
    bool dpm = config->kind == SARA_SAMPLER_DPMPP_2M;
    bool log_linear = config->kind == SARA_SAMPLER_EULER &&
                      config->interpolation_type == SARA_INTERPOLATE_LOG_LINEAR;
    for (int i = 0; i < s->count; i++)
        sigmas[i] = sigma_at(s->alphas, all, s->timesteps[i]);
    sigmas[s->count] = 0;
    if (config->kind != SARA_SAMPLER_EULER_ANCESTRAL &&
        config->final_sigmas_type == SARA_FINAL_SIGMA_MIN)
        sigmas[s->count] = smallest;
    double low = sigmas[s->count - 1];
    if (log_linear) {
        double final = sigmas[s->count];
        log_linear_fill(sigmas, s, largest, smallest);
        low = sigmas[s->count];
        if (config->use_karras_sigmas)
            sigmas[s->count] = final;
    }
    if (config->use_karras_sigmas) {
        karras_fill(sigmas, s->count, config, dpm ? largest : sigmas[0], dpm ? smallest : low);
        karras_timesteps(s, config, sigmas);
    }
}

/* The shift is applied to the ends and then again to the points between them, as diffusers does. */
static double flow_shift(double shift, double sigma)
{
    return shift * sigma / (1 + (shift - 1) * sigma);
}

/* sigmas [steps + 1] */
static void flow_fill(schedule *s, const sara_scheduler_config *config, int steps, double *sigmas)
{
    double all = config->num_train_timesteps;
    float least = 1.0f / (float)all, shift = (float)config->shift;
    float low = shift * least / (1.0f + (float)(config->shift - 1) * least);
    float high = shift / (1.0f + (float)(config->shift - 1));
    double start = high * all, end = low * all;
    s->count = steps;
    for (int i = 0; i < steps; i++) {
        double t = i ? start + i * ((end - start) / (steps - 1)) : start;
        sigmas[i] = flow_shift(config->shift, (i && i == steps - 1 ? end : t) / all);
    }
    sigmas[steps] = 0;
    if (config->use_karras_sigmas)
        karras_fill(sigmas, steps, config, sigmas[0], sigmas[steps - 1]);
    for (int i = 0; i < steps; i++)
        s->timesteps[i] = (float)sigmas[i] * (float)all;
}

/* Each step but the last evaluates where it begins and where it ends. */
static void flow_heun_fill(schedule *s, const sara_scheduler_config *config, int steps,
                           double *sigmas)
{
    flow_fill(s, config, steps, sigmas);
    s->count = 2 * steps - 1;
    for (int i = s->count - 1; i >= 0; i--) {
        s->timesteps[i] = s->timesteps[(i + 1) / 2];
        sigmas[i] = sigmas[(i + 1) / 2];
    }
    sigmas[s->count] = 0;
}

/* DPM++'s logarithms need sigmas below 1, so it begins with the last timestep but one. Timesteps
 * are cut to whole numbers, as diffusers does. */
static void flow_dpmpp_fill(schedule *s, const sara_scheduler_config *config, int steps,
                            double *sigmas)
{
    double all = config->num_train_timesteps, last = 1 / all, step = (last - 1) / steps;
    s->count = steps;
    for (int i = 0; i < steps; i++) {
        double alpha = i == 0 ? last : 1 + (steps - i) * step;
        sigmas[i] = flow_shift(config->flow_shift, 1.0 - alpha);
        s->timesteps[i] = trunc(sigmas[i] * all);
    }
    sigmas[steps] = 0;
}

static void flow_schedule(schedule *s, const sara_scheduler_config *config, int steps,
                          double *sigmas)
{
    if (config->kind == SARA_SAMPLER_FLOW_HEUN)
        flow_heun_fill(s, config, steps, sigmas);
    else if (config->kind == SARA_SAMPLER_DPMPP_2M)
        flow_dpmpp_fill(s, config, steps, sigmas);
    else
        flow_fill(s, config, steps, sigmas);
}

static bool has_sigmas(sara_sampler_kind kind)
{
    return kind == SARA_SAMPLER_EULER || kind == SARA_SAMPLER_EULER_ANCESTRAL ||
           kind == SARA_SAMPLER_DPMPP_2M || kind == SARA_SAMPLER_FLOW_EULER ||
           kind == SARA_SAMPLER_FLOW_HEUN;
}

static sara_status alphas_make(schedule *s, const sara_scheduler_config *config)
{
    sara_status status = SARA_OK;
    sara_scheduler_config own = *config;
    own.rescale_betas_zero_snr &= config->kind != SARA_SAMPLER_PNDM;
    TRY(schedule_alphas(s->ctx, &s->alphas, &own));
    /* diffusers keeps the largest sigma finite so. */
    if (own.rescale_betas_zero_snr && has_sigmas(config->kind))
        s->alphas[config->num_train_timesteps - 1] = 0x1p-24f;
done:
    return status;
}

sara_status schedule_new(sara_context *ctx, schedule *out, const sara_scheduler_config *config,
                         int steps)
{
    sara_status status = SARA_OK;
    schedule s = {.ctx = ctx};
    double *sigmas = NULL;
    size_t points = (config->kind == SARA_SAMPLER_FLOW_HEUN ? 2 : 1) * (size_t)steps + 1;
    TRY(sara_alloc_zero(ctx, &s.timesteps, points, sizeof(*s.timesteps)));
    TRY(sara_alloc_zero(ctx, &sigmas, points, sizeof(*sigmas)));
    if (sara_scheduler_is_flow(config)) {
        flow_schedule(&s, config, steps, sigmas);
    } else {
        TRY(alphas_make(&s, config));
        timesteps_fill(&s, config, steps);
        if (s.count < 1)
            TRY(sara_fail(ctx, SARA_ERROR_INPUT, "lambda_min_clipped %g leaves no timestep",
                          config->lambda_min_clipped));
    }
    if (has_sigmas(config->kind)) {
        if (s.alphas)
            sigmas_fill(&s, config, sigmas);
        TRY(sara_alloc(ctx, &s.sigmas, points, sizeof(*s.sigmas)));
        for (int i = 0; i <= s.count; i++)
            s.sigmas[i] = (float)sigmas[i];
    }
    *out = s;
    s = (schedule){0};
done:
    schedule_free(&s);
    sara_free(ctx, sigmas);
    return status;
}

void schedule_free(schedule *s)
{
    if (!s->ctx)
        return;
    sara_free(s->ctx, s->alphas);
    sara_free(s->ctx, s->timesteps);
    sara_free(s->ctx, s->sigmas);
    *s = (schedule){0};
}

/* Samplers: a plan made once, then one pass over the sample for each step. */
#include "diffusion/plan.h"

#include <math.h>

/* Planes of [size] that PNDM keeps, after up to three outputs, newest first. */
enum { PNDM_KEPT = 3, PNDM_BASE = PNDM_KEPT, PNDM_SUM, PNDM_PLANES };

struct sara_sampler {
    sara_context *ctx;
    sara_sampler_kind kind;
    int evaluations, next; /* next: the evaluation that may come, besides 0 */
    double clip;           /* of x0; infinity: none */
    double init_noise_sigma;
    double *timesteps;  /* [evaluations] */
    float *input_scale; /* [evaluations] divisors of the model's input; NULL: 1 */
    plan_step *steps;   /* [evaluations]; NULL for PNDM */
    pndm_step *pndm;    /* [evaluations]; NULL for others */
    float *history;     /* [planes][size], from the first step on */
    size_t size;
};

static sara_status sampler_check_options(sara_context *ctx, const sara_scheduler_config *config,
                                         int steps)
{
    sara_status status = SARA_OK;
    const char *name = sara_sampler_kind_name(config->kind);
    int least = config->kind == SARA_SAMPLER_PNDM && !config->skip_prk_steps ? 4 : 1;
    TRY(sara_scheduler_config_check_sampling(ctx, config, scheduler_class_name(config)));
    bool flow = sara_scheduler_is_flow(config), dpmpp = config->kind == SARA_SAMPLER_DPMPP_2M;
    if ((config->prediction_type == SARA_PREDICT_FLOW) != flow)
        TRY(sara_fail(ctx, SARA_ERROR_USAGE, "prediction_type %s does not go with sampler %s",
                      sara_prediction_name(config->prediction_type), name));
    if (config->use_karras_sigmas && (!scheduler_has_karras(config->kind) || (flow && dpmpp)))
        TRY(sara_fail(ctx, SARA_ERROR_USAGE,
                      "sampler %s%s has no Karras sigmas; euler, dpm++2m and flow_euler have", name,
                      flow && dpmpp ? " of a flow" : ""));
    if (steps < least || steps > config->num_train_timesteps)
        TRY(sara_fail(ctx, SARA_ERROR_USAGE, "steps %d, expected %d..%d for sampler %s", steps,
                      least, config->num_train_timesteps, name));
done:
    return status;
}

/* The divisor is sqrt(sigma^2 + 1): the sample of Euler has the variance of x0 + sigma noise. */
static sara_status fill_euler(sara_sampler *s, const schedule *points,
                              const sara_scheduler_config *config)
{
    sara_status status = SARA_OK;
    float largest = 0;
    TRY(sara_alloc(s->ctx, &s->input_scale, (size_t)points->count, sizeof(*s->input_scale)));
    for (int i = 0; i < points->count; i++) {
        float sigma = points->sigmas[i];
        s->input_scale[i] = sqrtf(sigma * sigma + 1.0f);
        largest = fmaxf(largest, sigma);
    }
    s->init_noise_sigma =
        config->spacing == SARA_SPACING_LEADING ? sqrtf(largest * largest + 1.0f) : largest;
done:
    return status;
}

static sara_status fill_steps(sara_sampler *s, const schedule *points,
                              const sara_scheduler_config *config, int steps)
{
    sara_status status = SARA_OK;
    bool pndm = config->kind == SARA_SAMPLER_PNDM;
    s->evaluations = pndm ? pndm_evaluations(config, steps) : points->count;
    size_t count = (size_t)s->evaluations;
    TRY(sara_alloc(s->ctx, &s->timesteps, count, sizeof(*s->timesteps)));
    if (pndm) {
        TRY(sara_alloc(s->ctx, &s->pndm, count, sizeof(*s->pndm)));
        TRY(pndm_fill(points, s->pndm, s->timesteps, config, steps));
    } else {
        TRY(sara_alloc(s->ctx, &s->steps, count, sizeof(*s->steps)));
        TRY(plan_fill(points, s->steps, config, steps));
        memcpy(s->timesteps, points->timesteps, count * sizeof(*s->timesteps));
    }
    if (config->kind == SARA_SAMPLER_EULER || config->kind == SARA_SAMPLER_EULER_ANCESTRAL)
        TRY(fill_euler(s, points, config));
done:
    return status;
}

sara_status sara_sampler_new(sara_context *ctx, sara_sampler **out,
                             const sara_scheduler_config *config, int steps)
{
    sara_status status = SARA_OK;
    sara_sampler *s = NULL;
    schedule points = {0};
    bool clips = config->kind == SARA_SAMPLER_DDIM || config->kind == SARA_SAMPLER_DDPM;
    TRY(sampler_check_options(ctx, config, steps));
    TRY(sara_alloc_zero(ctx, &s, 1, sizeof(*s)));
    s->ctx = ctx;
    s->kind = config->kind;
    s->init_noise_sigma = 1;
    s->clip = clips && config->clip_sample ? config->clip_sample_range : INFINITY;
    TRY(schedule_new(ctx, &points, config, steps));
    TRY(fill_steps(s, &points, config, steps));
    *out = s;
    s = NULL;
done:
    schedule_free(&points);
    sara_sampler_free(s);
    return status;
}

void sara_sampler_free(sara_sampler *s)
{
    if (!s)
        return;
    sara_free(s->ctx, s->timesteps);
    sara_free(s->ctx, s->input_scale);
    sara_free(s->ctx, s->steps);
    sara_free(s->ctx, s->pndm);
    sara_free(s->ctx, s->history);
    sara_free(s->ctx, s);
}

int sara_sampler_evaluations(const sara_sampler *sampler)
{
    return sampler->evaluations;
}

double sara_sampler_timestep(const sara_sampler *sampler, int index)
{
    return sampler->timesteps[index];
}

double sara_sampler_init_noise_sigma(const sara_sampler *sampler)
{
    return sampler->init_noise_sigma;
}

bool sara_sampler_needs_noise(const sara_sampler *sampler)
{
    return sampler->kind == SARA_SAMPLER_DDPM || sampler->kind == SARA_SAMPLER_EULER_ANCESTRAL;
}

void sara_sampler_scale_input(const sara_sampler *sampler, int index, float *out,
                              const float *sample, size_t count)
{
    if (!sampler->input_scale) {
        if (out != sample)
            memcpy(out, sample, count * sizeof(*out));
        return;
    }
    float scale = sampler->input_scale[index];
    for (size_t i = 0; i < count; i++)
        out[i] = sample[i] / scale;
}

/* NaN stays NaN. */
static double sampler_clamp(double x, double limit)
{
    return x > limit ? limit : x < -limit ? -limit : x;
}

static void step_linear(const sara_sampler *s, const plan_step *p, float *sample, const float *m,
                        const float *noise, float *previous, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        double x = sample[i];
        double x0 = sampler_clamp(p->x0_x * x + p->x0_m * m[i], s->clip);
        double y = p->x * x + p->m * m[i] + p->x0 * x0;
        if (noise)
            y += p->noise * noise[i];
        if (previous) {
            y += p->previous * previous[i];
            previous[i] = (float)x0;
        }
        sample[i] = (float)y;
    }
}

static void step_pndm(const pndm_step *p, float *sample, const float *m, float *history,
                      size_t count)
{
    float *kept = history, *base = history + PNDM_BASE * count, *sum = history + PNDM_SUM * count;
    bool from_base = p->role != PNDM_MULTI;
    bool keep = p->role == PNDM_FIRST || p->role == PNDM_MULTI;
    for (size_t i = 0; i < count; i++) {
        if (p->role == PNDM_FIRST) {
            base[i] = sample[i];
            sum[i] = 0;
        }
        sum[i] += (float)(p->sum * m[i]);
        double e = p->mix[0] * m[i];
        for (int k = 0; k < PNDM_KEPT; k++)
            e += p->mix[k + 1] * kept[k * count + i];
        if (p->role == PNDM_LAST)
            e = sum[i];
        double x = from_base ? base[i] : sample[i];
        sample[i] = (float)(p->x * x + p->e * (p->v_m * e + p->v_x * x));
        if (keep) {
            kept[2 * count + i] = kept[count + i];
            kept[count + i] = kept[i];
            kept[i] = m[i];
        }
    }
}

static size_t history_planes(const sara_sampler *s)
{
    if (s->kind == SARA_SAMPLER_PNDM)
        return PNDM_PLANES;
    return s->kind == SARA_SAMPLER_DPMPP_2M || s->kind == SARA_SAMPLER_FLOW_HEUN ? 1 : 0;
}

/* History starts at zero, where the first steps give it no weight. */
static sara_status start(sara_sampler *s, size_t count)
{
    sara_status status = SARA_OK;
    size_t planes = history_planes(s);
    if (count != s->size || !s->history) {
        sara_free(s->ctx, s->history);
        s->history = NULL;
        s->size = 0;
        TRY(sara_alloc(s->ctx, &s->history, count, planes * sizeof(*s->history)));
    }
    if (s->history)
        memset(s->history, 0, planes * count * sizeof(*s->history));
    s->size = count;
done:
    return status;
}

sara_status sara_sampler_step(sara_sampler *s, int index, float *sample, const float *model_output,
                              const float *noise, size_t count)
{
    sara_status status = SARA_OK;
    const char *name = sara_sampler_kind_name(s->kind);
    if (index < 0 || index >= s->evaluations || (index != 0 && index != s->next))
        TRY(sara_fail(s->ctx, SARA_ERROR_USAGE, "sampler %s: step %d, expected 0 or %d of %d", name,
                      index, s->next, s->evaluations));
    if (sara_sampler_needs_noise(s) && !noise)
        TRY(sara_fail(s->ctx, SARA_ERROR_USAGE, "sampler %s: no noise, expected %zu values", name,
                      count));
    if (index == 0)
        TRY(start(s, count));
    if (count != s->size)
        TRY(sara_fail(s->ctx, SARA_ERROR_USAGE, "sampler %s: %zu values, expected %zu", name, count,
                      s->size));
    if (s->pndm)
        step_pndm(&s->pndm[index], sample, model_output, s->history, count);
    else
        step_linear(s, &s->steps[index], sample, model_output,
                    sara_sampler_needs_noise(s) ? noise : NULL, s->history, count);
    s->next = index + 1;
done:
    return status;
}

/* The coefficients of DDIM, DDPM, Euler, ancestral Euler, DPM++ 2M and of flows' Euler and Heun, in
 * float32 as diffusers computes them. */
#include "diffusion/plan.h"

#include <math.h>

/* What a step knows: from timestep t with alpha to where alpha is alpha_to. */
static void plan_x0_from_alpha(plan_step *step, sara_prediction prediction, float alpha)
{
    float signal = sqrtf(alpha), deviation = sqrtf(1.0f - alpha);
    if (prediction == SARA_PREDICT_EPSILON) {
        step->x0_x = 1.0 / signal;
        step->x0_m = -(double)deviation / signal;
    } else if (prediction == SARA_PREDICT_V) {
        step->x0_x = signal;
        step->x0_m = -deviation;
    } else {
        step->x0_m = 1;
    }
}

/* Song et al. 2020, equation 12 with sigma 0. The noise estimate is not taken from the clipped x0.
 */
static void plan_ddim(plan_step *step, sara_prediction prediction, float alpha, float alpha_to)
{
    double signal = sqrtf(alpha), deviation = sqrtf(1.0f - alpha);
    double direction = sqrtf(1.0f - alpha_to);
    plan_x0_from_alpha(step, prediction, alpha);
    step->x0 = sqrtf(alpha_to);
    if (prediction == SARA_PREDICT_EPSILON) {
        step->m = direction;
    } else if (prediction == SARA_PREDICT_V) {
        step->m = direction * signal;
        step->x = direction * deviation;
    } else {
        step->m = -direction * signal / deviation;
        step->x = direction / deviation;
    }
}

/* Ho et al. 2020, equations 6 and 7. */
static void plan_ddpm(plan_step *step, const sara_scheduler_config *config, double timestep,
                      float alpha, float alpha_to)
{
    float beta = 1.0f - alpha, beta_to = 1.0f - alpha_to;
    float ratio = alpha / alpha_to, drop = 1.0f - ratio;
    float variance = config->variance_type == SARA_VARIANCE_FIXED_LARGE
                         ? drop
                         : fmaxf(beta_to / beta * drop, 1e-20f);
    plan_x0_from_alpha(step, config->prediction_type, alpha);
    step->x0 = sqrtf(alpha_to) * drop / beta;
    step->x = sqrtf(ratio) * beta_to / beta;
    step->noise = timestep > 0 ? sqrtf(variance) : 0;
}

/* x0 of the sigma methods, whose sample is x0 + sigma noise. */
static void plan_x0_from_sigma(plan_step *step, sara_prediction prediction, float sigma)
{
    float square = sigma * sigma + 1.0f;
    if (prediction == SARA_PREDICT_EPSILON) {
        step->x0_x = 1;
        step->x0_m = -sigma;
    } else if (prediction == SARA_PREDICT_V) {
        step->x0_x = 1.0f / square;
        step->x0_m = -sigma / sqrtf(square);
    } else {
        step->x0_m = 1;
    }
}

/* x + (x - x0) / sigma * (to - sigma) */
static void plan_euler(plan_step *step, sara_prediction prediction, float sigma, double to)
{
    double change = (to - sigma) / sigma;
    plan_x0_from_sigma(step, prediction, sigma);
    step->x = 1;
    if (prediction == SARA_PREDICT_EPSILON) {
        step->m = to - sigma;
    } else {
        step->x += change;
        step->x0 = -change;
    }
}

/* Down to to^2 / sigma, then up to `to` by noise. In double: where sigma is large the difference of
 * squares that gives the way down has no digits left in float32. */
static void plan_ancestral(plan_step *step, sara_prediction prediction, float sigma, float to)
{
    double ratio = (double)to / sigma;
    plan_euler(step, prediction, sigma, to * ratio);
    step->noise = to * sqrt(1 - ratio * ratio);
}

typedef struct dpm_point {
    float alpha, sigma, lambda;
} dpm_point;

static dpm_point dpm_at(bool flow, float sigma)
{
    dpm_point p = {.alpha = flow ? 1.0f - sigma : 1.0f / sqrtf(sigma * sigma + 1.0f)};
    p.sigma = flow ? sigma : sigma * p.alpha;
    p.lambda = logf(p.alpha) - logf(p.sigma);
    return p;
}

/* Lu et al. 2022, DPM-Solver++(2M); before: the sigma of the step before, NaN for first order. */
static void plan_dpmpp(plan_step *step, const sara_scheduler_config *config, float before,
                       float sigma, float to)
{
    bool flow = config->prediction_type == SARA_PREDICT_FLOW;
    dpm_point s = dpm_at(flow, sigma), t = dpm_at(flow, to);
    float h = t.lambda - s.lambda, shrink = expf(-h) - 1.0f;
    if (config->prediction_type == SARA_PREDICT_EPSILON) {
        step->x0_x = 1.0 / s.alpha;
        step->x0_m = -(double)s.sigma / s.alpha;
    } else if (config->prediction_type == SARA_PREDICT_V) {
        step->x0_x = s.alpha;
        step->x0_m = -s.sigma;
    } else if (flow) {
        step->x0_x = 1;
        step->x0_m = -s.sigma;
    } else {
        step->x0_m = 1;
    }
    step->x = t.sigma / s.sigma;
    step->x0 = -(t.alpha * shrink);
    if (isnan(before))
        return;
    float slope = h / (s.lambda - dpm_at(flow, before).lambda), weight = -0.5f * t.alpha * shrink;
    if (config->solver_type == SARA_SOLVER_HEUN)
        weight = h == 0 ? 0 : t.alpha * (shrink / h + 1.0f);
    step->x0 += (double)weight * slope;
    step->previous = -(double)weight * slope;
}

/* Every other evaluation goes all the way, x + dt m, and keeps x as x0; the one after it goes on
 * from the middle, x + dt (m + m') / 2. */
static void plan_flow_heun(plan_step *step, const float *sigma, int i)
{
    bool second = i % 2 == 1;
    float change = second ? sigma[0] - sigma[-1] : sigma[1] - sigma[0];
    step->x0_x = 1;
    step->x = second ? 0.5 : 1;
    step->previous = second ? 0.5 : 0;
    step->m = step->x * change;
}

static float dpm_before(const schedule *s, const sara_scheduler_config *config, int i)
{
    bool few = config->lower_order_final && s->count < 15;
    bool lower_final =
        config->euler_at_final || few || config->final_sigmas_type == SARA_FINAL_ZERO;
    if (i == 0 || config->solver_order == 1 || (i == s->count - 1 && lower_final))
        return NAN;
    return s->sigmas[i - 1];
}

static void plan_alphas(const schedule *s, plan_step *step, const sara_scheduler_config *config,
                        int i, int inference_steps)
{
    float alpha = s->alphas[(int)s->timesteps[i]];
    if (config->kind == SARA_SAMPLER_DDPM) {
        float to = i + 1 < s->count ? s->alphas[(int)s->timesteps[i + 1]] : 1.0f;
        plan_ddpm(step, config, s->timesteps[i], alpha, to);
        return;
    }
    int before = (int)s->timesteps[i] - config->num_train_timesteps / inference_steps;
    float end = config->set_alpha_to_one ? 1.0f : s->alphas[0];
    plan_ddim(step, config->prediction_type, alpha, before >= 0 ? s->alphas[before] : end);
}

static void plan_one(const schedule *s, plan_step *step, const sara_scheduler_config *config, int i,
                     int inference_steps)
{
    const float *sigma = s->sigmas ? s->sigmas + i : NULL;
    switch (config->kind) {
    case SARA_SAMPLER_DDIM:
    case SARA_SAMPLER_DDPM:
        plan_alphas(s, step, config, i, inference_steps);
        break;
    case SARA_SAMPLER_EULER:
        plan_euler(step, config->prediction_type, sigma[0], sigma[1]);
        break;
    case SARA_SAMPLER_EULER_ANCESTRAL:
        plan_ancestral(step, config->prediction_type, sigma[0], sigma[1]);
        break;
    case SARA_SAMPLER_DPMPP_2M:
        plan_dpmpp(step, config, dpm_before(s, config, i), sigma[0], sigma[1]);
        break;
    case SARA_SAMPLER_FLOW_EULER:
        step->x = 1;
        step->m = sigma[1] - sigma[0];
        break;
    case SARA_SAMPLER_FLOW_HEUN:
        plan_flow_heun(step, sigma, i);
        break;
    case SARA_SAMPLER_PNDM:  /* pndm_fill() */
    case SARA_SAMPLER_OTHER: /* refused before */
        break;
    }
}

static bool plan_finite(const plan_step *p)
{
    return isfinite(p->x0_x) && isfinite(p->x0_m) && isfinite(p->x) && isfinite(p->m) &&
           isfinite(p->x0) && isfinite(p->previous) && isfinite(p->noise);
}

sara_status plan_fill(const schedule *s, plan_step *steps, const sara_scheduler_config *config,
                      int inference_steps)
{
    const char *name = sara_sampler_kind_name(config->kind);
    int all = config->num_train_timesteps;
    for (int i = 0; i < s->count; i++) {
        double t = s->timesteps[i];
        if (!s->sigmas && !(t >= 0 && t < all))
            return sara_fail(s->ctx, SARA_ERROR_INPUT,
                             "%s with %d steps: timestep %.0f lies outside 0..%d (steps_offset %d)",
                             name, inference_steps, t, all - 1, config->steps_offset);
        steps[i] = (plan_step){0};
        plan_one(s, &steps[i], config, i, inference_steps);
        if (!isfinite(t) || !plan_finite(&steps[i]))
            return sara_fail(s->ctx, SARA_ERROR_INPUT,
                             "%s with %d steps: step %d at timestep %g is not finite with "
                             "prediction_type %s, expected fewer steps or another schedule",
                             name, inference_steps, i + 1, t,
                             sara_prediction_name(config->prediction_type));
    }
    return SARA_OK;
}

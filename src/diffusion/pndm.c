/* PNDM (Liu et al. 2022): pseudo linear multistep, started by pseudo Runge-Kutta steps or, where
 * these are skipped, by one improved Euler step. */
#include "diffusion/plan.h"

#include <math.h>

enum { RUNGE_KUTTA_STEPS = 3, RUNGE_KUTTA_CALLS = 4 * RUNGE_KUTTA_STEPS };

int pndm_evaluations(const sara_scheduler_config *config, int steps)
{
    if (config->skip_prk_steps)
        return steps > 1 ? steps + 1 : 1;
    return steps - RUNGE_KUTTA_STEPS + RUNGE_KUTTA_CALLS;
}

static void pndm_timesteps(double *out, const schedule *s, const sara_scheduler_config *config,
                           int steps)
{
    int calls = pndm_evaluations(config, steps);
    int half = config->num_train_timesteps / steps / 2;
    for (int i = 0; i < calls; i++) {
        if (config->skip_prk_steps) {
            out[i] = s->timesteps[i > 1 ? i - 1 : i];
        } else if (i < RUNGE_KUTTA_CALLS) {
            /* A step's four calls are at its start, twice its middle, and its end. */
            int point = (i + 1) / 4, middle = i % 4 == 1 || i % 4 == 2;
            if (middle)
                point = i / 4 + 1;
            out[i] = s->timesteps[point] + (middle ? half : 0);
        } else {
            out[i] = s->timesteps[i - RUNGE_KUTTA_CALLS + RUNGE_KUTTA_STEPS];
        }
    }
}

/* Adams-Bashforth weights for m and the outputs kept before it. */
static void pndm_mix(double mix[4], int kept)
{
    static const double weights[4][4] = {{1, 0, 0, 0},
                                         {3.0 / 2, -1.0 / 2, 0, 0},
                                         {23.0 / 12, -16.0 / 12, 5.0 / 12, 0},
                                         {55.0 / 24, -59.0 / 24, 37.0 / 24, -9.0 / 24}};
    memcpy(mix, weights[kept < 3 ? kept : 3], sizeof(weights[0]));
}

/* Equation 9, from timestep t to `to`. */
static sara_status pndm_transfer(const schedule *s, pndm_step *step,
                                 const sara_scheduler_config *config, int t, int to)
{
    int all = config->num_train_timesteps;
    if (t < 0 || t >= all || to >= all)
        return sara_fail(s->ctx, SARA_ERROR_INPUT,
                         "pndm: timestep %d lies outside 0..%d (steps_offset %d)",
                         t < 0 || t >= all ? t : to, all - 1, config->steps_offset);
    float end = config->set_alpha_to_one ? 1.0f : s->alphas[0];
    float alpha = s->alphas[t], alpha_to = to >= 0 ? s->alphas[to] : end;
    float beta = 1.0f - alpha, beta_to = 1.0f - alpha_to;
    float denominator = alpha * sqrtf(beta_to) + sqrtf(alpha * beta * alpha_to);
    bool v = config->prediction_type == SARA_PREDICT_V;
    step->v_m = v ? sqrtf(alpha) : 1;
    step->v_x = v ? sqrtf(beta) : 0;
    step->x = sqrtf(alpha_to / alpha);
    step->e = -(double)(alpha_to - alpha) / denominator;
    if (!isfinite(step->x) || !isfinite(step->e))
        return sara_fail(s->ctx, SARA_ERROR_INPUT, "pndm: the step from timestep %d is not finite",
                         t);
    return SARA_OK;
}

static sara_status pndm_runge_kutta(const schedule *s, pndm_step *step, const double *timesteps,
                                    const sara_scheduler_config *config, int i, int steps)
{
    static const pndm_role roles[4] = {PNDM_FIRST, PNDM_MIDDLE, PNDM_MIDDLE, PNDM_LAST};
    static const double sums[4] = {1.0 / 6, 1.0 / 3, 1.0 / 3, 1.0 / 6};
    int half = config->num_train_timesteps / steps / 2;
    step->role = roles[i % 4];
    step->sum = sums[i % 4];
    step->mix[0] = 1;
    return pndm_transfer(s, step, config, (int)timesteps[i / 4 * 4],
                         (int)timesteps[i] - (i % 2 ? 0 : half));
}

static sara_status pndm_multistep(const schedule *s, pndm_step *step, const double *timesteps,
                                  const sara_scheduler_config *config, int i, int steps)
{
    int stride = config->num_train_timesteps / steps, t = (int)timesteps[i];
    if (config->skip_prk_steps && i == 1) {
        step->role = PNDM_REPEAT;
        step->mix[0] = step->mix[1] = 0.5;
        return pndm_transfer(s, step, config, t + stride, t);
    }
    step->role = i == 0 ? PNDM_FIRST : PNDM_MULTI;
    pndm_mix(step->mix, config->skip_prk_steps ? (i ? i - 1 : 0) : RUNGE_KUTTA_STEPS);
    return pndm_transfer(s, step, config, t, t - stride);
}

sara_status pndm_fill(const schedule *s, pndm_step *out, double *timesteps,
                      const sara_scheduler_config *config, int steps)
{
    sara_status status = SARA_OK;
    int calls = pndm_evaluations(config, steps);
    pndm_timesteps(timesteps, s, config, steps);
    for (int i = 0; i < calls; i++) {
        out[i] = (pndm_step){0};
        if (!config->skip_prk_steps && i < RUNGE_KUTTA_CALLS)
            TRY(pndm_runge_kutta(s, &out[i], timesteps, config, i, steps));
        else
            TRY(pndm_multistep(s, &out[i], timesteps, config, i, steps));
    }
done:
    return status;
}

/* Training of rectified flow as in diffusers' scripts for SD3: which noise levels are drawn, and
 * what each of them weighs in the loss. */
#include "diffusion/schedule.h"

#include <inttypes.h>
#include <math.h>

static const double PI = 3.14159265358979323846;
/* kohya's "uniform" is the last. */
static const struct {
    const char *name;
    sara_weighting_scheme scheme;
} schemes[] = {{"logit_normal", SARA_WEIGHTING_LOGIT_NORMAL},
               {"mode", SARA_WEIGHTING_MODE},
               {"sigma_sqrt", SARA_WEIGHTING_SIGMA_SQRT},
               {"cosmap", SARA_WEIGHTING_COSMAP},
               {"none", SARA_WEIGHTING_NONE},
               {"uniform", SARA_WEIGHTING_NONE}};
enum { SCHEME_COUNT = sizeof(schemes) / sizeof(*schemes) };

sara_status sara_weighting_parse(sara_context *ctx, sara_weighting_scheme *out, const char *name,
                                 const char *source)
{
    sara_buffer text = {.ctx = ctx};
    sara_status status = SARA_OK;
    for (size_t i = 0; i < SCHEME_COUNT; i++) {
        if (strcmp(schemes[i].name, name) == 0) {
            *out = schemes[i].scheme;
            goto done;
        }
        TRY(sara_buffer_put_choice(&text, schemes[i].name, i, SCHEME_COUNT));
    }
    status = sara_fail(ctx, SARA_ERROR_USAGE, "%s %s: expected %s", source, name, text.data);
done:
    sara_buffer_free(&text);
    return status;
}

const char *sara_weighting_name(sara_weighting_scheme scheme)
{
    size_t i = 0;
    while (schemes[i].scheme != scheme)
        i++;
    return schemes[i].name;
}

sara_status sara_flow_objective_new(sara_context *ctx, sara_objective *out,
                                    const sara_scheduler_config *config)
{
    const double shift = scheduler_flow_shift(config);
    const int count = config->num_train_timesteps;
    sara_objective objective = {0};
    sara_status status = SARA_OK;
    if (!sara_scheduler_is_flow(config))
        return sara_fail(ctx, SARA_ERROR_INPUT, "the scheduler is %s, expected one of a flow",
                         scheduler_class_name(config));
    TRY(sara_objective_new(ctx, &objective, config));
    objective.weighting = (sara_weighting){.logit_std = 1, .mode_scale = 1.29};
    TRY(sara_alloc(ctx, &objective.sigmas, (size_t)count, sizeof(*objective.sigmas)));
    for (int i = 0; i < count; i++) {
        float sigma = (float)(count - i) / (float)count;
        objective.sigmas[i] = (float)shift * sigma / (1.0f + (float)(shift - 1) * sigma);
    }
    *out = objective;
    objective = (sara_objective){0};
done:
    sara_objective_free(&objective);
    return status;
}

/* Where in the table, from its begin at 0 to its end at 1. */
static double flow_density(const sara_weighting *weighting, double drawn)
{
    double c = cos(PI * drawn / 2);
    switch (weighting->scheme) {
    case SARA_WEIGHTING_LOGIT_NORMAL:
        return 1 / (1 + exp(-(weighting->logit_mean + weighting->logit_std * drawn)));
    case SARA_WEIGHTING_MODE:
        return 1 - drawn - weighting->mode_scale * (c * c - 1 + drawn);
    default:
        return drawn;
    }
}

double sara_flow_timestep(const sara_objective *objective, double drawn)
{
    const int count = objective->num_train_timesteps;
    double at = floor(flow_density(&objective->weighting, drawn) * count);
    at = fmin(fmax(at, 0), count - 1);
    return objective->sigmas[(int)at] * (float)count;
}

double sara_flow_draw_timestep(const sara_objective *objective, uint64_t seed, uint64_t element)
{
    bool normal = objective->weighting.scheme == SARA_WEIGHTING_LOGIT_NORMAL;
    float drawn;
    (normal ? sara_draw_normal : sara_draw_uniform)(&drawn, 1, seed, SARA_DRAW_TIMESTEP, element);
    return sara_flow_timestep(objective, drawn);
}

bool sara_objective_weighs(const sara_objective *objective)
{
    const sara_weighting *w = &objective->weighting;
    return objective->sigmas &&
           (w->precondition_outputs || w->scheme == SARA_WEIGHTING_SIGMA_SQRT ||
            w->scheme == SARA_WEIGHTING_COSMAP);
}

/* The prediction x - sigma v misses x0 by sigma times what v misses noise - x0 by. */
static double flow_weight(const sara_weighting *weighting, double sigma)
{
    double weight = weighting->precondition_outputs ? sigma * sigma : 1;
    if (weighting->scheme == SARA_WEIGHTING_SIGMA_SQRT)
        return weight / (sigma * sigma);
    if (weighting->scheme == SARA_WEIGHTING_COSMAP)
        return weight * 2 / (PI * (1 - 2 * sigma + 2 * sigma * sigma));
    return weight;
}

sara_status sara_objective_weigh(const sara_objective *objective, float *weights,
                                 const double *timesteps, const float *sigmas, int64_t batch)
{
    for (int64_t i = 0; i < batch; i++) {
        double sigma = sigmas ? (double)sigmas[i] : timesteps[i] / objective->num_train_timesteps;
        weights[i] = (float)flow_weight(&objective->weighting, sigma);
        if (!isfinite(weights[i]))
            return sara_fail(objective->ctx, SARA_ERROR_INPUT,
                             "sigma %.9g of sample %" PRId64
                             ", which the weighting scheme %s divides by",
                             sigma, i, sara_weighting_name(objective->weighting.scheme));
    }
    return SARA_OK;
}

/* Learning rate schedules with diffusers' names and formulas (its optimization.py). */
#include "train/train.h"

#include <math.h>

#define PI 3.14159265358979323846

static double warm(int64_t step, int64_t warmup)
{
    return (double)step / (double)(warmup > 1 ? warmup : 1);
}

sara_status sara_lr_factor(sara_context *ctx, double *out, const sara_train_options *options,
                           double learning_rate, int64_t step, int64_t steps)
{
    const char *name = options->lr_scheduler;
    int64_t warmup = options->lr_warmup_steps;
    int64_t rest = steps - warmup > 1 ? steps - warmup : 1;
    double progress = (double)(step - warmup) / (double)rest;
    bool warming = step < warmup;
    if (strcmp(name, "constant") == 0)
        *out = 1.0;
    else if (strcmp(name, "constant_with_warmup") == 0)
        *out = warming ? warm(step, warmup) : 1.0;
    else if (strcmp(name, "linear") == 0)
        *out = warming ? warm(step, warmup) : fmax(0.0, (double)(steps - step) / (double)rest);
    else if (strcmp(name, "cosine") == 0)
        *out = warming ? warm(step, warmup) : fmax(0.0, 0.5 * (1.0 + cos(PI * progress)));
    else if (strcmp(name, "cosine_with_restarts") == 0)
        *out =
            warming ? warm(step, warmup)
            : progress >= 1.0
                ? 0.0
                : fmax(0.0, 0.5 * (1.0 + cos(PI * fmod(options->lr_num_cycles * progress, 1.0))));
    else if (strcmp(name, "polynomial") == 0) {
        const double end = 1e-7; /* diffusers' lr_end */
        *out = warming ? warm(step, warmup)
               : step > steps
                   ? end / learning_rate
                   : ((learning_rate - end) * pow(1.0 - progress, options->lr_power) + end) /
                         learning_rate;
    } else {
        return sara_fail(ctx, SARA_ERROR_USAGE,
                         "--lr_scheduler %s: expected constant, constant_with_warmup, linear, "
                         "cosine, cosine_with_restarts or polynomial",
                         name);
    }
    return SARA_OK;
}

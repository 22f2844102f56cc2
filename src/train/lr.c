/* Learning rate schedules with diffusers' names and formulas (its optimization.py). */
#include "train/train.h"

#include <math.h>

#define PI             3.14159265358979323846
#define POLYNOMIAL_END 1e-7 /* diffusers' lr_end */

typedef struct moment {
    const sara_train_options *options;
    double learning_rate;
    double progress; /* after the warm-up; 1: the end */
} moment;

static double constant(const moment *at)
{
    (void)at;
    return 1.0;
}

static double lr_linear(const moment *at)
{
    return fmax(0.0, 1.0 - at->progress);
}

static double cosine(const moment *at)
{
    return fmax(0.0, 0.5 * (1.0 + cos(PI * at->progress)));
}

static double cosine_with_restarts(const moment *at)
{
    double turn = fmod(at->options->lr_num_cycles * at->progress, 1.0);
    return at->progress >= 1.0 ? 0.0 : fmax(0.0, 0.5 * (1.0 + cos(PI * turn)));
}

static double polynomial(const moment *at)
{
    double left = fmax(0.0, 1.0 - at->progress), end = POLYNOMIAL_END / at->learning_rate;
    return (1.0 - end) * pow(left, at->options->lr_power) + end;
}

static const struct {
    const char *name;
    double (*factor)(const moment *at);
    bool warms_up;
} schedules[] = {
    {"constant", constant, false},    {"constant_with_warmup", constant, true},
    {"linear", lr_linear, true},      {"cosine", cosine, true},
    {"polynomial", polynomial, true}, {"cosine_with_restarts", cosine_with_restarts, true},
};
#define SCHEDULE_COUNT (sizeof(schedules) / sizeof(*schedules))

bool sara_lr_has_length(const sara_train_options *options)
{
    size_t i = 0;
    while (i < SCHEDULE_COUNT && strcmp(schedules[i].name, options->lr_scheduler) != 0)
        i++;
    return i < SCHEDULE_COUNT && schedules[i].factor != constant;
}

sara_status sara_lr_factor(sara_context *ctx, double *out, const sara_train_options *options,
                           double learning_rate, int64_t step, int64_t steps)
{
    const char *name = options->lr_scheduler;
    int64_t warmup = options->lr_warmup_steps;
    int64_t rest = steps - warmup > 1 ? steps - warmup : 1;
    const moment at = {options, learning_rate, (double)(step - warmup) / (double)rest};
    size_t i = 0;
    while (i < SCHEDULE_COUNT && strcmp(schedules[i].name, name) != 0)
        i++;
    if (i == SCHEDULE_COUNT)
        return sara_fail(ctx, SARA_ERROR_USAGE,
                         "--lr_scheduler %s: expected constant, constant_with_warmup, linear, "
                         "cosine, cosine_with_restarts or polynomial",
                         name);
    if (schedules[i].factor == polynomial && !(learning_rate > POLYNOMIAL_END))
        return sara_fail(ctx, SARA_ERROR_USAGE,
                         "--learning_rate %g: polynomial ends at %g, which must be less",
                         learning_rate, POLYNOMIAL_END);
    *out = schedules[i].warms_up && step < warmup ? (double)step / (double)warmup
                                                  : schedules[i].factor(&at);
    return SARA_OK;
}

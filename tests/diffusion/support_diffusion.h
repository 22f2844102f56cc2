/* What the diffusion tests share: configs from text, a made-up model and whole trajectories. */
#ifndef SARA_TEST_SUPPORT_DIFFUSION_H
#define SARA_TEST_SUPPORT_DIFFUSION_H

#include "support/support.h"
#include "diffusion/diffusion.h"

#define TEST_SCHEDULES SARA_TEST_GOLDEN "/../diffusion/schedules.safetensors"

/* Parses the text as a scheduler_config.json. */
sara_status test_config_parse(sara_context *ctx, sara_scheduler_config *out, const char *text);
/* A tensor named prefix + name, of a floating or I64 dtype, as f32. */
float *test_load_named(sara_context *ctx, const sara_safetensors *file, const char *prefix,
                       const char *name, size_t *count);
/* Runs f(x, t) = sin(2 x) 0.7 + 0.1 cos(t / 100) through the sampler and compares each timestep and
 * each row of the trail, relative L2 1e-5. noise NULL: none. */
void test_trajectory(sara_context *ctx, const sara_scheduler_config *config, int steps,
                     const char *what, const float *start, size_t size, const float *timesteps,
                     size_t timestep_count, const float *trail, const float *noise);

#endif

/* Private to the diffusion layer: noise levels and the timesteps of a trajectory. Values are
 * rounded to float32 where diffusers holds them so. */
#ifndef SARA_DIFFUSION_SCHEDULE_H
#define SARA_DIFFUSION_SCHEDULE_H

#include "diffusion/config.h"

/* alphas_cumprod [num_train_timesteps]; sara_free(). */
sara_status schedule_alphas(sara_context *ctx, float **out, const sara_scheduler_config *config);

/* The points that a trajectory visits. */
typedef struct schedule {
    sara_context *ctx;
    int count;         /* model evaluations of all but PNDM */
    float *alphas;     /* [num_train_timesteps]; NULL for flow */
    double *timesteps; /* [count], descending; Heun's but the first twice */
    float *sigmas;     /* [count + 1], the last is where the last step ends; NULL without sigmas */
} schedule;
sara_status schedule_new(sara_context *ctx, schedule *out, const sara_scheduler_config *config,
                         int steps);
void schedule_free(schedule *schedule);

#endif

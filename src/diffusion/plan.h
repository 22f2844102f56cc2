/* Private to the diffusion layer: what each step computes, worked out when a sampler is made. */
#ifndef SARA_DIFFUSION_PLAN_H
#define SARA_DIFFUSION_PLAN_H

#include "diffusion/schedule.h"

/* One step of every method but PNDM, with x the sample and m the model's output:
 *     x0 = clip(x0_x x + x0_m m)
 *     x' = x x + m m + x0 x0 + previous (x0 of the step before) + noise noise */
typedef struct plan_step {
    double x0_x, x0_m;
    double x, m, x0, previous, noise;
} plan_step;
/* steps [schedule->count]. Refuses what has no finite coefficients. */
sara_status plan_fill(const schedule *schedule, plan_step *steps,
                      const sara_scheduler_config *config, int inference_steps);

/* One step of PNDM. The noise estimate e mixes m with up to three earlier outputs; where v is
 * predicted, v_m e + v_x base takes its place. Then x' = x base + e e. */
typedef enum pndm_role {
    PNDM_FIRST,  /* Runge-Kutta 1 of 4, or multistep's first: remember the sample, keep m */
    PNDM_MIDDLE, /* Runge-Kutta 2 and 3 */
    PNDM_LAST,   /* Runge-Kutta 4 */
    PNDM_REPEAT, /* multistep's first, improved: from the remembered sample */
    PNDM_MULTI   /* multistep: from the sample, keep m */
} pndm_role;
typedef struct pndm_step {
    pndm_role role;
    double sum;       /* Runge-Kutta: m's share in the sum of four */
    double mix[4];    /* of m and of the outputs kept before it, newest first */
    double v_m, v_x, x, e;
} pndm_step;
/* As many model calls as `steps` steps take. */
int pndm_evaluations(const sara_scheduler_config *config, int steps);
/* timesteps, out: [pndm_evaluations()] */
sara_status pndm_fill(const schedule *schedule, pndm_step *out, double *timesteps,
                      const sara_scheduler_config *config, int steps);

#endif

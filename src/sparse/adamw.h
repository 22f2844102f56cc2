/* AdamW with decoupled weight decay (Loshchilov and Hutter 2019) of one entry. */
#ifndef SARA_SPARSE_ADAMW_H
#define SARA_SPARSE_ADAMW_H

#include "sparse/sparse.h"

#include <math.h>

/* The numbers of one step. */
typedef struct sara_adamw {
    float scale, clip;
    float beta1, beta1_rest, beta2, beta2_rest;
    float correction2; /* sqrt(1 - beta2^t) */
    float epsilon, decay, rate;
} sara_adamw;

static inline sara_adamw sara_adamw_numbers(const sara_adamw_options *o)
{
    double t = (double)o->step;
    return (sara_adamw){
        .scale = (float)o->scale,
        .clip = (float)(o->clip < 1 ? o->clip : 1),
        .beta1 = (float)o->beta1,
        .beta1_rest = (float)(1 - o->beta1),
        .beta2 = (float)o->beta2,
        .beta2_rest = (float)(1 - o->beta2),
        .correction2 = (float)sqrt(1 - pow(o->beta2, t)),
        .epsilon = (float)o->epsilon,
        .decay = (float)(1 - o->learning_rate * o->weight_decay),
        .rate = (float)(-o->learning_rate / (1 - pow(o->beta1, t))),
    };
}

/* What brings a norm down to the greatest that is allowed; 1 where that is 0, for none. */
static inline double sara_clip_factor(double norm, double max_grad_norm)
{
    double clip = max_grad_norm > 0 ? max_grad_norm / (norm + 1e-6) : 1;
    return clip < 1 ? clip : 1;
}

/* The new master. rank: the low-rank term's gradient, which is not clipped. */
static inline float sara_adamw_entry(const sara_adamw *a, float master, float gradient, float rank,
                                     float *moment1, float *moment2)
{
    float g = gradient * a->scale * a->clip + rank;
    float m1 = *moment1 * a->beta1 + g * a->beta1_rest;
    float m2 = *moment2 * a->beta2 + g * g * a->beta2_rest;
    *moment1 = m1;
    *moment2 = m2;
    return master * a->decay + a->rate * m1 / (sqrtf(m2) / a->correction2 + a->epsilon);
}

#endif

/* The numbers of AdamW's step from its options. */
#ifndef SARA_SPARSE_ADAMW_H
#define SARA_SPARSE_ADAMW_H

#include "nn/update.h"
#include "sparse/sparse.h"

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

#endif

/* What the kernels of an optimiser work on: AdamW with decoupled weight decay (Loshchilov and
 * Hutter 2019) of chosen entries of parameters. */
#ifndef SARA_NN_UPDATE_H
#define SARA_NN_UPDATE_H

#include "core/core.h"
#include "nn/real.h"

#include <math.h>

/* The numbers of one step. */
typedef struct sara_adamw {
    real scale, clip;
    real beta1, beta1_rest, beta2, beta2_rest;
    real correction2; /* sqrt(1 - beta2^t) */
    real epsilon, decay, rate;
} sara_adamw;

/* The new master. added: a gradient that is not clipped. */
static inline real sara_adamw_entry(const sara_adamw *a, real master, real gradient, real added,
                                    real *moment1, real *moment2)
{
    real g = gradient * a->scale * a->clip + added;
    real m1 = *moment1 * a->beta1 + g * a->beta1_rest;
    real m2 = *moment2 * a->beta2 + g * g * a->beta2_rest;
    *moment1 = m1;
    *moment2 = m2;
    return master * a->decay + a->rate * m1 / (REAL_SQRT(m2) / a->correction2 + a->epsilon);
}

/* The trained entries of one parameter; all pointers are memory of the device. */
typedef struct sara_update {
    void *value; /* the parameter's; NULL: it is not there, masters alone are updated */
    sara_dtype dtype;
    const uint32_t *positions; /* [count] of the entries in value; NULL: all, in their order */
    size_t count;
    real *masters; /* [count]; NULL: value, of reals, holds them */
    real *gradient, *moment1, *moment2; /* [count] */
    const real *added; /* [count]: a gradient that is not clipped; NULL: none */
} sara_update;
/* Lies in the host's memory. */
typedef struct sara_updates {
    const sara_update *items;
    size_t count;
} sara_updates;

#endif

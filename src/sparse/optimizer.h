/* AdamW on trainables: norm, clipping, update. What a method adds to a step comes from outside. */
#ifndef SARA_SPARSE_OPTIMIZER_H
#define SARA_SPARSE_OPTIMIZER_H

#include "sparse/trainable.h"

typedef struct sara_optimizer_options {
    double beta1, beta2, epsilon, weight_decay; /* 0.9, 0.999, 1e-8, 1e-2 */
    double max_grad_norm;                       /* 1.0; 0: none */
} sara_optimizer_options;

/* SARA_ERROR_USAGE with the name unless low <= value < below. */
SARA_NODISCARD sara_status sara_optimizer_check_option(sara_context *ctx, const char *name,
                                                       double value, double low, double below);

typedef struct sara_optimizer {
    sara_context *ctx;
    sara_trainables trainables;
    sara_optimizer_options options;
    int64_t steps;      /* done */
    int64_t adam_steps; /* since the moments were zero */
    double *sums;       /* [trainables.count] of a step's norm, and the same on the device */
    double *device_sums;
    struct sara_update *updates; /* [trainables.count] of a step */
} sara_optimizer;
/* On success the trainables are taken over and *trainables is empty. */
SARA_NODISCARD sara_status sara_optimizer_new(sara_context *ctx, sara_optimizer **out,
                                              sara_trainables *trainables,
                                              const sara_optimizer_options *options);
void sara_optimizer_free(sara_optimizer *optimizer); /* parameters ask for nothing again */
/* Where a resumed run stands; masters and moments are in place. */
SARA_NODISCARD sara_status sara_optimizer_restore(sara_optimizer *optimizer, int64_t steps,
                                                  int64_t adam_steps);

typedef struct sara_step_report {
    double grad_norm; /* before clipping, of all gradients times grad_scale */
    double term_loss; /* of the term that the method adds; 0: none */
    const char *term_name; /* the parameter that it is of; "": none */
    bool skipped;     /* not finite: nothing was changed, counters neither; gradients zeroed */
    bool reselected;  /* the method trains fewer entries from this step on */
    int64_t active;   /* entries trained */
} sara_step_report;

/* A gradient that is not clipped, of one trainable. */
typedef struct sara_step_term {
    const sara_trainable *item; /* NULL: there is none */
    const float *gradient;      /* the host's; as many as the item has when it is updated */
    double loss;
} sara_step_term;
/* What a method adds to a step. Each may be NULL; an error ends the step, which has changed nothing
 * but gradients. */
typedef struct sara_step_hooks {
    void *method; /* that the others are given */
    /* The gradients are complete; may set some to zero. */
    sara_status (*before_step)(void *method);
    /* Their norm is finite. A loss that is not skips the step. */
    sara_status (*regularise)(void *method, sara_step_term *term);
    /* The step will be made; may keep fewer entries and fills that into the report. */
    sara_status (*before_update)(void *method, sara_step_report *report);
    /* In any case, also after an error. */
    void (*after_step)(void *method);
} sara_step_hooks;
/* One update. grad_scale multiplies the accumulated gradients (1/accumulation). loss_finite false
 * forces a skip. hooks NULL: none. Gradients are zero afterwards. */
SARA_NODISCARD sara_status sara_optimizer_step(sara_optimizer *optimizer, sara_step_report *report,
                                               double learning_rate, double grad_scale,
                                               bool loss_finite, const sara_step_hooks *hooks);

#endif

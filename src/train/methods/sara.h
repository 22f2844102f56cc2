/* What SaRA (arXiv 2409.06633) keeps beside the optimiser. */
#ifndef SARA_TRAIN_METHODS_SARA_H
#define SARA_TRAIN_METHODS_SARA_H

#include "train/methods/methods.h"
#include "train/methods/origin.h"

typedef struct selective {
    sara_adaptation *adaptation;
    sara_origin origin;
    sara_adapter start;       /* the origin's, until the optimiser has its values */
    double start_threshold;   /* its threshold; NaN: none */
    int64_t progressive_iter; /* -1: never */
    bool reselection_moves;   /* a resumed run's, with the number of steps */
} selective;

static inline selective *selective_of(const trainer *t)
{
    return t->method_state;
}

/* sara_origin.c: the adapter to start from, with what it needs of the options; then against the
 * model. */
SARA_NODISCARD sara_status sara_selective_open(trainer *t);
SARA_NODISCARD sara_status sara_selective_check(const trainer *t);

/* sara_reselection.c: when it is due, from the options, the number of steps and the checkpoint. */
void sara_reselection_place(trainer *t);
void sara_reselection_tell(const trainer *t);
const char *const *sara_reselection_changing(const trainer *t);
/* Of the manifest's "run": whether progressive_iter came from the number of steps. */
#define SARA_RESELECTION_KEY "progressive_iter_auto"

/* sara_state.c: the adapter of the masters, the moments, and which entries are active. */
SARA_NODISCARD sara_status sara_selective_save(const trainer *t, const char *folder);
SARA_NODISCARD sara_status sara_selective_load(trainer *t, const char *folder);

#endif

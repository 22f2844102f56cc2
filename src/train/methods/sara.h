/* What SaRA (arXiv 2409.06633) keeps beside the optimiser. */
#ifndef SARA_TRAIN_METHODS_SARA_H
#define SARA_TRAIN_METHODS_SARA_H

#include "train/methods/methods.h"
#include "train/trainer.h"

/* The adapter that the run starts, or started, from. */
typedef struct sara_origin {
    bool is;              /* there is one */
    sara_adapter adapter; /* until the optimiser has its values */
    double strength;      /* at which they are taken */
    double told_strength; /* that the run was given */
    double threshold;     /* NaN: none */
    char sha256[65];      /* of the file */
} sara_origin;

typedef struct selective {
    sara_adaptation *adaptation;
    sara_origin origin;
    int64_t progressive_iter; /* -1: never */
    bool reselection_moves;   /* a resumed run's, with the number of steps */
} selective;

static inline selective *selective_of(const trainer *t)
{
    return t->method_state;
}

/* sara_origin.c: --adapter, or that of the checkpoint's run, with what it needs of the options;
 * then against the model. */
SARA_NODISCARD sara_status sara_origin_open(trainer *t);
SARA_NODISCARD sara_status sara_origin_check(const trainer *t);

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

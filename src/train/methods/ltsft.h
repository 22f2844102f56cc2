/* What LT-SFT keeps beside the optimiser. */
#ifndef SARA_TRAIN_METHODS_LTSFT_H
#define SARA_TRAIN_METHODS_LTSFT_H

#include "train/methods/methods.h"
#include "train/methods/selective.h"
#include "train/methods/whole.h"

typedef struct ltsft {
    selective selected; /* of the second phase, which has an adaptation */
    float *base;        /* of all entries, in the first phase */
    int64_t steps;      /* of the first phase; 0: there is none, as an adapter goes on */
} ltsft;

static inline ltsft *ltsft_of(const trainer *t)
{
    return t->method_state;
}

/* ltsft_state.c. Whether the run goes on from a checkpoint of the second phase. */
bool sara_ltsft_has_kept(const trainer *t);
SARA_NODISCARD sara_status sara_ltsft_save(const trainer *t, const char *folder);
SARA_NODISCARD sara_status sara_ltsft_load(trainer *t, const char *folder);

#endif

/* What methods share that train entries at positions: their state begins with this. */
#ifndef SARA_TRAIN_METHODS_SELECTIVE_H
#define SARA_TRAIN_METHODS_SELECTIVE_H

#include "train/methods/origin.h"

typedef struct selective {
    sara_adaptation *adaptation;
    sara_origin origin;
    sara_adapter start;       /* the origin's, until the parameters have its values */
    double start_threshold;   /* its threshold; NaN: none */
    int64_t progressive_iter; /* -1: never */
    bool reselection_moves;   /* a resumed run's, with the number of steps */
} selective;

static inline selective *selective_of(const trainer *t)
{
    return t->method_state;
}

/* selective.c: for prepare(), or once nothing is trained: has sara_trainer_use() make
 * an optimiser of the selection, which it takes over, and adapts it. A selection that is not
 * finite, or for which there is no room, is refused. */
SARA_NODISCARD sara_status sara_selective_use(trainer *t, sara_selection *selection,
                                              const sara_adaptation_options *options);
/* Gives what is trained the origin's values, if there is one. */
SARA_NODISCARD sara_status sara_selective_settle(trainer *t);
/* What is trained so far is trained no longer; its memory goes. Until others are used there is no
 * optimiser, and where that fails the run ends as the last checkpoint has it. */
void sara_selective_drop(trainer *t);
/* The entries that the checkpoint trains, so that they need not be chosen again; threshold NaN.
 * expected: how many the run's options give, 0: any; another number is SARA_ERROR_USAGE. */
SARA_NODISCARD sara_status sara_selective_resumed(const trainer *t, sara_selection *out,
                                                  int64_t expected);
size_t sara_selective_bytes(const trainer *t);
SARA_NODISCARD sara_status sara_selective_finish(const trainer *t);
void sara_selective_close(trainer *t);

/* selective_origin.c: the adapter to start from, if there is one, with what it needs of the
 * options; then against the model; its entries; what is said of them. */
SARA_NODISCARD sara_status sara_selective_open(trainer *t);
SARA_NODISCARD sara_status sara_selective_check(const trainer *t);
SARA_NODISCARD sara_status sara_selective_start(const trainer *t, sara_selection *out);
void sara_selective_describe_start(const trainer *t, sara_method_text *out);

/* selective_state.c: the adapter of the masters, the moments, and which entries are active. */
SARA_NODISCARD sara_status sara_selective_save(const trainer *t, const char *folder);
SARA_NODISCARD sara_status sara_selective_load(trainer *t, const char *folder);

#endif

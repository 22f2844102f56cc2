/* The inside of SaRA's part of a training step. */
#ifndef SARA_SPARSE_ADAPTATION_H
#define SARA_SPARSE_ADAPTATION_H

#include "sparse/low_rank.h"
#include "sparse/magnitude.h"

struct sara_adaptation {
    sara_context *ctx;
    sara_optimizer *optimizer;
    sara_adaptation_options options;
    const char *matrix; /* of the step's low-rank term, as sara_adaptation_hooks() is given it */
    struct {
        sara_mask *masks; /* one for each trainable; NULL: nothing was reselected */
        uint32_t *positions;
        float *masters;
    } first;
    sara_arena work; /* of a step, kept from one to the next */
    bool reserved;   /* all that the low-rank term may take */
};

/* Copies the masters of what is trained to those of the first mask. */
SARA_NODISCARD sara_status sara_adaptation_note_masters(sara_adaptation *adaptation);
/* Magnitude below which a reselection keeps a master. */
uint32_t sara_adaptation_limit(const sara_adaptation *adaptation);
/* Entries whose magnitude is below a limit: all for UINT32_MAX, those that a reselection would keep
 * for sara_adaptation_limit(). */
static inline bool sara_entry_is_live(const sara_trainable_values *values, size_t index,
                                      uint32_t limit)
{
    return sara_magnitude(sara_trainable_value(values, index)) < limit;
}
SARA_NODISCARD sara_status sara_count_live(const sara_trainables *trainables, size_t *out,
                                           const sara_trainable *item, uint32_t limit);

/* rank_term.c: the low-rank term at the live entries, with the step's matrix. Its gradient lies in
 * the arena. */
SARA_NODISCARD sara_status sara_rank_term_compute(sara_adaptation *adaptation, sara_step_term *out,
                                                  uint32_t limit);

#endif

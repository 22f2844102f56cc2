/* The inside of an optimiser. */
#ifndef SARA_SPARSE_OPTIMIZER_H
#define SARA_SPARSE_OPTIMIZER_H

#include "sparse/low_rank.h"
#include "sparse/magnitude.h"

typedef struct sara_optimizer_part {
    sara_optimizer_item item;
    uint32_t *active_positions; /* [active_count]; NULL: all of them */
} sara_optimizer_part;

struct sara_optimizer {
    sara_context *ctx;
    sara_params *params;
    sara_selection selection;
    sara_optimizer_options options;
    sara_optimizer_part *parts; /* those with selected entries */
    size_t count;
    int64_t steps, adam_steps;
    sara_arena work; /* of a step, kept from one to the next */
    bool reserved;   /* all that the low-rank term may take */
};

static inline size_t sara_item_index(const sara_optimizer_item *item, size_t active)
{
    return item->active ? item->active[active] : active;
}

/* Where the master of an entry of all_positions lies. */
static inline float *sara_item_master(const sara_optimizer_item *item, size_t index)
{
    float *values = item->param->value.data;
    return item->masters ? &item->masters[index] : &values[item->all_positions[index]];
}

/* Active entries whose magnitude is below a limit: all for UINT32_MAX, those that a reselection
 * would keep for sara_optimizer_limit(). */
static inline bool sara_item_live(const sara_optimizer_item *item, size_t active, uint32_t limit)
{
    return sara_magnitude(*sara_item_master(item, sara_item_index(item, active))) < limit;
}
size_t sara_item_count_live(const sara_optimizer_item *item, uint32_t limit);

/* Magnitude below which a master stays trainable at a reselection. */
uint32_t sara_optimizer_limit(const sara_optimizer *optimizer);

/* A low-rank term at the entries that are active and below a magnitude limit. */
typedef struct sara_rank_term {
    sara_optimizer_item *item; /* NULL: no term */
    float *gradient;           /* at the entries, times lambda; in the optimiser's arena */
    double loss;               /* times lambda */
} sara_rank_term;
/* Whether the item may be drawn for the term. */
bool sara_rank_term_is_candidate(const sara_optimizer_item *item);
/* name as in sara_optimizer_step(). */
SARA_NODISCARD sara_status sara_rank_term_compute(sara_optimizer *optimizer, sara_rank_term *out,
                                                  const char *name, uint32_t limit);

#endif

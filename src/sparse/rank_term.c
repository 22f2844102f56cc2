#include "sparse/optimizer.h"

#define MIN_SIDE    64  /* both sides of a candidate are over this */
#define MIN_ENTRIES 100 /* and it has more active entries than this */

static bool is_candidate(const sara_optimizer_item *item, uint32_t limit)
{
    const sara_shape *shape = &item->param->value.shape;
    return shape->rank == 2 && shape->dims[0] > MIN_SIDE && shape->dims[1] > MIN_SIDE &&
           sara_item_count_live(item, limit) > MIN_ENTRIES;
}

size_t sara_optimizer_step_bytes(const sara_optimizer *optimizer)
{
    size_t most = 0;
    for (size_t i = 0; optimizer->options.lambda_rank > 0 && i < optimizer->count; i++) {
        const sara_optimizer_item *item = &optimizer->parts[i].item;
        const int64_t *dims = item->param->value.shape.dims;
        if (!is_candidate(item, UINT32_MAX))
            continue;
        size_t bytes = sara_nuclear_norm_bytes(dims[0], dims[1], item->active_count) +
                       item->active_count * (sizeof(uint32_t) + 2 * sizeof(float));
        most = bytes > most ? bytes : most;
    }
    return most;
}

static sara_optimizer_item *rank_term_draw(sara_optimizer *optimizer, uint32_t limit)
{
    size_t candidates = 0;
    for (size_t i = 0; i < optimizer->count; i++)
        candidates += is_candidate(&optimizer->parts[i].item, limit);
    if (candidates == 0)
        return NULL;
    uint64_t chosen = sara_draw_below(candidates, optimizer->options.seed, SARA_DRAW_RANK,
                                      (uint64_t)optimizer->steps, 0);
    for (size_t i = 0;; i++)
        if (is_candidate(&optimizer->parts[i].item, limit) && chosen-- == 0)
            return &optimizer->parts[i].item;
}

/* A matrix that was named need not be one that would be drawn: who recorded the name may have drawn
 * it before a reselection that left it few entries. */
static sara_status rank_term_find(sara_optimizer *optimizer, sara_optimizer_item **out,
                                  const char *name)
{
    sara_shape_text text;
    for (size_t i = 0; i < optimizer->count; i++) {
        sara_optimizer_item *item = &optimizer->parts[i].item;
        const sara_shape *shape = &item->param->value.shape;
        if (strcmp(item->param->name, name) != 0)
            continue;
        *out = item;
        if (shape->rank == 2 && shape->dims[0] > MIN_SIDE && shape->dims[1] > MIN_SIDE)
            return SARA_OK;
        return sara_fail(optimizer->ctx, SARA_ERROR_INPUT,
                         "low-rank term of %s: shape %s; expected a matrix with both sides over %d",
                         name, sara_shape_format(&text, shape), MIN_SIDE);
    }
    return sara_fail(optimizer->ctx, SARA_ERROR_INPUT,
                     "low-rank term of %s: no such parameter is trained", name);
}

sara_status sara_optimizer_check_rank_name(sara_optimizer *optimizer, const char *name)
{
    sara_optimizer_item *item;
    return rank_term_find(optimizer, &item, name);
}

/* For whatever matrix the steps may draw, so that only the first of them takes memory. */
static sara_status rank_term_reserve(sara_optimizer *optimizer)
{
    sara_status status = SARA_OK;
    if (!optimizer->reserved)
        TRY(sara_arena_reserve(&optimizer->work, sara_optimizer_step_bytes(optimizer)));
    optimizer->reserved = true;
done:
    return status;
}

static sara_status compute(sara_optimizer *optimizer, sara_rank_term *term, uint32_t limit)
{
    sara_status status;
    sara_arena *work = &optimizer->work;
    const sara_optimizer_item *item = term->item;
    const int64_t *dims = item->param->value.shape.dims;
    size_t live = sara_item_count_live(item, limit), next = 0;
    uint32_t *positions = NULL;
    float *values = NULL;
    TRY(rank_term_reserve(optimizer));
    TRY(sara_arena_alloc(work, &positions, live, sizeof(*positions)));
    TRY(sara_arena_alloc(work, &values, live, sizeof(*values)));
    TRY(sara_arena_alloc(work, &term->gradient, live, sizeof(*term->gradient)));
    for (size_t i = 0; i < item->active_count; i++) {
        if (!sara_item_live(item, i, limit))
            continue;
        positions[next] = item->all_positions[sara_item_index(item, i)];
        values[next++] = *sara_item_master(item, sara_item_index(item, i));
    }
    TRY(sara_nuclear_norm_in(optimizer->ctx, work, &term->loss, term->gradient, dims[0], dims[1],
                             positions, values, live));
    term->loss *= optimizer->options.lambda_rank;
    for (size_t i = 0; i < live; i++)
        term->gradient[i] = (float)(optimizer->options.lambda_rank * (double)term->gradient[i]);
done:
    return status;
}

sara_status sara_rank_term_compute(sara_optimizer *optimizer, sara_rank_term *out, const char *name,
                                   uint32_t limit)
{
    sara_status status = SARA_OK;
    sara_rank_term term = {NULL, NULL, 0};
    if (optimizer->options.lambda_rank > 0) {
        if (!name)
            term.item = rank_term_draw(optimizer, limit);
        else if (*name)
            TRY(rank_term_find(optimizer, &term.item, name));
    }
    if (term.item)
        TRY(compute(optimizer, &term, limit));
    *out = term;
done:
    return status;
}

bool sara_rank_term_is_candidate(const sara_optimizer_item *item)
{
    return is_candidate(item, UINT32_MAX);
}

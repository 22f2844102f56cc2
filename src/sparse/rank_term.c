#include "sparse/adaptation.h"

#define MIN_SIDE    64  /* both sides of a candidate are over this */
#define MIN_ENTRIES 100 /* and it has more live entries than this */

static bool is_large_matrix(const sara_shape *shape)
{
    return shape->rank == 2 && shape->dims[0] > MIN_SIDE && shape->dims[1] > MIN_SIDE;
}

static sara_status is_candidate(const sara_trainables *t, bool *out, const sara_trainable *item,
                                uint32_t limit)
{
    size_t live = 0;
    sara_status status = SARA_OK;
    if (is_large_matrix(&item->param->value.shape))
        TRY(sara_count_live(t, &live, item, limit));
    *out = live > MIN_ENTRIES;
done:
    return status;
}

size_t sara_adaptation_step_bytes(const sara_adaptation *a)
{
    const sara_trainables *t = &a->optimizer->trainables;
    size_t most = 0;
    for (size_t i = 0; a->options.lambda_rank > 0 && i < t->count; i++) {
        const sara_trainable *item = &t->items[i];
        const int64_t *dims = item->param->value.shape.dims;
        if (!is_large_matrix(&item->param->value.shape) || item->count <= MIN_ENTRIES)
            continue;
        size_t bytes = sara_nuclear_norm_bytes(dims[0], dims[1], item->count) +
                       item->count * (sizeof(uint32_t) + 2 * sizeof(float));
        most = bytes > most ? bytes : most;
    }
    return most;
}

/* *out: candidate `number`, or NULL where there are fewer; *count: how many there are before it. */
static sara_status nth_candidate(const sara_trainables *t, const sara_trainable **out,
                                 uint64_t *count, uint32_t limit, uint64_t number)
{
    sara_status status = SARA_OK;
    *out = NULL;
    *count = 0;
    for (size_t i = 0; i < t->count && !*out; i++) {
        bool is;
        TRY(is_candidate(t, &is, &t->items[i], limit));
        if (is && *count == number)
            *out = &t->items[i];
        else
            *count += is;
    }
done:
    return status;
}

/* *out NULL: there is no candidate. */
static sara_status rank_term_draw(const sara_adaptation *a, const sara_trainable **out,
                                  uint32_t limit)
{
    const sara_trainables *t = &a->optimizer->trainables;
    uint64_t count;
    sara_status status;
    TRY(nth_candidate(t, out, &count, limit, UINT64_MAX));
    if (count > 0)
        TRY(nth_candidate(t, out, &count, limit,
                          sara_draw_below(count, a->options.seed, SARA_DRAW_RANK,
                                          (uint64_t)a->optimizer->steps, 0)));
done:
    return status;
}

/* A matrix that was named need not be one that would be drawn: who recorded the name may have drawn
 * it before a reselection that left it few entries. */
static sara_status rank_term_find(const sara_adaptation *a, const sara_trainable **out,
                                  const char *name)
{
    const sara_trainables *t = &a->optimizer->trainables;
    sara_shape_text text;
    for (size_t i = 0; i < t->count; i++) {
        const sara_shape *shape = &t->items[i].param->value.shape;
        if (strcmp(t->items[i].param->name, name) != 0)
            continue;
        *out = &t->items[i];
        if (is_large_matrix(shape))
            return SARA_OK;
        return sara_fail(a->ctx, SARA_ERROR_INPUT,
                         "low-rank term of %s: shape %s; expected a matrix with both sides over %d",
                         name, sara_shape_format(&text, shape), MIN_SIDE);
    }
    return sara_fail(a->ctx, SARA_ERROR_INPUT, "low-rank term of %s: no such parameter is trained",
                     name);
}

sara_status sara_adaptation_check_matrix(sara_adaptation *a, const char *matrix)
{
    const sara_trainable *item;
    return rank_term_find(a, &item, matrix);
}

/* For whatever matrix the steps may draw, so that only the first of them takes memory. */
static sara_status rank_term_reserve(sara_adaptation *a)
{
    sara_status status = SARA_OK;
    if (!a->reserved)
        TRY(sara_arena_reserve(&a->work, sara_adaptation_step_bytes(a)));
    a->reserved = true;
done:
    return status;
}

static sara_status compute(sara_adaptation *a, sara_step_term *term, const sara_trainable *item,
                           uint32_t limit)
{
    const sara_trainables *t = &a->optimizer->trainables;
    sara_status status;
    sara_arena *work = &a->work;
    const int64_t *dims = item->param->value.shape.dims;
    size_t live, next = 0;
    uint32_t *positions = NULL;
    float *values = NULL, *gradient = NULL;
    sara_trainable_values all = {0};
    TRY(sara_count_live(t, &live, item, limit));
    TRY(rank_term_reserve(a));
    TRY(sara_trainable_read(t, &all, item));
    TRY(sara_arena_alloc(work, &positions, live, sizeof(*positions)));
    TRY(sara_arena_alloc(work, &values, live, sizeof(*values)));
    TRY(sara_arena_alloc(work, &gradient, live, sizeof(*gradient)));
    for (size_t i = 0; i < item->count; i++) {
        if (!sara_entry_is_live(&all, i, limit))
            continue;
        positions[next] = item->positions[i];
        values[next++] = sara_trainable_value(&all, i);
    }
    SARA_ASSERT(next == live);
    TRY(sara_nuclear_norm_in(a->ctx, work, &term->loss, gradient, dims[0], dims[1], positions,
                             values, live));
    term->loss *= a->options.lambda_rank;
    for (size_t i = 0; i < live; i++)
        gradient[i] = (float)(a->options.lambda_rank * (double)gradient[i]);
    term->item = item;
    term->gradient = gradient;
done:
    sara_trainable_read_end(t, &all);
    return status;
}

sara_status sara_rank_term_compute(sara_adaptation *a, sara_step_term *out, uint32_t limit)
{
    sara_status status = SARA_OK;
    sara_step_term term = {0};
    const sara_trainable *item = NULL;
    if (a->options.lambda_rank > 0) {
        if (!a->matrix)
            TRY(rank_term_draw(a, &item, limit));
        else if (*a->matrix)
            TRY(rank_term_find(a, &item, a->matrix));
    }
    if (item)
        TRY(compute(a, &term, item, limit));
    *out = term;
done:
    return status;
}

sara_status sara_adaptation_try_terms(sara_adaptation *a, int *terms)
{
    const sara_trainables *t = &a->optimizer->trainables;
    sara_status status = SARA_OK;
    *terms = 0;
    for (size_t i = 0; i < t->count; i++) {
        sara_step_term term;
        bool is;
        TRY(is_candidate(t, &is, &t->items[i], UINT32_MAX));
        if (!is)
            continue;
        TRY(compute(a, &term, &t->items[i], UINT32_MAX));
        sara_arena_reset(&a->work);
        ++*terms;
    }
done:
    return status;
}

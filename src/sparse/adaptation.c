#include "sparse/adaptation.h"

#include "core/trace.h"

#include <math.h>

/* -------------------------------------------------------------------------------- construction */

/* *selected, of so many: sara_free() */
static sara_status list_selected(sara_context *ctx, sara_trainable **selected, size_t *count,
                                 const sara_selection *selection)
{
    sara_status status;
    *count = 0;
    TRY(sara_alloc_zero(ctx, selected, selection->item_count, sizeof(**selected)));
    for (size_t i = 0; i < selection->item_count; i++) {
        const sara_selected *item = &selection->items[i];
        if (item->count > 0)
            (*selected)[(*count)++] = (sara_trainable){
                .param = item->param, .positions = item->positions, .count = item->count};
    }
done:
    return status;
}

sara_status sara_trainables_select(sara_context *ctx, sara_trainables *out,
                                   sara_selection *selection)
{
    sara_trainable *items = NULL;
    size_t count;
    sara_status status;
    *out = (sara_trainables){.ctx = ctx};
    for (size_t i = 0; i < selection->item_count; i++)
        sara_trainable_ask_nothing(selection->items[i].param);
    TRY(list_selected(ctx, &items, &count, selection));
    TRY(sara_trainables_init(out, ctx, items, count, selection->positions));
    items = NULL;
    selection->positions = NULL;
    sara_selection_free(ctx, selection);
done:
    sara_free(ctx, items);
    return status;
}

sara_status sara_adaptation_new(sara_context *ctx, sara_adaptation **out, sara_optimizer *optimizer,
                                const sara_adaptation_options *options)
{
    sara_adaptation *result;
    sara_status status;
    *out = NULL;
    TRY(sara_optimizer_check_option(ctx, "lambda_rank", options->lambda_rank, 0, 1e30));
    if (options->progressive_iter < -1)
        return sara_fail(ctx, SARA_ERROR_USAGE, "progressive_iter: %lld, expected at least -1",
                         (long long)options->progressive_iter);
    TRY(sara_alloc_zero(ctx, &result, 1, sizeof(*result)));
    result->ctx = ctx;
    result->optimizer = optimizer;
    result->options = *options;
    sara_arena_init(&result->work, ctx);
    *out = result;
done:
    return status;
}

void sara_adaptation_free(sara_adaptation *a)
{
    if (!a)
        return;
    sara_free(a->ctx, a->first.masks);
    sara_free(a->ctx, a->first.positions);
    sara_free(a->ctx, a->first.masters);
    sara_arena_free(&a->work);
    sara_free(a->ctx, a);
}

uint32_t sara_adaptation_limit(const sara_adaptation *a)
{
    return sara_threshold_magnitude(a->options.threshold);
}

static bool is_due(const sara_adaptation *a)
{
    return a->optimizer->steps == a->options.progressive_iter;
}

size_t sara_adaptation_bytes(const sara_adaptation *a)
{
    bool will_reselect = a->optimizer->steps <= a->options.progressive_iter;
    size_t total = (size_t)sara_trainables_total(&a->optimizer->trainables);
    /* positions anew and, of 16-bit parameters, masters */
    return a->first.masks || will_reselect ? total * (sizeof(uint32_t) + sizeof(float)) : 0;
}

/* ------------------------------------------------------------------------------ the first mask */

bool sara_adaptation_has_reselected(const sara_adaptation *a)
{
    return a->first.masks != NULL;
}

sara_mask sara_adaptation_mask(const sara_adaptation *a, size_t index)
{
    const sara_trainable *item = &a->optimizer->trainables.items[index];
    return a->first.masks ? a->first.masks[index]
                          : (sara_mask){item->positions, item->masters, item->count};
}

void sara_adaptation_active(const sara_adaptation *a, uint32_t *out, size_t index)
{
    const sara_trainable *item = &a->optimizer->trainables.items[index];
    const sara_mask mask = sara_adaptation_mask(a, index);
    uint32_t at = 0;
    for (size_t i = 0; i < item->count; i++) {
        while (mask.positions[at] != item->positions[i])
            at++;
        out[i] = at++;
    }
}

void sara_adaptation_note_masters(sara_adaptation *a)
{
    const sara_trainables *t = &a->optimizer->trainables;
    for (size_t i = 0; a->first.masks && i < t->count; i++) {
        const sara_mask *mask = &a->first.masks[i];
        const sara_trainable *item = &t->items[i];
        size_t at = 0;
        for (size_t k = 0; mask->masters && k < item->count; k++) {
            while (mask->positions[at] != item->positions[k])
                at++;
            mask->masters[at] = item->masters[k];
        }
    }
}

/* Memory that becomes the first mask's, or has ceased to be needed. */
static void take_rest(sara_adaptation *a, sara_mask *masks, const sara_trainables_rest *rest)
{
    if (masks) {
        a->first.masks = masks;
        a->first.positions = rest->positions;
        a->first.masters = rest->masters;
        return;
    }
    sara_free(a->ctx, rest->positions);
    sara_free(a->ctx, rest->masters);
}

static sara_status check_active(const sara_adaptation *a, const uint32_t *kept,
                                const size_t *counts)
{
    const sara_trainables *t = &a->optimizer->trainables;
    for (size_t i = 0; i < t->count; kept += counts[i++])
        for (size_t k = 0; k < counts[i]; k++)
            if (kept[k] >= t->items[i].count || (k > 0 && kept[k] <= kept[k - 1]))
                return sara_fail(a->ctx, SARA_ERROR_INPUT,
                                 "%s: active entry %zu is %u, expected ascending indices below %zu",
                                 t->items[i].param->name, k, (unsigned)kept[k], t->items[i].count);
    return SARA_OK;
}

sara_status sara_adaptation_keep(sara_adaptation *a, uint32_t *kept, const size_t *counts)
{
    sara_trainables *t = &a->optimizer->trainables;
    sara_trainables_rest rest;
    sara_mask *masks = NULL;
    sara_status status;
    TRY(check_active(a, kept, counts));
    if (!a->first.masks) {
        TRY(sara_alloc(a->ctx, &masks, t->count, sizeof(*masks)));
        for (size_t i = 0; i < t->count; i++)
            masks[i] = sara_adaptation_mask(a, i);
    }
    sara_adaptation_note_masters(a);
    TRY(sara_trainables_keep(t, kept, counts, &rest));
    take_rest(a, masks, &rest);
    masks = NULL;
done:
    sara_free(a->ctx, masks);
    return status;
}

/* -------------------------------------------------------------------------------- reselection */

size_t sara_count_live(const sara_trainable *item, uint32_t limit)
{
    size_t count = 0;
    if (limit == UINT32_MAX)
        return item->count;
    for (size_t i = 0; i < item->count; i++)
        count += sara_entry_is_live(item, i, limit);
    return count;
}

static void collect_live(uint32_t *kept, const sara_trainables *t, uint32_t limit)
{
    for (size_t i = 0; i < t->count; i++)
        for (size_t k = 0; k < t->items[i].count; k++)
            if (sara_entry_is_live(&t->items[i], k, limit))
                *kept++ = (uint32_t)k;
}

sara_status sara_adaptation_reselect(sara_adaptation *a)
{
    const sara_trainables *t = &a->optimizer->trainables;
    const uint32_t limit = sara_adaptation_limit(a);
    uint32_t *kept = NULL;
    size_t *counts = NULL, total = 0;
    sara_status status;
    TRY(sara_alloc(a->ctx, &counts, t->count, sizeof(*counts)));
    for (size_t i = 0; i < t->count; i++)
        total += counts[i] = sara_count_live(&t->items[i], limit);
    TRY(sara_alloc(a->ctx, &kept, total, sizeof(*kept)));
    collect_live(kept, t, limit);
    TRY(sara_adaptation_keep(a, kept, counts));
    kept = NULL;
    a->optimizer->adam_steps = 0;
done:
    sara_free(a->ctx, kept);
    sara_free(a->ctx, counts);
    return status;
}

/* ------------------------------------------------------------------------------------ the step */

/* Where a reselection is due, the norm is that of what it will keep; but a step that any gradient
 * spoils is skipped. */
static sara_status before_step(void *method)
{
    const sara_adaptation *a = method;
    const sara_trainables *t = &a->optimizer->trainables;
    const uint32_t limit = sara_adaptation_limit(a);
    int threads = sara_threads(a->ctx);
    if (!is_due(a))
        return SARA_OK;
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (size_t i = 0; i < t->count; i++)
        for (size_t k = 0; k < t->items[i].count; k++)
            if (!sara_entry_is_live(&t->items[i], k, limit) && isfinite(t->items[i].gradient[k]))
                t->items[i].gradient[k] = 0;
    return SARA_OK;
}

static sara_status regularise(void *method, sara_step_term *term)
{
    sara_adaptation *a = method;
    uint32_t limit = is_due(a) ? sara_adaptation_limit(a) : UINT32_MAX;
    return SARA_TRACED(a->ctx, "low-rank term", 0, sara_rank_term_compute(a, term, limit));
}

static sara_status before_update(void *method, sara_step_report *report)
{
    sara_adaptation *a = method;
    report->reselected = is_due(a);
    return report->reselected ? sara_adaptation_reselect(a) : SARA_OK;
}

static void after_step(void *method)
{
    sara_adaptation *a = method;
    sara_arena_reset(&a->work);
}

sara_step_hooks sara_adaptation_hooks(sara_adaptation *a, const char *matrix)
{
    a->matrix = matrix;
    return (sara_step_hooks){.method = a,
                             .before_step = before_step,
                             .regularise = regularise,
                             .before_update = before_update,
                             .after_step = after_step};
}

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
    size_t total = (size_t)sara_trainables_total(&a->optimizer->trainables);
    /* positions anew and, of 16-bit parameters, masters: once it has reselected */
    return a->options.progressive_iter >= 0 ? total * (sizeof(uint32_t) + sizeof(float)) : 0;
}

/* ------------------------------------------------------------------------------ the first mask */

bool sara_adaptation_has_reselected(const sara_adaptation *a)
{
    return a->first.masks != NULL;
}

sara_mask sara_adaptation_mask(const sara_adaptation *a, size_t index)
{
    const sara_trainable *item = &a->optimizer->trainables.items[index];
    return a->first.masks ? a->first.masks[index] : (sara_mask){item->positions, NULL, item->count};
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

static void note_item(const sara_mask *mask, const sara_trainable *item,
                      const sara_trainable_values *values)
{
    size_t at = 0;
    for (size_t k = 0; k < item->count; k++) {
        while (mask->positions[at] != item->positions[k])
            at++;
        mask->masters[at] = sara_trainable_value(values, k);
    }
}

sara_status sara_adaptation_note_masters(sara_adaptation *a)
{
    const sara_trainables *t = &a->optimizer->trainables;
    sara_status status = SARA_OK;
    for (size_t i = 0; a->first.masks && i < t->count; i++) {
        sara_trainable_values values;
        if (!a->first.masks[i].masters)
            continue;
        TRY(sara_trainable_read(t, &values, &t->items[i]));
        note_item(&a->first.masks[i], &t->items[i], &values);
        sara_trainable_read_end(t, &values);
    }
done:
    return status;
}

/* Masks of what is trained; masters are filled in by take_rest(). */
static sara_status make_masks(const sara_adaptation *a, sara_mask **out)
{
    const sara_trainables *t = &a->optimizer->trainables;
    sara_status status;
    TRY(sara_alloc(a->ctx, out, t->count, sizeof(**out)));
    for (size_t i = 0; i < t->count; i++)
        (*out)[i] = sara_adaptation_mask(a, i);
done:
    return status;
}

static void note_rest(sara_away *away, const sara_mask *mask)
{
    if (!away)
        return;
    away->rest_positions = mask->positions;
    away->rest = mask->masters;
    away->rest_count = mask->count;
}

/* Memory that becomes the first mask's (masks not NULL), or has ceased to be needed. */
static void take_rest(sara_adaptation *a, sara_mask *masks, const sara_trainables_rest *rest)
{
    const sara_trainables *t = &a->optimizer->trainables;
    float *masters = rest->masters;
    if (!masks) {
        sara_free(a->ctx, rest->positions);
        sara_free(a->ctx, rest->masters);
        return;
    }
    a->first.masks = masks;
    a->first.positions = rest->positions;
    a->first.masters = rest->masters;
    for (size_t i = 0; i < t->count; i++)
        if (sara_param_has_masters(t->items[i].param)) {
            masks[i].masters = masters;
            masters += masks[i].count;
            note_rest(t->items[i].away, &masks[i]);
        }
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
    if (!a->first.masks)
        TRY(make_masks(a, &masks));
    TRY(sara_adaptation_note_masters(a));
    TRY(sara_trainables_keep(t, kept, counts, &rest));
    take_rest(a, masks, &rest);
    masks = NULL;
done:
    sara_free(a->ctx, masks);
    return status;
}

/* -------------------------------------------------------------------------------- reselection */

sara_status sara_count_live(const sara_trainables *t, size_t *out, const sara_trainable *item,
                            uint32_t limit)
{
    sara_trainable_values values;
    sara_status status;
    *out = item->count;
    if (limit == UINT32_MAX)
        return SARA_OK;
    TRY(sara_trainable_read(t, &values, item));
    *out = 0;
    for (size_t i = 0; i < item->count; i++)
        *out += sara_entry_is_live(&values, i, limit);
    sara_trainable_read_end(t, &values);
done:
    return status;
}

static sara_status collect_live(uint32_t *kept, const sara_trainables *t, uint32_t limit)
{
    sara_status status = SARA_OK;
    for (size_t i = 0; i < t->count; i++) {
        sara_trainable_values values;
        TRY(sara_trainable_read(t, &values, &t->items[i]));
        for (size_t k = 0; k < t->items[i].count; k++)
            if (sara_entry_is_live(&values, k, limit))
                *kept++ = (uint32_t)k;
        sara_trainable_read_end(t, &values);
    }
done:
    return status;
}

sara_status sara_adaptation_reselect(sara_adaptation *a)
{
    const sara_trainables *t = &a->optimizer->trainables;
    const uint32_t limit = sara_adaptation_limit(a);
    uint32_t *kept = NULL;
    size_t *counts = NULL, total = 0;
    sara_status status;
    TRY(sara_alloc(a->ctx, &counts, t->count, sizeof(*counts)));
    for (size_t i = 0; i < t->count; i++) {
        TRY(sara_count_live(t, &counts[i], &t->items[i], limit));
        total += counts[i];
    }
    TRY(sara_alloc(a->ctx, &kept, total, sizeof(*kept)));
    TRY(collect_live(kept, t, limit));
    TRY(sara_adaptation_keep(a, kept, counts));
    kept = NULL;
    a->optimizer->adam_steps = 0;
done:
    sara_free(a->ctx, kept);
    sara_free(a->ctx, counts);
    return status;
}

/* ------------------------------------------------------------------------------------ the step */

/* Of one item, whose gradient the host has at `gradient`. */
static void drop_gradients(float *gradient, const sara_trainable *item,
                           const sara_trainable_values *values, uint32_t limit)
{
    for (size_t k = 0; k < item->count; k++)
        if (!sara_entry_is_live(values, k, limit) && isfinite(gradient[k]))
            gradient[k] = 0;
}

static sara_status drop_item_gradients(const sara_trainables *t, const sara_trainable *item,
                                       uint32_t limit)
{
    bool host = sara_device_is_host(t->device);
    size_t bytes = item->count * sizeof(float);
    sara_trainable_values values = {0};
    float *copy = NULL;
    sara_status status;
    TRY(sara_trainable_read(t, &values, item));
    if (!host) {
        TRY(sara_alloc(t->ctx, &copy, bytes, 1));
        TRY(sara_device_copy_out(t->device, copy, item->gradient, bytes));
    }
    drop_gradients(host ? item->gradient : copy, item, &values, limit);
    if (!host)
        TRY(sara_device_copy_in(t->device, item->gradient, copy, bytes));
done:
    sara_free(t->ctx, copy);
    sara_trainable_read_end(t, &values);
    return status;
}

/* Where a reselection is due, the norm is that of what it will keep; but a step that any gradient
 * spoils is skipped. */
static sara_status before_step(void *method)
{
    const sara_adaptation *a = method;
    const sara_trainables *t = &a->optimizer->trainables;
    const uint32_t limit = sara_adaptation_limit(a);
    sara_status status = SARA_OK;
    for (size_t i = 0; is_due(a) && i < t->count; i++)
        TRY(drop_item_gradients(t, &t->items[i], limit));
done:
    return status;
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

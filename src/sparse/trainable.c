#include "sparse/trainable.h"

#define LINE (64 / sizeof(float)) /* floats of a cache line */

/* ---------------------------------------------------------------------------------- the layout */

static bool is_float32(const sara_trainable *item)
{
    return item->param->value.dtype == SARA_F32;
}

/* Where an item's gradients begin that follow `used` entries. */
static size_t item_place(const sara_trainable *item, size_t used)
{
    return item->positions ? used : (used + LINE - 1) / LINE * LINE;
}

static size_t arena_entries(const sara_trainables *t)
{
    size_t used = 0;
    for (size_t i = 0; i < t->count; i++)
        used = item_place(&t->items[i], used) + t->items[i].count;
    return used;
}

static void lay_out(sara_trainables *t)
{
    size_t used = 0;
    t->moment1 = t->gradients + t->entries;
    t->moment2 = t->moment1 + t->entries;
    for (size_t i = 0; i < t->count; i++) {
        sara_trainable *item = &t->items[i];
        size_t place = item_place(item, used);
        item->gradient = t->gradients + place;
        item->moment1 = t->moment1 + place;
        item->moment2 = t->moment2 + place;
        used = place + item->count;
    }
}

void sara_trainable_ask_nothing(sara_param *param)
{
    param->want = SARA_GRAD_NONE;
    param->positions = NULL;
    param->selected = 0;
    param->grad = NULL;
}

/* Has the ops compute the gradients of all items. */
static void ask_gradients(const sara_trainables *t)
{
    for (size_t i = 0; i < t->count; i++) {
        const sara_trainable *item = &t->items[i];
        sara_param *param = item->param;
        sara_trainable_ask_nothing(param);
        if (item->count == 0)
            continue;
        param->want = item->positions ? SARA_GRAD_SAMPLED : SARA_GRAD_DENSE;
        param->positions = item->positions;
        param->selected = item->positions ? item->count : 0;
        param->grad = item->gradient;
    }
}

/* -------------------------------------------------------------------------------- construction */

static sara_status alloc_masters(sara_trainables *t)
{
    size_t narrow = 0, next = 0;
    sara_status status;
    for (size_t i = 0; i < t->count; i++)
        narrow += is_float32(&t->items[i]) ? 0 : t->items[i].count;
    TRY(sara_alloc(t->ctx, &t->masters, narrow, sizeof(float)));
    for (size_t i = 0; i < t->count; i++) {
        sara_trainable *item = &t->items[i];
        item->masters = is_float32(item) ? NULL : t->masters + next;
        for (size_t k = 0; item->masters && k < item->count; k++)
            item->masters[k] = sara_param_get(item->param, sara_trainable_position(item, k));
        next += item->masters ? item->count : 0;
    }
done:
    return status;
}

sara_status sara_trainables_init(sara_trainables *out, sara_context *ctx, sara_trainable *items,
                                 size_t count, uint32_t *positions)
{
    sara_trainables t = {.ctx = ctx, .items = items, .count = count, .positions = positions};
    sara_status status;
    *out = (sara_trainables){.ctx = ctx};
    t.entries = t.capacity = arena_entries(&t);
    TRY(alloc_masters(&t));
    TRY(sara_alloc_zero(ctx, &t.gradients, 3 * t.entries, sizeof(float)));
    lay_out(&t);
    ask_gradients(&t);
    *out = t;
    t.masters = NULL;
done:
    sara_free(ctx, t.masters);
    return status;
}

void sara_trainables_free(sara_trainables *t)
{
    for (size_t i = 0; i < t->count; i++)
        sara_trainable_ask_nothing(t->items[i].param);
    sara_free(t->ctx, t->gradients);
    sara_free(t->ctx, t->masters);
    sara_free(t->ctx, t->positions);
    sara_free(t->ctx, t->items);
    *t = (sara_trainables){.ctx = t->ctx};
}

int64_t sara_trainables_total(const sara_trainables *t)
{
    int64_t total = 0;
    for (size_t i = 0; i < t->count; i++)
        total += (int64_t)t->items[i].count;
    return total;
}

size_t sara_trainable_entry_bytes(const sara_param *param, bool sampled)
{
    size_t floats = param->value.dtype == SARA_F32 ? 3 : 4;
    return floats * sizeof(float) + (sampled ? sizeof(uint32_t) : 0);
}

size_t sara_trainables_bytes(const sara_trainables *t)
{
    size_t bytes = 3 * t->capacity * sizeof(float);
    for (size_t i = 0; i < t->count; i++) {
        const sara_trainable *item = &t->items[i];
        bytes += item->positions ? item->count * sizeof(*item->positions) : 0;
        bytes += item->masters ? item->count * sizeof(*item->masters) : 0;
    }
    return bytes;
}

void sara_trainable_set(const sara_trainable *item, size_t index, float value)
{
    *sara_trainable_at(item, index) = value;
    if (item->masters)
        sara_param_set(item->param, sara_trainable_position(item, index), value);
}

/* -------------------------------------------------------------------------------- keeping fewer */

/* Of one item; what is kept moves to the front: gradients within their memory, `kept` become
 * positions, and masters are copied. */
static void keep_entries(sara_trainable *item, uint32_t *kept, size_t count, float *masters,
                         float *gradient)
{
    for (size_t k = 0; k < count; k++) {
        size_t index = kept[k];
        gradient[k] = item->gradient[index];
        if (item->masters)
            masters[k] = item->masters[index];
        kept[k] = (uint32_t)sara_trainable_position(item, index);
    }
    item->masters = item->masters ? masters : NULL;
    item->positions = kept;
    item->count = count;
}

sara_status sara_trainables_keep(sara_trainables *t, uint32_t *kept, const size_t *counts,
                                 sara_trainables_rest *before)
{
    float *masters = NULL;
    size_t narrow = 0, used = 0, next = 0;
    sara_status status;
    for (size_t i = 0; i < t->count; i++)
        narrow += is_float32(&t->items[i]) ? 0 : counts[i];
    TRY(sara_alloc(t->ctx, &masters, narrow, sizeof(float)));
    *before = (sara_trainables_rest){t->masters, t->positions};
    t->masters = masters;
    t->positions = kept;
    for (size_t i = 0; i < t->count; i++) {
        keep_entries(&t->items[i], kept + used, counts[i], masters ? masters + next : NULL,
                     t->gradients + used);
        used += counts[i];
        next += t->items[i].masters ? counts[i] : 0;
    }
    t->entries = used;
    lay_out(t);
    if (used > 0)
        memset(t->moment1, 0, 2 * used * sizeof(float));
    ask_gradients(t);
done:
    return status;
}

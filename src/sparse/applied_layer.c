#include "sparse/applied.h"

#include <math.h>

#define SHORT_HASH 12 /* digits shown of a hash */

static sara_status layer_check_entry(sara_context *ctx, const sara_adapter_entry *entry,
                                     const sara_param *param)
{
    sara_shape_text text;
    int64_t entries = sara_shape_count(&param->value.shape);
    for (size_t i = 0; i < entry->count; i++) {
        if ((int64_t)entry->positions[i] >= entries)
            return sara_fail(ctx, SARA_ERROR_INPUT,
                             "adapter: %s: position %u, but the model's tensor of shape %s has "
                             "%lld entries", entry->name, (unsigned)entry->positions[i],
                             sara_shape_format(&text, &param->value.shape), (long long)entries);
        if (i > 0 && entry->positions[i] <= entry->positions[i - 1])
            return sara_fail(ctx, SARA_ERROR_INPUT,
                             "adapter: %s: position %u after %u, expected ascending", entry->name,
                             (unsigned)entry->positions[i], (unsigned)entry->positions[i - 1]);
        if (!isfinite(entry->values[i]))
            return sara_fail(ctx, SARA_ERROR_INPUT, "adapter: %s: value %zu is not finite",
                             entry->name, i);
    }
    return SARA_OK;
}

static sara_status copy_entry(sara_arena *arena, sara_applied_entry *out,
                              const sara_adapter_entry *entry, size_t param)
{
    sara_status status;
    uint32_t *positions;
    float *values;
    TRY(sara_arena_alloc(arena, &positions, entry->count, sizeof(*positions)));
    TRY(sara_arena_alloc(arena, &values, entry->count, sizeof(*values)));
    if (entry->count > 0) {
        memcpy(positions, entry->positions, entry->count * sizeof(*positions));
        memcpy(values, entry->values, entry->count * sizeof(*values));
    }
    *out = (sara_applied_entry){param, positions, values, entry->count};
done:
    return status;
}

/* Of one model in two precisions the weights differ by rounding, and so do the smallest of them:
 * the most common reason why a base is not the one expected. */
static sara_status layer_check_base(sara_context *ctx, const sara_adapter *adapter,
                                    const sara_base *expected)
{
    const char *base = sara_adapter_metadata(adapter, "sara.base_sha256");
    const char *precision = sara_adapter_metadata(adapter, "sara.base_precision");
    const char *own = sara_precision_name(expected->precision);
    if (base && strcmp(base, expected->sha256) == 0)
        return SARA_OK;
    if (!precision)
        return sara_fail(ctx, SARA_ERROR_INPUT,
                         "adapter: made for the base %.*s, but the model is another, %.*s, in %s "
                         "(the same model in another precision is another base; the adapter does "
                         "not tell its); force applies it all the same",
                         SHORT_HASH, base ? base : "(unknown)", SHORT_HASH, expected->sha256, own);
    if (strcmp(precision, own) != 0)
        return sara_fail(ctx, SARA_ERROR_INPUT,
                         "adapter: made for a base in %s (%.*s), but the model is in %s (%.*s): in "
                         "another precision even the same model is another base, with other "
                         "smallest weights; use it in %s, or force applies the adapter all the "
                         "same",
                         precision, SHORT_HASH, base ? base : "unknown", own, SHORT_HASH,
                         expected->sha256, precision);
    return sara_fail(ctx, SARA_ERROR_INPUT,
                     "adapter: made for the base %.*s, but the model is another, %.*s; force "
                     "applies it all the same",
                     SHORT_HASH, base ? base : "(unknown)", SHORT_HASH, expected->sha256);
}

sara_status sara_adapter_check(sara_context *ctx, const sara_adapter *adapter,
                               const sara_params *params, const sara_base *base, bool force)
{
    sara_status status = SARA_OK;
    const sara_param *before = NULL;
    if (!force)
        TRY(layer_check_base(ctx, adapter, base));
    for (size_t i = 0; i < adapter->count; i++) {
        const sara_adapter_entry *entry = &adapter->entries[i];
        const sara_param *param = sara_params_find(params, entry->name);
        if (!param)
            return sara_fail(ctx, SARA_ERROR_INPUT, "adapter: %s: the model has no such tensor",
                             entry->name);
        TRY(layer_check_entry(ctx, entry, param));
        if (before && param <= before)
            return sara_fail(ctx, SARA_ERROR_INPUT,
                             "adapter: %s: entries are not in ascending order of names",
                             entry->name);
        before = param;
    }
done:
    return status;
}

sara_status sara_applied_layer_new(sara_applied *applied, sara_applied_layer *out,
                                   const sara_adapter *adapter, double strength)
{
    sara_status status;
    const sara_params *params = applied->params;
    sara_applied_layer layer = {.strength = strength};
    sara_arena_init(&layer.arena, applied->ctx);
    TRY(sara_arena_alloc(&layer.arena, &layer.entries, adapter->count, sizeof(*layer.entries)));
    for (size_t i = 0; i < adapter->count; i++) {
        const sara_adapter_entry *entry = &adapter->entries[i];
        size_t index = (size_t)(sara_params_find(params, entry->name) - params->items);
        TRY(copy_entry(&layer.arena, &layer.entries[layer.count++], entry, index));
    }
    *out = layer;
    sara_arena_init(&layer.arena, applied->ctx);
done:
    sara_applied_layer_free(&layer);
    return status;
}

void sara_applied_layer_free(sara_applied_layer *layer)
{
    sara_arena_free(&layer->arena);
    memset(layer, 0, sizeof(*layer));
}

static int layer_compare_entries(const sara_applied_entry *a, const sara_applied_entry *b)
{
    if (a->param != b->param)
        return a->param < b->param ? -1 : 1;
    if (a->count != b->count)
        return a->count < b->count ? -1 : 1;
    if (a->count == 0)
        return 0;
    int order = memcmp(a->positions, b->positions, a->count * sizeof(*a->positions));
    return order ? order : memcmp(a->values, b->values, a->count * sizeof(*a->values));
}

int sara_applied_layer_compare(const sara_applied_layer *a, const sara_applied_layer *b)
{
    if (a->strength != b->strength)
        return a->strength < b->strength ? -1 : 1;
    if (a->count != b->count)
        return a->count < b->count ? -1 : 1;
    int order = 0;
    for (size_t i = 0; i < a->count && order == 0; i++)
        order = layer_compare_entries(&a->entries[i], &b->entries[i]);
    return order;
}

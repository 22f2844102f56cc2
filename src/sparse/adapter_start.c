/* Training that starts from an adapter: its positions, and its values at a strength. */
#include "sparse/magnitude.h"

#include <math.h>

float sara_adapter_value(float original, float value, double strength)
{
    if (strength == 1)
        return value;
    float changed = (float)((double)original + strength * ((double)value - (double)original));
    return strength == 0 || changed == original ? original : changed; /* -0 stays */
}

/* The entry of a parameter, of which *next is the first that may be it; NULL: there is none. */
static const sara_adapter_entry *next_entry(const sara_adapter *adapter, size_t *next,
                                            const sara_param *param)
{
    const sara_adapter_entry *entry = &adapter->entries[*next];
    if (*next == adapter->count || strcmp(entry->name, param->name) != 0)
        return NULL;
    ++*next;
    return entry;
}

sara_status sara_select_adapter(sara_context *ctx, sara_selection *out, const sara_params *params,
                                const sara_adapter *adapter, double threshold)
{
    sara_selection result = {.threshold = threshold};
    size_t next = 0;
    sara_status status;
    memset(out, 0, sizeof(*out));
    TRY(sara_alloc_zero(ctx, &result.items, params->count, sizeof(*result.items)));
    result.item_count = params->count;
    for (size_t i = 0; i < params->count; i++) {
        sara_selected *item = &result.items[i];
        TRY(sara_param_check_finite(ctx, &params->items[i]));
        item->param = &params->items[i];
        const sara_adapter_entry *entry = next_entry(adapter, &next, item->param);
        item->count = entry ? entry->count : 0;
        result.total += (int64_t)item->count;
    }
    TRY(sara_selection_alloc(ctx, &result));
    next = 0;
    for (size_t i = 0; i < params->count; i++) {
        sara_selected *item = &result.items[i];
        const sara_adapter_entry *entry = next_entry(adapter, &next, item->param);
        if (item->count > 0)
            memcpy(item->positions, entry->positions, entry->count * sizeof(*item->positions));
    }
    *out = result;
    memset(&result, 0, sizeof(result));
done:
    sara_selection_free(ctx, &result);
    return status;
}

/* The entry of the item, which follows those before it. */
static const sara_adapter_entry *find_entry(const sara_adapter *adapter, size_t *next,
                                            const sara_trainable *item)
{
    while (*next < adapter->count &&
           strcmp(adapter->entries[*next].name, item->param->name) != 0)
        ++*next;
    return &adapter->entries[*next];
}

/* values [item->count]: original + strength (value - original) */
static sara_status start_values(const sara_trainables *t, float *values, const sara_trainable *item,
                                const sara_adapter_entry *entry, double strength)
{
    sara_trainable_values originals;
    sara_status status;
    TRY(sara_trainable_read(t, &originals, item));
    for (size_t k = 0; k < item->count && status == SARA_OK; k++) {
        float original = sara_trainable_value(&originals, k);
        values[k] = sara_adapter_value(original, entry->values[k], strength);
        if (!isfinite(values[k]))
            status = sara_fail(t->ctx, SARA_ERROR_INPUT,
                               "%s: entry %lld is beyond float32 at strength %g", item->param->name,
                               (long long)item->positions[k], strength);
    }
    sara_trainable_read_end(t, &originals);
done:
    return status;
}

sara_status sara_trainables_start(sara_trainables *trainables, const sara_adapter *adapter,
                                  double strength)
{
    size_t next = 0;
    float *values = NULL;
    sara_status status = SARA_OK;
    for (size_t i = 0; i < trainables->count; i++) {
        const sara_trainable *item = &trainables->items[i];
        const sara_adapter_entry *entry = find_entry(adapter, &next, item);
        TRY(sara_alloc(trainables->ctx, &values, item->count, sizeof(*values)));
        TRY(start_values(trainables, values, item, entry, strength));
        TRY(sara_trainable_write(trainables, item, values));
        sara_free(trainables->ctx, values);
        values = NULL;
    }
done:
    sara_free(trainables->ctx, values);
    return status;
}

#include "sparse/applied.h"
#include "sparse/bottleneck.h"

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
    *out = (sara_applied_entry){param, positions, values, entry->count, NULL};
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
    sara_arena_free(&layer->factors);
    if (layer->beside) {
        sara_context *ctx = layer->beside->ctx;
        sara_bottlenecks_free(layer->beside);
        sara_free(ctx, layer->beside);
    }
    memset(layer, 0, sizeof(*layer));
}

/* ------------------------------------------------------------------------------------- low rank */

static sara_status check_low(sara_context *ctx, const sara_lora_layer *low, const sara_param *param)
{
    sara_shape_text text;
    if (param && sara_shape_count(&param->value.shape) == low->out * low->in * low->kh * low->kw)
        return SARA_OK;
    return sara_fail(ctx, SARA_ERROR_INPUT,
                     "adapter: %s: of a weight [%lld,%lld,%lld,%lld], but the model's is %s",
                     low->name, (long long)low->out, (long long)low->in, (long long)low->kh,
                     (long long)low->kw,
                     param ? sara_shape_format(&text, &param->value.shape) : "not there");
}

sara_status sara_applied_layer_low(sara_applied *applied, sara_applied_layer *out,
                                   sara_lora_file *file, double strength)
{
    sara_status status;
    sara_applied_layer layer = {.strength = strength};
    sara_arena_init(&layer.arena, applied->ctx);
    TRY(sara_arena_alloc(&layer.arena, &layer.entries, file->count, sizeof(*layer.entries)));
    for (size_t i = 0; i < file->count; i++) {
        const sara_lora_layer *low = &file->layers[i];
        const sara_param *param = sara_params_find(applied->params, low->name);
        TRY(check_low(applied->ctx, low, param));
        layer.entries[layer.count++] =
            (sara_applied_entry){(size_t)(param - applied->params->items), NULL, NULL, 0, low};
    }
    layer.factors = file->arena;
    memset(file, 0, sizeof(*file));
    sara_arena_init(&file->arena, applied->ctx);
    *out = layer;
    memset(&layer, 0, sizeof(layer));
    sara_arena_init(&layer.arena, applied->ctx);
done:
    sara_applied_layer_free(&layer);
    return status;
}

/* The arrays of an entry, in an order. */
typedef struct entry_array {
    const void *data;
    size_t bytes;
} entry_array;
#define ENTRY_ARRAYS 8

static void list_arrays(entry_array out[ENTRY_ARRAYS], const sara_applied_entry *entry)
{
    const sara_lora_layer *low = entry->low;
    size_t area = low ? (size_t)(low->kh * low->kw) : 0, rank = low ? (size_t)low->rank : 0;
    size_t ins = low ? (size_t)low->in : 0, outs = low ? (size_t)low->out : 0;
    const entry_array all[ENTRY_ARRAYS] = {
        {entry->positions, entry->count * sizeof(uint32_t)},
        {entry->values, entry->count * sizeof(float)},
        {low ? low->down : NULL, rank * ins * (low && low->mid ? 1 : area) * sizeof(float)},
        {low ? low->up : NULL, outs * rank * sizeof(float)},
        {low ? low->mid : NULL, rank * rank * area * sizeof(float)},
        {low ? low->magnitude : NULL,
         (low && low->magnitude_of_inputs ? ins : outs) * sizeof(float)},
        {low ? &low->magnitude_of_inputs : NULL, sizeof(low->magnitude_of_inputs)},
        {low ? low->whole : NULL, outs * ins * area * sizeof(float)}};
    for (int i = 0; i < ENTRY_ARRAYS; i++)
        out[i] = all[i].data ? all[i] : (entry_array){NULL, 0};
}

static int compare_arrays(const entry_array *a, const entry_array *b)
{
    if (a->bytes != b->bytes)
        return a->bytes < b->bytes ? -1 : 1;
    return a->bytes ? memcmp(a->data, b->data, a->bytes) : 0;
}

static int layer_compare_entries(const sara_applied_entry *a, const sara_applied_entry *b)
{
    double x = a->low ? a->low->scale : 0, y = b->low ? b->low->scale : 0;
    entry_array of_a[ENTRY_ARRAYS], of_b[ENTRY_ARRAYS];
    int order = 0;
    if (a->param != b->param)
        return a->param < b->param ? -1 : 1;
    list_arrays(of_a, a);
    list_arrays(of_b, b);
    for (int i = 0; i < ENTRY_ARRAYS && order == 0; i++)
        order = compare_arrays(&of_a[i], &of_b[i]);
    return order ? order : (x > y) - (x < y);
}

sara_status sara_applied_layer_hash(sara_sha256 *hash, const sara_applied_layer *layer)
{
    entry_array arrays[ENTRY_ARRAYS];
    sara_status status;
    TRY(sara_sha256_add(hash, &layer->strength, sizeof(layer->strength)));
    if (layer->beside)
        TRY(sara_sha256_add(hash, layer->beside->sha256, sizeof(layer->beside->sha256)));
    for (size_t i = 0; i < layer->count; i++) {
        const sara_applied_entry *entry = &layer->entries[i];
        double scale = entry->low ? entry->low->scale : 0;
        TRY(sara_sha256_add(hash, &entry->param, sizeof(entry->param)));
        TRY(sara_sha256_add(hash, &scale, sizeof(scale)));
        list_arrays(arrays, entry);
        for (int a = 0; a < ENTRY_ARRAYS; a++) {
            TRY(sara_sha256_add(hash, &arrays[a].bytes, sizeof(arrays[a].bytes)));
            TRY(sara_sha256_add(hash, arrays[a].data, arrays[a].bytes));
        }
    }
done:
    return status;
}

int sara_applied_layer_compare(const sara_applied_layer *a, const sara_applied_layer *b)
{
    if (a->strength != b->strength)
        return a->strength < b->strength ? -1 : 1;
    if (a->count != b->count)
        return a->count < b->count ? -1 : 1;
    int order = strcmp(a->beside ? a->beside->sha256 : "", b->beside ? b->beside->sha256 : "");
    for (size_t i = 0; i < a->count && order == 0; i++)
        order = layer_compare_entries(&a->entries[i], &b->entries[i]);
    return order;
}

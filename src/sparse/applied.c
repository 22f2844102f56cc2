#include "sparse/applied.h"

#include <math.h>

sara_status sara_applied_new(sara_context *ctx, sara_applied **out, sara_params *params,
                             const sara_base *base)
{
    sara_status status;
    sara_applied *result = NULL;
    *out = NULL;
    if (strlen(base->sha256) != 64)
        return sara_fail(ctx, SARA_ERROR_USAGE, "base hash \"%s\", expected 64 digits",
                         base->sha256);
    TRY(sara_alloc_zero(ctx, &result, 1, sizeof(*result)));
    result->ctx = ctx;
    result->params = params;
    result->base = *base;
    TRY(sara_alloc_zero(ctx, &result->covers, params->count, sizeof(*result->covers)));
    *out = result;
    result = NULL;
done:
    sara_applied_free(result);
    return status;
}

static void cover_free(sara_context *ctx, sara_cover *cover)
{
    sara_free(ctx, cover->positions);
    sara_free(ctx, cover->originals);
    memset(cover, 0, sizeof(*cover));
}

static void forget_layers(sara_applied *applied)
{
    for (size_t i = 0; i < applied->count; i++)
        sara_applied_layer_free(&applied->layers[i]);
    applied->count = 0;
}

static void forget_covers(sara_applied *applied)
{
    for (size_t i = 0; applied->covers && i < applied->params->count; i++)
        cover_free(applied->ctx, &applied->covers[i]);
}

void sara_applied_free(sara_applied *applied)
{
    if (!applied)
        return;
    sara_context *ctx = applied->ctx;
    forget_layers(applied);
    forget_covers(applied);
    sara_free(ctx, applied->layers);
    sara_free(ctx, applied->cursors);
    sara_free(ctx, applied->covers);
    sara_free(ctx, applied);
}

/* ------------------------------------------------------------------------------------- covers */

static size_t count_union(const sara_cover *cover, const sara_applied_entry *entry)
{
    size_t count = 0, a = 0, b = 0;
    while (a < cover->count || b < entry->count) {
        bool from_a = a < cover->count &&
                      (b == entry->count || cover->positions[a] <= entry->positions[b]);
        bool from_b = b < entry->count &&
                      (a == cover->count || entry->positions[b] <= cover->positions[a]);
        a += from_a;
        b += from_b;
        count++;
    }
    return count;
}

/* The cover with an entry's positions added, whose originals are the parameter's present values. */
static sara_status cover_extend(sara_context *ctx, sara_cover *out, const sara_cover *cover,
                                const sara_applied_entry *entry, const sara_param *param)
{
    sara_param copy = {0};
    sara_status status;
    size_t a = 0, b = 0;
    TRY(sara_param_read(ctx, &copy, param));
    out->count = count_union(cover, entry);
    TRY(sara_alloc(ctx, &out->positions, out->count, sizeof(*out->positions)));
    TRY(sara_alloc(ctx, &out->originals, out->count, sizeof(*out->originals)));
    for (size_t i = 0; i < out->count; i++) {
        bool known = a < cover->count &&
                     (b == entry->count || cover->positions[a] <= entry->positions[b]);
        uint32_t position = known ? cover->positions[a] : entry->positions[b];
        out->positions[i] = position;
        out->originals[i] = known ? cover->originals[a] : sara_param_get(&copy, position);
        a += known;
        b += b < entry->count && entry->positions[b] == position;
    }
    SARA_ASSERT(a == cover->count && b == entry->count);
done:
    sara_param_read_end(ctx, &copy, param);
    return status;
}

/* ------------------------------------------------------------------------------------- writing */

static size_t collect_cursors(sara_applied *applied, size_t param)
{
    size_t used = 0;
    for (size_t i = 0; i < applied->count; i++) {
        const sara_applied_layer *layer = &applied->layers[i];
        for (size_t e = 0; e < layer->count && layer->strength != 0; e++)
            if (layer->entries[e].param == param)
                applied->cursors[used++] =
                    (sara_applied_cursor){layer->strength, &layer->entries[e], 0};
    }
    return used;
}

/* original + the sum of the changes, in the layers' order; alone at strength 1 the value itself
 * (*exact), as is the original where nothing changes it. */
static float combine(sara_applied_cursor *cursors, size_t count, uint32_t position, float original,
                     bool *exact)
{
    double sum = 0;
    float value = original;
    int changes = 0;
    bool full = false;
    for (size_t i = 0; i < count; i++) {
        sara_applied_cursor *cursor = &cursors[i];
        if (cursor->at == cursor->entry->count || cursor->entry->positions[cursor->at] != position)
            continue;
        value = cursor->entry->values[cursor->at++];
        sum += cursor->strength * ((double)value - (double)original);
        full = cursor->strength == 1;
        changes++;
    }
    *exact = changes == 0 || (changes == 1 && full);
    return *exact ? value : (float)((double)original + sum);
}

static sara_status write_param(sara_applied *applied, size_t index)
{
    sara_param *param = &applied->params->items[index], copy = {0};
    const sara_cover *cover = &applied->covers[index];
    size_t cursors = collect_cursors(applied, index);
    sara_status status;
    TRY(sara_param_read(applied->ctx, &copy, param));
    for (size_t i = 0; i < cover->count; i++) {
        uint32_t position = cover->positions[i];
        float original = cover->originals[i];
        bool exact;
        SARA_ASSERT(i == 0 || cover->positions[i - 1] < position);
        sara_param_set(&copy, position,
                       combine(applied->cursors, cursors, position, original, &exact));
        /* A change that comes to nothing leaves a -0 as it is, as strength 0 does. */
        if (!exact && sara_param_get(&copy, position) == original)
            sara_param_set(&copy, position, original);
    }
    TRY(sara_param_write(param, &copy));
    param->version++;
done:
    sara_param_read_end(applied->ctx, &copy, param);
    return status;
}

/* ------------------------------------------------------------------------------- add and remove */

/* Takes the layer over. Only a device with memory of its own can fail. */
static sara_status install(sara_applied *applied, const sara_applied_layer *layer,
                           sara_cover *covers)
{
    size_t number = applied->count, at = applied->count++;
    sara_status status = SARA_OK;
    for (; at > 0 && sara_applied_layer_compare(layer, &applied->layers[at - 1]) < 0; at--)
        applied->layers[at] = applied->layers[at - 1];
    applied->layers[at] = *layer;
    applied->layers[at].number = number;
    for (size_t i = 0; i < layer->count; i++) {
        size_t param = layer->entries[i].param;
        cover_free(applied->ctx, &applied->covers[param]);
        applied->covers[param] = covers[i];
        memset(&covers[i], 0, sizeof(covers[i]));
    }
    for (size_t i = 0; i < layer->count; i++)
        TRY(write_param(applied, layer->entries[i].param));
done:
    return status;
}

sara_status sara_applied_add(sara_applied *applied, const sara_adapter *adapter, double strength,
                             bool force)
{
    sara_status status;
    sara_context *ctx = applied->ctx;
    sara_applied_layer layer = {0};
    sara_cover *covers = NULL;
    if (!isfinite(strength))
        return sara_fail(ctx, SARA_ERROR_USAGE, "adapter strength %g, expected a finite number",
                         strength);
    TRY(sara_adapter_check(ctx, adapter, applied->params, &applied->base, force));
    TRY(sara_applied_layer_new(applied, &layer, adapter, strength));
    TRY(sara_alloc_zero(ctx, &covers, layer.count, sizeof(*covers)));
    for (size_t i = 0; i < layer.count; i++) {
        size_t param = layer.entries[i].param;
        TRY(cover_extend(ctx, &covers[i], &applied->covers[param], &layer.entries[i],
                         &applied->params->items[param]));
    }
    TRY(sara_grow(ctx, &applied->layers, &applied->capacity, applied->count + 1,
                  sizeof(*applied->layers)));
    TRY(sara_grow(ctx, &applied->cursors, &applied->cursor_capacity, applied->count + 1,
                  sizeof(*applied->cursors)));
    status = install(applied, &layer, covers);
    memset(&layer, 0, sizeof(layer));
done:
    for (size_t i = 0; covers && i < layer.count; i++)
        cover_free(ctx, &covers[i]);
    sara_free(ctx, covers);
    sara_applied_layer_free(&layer);
    return status;
}

/* Without layers what is written are the originals. */
static sara_status write_covered(sara_applied *applied)
{
    sara_status status = SARA_OK;
    for (size_t p = 0; p < applied->params->count; p++)
        if (applied->covers[p].count > 0)
            TRY(write_param(applied, p));
done:
    return status;
}

sara_status sara_applied_remove(sara_applied *applied)
{
    sara_status status;
    forget_layers(applied);
    TRY(write_covered(applied));
    forget_covers(applied);
done:
    return status;
}

size_t sara_applied_count(const sara_applied *applied)
{
    return applied->count;
}

/* The covers stay as they are: what no layer covers any more gets its original value. */
sara_status sara_applied_truncate(sara_applied *applied, size_t count)
{
    size_t kept = 0;
    if (count >= applied->count)
        return SARA_OK;
    if (count == 0)
        return sara_applied_remove(applied);
    for (size_t i = 0; i < applied->count; i++)
        if (applied->layers[i].number < count)
            applied->layers[kept++] = applied->layers[i];
        else
            sara_applied_layer_free(&applied->layers[i]);
    applied->count = kept;
    return write_covered(applied);
}

sara_status sara_applied_visit(const sara_applied *applied, sara_applied_fn fn, void *user)
{
    sara_status status = SARA_OK;
    for (size_t p = 0; p < applied->params->count; p++) {
        const sara_cover *cover = &applied->covers[p];
        const sara_param *param = &applied->params->items[p];
        sara_param copy;
        if (cover->count == 0)
            continue;
        TRY(sara_param_read(applied->ctx, &copy, param));
        for (size_t i = 0; i < cover->count; i++)
            fn(user, param, cover->positions[i], cover->originals[i],
               sara_param_get(&copy, cover->positions[i]));
        sara_param_read_end(applied->ctx, &copy, param);
    }
done:
    return status;
}

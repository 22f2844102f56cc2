#include "sparse/applied.h"
#include "sparse/bottleneck.h"

#include <math.h>

sara_status sara_applied_new(sara_context *ctx, sara_applied **out, sara_params *params,
                             const sara_base *base)
{
    sara_status status;
    sara_applied *result = NULL;
    *out = NULL;
    if (base && strlen(base->sha256) != 64)
        return sara_fail(ctx, SARA_ERROR_USAGE, "base hash \"%s\", expected 64 digits",
                         base->sha256);
    TRY(sara_alloc_zero(ctx, &result, 1, sizeof(*result)));
    result->ctx = ctx;
    result->params = params;
    if (base)
        result->base = *base;
    TRY(sara_alloc_zero(ctx, &result->covers, params->count, sizeof(*result->covers)));
    *out = result;
    result = NULL;
done:
    sara_applied_free(result);
    return status;
}

void sara_applied_know_base(sara_applied *applied, const sara_base *base)
{
    applied->base = *base;
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
        sara_cover_free(applied->ctx, &applied->covers[i], &applied->params->items[i]);
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
    sara_free(ctx, applied->room);
    sara_free(ctx, applied->covers);
    sara_free(ctx, applied);
}

/* --------------------------------------------------------------------------------------- add */

/* One parameter after the other: none is left covered without its value. */
static sara_status applied_put_on(sara_applied *applied, const sara_applied_layer *layer,
                                  sara_cover *prepared)
{
    sara_status status = SARA_OK;
    for (size_t i = 0; i < layer->count; i++) {
        size_t param = layer->entries[i].param;
        TRY(sara_cover_install(applied->ctx, &applied->covers[param], &prepared[i],
                               &applied->params->items[param]));
        TRY(sara_applied_write(applied, param));
    }
done:
    return status;
}

/* Takes the layer over, into its place. */
static void insert(sara_applied *applied, sara_applied_layer *layer)
{
    size_t at = applied->count;
    layer->number = applied->count++;
    for (; at > 0 && sara_applied_layer_compare(layer, &applied->layers[at - 1]) < 0; at--)
        applied->layers[at] = applied->layers[at - 1];
    applied->layers[at] = *layer;
}

static sara_status prepare_covers(const sara_applied *applied, sara_cover **out,
                                  const sara_applied_layer *layer)
{
    sara_status status;
    TRY(sara_alloc_zero(applied->ctx, out, layer->count, sizeof(**out)));
    for (size_t i = 0; i < layer->count; i++) {
        size_t param = layer->entries[i].param;
        TRY(sara_cover_prepare(applied->ctx, &(*out)[i], &applied->covers[param],
                               &layer->entries[i], &applied->params->items[param]));
    }
done:
    return status;
}

static void free_prepared(const sara_applied *applied, sara_cover *prepared,
                          const sara_applied_layer *layer)
{
    for (size_t i = 0; prepared && i < layer->count; i++)
        sara_cover_free(applied->ctx, &prepared[i],
                        &applied->params->items[layer->entries[i].param]);
    sara_free(applied->ctx, prepared);
}

static void drop_layers(sara_applied *applied, size_t count)
{
    size_t kept = 0;
    for (size_t i = 0; i < applied->count; i++)
        if (applied->layers[i].number < count)
            applied->layers[kept++] = applied->layers[i];
        else
            sara_applied_layer_free(&applied->layers[i]);
    applied->count = kept;
}

/* Takes the layer over even if it fails; then nothing is changed, but where a device with memory
 * of its own fails: all else that can is reserved before. */
static sara_status applied_add_layer(sara_applied *applied, sara_applied_layer *layer)
{
    sara_context *ctx = applied->ctx;
    const sara_applied_layer kept = *layer; /* its entries do not move */
    size_t count = applied->count;
    sara_cover *prepared = NULL;
    bool inserted = false, begun = false;
    sara_status status;
    TRY(sara_grow(ctx, &applied->layers, &applied->capacity, applied->count + 1,
                  sizeof(*applied->layers)));
    TRY(sara_grow(ctx, &applied->cursors, &applied->cursor_capacity, applied->count + 1,
                  sizeof(*applied->cursors)));
    insert(applied, layer);
    inserted = true;
    if (applied->away)
        return SARA_OK;
    TRY(prepare_covers(applied, &prepared, &kept));
    TRY(sara_applied_reserve(applied, &kept));
    begun = true;
    TRY(applied_put_on(applied, &kept, prepared));
done:
    free_prepared(applied, prepared, &kept);
    if (status != SARA_OK && !inserted)
        sara_applied_layer_free(layer);
    else if (status != SARA_OK && !begun)
        drop_layers(applied, count);
    else if (status != SARA_OK && sara_applied_truncate(applied, count) != SARA_OK)
        sara_log(ctx, SARA_LOG_WARNING, "a part of the adapter is still on the model");
    return status;
}

static sara_status check_strength(sara_context *ctx, double strength)
{
    if (isfinite(strength))
        return SARA_OK;
    return sara_fail(ctx, SARA_ERROR_USAGE, "adapter strength %g, expected a finite number",
                     strength);
}

sara_status sara_applied_add(sara_applied *applied, const sara_adapter *adapter, double strength,
                             bool force)
{
    sara_status status;
    sara_applied_layer layer = {0};
    TRY(check_strength(applied->ctx, strength));
    TRY(sara_adapter_check(applied->ctx, adapter, applied->params, &applied->base, force));
    TRY(sara_applied_layer_new(applied, &layer, adapter, strength));
    TRY(applied_add_layer(applied, &layer));
done:
    return status;
}

sara_status sara_applied_add_low_rank(sara_applied *applied, sara_lora_file *file, double strength)
{
    sara_status status;
    sara_applied_layer layer = {0};
    TRY(check_strength(applied->ctx, strength));
    TRY(sara_applied_layer_low(applied, &layer, file, strength));
    TRY(applied_add_layer(applied, &layer));
done:
    return status;
}

sara_status sara_applied_add_bottlenecks(sara_applied *applied, sara_bottlenecks *bottlenecks,
                                         double strength)
{
    sara_applied_layer layer = {0};
    sara_status status;
    TRY(check_strength(applied->ctx, strength));
    TRY(sara_bottlenecks_check(bottlenecks, applied->params, NULL));
    TRY(sara_applied_layer_beside(applied, &layer, bottlenecks, strength));
    TRY(applied_add_layer(applied, &layer));
    TRY(sara_applied_attach(applied));
done:
    return status;
}

/* ------------------------------------------------------------------------------------ take off */

static bool is_layered(const sara_applied *applied, size_t param)
{
    for (size_t i = 0; i < applied->count; i++)
        for (size_t e = 0; e < applied->layers[i].count; e++)
            if (applied->layers[i].entries[e].param == param)
                return true;
    return false;
}

/* What no layer covers any more gets its original value, or memory; all that can, if some fails. */
static sara_status write_covered(sara_applied *applied)
{
    sara_status status = SARA_OK;
    for (size_t p = 0; p < applied->params->count; p++) {
        sara_cover *cover = &applied->covers[p];
        sara_status next = SARA_OK;
        if (cover->whole.data && (applied->away || !is_layered(applied, p)))
            sara_cover_take_off(applied->ctx, cover, &applied->params->items[p]);
        else if (cover->count > 0 || cover->whole.data)
            next = sara_applied_write(applied, p);
        status = status != SARA_OK ? status : next;
    }
    return status;
}

/* Without layers what is written are the originals. */
sara_status sara_applied_remove(sara_applied *applied)
{
    sara_status status;
    forget_layers(applied);
    TRY(write_covered(applied));
    forget_covers(applied);
    sara_free(applied->ctx, applied->room);
    applied->room = NULL;
    applied->room_bytes = 0;
done:
    return status;
}

size_t sara_applied_count(const sara_applied *applied)
{
    return applied->count;
}

/* Covers of positions stay as they are. */
sara_status sara_applied_truncate(sara_applied *applied, size_t count)
{
    if (count >= applied->count)
        return SARA_OK;
    if (count == 0)
        return sara_applied_remove(applied);
    drop_layers(applied, count);
    return write_covered(applied);
}

/* ------------------------------------------------------------------------- values out of memory */

sara_status sara_applied_leave(sara_applied *applied)
{
    sara_status status;
    if (applied->away)
        return SARA_OK;
    applied->away = true; /* also after a failure: what was taken off has to return */
    TRY(write_covered(applied));
    forget_covers(applied);
done:
    return status;
}

sara_status sara_applied_return(sara_applied *applied)
{
    sara_cover *prepared = NULL;
    sara_status status = SARA_OK;
    if (!applied->away)
        return SARA_OK;
    applied->away = false;
    for (size_t i = 0; i < applied->count && status == SARA_OK; i++) {
        const sara_applied_layer *layer = &applied->layers[i];
        status = prepare_covers(applied, &prepared, layer);
        if (status == SARA_OK)
            status = sara_applied_reserve(applied, layer);
        for (size_t e = 0; e < layer->count && status == SARA_OK; e++) {
            size_t param = layer->entries[e].param;
            status = sara_cover_install(applied->ctx, &applied->covers[param], &prepared[e],
                                        &applied->params->items[param]);
        }
        free_prepared(applied, prepared, layer);
        prepared = NULL;
    }
    if (status == SARA_OK)
        status = write_covered(applied);
    if (status != SARA_OK && sara_applied_leave(applied) != SARA_OK)
        sara_log(applied->ctx, SARA_LOG_WARNING, "a part of the adapters is still on the model");
    return status;
}

/* ------------------------------------------------------------------------------------- visiting */

const sara_param *sara_applied_covered(const sara_applied *applied, const char *name)
{
    const sara_param *param = sara_params_find(applied->params, name);
    const sara_cover *cover = param ? &applied->covers[param - applied->params->items] : NULL;
    return cover && (cover->count > 0 || cover->whole.data) ? param : NULL;
}

static void visit_whole(const sara_param *param, const sara_param *original, const sara_param *copy,
                        sara_applied_fn fn, void *user)
{
    size_t entries = (size_t)sara_shape_count(&param->value.shape);
    for (size_t i = 0; i < entries; i++)
        fn(user, param, (uint32_t)i, sara_param_get(original, i), sara_param_get(copy, i));
}

static sara_status visit_param(const sara_applied *applied, size_t index, sara_applied_fn fn,
                               void *user)
{
    const sara_cover *cover = &applied->covers[index];
    const sara_param *param = &applied->params->items[index];
    const sara_param original = sara_cover_original(cover, param);
    sara_param copy = {0}, base = {0};
    sara_status status;
    TRY(sara_param_read(applied->ctx, &copy, param));
    if (cover->whole.data) {
        TRY(sara_param_read(applied->ctx, &base, &original));
        visit_whole(param, &base, &copy, fn, user);
        sara_param_read_end(applied->ctx, &base, &original);
    }
    for (size_t i = 0; i < cover->count; i++)
        fn(user, param, cover->positions[i], cover->originals[i],
           sara_param_get(&copy, cover->positions[i]));
done:
    sara_param_read_end(applied->ctx, &copy, param);
    return status;
}

sara_status sara_applied_visit_param(const sara_applied *applied, const sara_param *param,
                                     sara_applied_fn fn, void *user)
{
    return visit_param(applied, (size_t)(param - applied->params->items), fn, user);
}

bool sara_applied_is_whole(const sara_applied *applied, const sara_param *param)
{
    return applied->covers[param - applied->params->items].whole.data != NULL;
}

sara_status sara_applied_visit(const sara_applied *applied, sara_applied_fn fn, void *user)
{
    sara_status status = SARA_OK;
    for (size_t p = 0; p < applied->params->count; p++)
        if (applied->covers[p].count > 0 || applied->covers[p].whole.data)
            TRY(visit_param(applied, p, fn, user));
done:
    return status;
}

bool sara_applied_changes(const sara_applied *applied)
{
    for (size_t i = 0; i < applied->count; i++)
        if (applied->layers[i].strength != 0)
            return true;
    return false;
}

sara_status sara_applied_hash(const sara_applied *applied, char out[65])
{
    sara_sha256 *hash = NULL;
    sara_status status;
    TRY(sara_sha256_new(applied->ctx, &hash));
    for (size_t i = 0; i < applied->count; i++)
        if (applied->layers[i].strength != 0)
            TRY(sara_applied_layer_hash(hash, &applied->layers[i]));
    TRY(sara_sha256_end(&hash, out));
done:
    sara_sha256_abort(&hash);
    return status;
}

#include "sparse/trainable.h"

#include "nn/kernels.h"

#define LINE (64 / sizeof(float)) /* floats of a cache line */

/* ---------------------------------------------------------------------------------- the layout */

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
        param->positions = item->positions ? t->places + (item->positions - t->positions) : NULL;
        param->selected = item->positions ? item->count : 0;
        param->grad = item->gradient;
    }
}

/* ---------------------------------------------------------------------------- read by the host */

static sara_kernel_env env_of(const sara_trainables *t)
{
    return (sara_kernel_env){.ctx = t->ctx, .device = t->device};
}

sara_status sara_trainable_read(const sara_trainables *t, sara_trainable_values *out,
                                const sara_trainable *item)
{
    const sara_kernel_env env = env_of(t);
    const float *from = item->masters ? item->masters : item->param->value.data;
    bool sampled = item->positions && !item->masters;
    float *gathered = NULL;
    sara_status status = SARA_OK;
    *out = (sara_trainable_values){from, sampled ? item->positions : NULL, NULL};
    if (sara_device_is_host(t->device) || item->count == 0)
        return SARA_OK;
    TRY(sara_alloc(t->ctx, &out->copy, item->count, sizeof(*out->copy)));
    if (sampled) {
        TRY(sara_device_alloc(t->device, &gathered, item->count, sizeof(*gathered)));
        TRY(sara_kernel_gather(&env, gathered, from, item->param->positions, item->count));
        from = gathered;
    }
    TRY(sara_device_copy_out(t->device, out->copy, from, item->count * sizeof(*from)));
    out->values = out->copy;
    out->positions = NULL;
done:
    sara_device_free(t->device, gathered);
    if (status != SARA_OK)
        sara_trainable_read_end(t, out);
    return status;
}

void sara_trainable_read_end(const sara_trainables *t, sara_trainable_values *values)
{
    sara_free(t->ctx, values->copy);
    *values = (sara_trainable_values){0};
}

sara_status sara_trainable_write(const sara_trainables *t, const sara_trainable *item,
                                 const float *values)
{
    sara_param copy = {0};
    sara_status status;
    if (!item->param->away) {
        TRY(sara_param_read(t->ctx, &copy, item->param));
        for (size_t i = 0; i < item->count; i++)
            sara_param_set(&copy, sara_trainable_position(item, i), values[i]);
        TRY(sara_param_write(item->param, &copy));
    }
    if (item->masters)
        TRY(sara_device_copy_in(t->device, item->masters, values, item->count * sizeof(*values)));
    item->param->version++;
done:
    sara_param_read_end(t->ctx, &copy, item->param);
    return status;
}

/* -------------------------------------------------------------------------------- construction */

/* The values of the parameter at the item's entries. */
static sara_status fill_masters(const sara_trainables *t, const sara_trainable *item)
{
    sara_param copy = {0};
    float *values = NULL;
    sara_status status;
    bool host = sara_device_is_host(t->device);
    TRY(sara_param_read(t->ctx, &copy, item->param));
    if (!host)
        TRY(sara_alloc(t->ctx, &values, item->count, sizeof(*values)));
    float *to = host ? item->masters : values;
    for (size_t k = 0; k < item->count; k++)
        to[k] = sara_param_get(&copy, sara_trainable_position(item, k));
    if (!host)
        TRY(sara_device_copy_in(t->device, item->masters, to, item->count * sizeof(*to)));
done:
    sara_free(t->ctx, values);
    sara_param_read_end(t->ctx, &copy, item->param);
    return status;
}

static sara_status alloc_masters(sara_trainables *t)
{
    size_t narrow = 0, next = 0;
    sara_status status;
    for (size_t i = 0; i < t->count; i++)
        narrow += sara_param_has_masters(t->items[i].param) ? t->items[i].count : 0;
    TRY(sara_device_alloc(t->device, &t->masters, narrow, sizeof(float)));
    for (size_t i = 0; i < t->count; i++) {
        sara_trainable *item = &t->items[i];
        item->masters = sara_param_has_masters(item->param) ? t->masters + next : NULL;
        if (item->masters)
            TRY(fill_masters(t, item));
        next += item->masters ? item->count : 0;
    }
done:
    return status;
}

/* --------------------------------------------------------------------------- what is not there */

static void lay_over(sara_param *copy, const uint32_t *positions, const float *values, size_t count)
{
    for (size_t i = 0; i < count; i++)
        sara_param_set(copy, positions ? positions[i] : i, values[i]);
}

/* The base's values, and over them those that are trained now, or were. */
static sara_status read_trained(const void *user, void *out, const sara_param *param)
{
    const sara_away *away = user;
    const sara_trainable *item = away->item;
    sara_param copy = *param;
    float *values = NULL;
    bool host = sara_device_is_host(param->device);
    sara_status status;
    copy.device = NULL;
    copy.value.data = out;
    TRY(away->base->read(away->base->user, out, param));
    lay_over(&copy, away->rest_positions, away->rest, away->rest_count);
    if (!host) {
        TRY(sara_alloc(param->device->ctx, &values, item->count, sizeof(*values)));
        TRY(sara_device_copy_out(param->device, values, item->masters,
                                 item->count * sizeof(*values)));
    }
    lay_over(&copy, item->positions, host ? item->masters : values, item->count);
done:
    if (!host)
        sara_free(param->device->ctx, values);
    return status;
}

static size_t count_away(const sara_trainables *t)
{
    size_t count = 0;
    for (size_t i = 0; i < t->count; i++)
        count += t->items[i].param->away;
    return count;
}

static void take_sources(const sara_trainables *t)
{
    sara_away *next = t->away;
    for (size_t i = 0; i < t->count; i++) {
        sara_trainable *item = &t->items[i];
        if (!item->param->away)
            continue;
        *next = (sara_away){{read_trained, next}, item->param->source, item, NULL, NULL, 0};
        item->param->source = &next->source;
        item->away = next++;
    }
}

static void give_sources_back(const sara_trainables *t)
{
    for (size_t i = 0; i < t->count; i++)
        if (t->items[i].away)
            t->items[i].param->source = t->items[i].away->base;
}

/* How many positions the items have. */
static size_t count_places(const sara_trainables *t)
{
    size_t count = 0;
    for (size_t i = 0; i < t->count; i++)
        count += t->items[i].positions ? t->items[i].count : 0;
    return count;
}

/* Copies the positions to the device. */
static sara_status make_places(sara_device *device, uint32_t **places, uint32_t *positions,
                               size_t count)
{
    sara_status status;
    *places = positions;
    if (sara_device_is_host(device))
        return SARA_OK;
    TRY(sara_device_alloc(device, places, count, sizeof(**places)));
    TRY(sara_device_copy_in(device, *places, positions, count * sizeof(**places)));
done:
    return status;
}

static void free_places(sara_device *device, uint32_t *places)
{
    if (device && !sara_device_is_host(device))
        sara_device_free(device, places);
}

sara_status sara_trainables_init(sara_trainables *out, sara_context *ctx, sara_trainable *items,
                                 size_t count, uint32_t *positions)
{
    sara_device *device = count > 0 ? items[0].param->device : NULL;
    sara_trainables t = {.ctx = ctx,
                         .device = device ? device : sara_host_device(ctx),
                         .items = items,
                         .count = count,
                         .positions = positions};
    sara_status status;
    *out = (sara_trainables){.ctx = ctx};
    for (size_t i = 0; i < count; i++)
        SARA_ASSERT(items[i].param->device == device);
    t.entries = t.capacity = arena_entries(&t);
    TRY(make_places(t.device, &t.places, positions, count_places(&t)));
    TRY(alloc_masters(&t));
    TRY(sara_device_alloc(t.device, &t.gradients, 3 * t.entries, sizeof(float)));
    TRY(sara_device_fill(t.device, t.gradients, 0, 3 * t.entries * sizeof(float)));
    TRY(sara_alloc(ctx, &t.away, count_away(&t), sizeof(*t.away)));
    lay_out(&t);
    ask_gradients(&t);
    take_sources(&t);
    *out = t;
    t = (sara_trainables){.device = t.device};
done:
    sara_device_free(t.device, t.gradients);
    sara_device_free(t.device, t.masters);
    free_places(t.device, t.places);
    return status;
}

void sara_trainables_free(sara_trainables *t)
{
    give_sources_back(t);
    for (size_t i = 0; i < t->count; i++)
        sara_trainable_ask_nothing(t->items[i].param);
    free_places(t->device, t->places);
    sara_device_free(t->device, t->gradients);
    sara_device_free(t->device, t->masters);
    sara_free(t->ctx, t->positions);
    sara_free(t->ctx, t->away);
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
    size_t floats = sara_param_has_masters(param) ? 4 : 3;
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

/* -------------------------------------------------------------------------------- keeping fewer */

/* Arrays of the trainables for the host to work on: themselves, or copies. */
typedef struct host_arrays {
    float *gradients, *masters;
} host_arrays;

static void host_arrays_free(const sara_trainables *t, host_arrays *arrays)
{
    if (!sara_device_is_host(t->device)) {
        sara_free(t->ctx, arrays->gradients);
        sara_free(t->ctx, arrays->masters);
    }
    *arrays = (host_arrays){0};
}

static size_t count_masters(const sara_trainables *t)
{
    size_t count = 0;
    for (size_t i = 0; i < t->count; i++)
        count += t->items[i].masters ? t->items[i].count : 0;
    return count;
}

static sara_status host_arrays_read(const sara_trainables *t, host_arrays *out)
{
    size_t masters = count_masters(t);
    sara_status status;
    *out = (host_arrays){t->gradients, t->masters};
    if (sara_device_is_host(t->device))
        return SARA_OK;
    *out = (host_arrays){0};
    TRY(sara_alloc(t->ctx, &out->gradients, t->entries, sizeof(float)));
    TRY(sara_alloc(t->ctx, &out->masters, masters, sizeof(float)));
    TRY(sara_device_copy_out(t->device, out->gradients, t->gradients, t->entries * sizeof(float)));
    TRY(sara_device_copy_out(t->device, out->masters, t->masters, masters * sizeof(float)));
done:
    if (status != SARA_OK)
        host_arrays_free(t, out);
    return status;
}

/* What takes the place of the trainables' arrays. */
typedef struct kept_arrays {
    uint32_t *positions, *places; /* [entries] */
    float *masters;               /* [narrow], on the device */
    float *host_masters;          /* the same for the host to fill */
    size_t entries, narrow;
} kept_arrays;

static void kept_arrays_free(const sara_trainables *t, kept_arrays *arrays)
{
    if (!sara_device_is_host(t->device))
        sara_free(t->ctx, arrays->host_masters);
    sara_device_free(t->device, arrays->masters);
    free_places(t->device, arrays->places);
}

static sara_status kept_arrays_alloc(const sara_trainables *t, kept_arrays *out, uint32_t *kept,
                                     const size_t *counts)
{
    bool host = sara_device_is_host(t->device);
    sara_status status;
    *out = (kept_arrays){.positions = kept};
    for (size_t i = 0; i < t->count; i++) {
        out->entries += counts[i];
        out->narrow += sara_param_has_masters(t->items[i].param) ? counts[i] : 0;
    }
    TRY(sara_device_alloc(t->device, &out->masters, out->narrow, sizeof(float)));
    out->host_masters = out->masters;
    if (!host) {
        out->host_masters = NULL;
        TRY(sara_alloc(t->ctx, &out->host_masters, out->narrow, sizeof(float)));
        TRY(sara_device_alloc(t->device, &out->places, out->entries, sizeof(*out->places)));
    }
done:
    return status;
}

/* What is kept moves to the front: gradients within the old array; indices become positions. */
static void keep_entries(const sara_trainables *t, const kept_arrays *to, const host_arrays *from,
                         const size_t *counts)
{
    uint32_t *kept = to->positions;
    float *gradient = from->gradients, *master = to->host_masters;
    for (size_t i = 0; i < t->count; i++) {
        const sara_trainable *item = &t->items[i];
        const float *gradients = from->gradients + (item->gradient - t->gradients);
        for (size_t k = 0; k < counts[i]; k++, kept++) {
            *gradient++ = gradients[*kept];
            if (item->masters)
                *master++ = from->masters[item->masters - t->masters + *kept];
            *kept = (uint32_t)sara_trainable_position(item, *kept);
        }
    }
}

/* What the host has made, to the device; moments become zero. */
static sara_status kept_arrays_write(const sara_trainables *t, kept_arrays *arrays,
                                     const host_arrays *from)
{
    sara_device *device = t->device;
    size_t entries = arrays->entries;
    sara_status status;
    if (sara_device_is_host(device)) {
        arrays->places = arrays->positions;
    } else {
        TRY(sara_device_copy_in(device, arrays->masters, arrays->host_masters,
                                arrays->narrow * sizeof(float)));
        TRY(sara_device_copy_in(device, arrays->places, arrays->positions,
                                entries * sizeof(*arrays->places)));
        TRY(sara_device_copy_in(device, t->gradients, from->gradients, entries * sizeof(float)));
    }
    TRY(sara_device_fill(device, t->gradients + entries, 0, 2 * entries * sizeof(float)));
done:
    return status;
}

/* Takes the arrays over. */
static void kept_arrays_install(sara_trainables *t, const kept_arrays *arrays, const size_t *counts)
{
    size_t used = 0, next = 0;
    t->positions = arrays->positions;
    t->places = arrays->places;
    t->masters = arrays->masters;
    t->entries = arrays->entries;
    for (size_t i = 0; i < t->count; i++) {
        sara_trainable *item = &t->items[i];
        item->positions = arrays->positions + used;
        item->masters = item->masters ? arrays->masters + next : NULL;
        item->count = counts[i];
        used += counts[i];
        next += item->masters ? counts[i] : 0;
    }
    lay_out(t);
    ask_gradients(t);
}

sara_status sara_trainables_keep(sara_trainables *t, uint32_t *kept, const size_t *counts,
                                 sara_trainables_rest *before)
{
    bool host = sara_device_is_host(t->device);
    host_arrays old = {0};
    kept_arrays fresh = {0};
    sara_status status;
    TRY(host_arrays_read(t, &old));
    TRY(kept_arrays_alloc(t, &fresh, kept, counts));
    keep_entries(t, &fresh, &old, counts);
    TRY(kept_arrays_write(t, &fresh, &old));
    *before = (sara_trainables_rest){old.masters, t->positions};
    old.masters = NULL;
    if (!host) {
        sara_device_free(t->device, t->masters);
        sara_device_free(t->device, t->places);
    }
    kept_arrays_install(t, &fresh, counts);
    fresh.masters = NULL;
    fresh.places = NULL;
done:
    host_arrays_free(t, &old);
    kept_arrays_free(t, &fresh);
    return status;
}

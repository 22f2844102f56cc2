/* The optimiser's arrays in a checkpoint. */
#include "train/checkpoint.h"

#define TENSORS 3 /* of a trainable, at most: moment1, moment2, active */

/* -------------------------------------------------------------------------------------- saving */

typedef struct source_list {
    const sara_adaptation *adaptation;
    sara_tensor_source *items;
    size_t count;
} source_list;

static sara_status add_source(sara_context *ctx, source_list *list, const sara_trainable *item,
                              const char *what, sara_dtype dtype, const void *data)
{
    sara_shape shape = sara_shape1((int64_t)item->count);
    char *name = NULL;
    sara_status status;
    TRY(sara_format(ctx, &name, "%s.%s", item->param->name, what));
    list->items[list->count++] = (sara_tensor_source){name, dtype, shape, data};
done:
    return status;
}

static void source_list_free(sara_context *ctx, source_list *list)
{
    for (size_t i = 0; i < list->count; i++)
        sara_free(ctx, (void *)(uintptr_t)list->items[i].name);
    sara_free(ctx, list->items);
}

/* The active entries, which alone are not in memory. */
static void make_active(const void *user, size_t index, void *data)
{
    const source_list *list = user;
    sara_adaptation_active(list->adaptation, data, index / TENSORS);
}

/* Without X.active all entries of X are active: nothing was reselected yet. */
sara_status sara_state_save(sara_context *ctx, const char *folder, const sara_optimizer *optimizer,
                            const sara_adaptation *adaptation)
{
    const sara_trainables *t = &optimizer->trainables;
    const bool reselected = sara_adaptation_has_reselected(adaptation);
    source_list list = {.adaptation = adaptation};
    char *path = NULL;
    sara_status status;
    TRY(sara_path_join(ctx, &path, folder, SARA_CHECKPOINT_STATE));
    TRY(sara_alloc(ctx, &list.items, t->count, TENSORS * sizeof(*list.items)));
    for (size_t i = 0; i < t->count; i++) {
        const sara_trainable *item = &t->items[i];
        TRY(add_source(ctx, &list, item, "moment1", SARA_F32, item->moment1));
        TRY(add_source(ctx, &list, item, "moment2", SARA_F32, item->moment2));
        if (reselected)
            TRY(add_source(ctx, &list, item, "active", SARA_I32, NULL));
    }
    TRY(sara_safetensors_save_made(ctx, path, list.items, list.count, NULL, 0, make_active, &list));
done:
    source_list_free(ctx, &list);
    sara_free(ctx, path);
    return status;
}

/* ------------------------------------------------------------------------------------- loading */

static sara_status load_vector(sara_context *ctx, const sara_safetensors *file, sara_tensor *out,
                               const sara_trainable *item, const char *what, sara_dtype dtype,
                               int64_t count)
{
    sara_shape shape = sara_shape1(count);
    char *name = NULL;
    sara_status status;
    TRY(sara_format(ctx, &name, "%s.%s", item->param->name, what));
    TRY(sara_safetensors_load(file, out, name, dtype, &shape));
done:
    sara_free(ctx, name);
    return status;
}

static sara_status load_moments(sara_context *ctx, const sara_safetensors *file,
                                const sara_trainable *item)
{
    sara_tensor first = {0}, second = {0};
    int64_t count = (int64_t)item->count;
    sara_status status;
    TRY(load_vector(ctx, file, &first, item, "moment1", SARA_F32, count));
    TRY(load_vector(ctx, file, &second, item, "moment2", SARA_F32, count));
    if (count > 0) {
        memcpy(item->moment1, first.data, item->count * sizeof(float));
        memcpy(item->moment2, second.data, item->count * sizeof(float));
    }
done:
    sara_tensor_free(ctx, &first);
    sara_tensor_free(ctx, &second);
    return status;
}

/* How many entries of each item are active: all where the file says nothing. */
static sara_status count_active(sara_context *ctx, const sara_safetensors *file,
                                const sara_trainables *t, size_t *counts, bool *reselected)
{
    sara_status status = SARA_OK;
    *reselected = false;
    for (size_t i = 0; i < t->count; i++) {
        char *name = NULL;
        TRY(sara_format(ctx, &name, "%s.active", t->items[i].param->name));
        const sara_tensor_info *info = sara_safetensors_find(file, name);
        counts[i] = info ? (size_t)sara_shape_count(&info->shape) : t->items[i].count;
        *reselected |= info != NULL;
        sara_free(ctx, name);
    }
done:
    return status;
}

static sara_status read_active(sara_context *ctx, const sara_safetensors *file,
                               const sara_trainables *t, uint32_t *kept, const size_t *counts)
{
    sara_tensor active = {0};
    sara_status status = SARA_OK;
    for (size_t i = 0; i < t->count; kept += counts[i++]) {
        TRY(load_vector(ctx, file, &active, &t->items[i], "active", SARA_I32, (int64_t)counts[i]));
        if (counts[i] > 0)
            memcpy(kept, active.data, counts[i] * sizeof(*kept));
        sara_tensor_free(ctx, &active);
    }
done:
    sara_tensor_free(ctx, &active);
    return status;
}

static sara_status load_active(sara_context *ctx, const sara_safetensors *file,
                               const sara_trainables *t, sara_adaptation *adaptation)
{
    uint32_t *kept = NULL;
    size_t *counts = NULL, total = 0;
    bool reselected;
    sara_status status;
    TRY(sara_alloc(ctx, &counts, t->count, sizeof(*counts)));
    TRY(count_active(ctx, file, t, counts, &reselected));
    if (!reselected)
        goto done;
    for (size_t i = 0; i < t->count; i++)
        total += counts[i];
    TRY(sara_alloc(ctx, &kept, total, sizeof(*kept)));
    TRY(read_active(ctx, file, t, kept, counts));
    status = sara_adaptation_keep(adaptation, kept, counts);
    if (status == SARA_OK)
        kept = NULL;
    else if (status == SARA_ERROR_INPUT)
        sara_fail_in(ctx, status, sara_safetensors_path(file));
done:
    sara_free(ctx, kept);
    sara_free(ctx, counts);
    return status;
}

static bool fits(const sara_adapter_entry *entry, const sara_trainable *item)
{
    return strcmp(entry->name, item->param->name) == 0 && entry->count == item->count &&
           memcmp(entry->positions, item->positions, item->count * sizeof(uint32_t)) == 0;
}

static sara_status load_masters(sara_context *ctx, const char *folder, const sara_trainables *t)
{
    sara_adapter adapter = {0};
    char *path = NULL;
    sara_status status;
    TRY(sara_path_join(ctx, &path, folder, SARA_CHECKPOINT_ADAPTER));
    TRY(sara_adapter_load(ctx, &adapter, path));
    if (adapter.count != t->count)
        TRY(sara_fail(ctx, SARA_ERROR_INPUT, "%s: %zu tensors, this run trains %zu", path,
                      adapter.count, t->count));
    for (size_t i = 0; i < t->count; i++) {
        const sara_trainable *item = &t->items[i];
        if (!fits(&adapter.entries[i], item))
            TRY(sara_fail(ctx, SARA_ERROR_INPUT,
                          "%s: %s: its entries are not those that this run selects", path,
                          item->param->name));
        for (size_t k = 0; k < item->count; k++)
            sara_trainable_set(item, k, adapter.entries[i].values[k]);
        item->param->version++;
    }
done:
    sara_adapter_free(&adapter);
    sara_free(ctx, path);
    return status;
}

sara_status sara_state_load(sara_context *ctx, const char *folder, sara_optimizer *optimizer,
                            sara_adaptation *adaptation)
{
    const sara_trainables *t = &optimizer->trainables;
    sara_safetensors *file = NULL;
    char *path = NULL;
    sara_status status;
    TRY(load_masters(ctx, folder, t));
    TRY(sara_path_join(ctx, &path, folder, SARA_CHECKPOINT_STATE));
    TRY(sara_safetensors_open(ctx, &file, path));
    TRY(load_active(ctx, file, t, adaptation));
    for (size_t i = 0; i < t->count; i++)
        TRY(load_moments(ctx, file, &t->items[i]));
done:
    sara_safetensors_close(file);
    sara_free(ctx, path);
    return status;
}

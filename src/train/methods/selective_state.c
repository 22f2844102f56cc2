/* The part of a checkpoint of methods that train entries at positions. */
#include "train/checkpoint.h"
#include "train/methods/selective.h"

#define ACTIVE "active" /* of each trainable the entries that a reselection has kept */

static void make_active(const void *user, void *out, size_t index)
{
    sara_adaptation_active(user, out, index);
}

/* Without X.active all entries of X are active: nothing was reselected yet. */
sara_status sara_selective_save(const trainer *t, const char *folder)
{
    sara_adaptation *adaptation = selective_of(t)->adaptation;
    const sara_state_extra active = {ACTIVE, make_active, adaptation};
    char *path = NULL;
    sara_status status;
    TRY(sara_path_join(t->ctx, &path, folder, SARA_CHECKPOINT_ADAPTER));
    TRY(sara_adaptation_save(adaptation, path, t->metadata.items, t->metadata.count, SARA_F32));
    TRY(sara_state_save(t->ctx, folder, &t->optimizer->trainables,
                        sara_adaptation_has_reselected(adaptation) ? &active : NULL));
done:
    sara_free(t->ctx, path);
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
        TRY(sara_format(ctx, &name, "%s." ACTIVE, t->items[i].param->name));
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
    char *name = NULL;
    sara_status status = SARA_OK;
    for (size_t i = 0; i < t->count; kept += counts[i++]) {
        const sara_shape shape = sara_shape1((int64_t)counts[i]);
        TRY(sara_format(ctx, &name, "%s." ACTIVE, t->items[i].param->name));
        TRY(sara_safetensors_load(file, &active, name, SARA_I32, &shape));
        if (counts[i] > 0)
            memcpy(kept, active.data, counts[i] * sizeof(*kept));
        sara_tensor_free(ctx, &active);
        sara_free(ctx, name);
        name = NULL;
    }
done:
    sara_tensor_free(ctx, &active);
    sara_free(ctx, name);
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
        TRY(sara_trainable_write(t, item, adapter.entries[i].values));
    }
done:
    sara_adapter_free(&adapter);
    sara_free(ctx, path);
    return status;
}

sara_status sara_selective_load(trainer *t, const char *folder)
{
    const sara_trainables *trainables = &t->optimizer->trainables;
    sara_safetensors *file = NULL;
    sara_status status;
    TRY(load_masters(t->ctx, folder, trainables));
    TRY(sara_state_open(t->ctx, &file, folder));
    TRY(load_active(t->ctx, file, trainables, selective_of(t)->adaptation));
    TRY(sara_state_load(t->ctx, folder, trainables));
done:
    sara_safetensors_close(file);
    return status;
}

/* The optimiser's arrays in a checkpoint. */
#include "train/checkpoint.h"

/* -------------------------------------------------------------------------------------- saving */

typedef struct source_list {
    sara_tensor_source *items;
    size_t count;
} source_list;

static sara_status add_source(sara_context *ctx, source_list *list, const sara_optimizer_item *item,
                              const char *what, sara_dtype dtype, const void *data)
{
    sara_shape shape = sara_shape1((int64_t)item->active_count);
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

/* Without X.active all entries of X are active: nothing was reselected yet. */
sara_status sara_state_save(sara_context *ctx, const char *folder, sara_optimizer *optimizer)
{
    size_t count = sara_optimizer_count(optimizer);
    source_list list = {0};
    char *path = NULL;
    sara_status status;
    TRY(sara_path_join(ctx, &path, folder, SARA_CHECKPOINT_STATE));
    TRY(sara_alloc(ctx, &list.items, count, 3 * sizeof(*list.items)));
    for (size_t i = 0; i < count; i++) {
        const sara_optimizer_item *item = sara_optimizer_at(optimizer, i);
        TRY(add_source(ctx, &list, item, "moment1", SARA_F32, item->moment1));
        TRY(add_source(ctx, &list, item, "moment2", SARA_F32, item->moment2));
        if (item->active)
            TRY(add_source(ctx, &list, item, "active", SARA_I32, item->active));
    }
    TRY(sara_safetensors_save(ctx, path, list.items, list.count, NULL, 0));
done:
    source_list_free(ctx, &list);
    sara_free(ctx, path);
    return status;
}

/* ------------------------------------------------------------------------------------- loading */

static sara_status load_vector(sara_context *ctx, const sara_safetensors *file, sara_tensor *out,
                               const sara_optimizer_item *item, const char *what, sara_dtype dtype,
                               int64_t count)
{
    sara_shape shape = sara_shape1(count);
    char *name = NULL;
    sara_status status;
    TRY(sara_format(ctx, &name, "%s.%s", item->param->name, what));
    if (count >= 0 || sara_safetensors_find(file, name))
        TRY(sara_safetensors_load(file, out, name, dtype, &shape));
done:
    sara_free(ctx, name);
    return status;
}

static sara_status load_active(sara_context *ctx, const sara_safetensors *file,
                               sara_optimizer *optimizer, size_t index)
{
    sara_tensor active = {0};
    sara_status status;
    TRY(load_vector(ctx, file, &active, sara_optimizer_at(optimizer, index), "active", SARA_I32,
                    -1));
    if (active.shape.rank == 0)
        goto done;
    status = sara_optimizer_set_active(optimizer, index, active.data, (size_t)active.shape.dims[0]);
    if (status == SARA_ERROR_INPUT)
        sara_fail_in(ctx, status, sara_safetensors_path(file));
done:
    sara_tensor_free(ctx, &active);
    return status;
}

static sara_status load_item(sara_context *ctx, const sara_safetensors *file,
                             sara_optimizer *optimizer, size_t index)
{
    sara_optimizer_item *item = sara_optimizer_at(optimizer, index);
    sara_tensor first = {0}, second = {0};
    sara_status status;
    TRY(load_active(ctx, file, optimizer, index));
    int64_t count = (int64_t)item->active_count;
    TRY(load_vector(ctx, file, &first, item, "moment1", SARA_F32, count));
    TRY(load_vector(ctx, file, &second, item, "moment2", SARA_F32, count));
    if (count > 0) {
        memcpy(item->moment1, first.data, (size_t)count * sizeof(float));
        memcpy(item->moment2, second.data, (size_t)count * sizeof(float));
    }
done:
    sara_tensor_free(ctx, &first);
    sara_tensor_free(ctx, &second);
    return status;
}

static bool fits(const sara_adapter_entry *entry, const sara_optimizer_item *item)
{
    return strcmp(entry->name, item->param->name) == 0 && entry->count == item->all_count &&
           memcmp(entry->positions, item->all_positions, item->all_count * sizeof(uint32_t)) == 0;
}

static sara_status load_masters(sara_context *ctx, const char *folder, sara_optimizer *optimizer)
{
    size_t count = sara_optimizer_count(optimizer);
    sara_adapter adapter = {0};
    char *path = NULL;
    sara_status status;
    TRY(sara_path_join(ctx, &path, folder, SARA_CHECKPOINT_ADAPTER));
    TRY(sara_adapter_load(ctx, &adapter, path));
    if (adapter.count != count)
        TRY(sara_fail(ctx, SARA_ERROR_INPUT, "%s: %zu tensors, this run trains %zu", path,
                      adapter.count, count));
    for (size_t i = 0; i < count; i++) {
        sara_optimizer_item *item = sara_optimizer_at(optimizer, i);
        if (!fits(&adapter.entries[i], item))
            TRY(sara_fail(ctx, SARA_ERROR_INPUT,
                          "%s: %s: its entries are not those that this run selects", path,
                          item->param->name));
        for (size_t k = 0; k < item->all_count; k++)
            sara_optimizer_set_master(item, k, adapter.entries[i].values[k]);
    }
done:
    sara_adapter_free(&adapter);
    sara_free(ctx, path);
    return status;
}

sara_status sara_state_load(sara_context *ctx, const char *folder, sara_optimizer *optimizer)
{
    sara_safetensors *file = NULL;
    char *path = NULL;
    sara_status status;
    TRY(load_masters(ctx, folder, optimizer));
    TRY(sara_path_join(ctx, &path, folder, SARA_CHECKPOINT_STATE));
    TRY(sara_safetensors_open(ctx, &file, path));
    for (size_t i = 0; i < sara_optimizer_count(optimizer); i++)
        TRY(load_item(ctx, file, optimizer, i));
done:
    sara_safetensors_close(file);
    sara_free(ctx, path);
    return status;
}

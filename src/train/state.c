/* The moments in a checkpoint, and what a method keeps beside them of each trainable. */
#include "train/checkpoint.h"

/* -------------------------------------------------------------------------------------- saving */

typedef struct source_list {
    const sara_state_extra *extra;
    sara_tensor_source *items; /* [per_item] of each trainable */
    size_t count, per_item;
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

/* The extra's values, which alone are not in memory. */
static sara_status make_extra(const void *user, size_t index, void *data)
{
    const source_list *list = user;
    list->extra->make(list->extra->user, data, index / list->per_item);
    return SARA_OK;
}

/* moment1, then moment2 of all: where they lie, or in *copy. */
static sara_status read_moments(sara_context *ctx, const float **out, float **copy,
                                const sara_trainables *t)
{
    size_t bytes = 2 * t->entries * sizeof(**out);
    sara_status status;
    *out = t->moment1;
    if (sara_device_is_host(t->device))
        return SARA_OK;
    TRY(sara_alloc(ctx, copy, bytes, 1));
    TRY(sara_device_copy_out(t->device, *copy, t->moment1, bytes));
    *out = *copy;
done:
    return status;
}

sara_status sara_state_save(sara_context *ctx, const char *folder, const sara_trainables *t,
                            const sara_state_extra *extra)
{
    source_list list = {.extra = extra, .per_item = extra ? 3 : 2};
    const float *moments;
    float *copy = NULL;
    char *path = NULL;
    sara_status status;
    TRY(sara_path_join(ctx, &path, folder, SARA_CHECKPOINT_STATE));
    TRY(read_moments(ctx, &moments, &copy, t));
    TRY(sara_alloc(ctx, &list.items, t->count, list.per_item * sizeof(*list.items)));
    for (size_t i = 0; i < t->count; i++) {
        const sara_trainable *item = &t->items[i];
        const float *first = moments + (item->moment1 - t->moment1);
        const float *second = moments + (item->moment2 - t->moment1);
        TRY(add_source(ctx, &list, item, "moment1", SARA_F32, first));
        TRY(add_source(ctx, &list, item, "moment2", SARA_F32, second));
        if (extra)
            TRY(add_source(ctx, &list, item, extra->name, SARA_I32, NULL));
    }
    TRY(sara_safetensors_save_made(ctx, path, list.items, list.count, NULL, 0, make_extra, &list));
done:
    source_list_free(ctx, &list);
    sara_free(ctx, copy);
    sara_free(ctx, path);
    return status;
}

/* ------------------------------------------------------------------------------------- loading */

static sara_status load_moment(const sara_trainables *t, const sara_safetensors *file, float *out,
                               const sara_trainable *item, const char *what)
{
    const sara_shape shape = sara_shape1((int64_t)item->count);
    sara_context *ctx = t->ctx;
    sara_tensor tensor = {0};
    char *name = NULL;
    sara_status status;
    TRY(sara_format(ctx, &name, "%s.%s", item->param->name, what));
    TRY(sara_safetensors_load(file, &tensor, name, SARA_F32, &shape));
    TRY(sara_device_copy_in(t->device, out, tensor.data, item->count * sizeof(*out)));
done:
    sara_tensor_free(ctx, &tensor);
    sara_free(ctx, name);
    return status;
}

sara_status sara_state_load(sara_context *ctx, const char *folder, const sara_trainables *t)
{
    sara_safetensors *file = NULL;
    sara_status status;
    TRY(sara_state_open(ctx, &file, folder));
    for (size_t i = 0; i < t->count; i++) {
        TRY(load_moment(t, file, t->items[i].moment1, &t->items[i], "moment1"));
        TRY(load_moment(t, file, t->items[i].moment2, &t->items[i], "moment2"));
    }
done:
    sara_safetensors_close(file);
    return status;
}

sara_status sara_state_open(sara_context *ctx, sara_safetensors **out, const char *folder)
{
    char *path = NULL;
    sara_status status;
    TRY(sara_path_join(ctx, &path, folder, SARA_CHECKPOINT_STATE));
    TRY(sara_safetensors_open(ctx, out, path));
done:
    sara_free(ctx, path);
    return status;
}

/* The change of an adapter of --method shira as PEFT keeps it. */
#include "pipeline/export.h"

#include <stdlib.h>

#define FOLDER_WEIGHTS "adapter_model.safetensors"
#define FOLDER_CONFIG  "adapter_config.json"

/* The files' content. */
typedef struct shira_files {
    sara_export *e;
    int64_t rank;
    sara_arena arena;
    sara_tensor_source *tensors; /* two for each layer */
    size_t count;
    json_t *targets;
} shira_files;

/* Of one adapter, which a run of SHiRA has made: its rank. */
static sara_status find_rank(shira_files *f)
{
    const sara_model *model = f->e->model;
    if (model->adapter_count != 1)
        return sara_fail(f->e->ctx, SARA_ERROR_USAGE, "format shira: %zu adapters, expected one",
                         model->adapter_count);
    f->rank = model->adapters[0].shira_rank;
    if (f->rank > 0)
        return SARA_OK;
    return sara_fail(f->e->ctx, SARA_ERROR_USAGE,
                     "format shira: %s was not trained with --method shira",
                     model->adapters[0].name);
}

/* Entries that the run has left as they were are filled up with the first ones: PEFT counts. */
static void fill_shira_layer(int32_t *indices, float *weights, size_t count,
                             const sara_change *change)
{
    const uint32_t cols = (uint32_t)change->param->value.shape.dims[1];
    size_t spare = count - change->count;
    for (size_t i = 0, k = 0, position = 0; i < count; position++) {
        bool changed = k < change->count && change->positions[k] == position;
        if (!changed && spare == 0)
            continue;
        indices[i] = (int32_t)(position / cols);
        indices[count + i] = (int32_t)(position % cols);
        weights[i++] = changed ? change->values[k++] : 0;
        spare -= changed ? 0 : 1;
    }
}

static sara_status add_shira_tensor(shira_files *f, const char *layer, const char *ending,
                                    sara_dtype dtype, sara_shape shape, const void *data)
{
    const sara_name whole = sara_name_of("base_model.model.%s%s", layer, ending);
    const char *name;
    sara_status status;
    TRY(sara_arena_strdup(&f->arena, &name, whole.text));
    f->tensors[f->count++] = (sara_tensor_source){name, dtype, shape, data};
done:
    return status;
}

static sara_status add_shira_layer(shira_files *f, const sara_change *change)
{
    const sara_shape *shape = &change->param->value.shape;
    const char *layer;
    int32_t *indices = NULL;
    float *weights = NULL;
    bool is_bias;
    sara_status status;
    const size_t count = (size_t)(f->rank * (shape->dims[0] + shape->dims[1]));
    if (!change->positions || shape->rank != 2 || change->count > count ||
        (int64_t)count > sara_shape_count(shape))
        return sara_fail(f->e->ctx, SARA_ERROR_USAGE,
                         "format shira: %s: %zu entries, PEFT has rank %lld times (in + out) of a "
                         "linear layer, which are no more than it has",
                         change->param->name, change->count, (long long)f->rank);
    TRY(sara_export_layer(&f->arena, &layer, &is_bias, change->param->name));
    TRY(sara_arena_alloc(&f->arena, &indices, count, 2 * sizeof(*indices)));
    TRY(sara_arena_alloc(&f->arena, &weights, count, sizeof(*weights)));
    fill_shira_layer(indices, weights, count, change);
    TRY(add_shira_tensor(f, layer, ".shira_indices", SARA_I32, sara_shape2(2, (int64_t)count),
                         indices));
    TRY(add_shira_tensor(f, layer, ".shira_weight", SARA_F32, sara_shape1((int64_t)count),
                         weights));
    if (json_array_append_new(f->targets, json_string(layer)) != 0)
        status = sara_fail(f->e->ctx, SARA_ERROR_MEMORY, "out of memory: " FOLDER_CONFIG);
done:
    return status;
}

static sara_status write_shira_files(shira_files *f, const char *folder)
{
    const sara_metadata format = {"format", "pt"};
    sara_context *ctx = f->e->ctx;
    char *path = NULL, *text = NULL;
    json_t *config = NULL;
    sara_status status;
    TRY(sara_path_join(ctx, &path, folder, FOLDER_WEIGHTS));
    TRY(sara_safetensors_save(ctx, path, f->tensors, f->count, &format, 1));
    sara_free(ctx, path);
    path = NULL;
    config = json_pack("{s:s,s:n,s:n,s:I,s:s,s:n,s:b,s:b,s:b,s:O}", "peft_type", "SHIRA",
                       "task_type", "base_model_name_or_path", "r", (json_int_t)f->rank,
                       "mask_type", "random", "random_seed", "fan_in_fan_out", 0, "inference_mode",
                       1, "init_weights", 1, "target_modules", f->targets);
    text = config ? sara_json_dump(config, JSON_INDENT(2)) : NULL;
    if (!text)
        TRY(sara_fail(ctx, SARA_ERROR_MEMORY, "out of memory: " FOLDER_CONFIG));
    TRY(sara_path_join(ctx, &path, folder, FOLDER_CONFIG));
    TRY(sara_file_write(ctx, path, text, strlen(text)));
done:
    json_decref(config);
    free(text);
    sara_free(ctx, path);
    return status;
}

static sara_status publish_shira_files(shira_files *f)
{
    sara_context *ctx = f->e->ctx;
    size_t length = strlen(f->e->out);
    sara_partial partial = {.fd = -1};
    char *target = NULL;
    sara_status status;
    while (length > 1 && f->e->out[length - 1] == '/')
        length--;
    TRY(sara_format(ctx, &target, "%.*s", (int)length, f->e->out));
    TRY(sara_partial_make(ctx, &partial, target, true));
    TRY(write_shira_files(f, partial.path));
    TRY(sara_partial_publish(ctx, &partial, target));
done:
    sara_partial_discard(ctx, &partial);
    sara_free(ctx, target);
    return status;
}

sara_status sara_export_shira(sara_export *e)
{
    const sara_changes *changes = &e->changes;
    shira_files f = {.e = e, .targets = json_array()};
    sara_status status;
    sara_arena_init(&f.arena, e->ctx);
    TRY(find_rank(&f));
    TRY(sara_arena_alloc(&f.arena, &f.tensors, 2 * changes->count, sizeof(*f.tensors)));
    for (size_t i = 0; i < changes->count; i++)
        TRY(add_shira_layer(&f, &changes->items[i]));
    TRY(publish_shira_files(&f));
    e->report.layers = (int64_t)changes->count;
done:
    json_decref(f.targets);
    sara_arena_free(&f.arena);
    return status;
}

/* SHiRA as PEFT keeps it: of each layer the changes of some entries, X.shira_weight, and their rows
 * and columns, X.shira_indices. */
#include "pipeline/adapter_kind.h"

#include <stdlib.h>

#define PREFIX  "base_model.model."
#define WEIGHT  ".shira_weight"
#define INDICES ".shira_indices"

static bool is_shira(const sara_adapter_source *source)
{
    const char *type = json_string_value(json_object_get(source->config, "peft_type"));
    if (type)
        return strcmp(type, "SHIRA") == 0;
    for (size_t i = 0; i < sara_safetensors_count(source->file); i++)
        if (strstr(sara_safetensors_at(source->file, i)->name, WEIGHT))
            return true;
    return false;
}

typedef struct placed {
    uint32_t position;
    float value;
} placed;

static int by_position(const void *a, const void *b)
{
    uint32_t x = ((const placed *)a)->position, y = ((const placed *)b)->position;
    return (x > y) - (x < y);
}

typedef struct originals {
    placed *items; /* ascending */
    size_t count;
} originals;

/* What adapters cover has another value now than the base's. */
static void put_original(void *user, const sara_param *param, uint32_t position, float original,
                         float current)
{
    const originals *o = user;
    const placed key = {position, 0};
    placed *found = bsearch(&key, o->items, o->count, sizeof(*o->items), by_position);
    (void)param;
    (void)current;
    if (found)
        found->value = original;
}

static sara_status read_originals(sara_context *ctx, const sara_model *model, sara_param *param,
                                  const originals *o)
{
    const sara_applied *applied = model->parts[0].applied;
    sara_param copy = {0};
    sara_status status;
    TRY(sara_param_read(ctx, &copy, param));
    for (size_t i = 0; i < o->count; i++)
        o->items[i].value = sara_param_get(&copy, o->items[i].position);
    if (applied)
        TRY(sara_applied_visit_param(applied, param, put_original, (void *)(uintptr_t)o));
done:
    sara_param_read_end(ctx, &copy, param);
    return status;
}

/* Row and column of each entry. */
static sara_status take_places(sara_context *ctx, placed *out, const sara_tensor *indices,
                               const float *weights, size_t count, const sara_param *param)
{
    const int64_t *sides = param->value.shape.dims;
    const int32_t *places = indices->data;
    for (size_t i = 0; i < count; i++) {
        int64_t row = places[i], col = places[count + i];
        if (row < 0 || row >= sides[0] || col < 0 || col >= sides[1])
            return sara_fail(ctx, SARA_ERROR_INPUT, "%s: entry [%lld,%lld] of [%lld,%lld]",
                             param->name, (long long)row, (long long)col, (long long)sides[0],
                             (long long)sides[1]);
        out[i] = (placed){(uint32_t)(row * sides[1] + col), weights[i]};
    }
    qsort(out, count, sizeof(*out), by_position);
    for (size_t i = 1; i < count; i++)
        if (out[i].position == out[i - 1].position)
            return sara_fail(ctx, SARA_ERROR_INPUT, "%s: entry %u is there twice", param->name,
                             (unsigned)out[i].position);
    return SARA_OK;
}

/* The entry of one layer: the base's values with the changes. */
static sara_status read_shira_layer(sara_adapter *adapter, const sara_adapter_source *source,
                                    const sara_model *model, sara_param *param, const char *layer)
{
    sara_context *ctx = source->ctx;
    sara_adapter_entry *entry = &adapter->entries[adapter->count];
    const sara_name weight = sara_name_of("%s" WEIGHT, layer);
    const sara_name place = sara_name_of("%s" INDICES, layer);
    sara_tensor weights = {0}, indices = {0};
    sara_shape any = sara_shape1(-1);
    placed *changes = NULL, *base = NULL;
    sara_status status;
    TRY(sara_safetensors_load(source->file, &weights, weight.text, SARA_F32, &any));
    const size_t count = (size_t)sara_shape_count(&weights.shape);
    const sara_shape pairs = sara_shape2(2, (int64_t)count);
    TRY(sara_safetensors_load(source->file, &indices, place.text, SARA_I32, &pairs));
    TRY(sara_alloc(ctx, &changes, count, sizeof(*changes)));
    TRY(sara_alloc(ctx, &base, count, sizeof(*base)));
    TRY(take_places(ctx, changes, &indices, weights.data, count, param));
    if (count > 0)
        memcpy(base, changes, count * sizeof(*base));
    TRY(read_originals(ctx, model, param, &(originals){base, count}));
    *entry = (sara_adapter_entry){.name = param->name, .count = count};
    TRY(sara_arena_alloc(&adapter->arena, &entry->positions, count, sizeof(*entry->positions)));
    TRY(sara_arena_alloc(&adapter->arena, &entry->values, count, sizeof(*entry->values)));
    for (size_t i = 0; i < count; i++) {
        entry->positions[i] = changes[i].position;
        entry->values[i] = base[i].value + changes[i].value;
    }
    adapter->count++;
done:
    sara_free(ctx, base);
    sara_free(ctx, changes);
    sara_tensor_free(ctx, &indices);
    sara_tensor_free(ctx, &weights);
    return status;
}

/* A linear layer's weight of that name; NULL: the model has none. */
static sara_param *find_linear_layer(const sara_model *model, const char *layer)
{
    const size_t prefix = strlen(PREFIX);
    const char *own = strncmp(layer, PREFIX, prefix) == 0 ? layer + prefix : layer;
    const sara_name name = sara_name_of("%s.weight", own);
    sara_param *param = sara_params_find(&model->denoiser->params, name.text);
    return param && param->value.shape.rank == 2 ? param : NULL;
}

/* *out: sara_adapter_free(), even after an error. */
static sara_status read_all(sara_adapter *out, const sara_adapter_source *source,
                            const sara_model *model, bool force)
{
    const size_t tensors = sara_safetensors_count(source->file);
    sara_status status;
    *out = (sara_adapter){.dtype = SARA_F32};
    sara_arena_init(&out->arena, source->ctx);
    TRY(sara_arena_alloc(&out->arena, &out->entries, tensors, sizeof(*out->entries)));
    for (size_t i = 0; i < tensors; i++) {
        const char *name = sara_safetensors_at(source->file, i)->name;
        const char *end = strstr(name, WEIGHT);
        if (!end)
            continue;
        const sara_name layer = sara_name_of("%.*s", (int)(end - name), name);
        sara_param *param = find_linear_layer(model, layer.text);
        if (param)
            TRY(read_shira_layer(out, source, model, param, layer.text));
        else if (!force)
            TRY(sara_fail(source->ctx, SARA_ERROR_INPUT,
                          "%s: the model has no linear layer of that name", name));
    }
    if (out->count == 0)
        status = sara_fail(source->ctx, SARA_ERROR_INPUT, "no layer of the model is in it");
done:
    return status == SARA_OK ? status : sara_fail_in(source->ctx, status, source->path);
}

static sara_status check_shira(sara_context *ctx, sara_model *model,
                               const sara_adapter_source *source, bool force)
{
    sara_adapter adapter;
    sara_status status = read_all(&adapter, source, model, force);
    (void)ctx;
    sara_adapter_free(&adapter);
    return status;
}

static sara_status apply_shira(sara_context *ctx, sara_model *model,
                               const sara_adapter_source *source, double strength, bool force,
                               unsigned stages)
{
    sara_adapter adapter = {0};
    sara_status status;
    if (!(stages & SARA_STAGE_DENOISE))
        return SARA_OK;
    TRY(read_all(&adapter, source, model, force));
    TRY(sara_model_apply_entries(ctx, model, &adapter, source->path, strength, true));
done:
    sara_adapter_free(&adapter);
    return status;
}

const sara_adapter_kind sara_adapter_kind_shira = {
    .name = "SHiRA", .is = is_shira, .check = check_shira, .apply = apply_shira};

/* An adapter file, all the way to the weights: what can be read may be applied, and comes off to
 * the same bits; what can be read can be written and read again. */
#include "fuzz/fuzz.h"

#include "pipeline/pipeline.h"

#define HASH "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"

typedef struct model {
    sara_params params;
    float a[10], c[3];
    uint16_t b[20];
} model;

/* Parameters "a" and "c" of one dimension, "b.weight" [4,5] in F16. */
static void model_init(sara_context *ctx, model *m)
{
    static const struct {
        const char *name;
        sara_dtype dtype;
        sara_shape shape;
    } tensors[] = {
        {"a", SARA_F32, {1, {10}}}, {"b.weight", SARA_F16, {2, {4, 5}}}, {"c", SARA_F32, {1, {3}}}};
    fuzz_assert(sara_params_new(ctx, &m->params, 3) == SARA_OK);
    for (int i = 0; i < 3; i++) {
        sara_param *param = &m->params.items[i];
        char *name = NULL;
        fuzz_assert(sara_strdup(ctx, &name, tensors[i].name) == SARA_OK);
        param->name = name;
        param->stored = tensors[i].dtype;
        fuzz_assert(sara_tensor_new(ctx, &param->value, tensors[i].dtype, &tensors[i].shape) ==
                    SARA_OK);
        for (int64_t k = 0; k < sara_shape_count(&tensors[i].shape); k++)
            sara_param_set(param, (size_t)k, (float)k * 0.25f - 1);
    }
}

static void snapshot(model *m)
{
    memcpy(m->a, m->params.items[0].value.data, sizeof(m->a));
    memcpy(m->b, m->params.items[1].value.data, sizeof(m->b));
    memcpy(m->c, m->params.items[2].value.data, sizeof(m->c));
}

static bool is_as_before(const model *m)
{
    return memcmp(m->a, m->params.items[0].value.data, sizeof(m->a)) == 0 &&
           memcmp(m->b, m->params.items[1].value.data, sizeof(m->b)) == 0 &&
           memcmp(m->c, m->params.items[2].value.data, sizeof(m->c)) == 0;
}

static void apply(sara_context *ctx, const sara_adapter *adapter)
{
    static const double strengths[] = {1, 0.5, -2};
    static const sara_base base = {HASH, SARA_F32};
    sara_applied *applied = NULL;
    model m;
    model_init(ctx, &m);
    fuzz_assert(sara_applied_new(ctx, &applied, &m.params, &base) == SARA_OK);
    snapshot(&m);
    for (int i = 0; i < 3; i++)
        if (sara_applied_add(applied, adapter, strengths[i], i > 0) != SARA_OK)
            fuzz_assert(i > 0 || is_as_before(&m));
    fuzz_assert(sara_applied_truncate(applied, 1) == SARA_OK);
    fuzz_assert(sara_applied_remove(applied) == SARA_OK);
    fuzz_assert(is_as_before(&m));
    sara_applied_free(applied);
    sara_params_free(ctx, &m.params);
}

static void write_again(sara_context *ctx, const sara_adapter *adapter)
{
    sara_adapter again;
    char path[256];
    fuzz_path(path, "again.safetensors");
    fuzz_assert(sara_adapter_save(ctx, path, adapter->entries, adapter->count, adapter->metadata,
                                  adapter->metadata_count, SARA_F32) == SARA_OK);
    fuzz_assert(sara_adapter_load(ctx, &again, path) == SARA_OK);
    fuzz_assert(again.metadata_count == adapter->metadata_count);
    size_t kept = 0; /* tensors without entries are not written */
    for (size_t i = 0; i < adapter->count; i++) {
        const sara_adapter_entry *entry = &adapter->entries[i];
        if (entry->count == 0)
            continue;
        const sara_adapter_entry *same = &again.entries[kept++];
        fuzz_assert(kept <= again.count && strcmp(entry->name, same->name) == 0);
        fuzz_assert(entry->count == same->count);
        fuzz_assert(!memcmp(entry->positions, same->positions, 4 * entry->count));
        fuzz_assert(!memcmp(entry->values, same->values, 4 * entry->count));
    }
    sara_adapter_free(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    sara_context *ctx = fuzz_context();
    sara_adapter_report *report = NULL;
    sara_adapter adapter;
    char path[256];
    fuzz_put("adapter.safetensors", data, size);
    fuzz_path(path, "adapter.safetensors");
    sara_status status = sara_adapter_load(ctx, &adapter, path);
    fuzz_assert(status == SARA_OK || status == SARA_ERROR_INPUT);
    if (status == SARA_OK) {
        apply(ctx, &adapter);
        write_again(ctx, &adapter);
        status = sara_adapter_inspect(ctx, &report, path, NULL, false);
        fuzz_assert(status == SARA_OK || status == SARA_ERROR_INPUT); /* another target */
        fuzz_assert(!report || report->tensors == (int64_t)adapter.count);
    }
    sara_adapter_report_free(ctx, report);
    sara_adapter_free(&adapter);
    sara_context_free(ctx);
    return 0;
}

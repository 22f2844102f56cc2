/* A LoRA file, all the way to the weights, or an embedding's, to its vectors: what can be read may
 * be applied, and comes off to the same bits; nothing else happens than that it is refused. */
#include "fuzz/fuzz.h"

#include "pipeline/adapter_kind.h"
#include "pipeline/embedding.h"

#include <math.h>

static const struct {
    const char *name;
    sara_dtype dtype;
    sara_shape shape;
} tensors[] = {{"a.to_q.weight", SARA_F16, {2, {4, 3}}},
               {"b.bias", SARA_F32, {1, {2}}},
               {"b.weight", SARA_F32, {4, {2, 1, 2, 2}}}};
#define TENSORS (sizeof(tensors) / sizeof(*tensors))

/* A denoiser of which nothing but the parameters is there. */
static void lora_model_init(sara_context *ctx, sara_network *network,
                            const sara_network_class *class)
{
    *network = (sara_network){.class = class, .ctx = ctx, .there = true};
    fuzz_assert(sara_params_new(ctx, &network->params, TENSORS) == SARA_OK);
    for (size_t i = 0; i < TENSORS; i++) {
        sara_param *param = &network->params.items[i];
        char *name = NULL;
        fuzz_assert(sara_strdup(ctx, &name, tensors[i].name) == SARA_OK);
        param->name = name;
        param->stored = tensors[i].dtype;
        param->as_floats = i == 0;
        fuzz_assert(sara_tensor_new(ctx, &param->value, tensors[i].dtype, &tensors[i].shape) ==
                    SARA_OK);
        for (int64_t k = 0; k < sara_shape_count(&tensors[i].shape); k++)
            sara_param_set(param, (size_t)k, (float)k * 0.25f - 1);
    }
}

static void check_originals(const sara_network *network)
{
    for (size_t i = 0; i < TENSORS; i++) {
        const sara_param *param = &network->params.items[i];
        fuzz_assert(param->value.dtype == tensors[i].dtype);
        for (int64_t k = 0; k < sara_shape_count(&tensors[i].shape); k++)
            fuzz_assert(sara_param_get(param, (size_t)k) == (float)k * 0.25f - 1);
    }
}

/* What is read is finite, and of the shape that the file tells. */
static void try_embedding(sara_context *ctx, sara_safetensors *file)
{
    sara_embedding_file described;
    sara_embedding embedding = {.count = 0};
    sara_status status = sara_embedding_describe(ctx, &described, file);
    if (status == SARA_OK)
        status = sara_embedding_load(ctx, &embedding, &described, "a");
    fuzz_assert(status == SARA_OK || status == SARA_ERROR_INPUT);
    for (int i = 0; status == SARA_OK && i < SARA_EMBEDDED_ENCODERS; i++)
        for (int64_t k = 0; k < embedding.count * embedding.widths[i]; k++)
            fuzz_assert(isfinite(embedding.vectors[i][k]));
    sara_embedding_free(ctx, &embedding);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const sara_network_class class = {.name = "Fuzzed"};
    sara_context *ctx = fuzz_context();
    sara_network network;
    sara_model model = {.ctx = ctx, .family = sara_families[0], .denoiser = &network};
    sara_adapter_source source;
    char path[256];
    lora_model_init(ctx, &network, &class);
    model.parts[0].network = &network;
    fuzz_put("adapter_model.safetensors", data, size);
    fuzz_path(path, "adapter_model.safetensors");
    sara_status status = sara_adapter_source_open(ctx, &source, path);
    fuzz_assert(status == SARA_OK || status == SARA_ERROR_INPUT);
    if (status == SARA_OK && source.kind == &sara_adapter_kind_embedding)
        try_embedding(ctx, source.file);
    for (int force = 0; status == SARA_OK && force < 2; force++) {
        if (source.kind != &sara_adapter_kind_lora)
            break;
        status = source.kind->apply(ctx, &model, &source, 0.5, force, ~0U);
        fuzz_assert(status == SARA_OK || status == SARA_ERROR_INPUT);
        status = SARA_OK;
    }
    sara_adapter_source_close(&source);
    if (model.parts[0].applied)
        fuzz_assert(sara_applied_remove(model.parts[0].applied) == SARA_OK);
    check_originals(&network);
    sara_applied_free(model.parts[0].applied);
    sara_params_free(ctx, &network.params);
    sara_context_free(ctx);
    return 0;
}

#include "support_export.h"

#define DATE 1700000000 /* 2023-11-14T22:13:20Z */

sara_export_options test_export_options(const char *format, int rank, const char *precision)
{
    return (sara_export_options){
        .format = format, .rank = rank, .save_precision = precision, .date = DATE};
}

test_adapted test_adapt(test_pipe *pipe, const char *path, bool unet_only, size_t stride,
                        float shift)
{
    test_adapted a = {.model = test_model(pipe, path, unet_only)};
    a.before = test_values(pipe, a.model, &a.count);
    const char *adapter = test_adapter(pipe, "a.safetensors", a.model, stride, shift);
    assert_ok(pipe->ctx, sara_model_apply(pipe->ctx, a.model, adapter, 1, false));
    a.after = test_values(pipe, a.model, &a.count);
    return a;
}

test_adapted test_adapt_zeros(test_pipe *pipe, float shift)
{
    test_adapted a = {.model = test_model(pipe, TEST_TINY, true)};
    sara_params *params = &a.model->denoiser->params;
    for (size_t i = 0; i < params->count; i++)
        memset(params->items[i].value.data, 0,
               (size_t)sara_shape_count(&params->items[i].value.shape) * sizeof(float));
    a.before = test_values(pipe, a.model, &a.count);
    const char *adapter = test_adapter(pipe, "a.safetensors", a.model, 3, shift);
    assert_ok(pipe->ctx, sara_model_apply(pipe->ctx, a.model, adapter, 1, false));
    a.after = test_values(pipe, a.model, &a.count);
    return a;
}

const char *test_export(test_pipe *pipe, const test_adapted *a, const char *name,
                        sara_export_report *report, sara_export_options options)
{
    const char *path = test_path(pipe, name);
    assert_ok(pipe->ctx, sara_model_export(pipe->ctx, report, a->model, path, &options));
    return path;
}

const char *test_kohya_key(test_pipe *pipe, const char *name, const char *weight, const char *bias)
{
    bool is_bias = strlen(name) > 5 && strcmp(name + strlen(name) - 5, ".bias") == 0;
    char layer[256];
    snprintf(layer, sizeof(layer), "%.*s", (int)(strrchr(name, '.') - name), name);
    for (char *at = layer; *at; at++)
        *at = *at == '.' ? '_' : *at;
    return test_text(pipe, "lora_unet_%s%s", strcmp(layer, "conv_norm_out") == 0 ? "out_0" : layer,
                     is_bias ? bias : weight);
}

/* What adapters change, whole, as files of other tools, whose loaders are in tests/peers. */
#include "support_export.h"

#include <math.h>
#include <stdio.h>

/* A parameter's key in ComfyUI's layout. */
static const char *ldm_key_of(test_pipe *pipe, const sara_model *model, const char *name)
{
    sara_ldm_shape shape;
    char *ldm = NULL;
    assert_ok(pipe->ctx, sara_network_ldm_shape(model->denoiser, &shape));
    assert_ok(pipe->ctx, sara_ldm_from_diffusers(pipe->ctx, &ldm, &shape, name));
    char *end = strrchr(ldm, '.');
    bool is_bias = strcmp(end, ".bias") == 0;
    const char *key = test_text(pipe, "diffusion_model.%.*s.%s", (int)(end - ldm), ldm,
                                is_bias ? "diff_b" : "diff");
    sara_free(pipe->ctx, ldm);
    return key;
}

/* base + diff, in float32, is what the adapter makes: if exact the same number (-0 + 0 is 0), else
 * to the rounding of the change to 11 bits. All tensors of the file are among those added up. */
static void check_sums(test_pipe *pipe, const test_adapted *a, const char *path, bool exact,
                       bool ldm)
{
    const sara_params *params = &a->model->denoiser->params;
    sara_safetensors *file = test_open(pipe->ctx, path);
    size_t at = 0, found = 0, count;
    for (size_t i = 0; i < params->count; i++) {
        const sara_param *param = &params->items[i];
        const char *key = ldm ? ldm_key_of(pipe, a->model, param->name)
                              : test_kohya_key(pipe, param->name, ".diff", ".diff_b");
        const sara_tensor_info *info = sara_safetensors_find(file, key);
        size_t size = (size_t)sara_shape_count(&param->value.shape);
        float *diff = info ? test_load_f32(pipe->ctx, file, key, &count) : NULL;
        assert_true(!info || sara_shape_equal(&info->shape, &param->value.shape));
        for (size_t j = 0; j < size; j++, at++) {
            float sum = a->before[at] + (diff ? diff[j] : 0);
            double change = fabs((double)a->after[at] - (double)a->before[at]);
            if (exact)
                assert_true(sum == a->after[at]);
            else
                assert_close(fabs((double)sum - (double)a->after[at]), change * 0x1p-11 + 1e-6,
                             key);
        }
        found += info != NULL;
        sara_free(pipe->ctx, diff);
    }
    assert_int_equal(at, a->count);
    assert_int_equal(found, sara_safetensors_count(file));
    sara_safetensors_close(file);
}

static void test_dense(void **state)
{
    static const char *const formats[] = {"comfyui", "a1111"};
    test_pipe *pipe = *state;
    test_adapted a = test_adapt(pipe, TEST_BASE, false, 11, 0.25f);
    int64_t changed = 0;
    for (size_t i = 0; i < a.count; i++)
        changed += a.before[i] != a.after[i];
    for (size_t i = 0; i < 2; i++) {
        sara_export_report report;
        const char *path = test_export(pipe, &a, test_text(pipe, "%s-32.safetensors", formats[i]),
                                       &report, test_export_options(formats[i], 0, "fp32"));
        check_sums(pipe, &a, path, true, i == 0);
        assert_int_equal(report.changed, changed);
        assert_int_equal(report.left_out, 0);
        assert_int_equal(report.inexact, 0);
        assert_true(report.kept == 1 && report.error <= 1e-7);
        assert_close(fabs(report.change_norm / (0.25 * sqrt((double)changed)) - 1), 1e-6, "norm");
        path = test_export(pipe, &a, test_text(pipe, "%s-16.safetensors", formats[i]), &report,
                           test_export_options(formats[i], 0, NULL)); /* fp16 */
        check_sums(pipe, &a, path, false, i == 0);
        sara_safetensors *file = test_open(pipe->ctx, path);
        assert_int_equal(sara_safetensors_at(file, 0)->dtype, SARA_F16);
        sara_safetensors_close(file);
    }
    sara_model_free(a.model);
}

/* Where no float32 added to the base gives the value, the sum misses it by a rounding of the
 * change; the report counts these entries. */
static void test_beyond_reach(void **state)
{
    test_pipe *pipe = *state;
    sara_model *model = test_model(pipe, TEST_TINY, true);
    float *values = sara_params_find(&model->denoiser->params, "conv_in.bias")->value.data;
    const float new_values[] = {1.1e-8f, 0.75f};
    uint32_t positions[] = {1, 2};
    const char *base, *path = test_path(pipe, "a.safetensors"),
                      *out = test_path(pipe, "out.safetensors");
    sara_adapter_entry entry = {"conv_in.bias", positions, (float *)(uintptr_t)new_values, 2};
    sara_export_report report;
    size_t count;
    assert_ok(pipe->ctx, sara_model_base_sha256(pipe->ctx, &base, model));
    const sara_metadata metadata[] = {{"sara.base_sha256", base}, {"sara.target", "unet"}};
    assert_ok(pipe->ctx, sara_adapter_save(pipe->ctx, path, &entry, 1, metadata, 2, SARA_F32));
    float before = values[1];
    assert_ok(pipe->ctx, sara_model_apply(pipe->ctx, model, path, 1, false));
    const sara_export_options options = test_export_options("comfyui", 0, "fp32");
    assert_ok(pipe->ctx, sara_model_export(pipe->ctx, &report, model, out, &options));
    assert_int_equal(report.changed, 2);
    assert_int_equal(report.inexact, 1);
    assert_true(report.error > 0 && report.error < 0x1p-24);
    sara_safetensors *file = test_open(pipe->ctx, out);
    assert_int_equal(sara_safetensors_count(file), 1); /* a1111 alone has a zero .diff with it */
    float *diff = test_load_f32(pipe->ctx, file, "diffusion_model.input_blocks.0.0.diff_b", &count);
    assert_true(diff[1] == 1.1e-8f - before && diff[0] == 0 && diff[3] == 0);
    sara_free(pipe->ctx, diff);
    sara_safetensors_close(file);
    sara_model_free(model);
}

/* A1111 knows a bias only beside a weight. */
static void test_bias_alone(void **state)
{
    test_pipe *pipe = *state;
    sara_model *model = test_model(pipe, TEST_TINY, true);
    const char *base, *path = test_path(pipe, "a.safetensors"),
                      *out = test_path(pipe, "out.safetensors");
    uint32_t position = 2;
    float value = 7;
    size_t count;
    sara_adapter_entry entry = {"conv_norm_out.bias", &position, &value, 1};
    assert_ok(pipe->ctx, sara_model_base_sha256(pipe->ctx, &base, model));
    const sara_metadata metadata[] = {{"sara.base_sha256", base}, {"sara.target", "unet"}};
    assert_ok(pipe->ctx, sara_adapter_save(pipe->ctx, path, &entry, 1, metadata, 2, SARA_F32));
    assert_ok(pipe->ctx, sara_model_apply(pipe->ctx, model, path, 1, false));
    sara_export_options options = test_export_options("a1111", 0, "bf16");
    assert_ok(pipe->ctx, sara_model_export(pipe->ctx, NULL, model, out, &options));
    sara_safetensors *file = test_open(pipe->ctx, out);
    assert_int_equal(sara_safetensors_count(file), 2);
    float *zeros = test_load_f32(pipe->ctx, file, "lora_unet_out_0.diff", &count);
    for (size_t i = 0; i < count; i++)
        assert_true(zeros[i] == 0);
    sara_free(pipe->ctx, zeros);
    sara_safetensors_close(file);
    options = test_export_options("lora", 1, NULL);
    assert_refused(
        pipe->ctx, SARA_ERROR_USAGE, "biases and norms alone",
        sara_model_export(pipe->ctx, NULL, model, test_path(pipe, "lora.safetensors"), &options));
    assert_false(sara_path_exists(test_path(pipe, "lora.safetensors")));
    sara_model_free(model);
}

/* ------------------------------------------------------------------------------------- metadata */

static const char *sha256(test_pipe *pipe, const char *path)
{
    char text[65];
    assert_ok(pipe->ctx, sara_sha256_file(pipe->ctx, text, path));
    return test_text(pipe, "%s", text);
}

static void assert_metadata(const sara_safetensors *file, const char *key, const char *value)
{
    const char *found = sara_safetensors_metadata(file, key);
    if (!found || strcmp(found, value) != 0)
        fail_msg("%s: %s, expected %s", key, found ? found : "(none)", value);
}

static void test_metadata(void **state)
{
    test_pipe *pipe = *state;
    test_adapted a = test_adapt(pipe, TEST_TINY, true, 3, 0.25f);
    const char *path =
        test_export(pipe, &a, "ink.safetensors", NULL, test_export_options("a1111", 0, NULL));
    sara_safetensors *file = test_open(pipe->ctx, path);
    assert_metadata(file, "format", "pt");
    assert_metadata(file, "ss_v2", "False");
    assert_metadata(file, "ss_base_model_version", "sd_v1");
    assert_metadata(file, "ss_network_module", "lycoris.kohya");
    assert_metadata(file, "ss_output_name", "ink");
    assert_metadata(file, "ss_sd_model_name", "unet_tiny");
    assert_metadata(file, "modelspec.title", "ink");
    assert_metadata(file, "modelspec.architecture", "stable-diffusion/lora");
    assert_null(sara_safetensors_metadata(file, "modelspec.prediction_type")); /* not known */
    assert_metadata(file, "modelspec.resolution", "512x512");
    assert_metadata(file, "modelspec.date", "2023-11-14T22:13:20Z");
    assert_metadata(file, "sara.base_sha256", a.model->base.sha256);
    sara_safetensors_close(file);
    file = test_open(pipe->ctx, test_export(pipe, &a, "lora.safetensors", NULL,
                                            test_export_options("lora", 5, NULL)));
    assert_metadata(file, "ss_network_module", "networks.lora");
    assert_metadata(file, "ss_network_dim", "5");
    assert_metadata(file, "ss_network_alpha", "5");
    assert_metadata(file, "ss_network_args", "{\"conv_dim\": \"5\", \"conv_alpha\": \"5\"}");
    sara_safetensors_close(file);
    sara_model_free(a.model);
}

/* The same twice; without a date given, the present. */
static void test_deterministic(void **state)
{
    test_pipe *pipe = *state;
    test_adapted a = test_adapt(pipe, TEST_TINY, true, 3, 0.25f);
    sara_export_options options = test_export_options("lora", 2, NULL);
    assert_ok(pipe->ctx, sara_directory_make(pipe->ctx, test_path(pipe, "again")));
    assert_string_equal(sha256(pipe, test_export(pipe, &a, "x.safetensors", NULL, options)),
                        sha256(pipe, test_export(pipe, &a, "again/x.safetensors", NULL, options)));
    options.date = 0;
    sara_safetensors *file =
        test_open(pipe->ctx, test_export(pipe, &a, "now.safetensors", NULL, options));
    const char *date = sara_safetensors_metadata(file, "modelspec.date");
    assert_int_equal(strlen(date), 20);
    assert_true(strcmp(date, "2025") > 0);
    sara_safetensors_close(file);
    sara_model_free(a.model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST_CASE(test_dense),    TEST_CASE(test_beyond_reach),  TEST_CASE(test_bias_alone),
        TEST_CASE(test_metadata), TEST_CASE(test_deterministic),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Models whose weights are 16-bit in memory: the base's hash, adapters, what can be saved. */
#include "support_pipeline.h"

#include <math.h>
#include <stdio.h>
#include <unistd.h>

#define FILE_NAME "diffusion_pytorch_model.safetensors"

static const char *hash_of(test_pipe *pipe, sara_model *model)
{
    const char *sha256;
    assert_ok(pipe->ctx, sara_model_base_sha256(pipe->ctx, &sha256, model));
    return test_text(pipe, "%s", sha256);
}

/* As it is inspected, in a model of its own. */
static const char *inspected(test_pipe *pipe, const char *path, bool unet_only, const char *dtype)
{
    sara_model *model = test_model_stored(pipe, path, unet_only, dtype);
    sara_model_report report;
    assert_ok(pipe->ctx, sara_model_inspect(pipe->ctx, &report, model));
    const char *sha256 = test_text(pipe, "%s", report.base_sha256);
    assert_string_equal(hash_of(pipe, model), sha256);
    sara_model_free(model);
    return sha256;
}

/* ---------------------------------------------------------------------------------------- hash */

static void check_hashes(test_pipe *pipe, const char *path, bool unet_only)
{
    static const char *const dtypes[] = {"bf16", "fp16", "auto", "fp32"};
    const char *expected = inspected(pipe, path, unet_only, NULL);
    for (size_t i = 0; i < sizeof(dtypes) / sizeof(*dtypes); i++)
        assert_string_equal(inspected(pipe, path, unet_only, dtypes[i]), expected);
}

/* That of the file, an F32 one and an F16 one, though what is in memory has another. */
static void test_hash(void **state)
{
    test_pipe *pipe = *state;
    sara_base in_memory;
    check_hashes(pipe, TEST_TINY, true);
    check_hashes(pipe, TEST_BASE, false);
    sara_model *model = test_model_stored(pipe, TEST_TINY, true, "bf16");
    assert_true(sara_model_is_rounded(model));
    assert_ok(pipe->ctx, sara_params_base(pipe->ctx, &in_memory, &model->denoiser->params));
    assert_string_not_equal(in_memory.sha256, hash_of(pipe, model));
    sara_model_free(model);
    model = test_model_stored(pipe, TEST_BASE, false, "auto");
    assert_false(sara_model_is_rounded(model));
    assert_string_equal(sara_storage_name(&model->denoiser->params), "fp16");
    sara_model_free(model);
}

/* A copy of the tiny U-Net. */
static const char *copy_tiny(test_pipe *pipe, const char *name)
{
    const char *path = test_path(pipe, name);
    sara_model *model = test_model(pipe, TEST_TINY, true);
    assert_ok(pipe->ctx, sara_model_save(pipe->ctx, NULL, model, path, NULL));
    sara_model_free(model);
    return path;
}

/* The hash is that of the file: it has to be there still, and to fit. */
static void test_file_is_another(void **state)
{
    static const float zeros[5000];
    static const sara_tensor_source others[] = {{"conv_in.bias", SARA_F32, {1, {5000}}, zeros},
                                                {"conv_out.bias", SARA_F32, {1, {4}}, zeros}};
    test_pipe *pipe = *state;
    sara_base base;
    const char *path = copy_tiny(pipe, "copy");
    const char *file = test_text(pipe, "%s/" FILE_NAME, path);
    sara_model *model = test_model_stored(pipe, path, true, "bf16");
    assert_ok(pipe->ctx, sara_safetensors_save(pipe->ctx, file, &others[0], 1, NULL, 0));
    assert_refused(pipe->ctx, SARA_ERROR_INPUT, "tensor conv_in.bias: shape [5000], expected [4]",
                   sara_model_read_base(pipe->ctx, &base, model));
    assert_ok(pipe->ctx, sara_safetensors_save(pipe->ctx, file, &others[1], 1, NULL, 0));
    assert_refused(pipe->ctx, SARA_ERROR_INPUT, FILE_NAME ": no tensor conv_in.bias",
                   sara_model_read_base(pipe->ctx, &base, model));
    assert_int_equal(unlink(file), 0);
    assert_refused(pipe->ctx, SARA_ERROR_INPUT, "no " FILE_NAME,
                   sara_model_read_base(pipe->ctx, &base, model));
    sara_model_free(model);
}

/* ------------------------------------------------------------------------------------- adapters */

/* One made for the base goes on and off; its values are rounded like all others. */
static void test_adapter_applies(void **state)
{
    test_pipe *pipe = *state;
    sara_model *wide = test_model(pipe, TEST_TINY, true);
    sara_model *narrow = test_model_stored(pipe, TEST_TINY, true, "bf16");
    const char *path = test_adapter(pipe, "a.safetensors", wide, 7, 0.25f);
    const sara_params *params = &narrow->denoiser->params;
    size_t count, at = 0, changed = 0;
    const float *before = test_values(pipe, narrow, &count);
    assert_ok(pipe->ctx, sara_model_apply(pipe->ctx, wide, path, 1, false));
    assert_ok(pipe->ctx, sara_model_apply(pipe->ctx, narrow, path, 1, false));
    const float *expected = test_values(pipe, wide, &count);
    const float *after = test_values(pipe, narrow, &count);
    for (size_t i = 0; i < params->count; i++) {
        const sara_shape *shape = &params->items[i].value.shape;
        for (int64_t j = 0; j < sara_shape_count(shape); j++, at++) {
            bool matrix = shape->rank > 1;
            assert_true(after[at] ==
                        (matrix ? sara_bf16_to_f32(sara_f32_to_bf16(expected[at])) : expected[at]));
            changed += after[at] != before[at];
        }
    }
    assert_true(changed > count / 8 && changed < count / 6);
    sara_model_remove(narrow);
    assert_memory_equal(test_values(pipe, narrow, &count), before, count * sizeof(*before));
    sara_model_free(wide);
    sara_model_free(narrow);
}

/* --------------------------------------------------------------------------------------- saving */

static void check_save_refused(test_pipe *pipe, const char *path, bool unet_only, const char *dtype)
{
    sara_model *model = test_model_stored(pipe, path, unet_only, dtype);
    const char *out = test_path(pipe, "out");
    const char *line = test_text(
        pipe,
        "%s: was loaded with weight_dtype %s, which rounded its weights; load it with fp32 or "
        "auto to save it",
        path, dtype);
    assert_refused(pipe->ctx, SARA_ERROR_USAGE, line,
                   sara_model_save(pipe->ctx, NULL, model, out, NULL));
    assert_refused(pipe->ctx, SARA_ERROR_USAGE, line,
                   sara_model_save(pipe->ctx, NULL, model, out, dtype));
    assert_false(sara_path_exists(out));
    sara_model_free(model);
}

static void test_save_refused(void **state)
{
    test_pipe *pipe = *state;
    sara_model *model = NULL;
    check_save_refused(pipe, TEST_TINY, true, "bf16");
    check_save_refused(pipe, TEST_TINY, true, "fp16");
    check_save_refused(pipe, TEST_BASE, false, "bf16");
    assert_refused(pipe->ctx, SARA_ERROR_USAGE, "weight_dtype fp8: expected auto, fp32, fp16 or bf",
                   sara_model_load(pipe->ctx, &model, TEST_BASE,
                                   &(sara_model_options){.weight_dtype = "fp8"}));
    assert_null(model);
}

/* The hash of the U-Net's file as saved, with the adapter if one is given. */
static const char *saved(test_pipe *pipe, const char *weight_dtype, const char *dtype,
                         const char *adapter)
{
    sara_model *model = test_model_stored(pipe, TEST_BASE, false, weight_dtype);
    const char *out = test_path(pipe, "saved");
    char sha256[65];
    if (adapter)
        assert_ok(pipe->ctx, sara_model_apply(pipe->ctx, model, adapter, 1, false));
    assert_ok(pipe->ctx, sara_model_save(pipe->ctx, NULL, model, out, dtype));
    assert_ok(pipe->ctx,
              sara_sha256_file(pipe->ctx, sha256, test_text(pipe, "%s/unet/" FILE_NAME, out)));
    assert_ok(pipe->ctx, sara_directory_remove(pipe->ctx, out));
    sara_model_free(model);
    return test_text(pipe, "%s", sha256);
}

/* Weights that stay as they are in the file are saved to the same bytes as floats are. */
static void test_auto_saves_the_same(void **state)
{
    static const char *const dtypes[] = {NULL, "fp32", "bf16"};
    test_pipe *pipe = *state;
    sara_model *model = test_model(pipe, TEST_BASE, false);
    const char *adapter = test_adapter(pipe, "a.safetensors", model, 7, 0.25f);
    const char *source = test_text(pipe, TEST_BASE "/unet/" FILE_NAME);
    char sha256[65];
    sara_model_free(model);
    assert_ok(pipe->ctx, sara_sha256_file(pipe->ctx, sha256, source));
    assert_string_equal(saved(pipe, "auto", NULL, NULL), sha256);
    for (size_t i = 0; i < sizeof(dtypes) / sizeof(*dtypes); i++)
        assert_string_equal(saved(pipe, "auto", dtypes[i], NULL),
                            saved(pipe, "fp32", dtypes[i], NULL));
    assert_string_equal(saved(pipe, "auto", NULL, adapter), saved(pipe, "fp32", NULL, adapter));
    assert_string_not_equal(saved(pipe, "auto", NULL, adapter), sha256);
}

/* To nearest even on fp16's grid, of numbers that it holds. */
static double on_grid(double value)
{
    const int exponent = value != 0 && ilogb(value) > -14 ? ilogb(value) : -14;
    return ldexp(rint(ldexp(value, 10 - exponent)), exponent - 10);
}

/* Changes of an F32 base that fp16 swallows: its values are between those that fp16 has. */
static void test_changes_below_the_grid(void **state)
{
    test_pipe *pipe = *state;
    sara_model *model = test_model(pipe, TEST_TINY, true);
    sara_save_report report;
    size_t count, changed = 0, away = 0;
    const float *base = test_values(pipe, model, &count);
    const char *adapter = test_adapter(pipe, "small.safetensors", model, 3, 2e-5f);
    assert_ok(pipe->ctx, sara_model_apply(pipe->ctx, model, adapter, 1, false));
    const float *now = test_values(pipe, model, &count);
    for (size_t i = 0; i < count; i++) {
        changed += now[i] != base[i];
        away += now[i] != base[i] && on_grid((double)now[i]) == on_grid((double)base[i]);
    }
    assert_true(away > changed / 10 && away < changed * 9 / 10);
    assert_ok(pipe->ctx,
              sara_model_save(pipe->ctx, &report, model, test_path(pipe, "half"), "fp16"));
    assert_int_equal(report.changed, changed);
    assert_int_equal(report.rounded_away, away);
    sara_model_free(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST_CASE(test_changes_below_the_grid), TEST_CASE(test_hash),
        TEST_CASE(test_file_is_another),        TEST_CASE(test_adapter_applies),
        TEST_CASE(test_save_refused),           TEST_CASE(test_auto_saves_the_same),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

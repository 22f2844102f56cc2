/* Adapters on a model and models written to folders. */
#include "support/support.h"

#include "pipeline/pipeline.h"

#include <math.h>
#include <stdlib.h>

#define BASE SARA_TEST_EMOJI "/base"

typedef struct fixture {
    sara_context *ctx;
    char *folder;
    sara_model *model;
    float **original; /* copies of the U-Net's values */
    char *adapter;
} fixture;

static char *in_folder(const fixture *f, const char *name)
{
    char *path = NULL;
    if (asprintf(&path, "%s/%s", f->folder, name) < 0)
        fail_msg("out of memory");
    return path;
}

/* Every 7th entry of two tensors moves by a little, one so little that f16 loses it. */
static void write_adapter(fixture *f, const char *base_sha256)
{
    static const char *const names[] = {"conv_in.bias", "conv_in.weight"};
    sara_adapter_entry entries[2];
    const sara_metadata metadata[] = {{"sara.base_sha256", base_sha256}, {"sara.format", "1"},
                                      {"sara.method", "sara"},           {"sara.selected", "338"},
                                      {"sara.target", "unet"},           {"sara.threshold", "1"}};
    for (int e = 0; e < 2; e++) {
        const sara_param *param = sara_params_find(&f->model->denoiser->params, names[e]);
        size_t count = (size_t)sara_shape_count(&param->value.shape) / 7;
        entries[e] = (sara_adapter_entry){names[e], NULL, NULL, count};
        assert_ok(f->ctx, sara_alloc(f->ctx, &entries[e].positions, count, sizeof(uint32_t)));
        assert_ok(f->ctx, sara_alloc(f->ctx, &entries[e].values, count, sizeof(float)));
        for (size_t i = 0; i < count; i++) {
            float value = ((const float *)param->value.data)[7 * i];
            entries[e].positions[i] = (uint32_t)(7 * i);
            entries[e].values[i] = e == 0 && i == 0 ? value * (1 + 0x1p-20f) : value + 0.01f;
        }
    }
    assert_ok(f->ctx, sara_adapter_save(f->ctx, f->adapter, entries, 2, metadata, 6, SARA_F32));
    for (int e = 0; e < 2; e++) {
        sara_free(f->ctx, entries[e].positions);
        sara_free(f->ctx, entries[e].values);
    }
}

static int setup(void **state)
{
    fixture *f = calloc(1, sizeof(*f));
    const char *sha256;
    f->ctx = test_context();
    f->folder = test_folder();
    f->adapter = in_folder(f, "adapter.safetensors");
    assert_ok(f->ctx, sara_model_load(f->ctx, &f->model, BASE, NULL));
    assert_ok(f->ctx, sara_model_need(f->model, SARA_STAGE_DENOISE));
    const sara_params *params = &f->model->denoiser->params;
    f->original = calloc(params->count, sizeof(*f->original));
    for (size_t i = 0; i < params->count; i++) {
        size_t bytes = (size_t)sara_shape_count(&params->items[i].value.shape) * sizeof(float);
        f->original[i] = malloc(bytes);
        memcpy(f->original[i], params->items[i].value.data, bytes);
    }
    assert_ok(f->ctx, sara_model_base_sha256(f->ctx, &sha256, f->model));
    write_adapter(f, sha256);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    fixture *f = *state;
    for (size_t i = 0; i < f->model->denoiser->params.count; i++)
        free(f->original[i]);
    free(f->original);
    free(f->adapter);
    sara_model_free(f->model);
    sara_context_free(f->ctx);
    test_folder_remove(f->folder);
    free(f);
    return 0;
}

/* Entries of the model's U-Net that differ in a bit from the values given. */
static size_t differing(const sara_model *model, float *const *values)
{
    const sara_params *params = &model->denoiser->params;
    size_t count = 0;
    for (size_t i = 0; i < params->count; i++) {
        const float *now = params->items[i].value.data;
        for (int64_t j = 0; j < sara_shape_count(&params->items[i].value.shape); j++)
            count += memcmp(&now[j], &values[i][j], sizeof(float)) != 0;
    }
    return count;
}

static size_t selected(const fixture *f)
{
    sara_adapter adapter;
    size_t count = 0;
    assert_ok(f->ctx, sara_adapter_load(f->ctx, &adapter, f->adapter));
    for (size_t i = 0; i < adapter.count; i++)
        count += adapter.entries[i].count;
    sara_adapter_free(&adapter);
    return count;
}

static void test_apply_and_remove(void **state)
{
    fixture *f = *state;
    assert_ok(f->ctx, sara_model_apply(f->ctx, f->model, f->adapter, 1.0, false));
    assert_int_equal(differing(f->model, f->original), selected(f));
    sara_model_remove(f->model);
    assert_int_equal(differing(f->model, f->original), 0);
    assert_ok(f->ctx, sara_model_apply(f->ctx, f->model, f->adapter, 0.0, false));
    assert_int_equal(differing(f->model, f->original), 0);
    sara_model_remove(f->model);
    assert_ok(f->ctx, sara_model_apply(f->ctx, f->model, f->adapter, 0.5, false));
    const sara_param *param = sara_params_find(&f->model->denoiser->params, "conv_in.weight");
    size_t index = (size_t)(param - f->model->denoiser->params.items);
    float change = ((const float *)param->value.data)[7] - f->original[index][7];
    assert_close(fabs(change - 0.005), 1e-6, "half the change");
    assert_refused(f->ctx, SARA_ERROR_IO, "none.safetensors",
                   sara_model_apply(f->ctx, f->model, "none.safetensors", 1, false));
}

static void test_another_base_is_refused(void **state)
{
    fixture *f = *state;
    write_adapter(f, "00000000000000000000000000000000000000000000000000000000000000ff");
    assert_refused(f->ctx, SARA_ERROR_INPUT, "000000",
                   sara_model_apply(f->ctx, f->model, f->adapter, 1, false));
    assert_int_equal(differing(f->model, f->original), 0);
    assert_ok(f->ctx, sara_model_apply(f->ctx, f->model, f->adapter, 1, true));
    assert_int_equal(differing(f->model, f->original), selected(f));
}

/* A saved model loads again with the values that it had. */
static void test_save_in_f32(void **state)
{
    fixture *f = *state;
    char *out = in_folder(f, "merged");
    sara_save_report report;
    sara_model *again;
    assert_ok(f->ctx, sara_model_apply(f->ctx, f->model, f->adapter, 1, false));
    assert_ok(f->ctx, sara_model_save(f->ctx, &report, f->model, out, "fp32"));
    assert_int_equal(report.changed, selected(f));
    assert_int_equal(report.rounded_away, 0);
    assert_true(report.rounding_error == 0);
    assert_ok(f->ctx, sara_model_load(f->ctx, &again, out, NULL));
    assert_ok(f->ctx, sara_model_need(again, SARA_STAGE_DENOISE));
    const sara_params *params = &f->model->denoiser->params;
    for (size_t i = 0; i < params->count; i++)
        memcpy(f->original[i], params->items[i].value.data,
               (size_t)sara_shape_count(&params->items[i].value.shape) * sizeof(float));
    assert_int_equal(differing(again, f->original), 0);
    assert_int_equal(again->denoiser->params.items[0].stored, SARA_F32);
    sara_model_free(again);
    assert_refused(f->ctx, SARA_ERROR_USAGE, "name a new folder",
                   sara_model_save(f->ctx, NULL, f->model, out, NULL));
    free(out);
}

/* In the base's f16 a change can be lost, and the report says so. */
static void test_save_rounds(void **state)
{
    fixture *f = *state;
    char *out = in_folder(f, "half");
    sara_save_report report;
    sara_model *again;
    assert_ok(f->ctx, sara_model_apply(f->ctx, f->model, f->adapter, 1, false));
    assert_ok(f->ctx, sara_model_save(f->ctx, &report, f->model, out, NULL));
    assert_int_equal(report.changed, selected(f));
    assert_int_equal(report.rounded_away, 1);
    assert_true(report.rounding_error > 1e-6 && report.rounding_error < 1e-2);
    assert_ok(f->ctx, sara_model_load(f->ctx, &again, out, NULL));
    assert_ok(f->ctx, sara_model_need(again, SARA_STAGE_DENOISE));
    assert_int_equal(again->denoiser->params.items[0].stored, SARA_F16);
    assert_int_equal(differing(again, f->original), selected(f) - 1);
    sara_model_free(again);
    assert_refused(f->ctx, SARA_ERROR_USAGE, "fp8",
                   sara_model_save(f->ctx, NULL, f->model, "unused", "fp8"));
    free(out);
}

/* Without a change the files' tensors are the source's; other files come along. */
static void test_save_carries_along(void **state)
{
    fixture *f = *state;
    char *out = in_folder(f, "copy");
    static const char *const files[] = {"unet/config.json",
                                        "vae/diffusion_pytorch_model.safetensors",
                                        "tokenizer/vocab.json",
                                        "text_encoder/model.safetensors",
                                        "scheduler/scheduler_config.json",
                                        "model_index.json"};
    assert_ok(f->ctx, sara_model_save(f->ctx, NULL, f->model, out, NULL));
    for (size_t i = 0; i < sizeof(files) / sizeof(*files); i++) {
        char ours[600], theirs[600], a[65], b[65];
        snprintf(ours, sizeof(ours), "%s/%s", out, files[i]);
        snprintf(theirs, sizeof(theirs), BASE "/%s", files[i]);
        assert_ok(f->ctx, sara_sha256_file(f->ctx, a, ours));
        assert_ok(f->ctx, sara_sha256_file(f->ctx, b, theirs));
        assert_string_equal(a, b);
    }
    sara_model *again;
    assert_ok(f->ctx, sara_model_load(f->ctx, &again, out, NULL));
    assert_ok(f->ctx, sara_model_need(again, SARA_STAGE_DENOISE));
    assert_int_equal(differing(again, f->original), 0);
    sara_model_free(again);
    free(out);
}

/* A save that fails leaves nothing behind. */
static void test_failed_save(void **state)
{
    fixture *f = *state;
    sara_status status = sara_model_save(f->ctx, NULL, f->model, "/proc/sara-cannot-be-made", NULL);
    assert_int_equal(status, SARA_ERROR_IO);
    assert_false(sara_path_exists("/proc/sara-cannot-be-made"));
}

static void test_loading_refusals(void **state)
{
    fixture *f = *state;
    sara_model *model;
    assert_refused(f->ctx, SARA_ERROR_IO, "downloads nothing",
                   sara_model_load(f->ctx, &model, "runwayml/stable-diffusion-v1-5", NULL));
    assert_refused(f->ctx, SARA_ERROR_INPUT, "model_index.json",
                   sara_model_load(f->ctx, &model, f->folder, NULL));
    free(test_file(f->folder, "model_index.json",
                   "{\"_class_name\": \"KolorsPipeline\"}", 33));
    assert_refused(f->ctx, SARA_ERROR_INPUT, "KolorsPipeline is not supported",
                   sara_model_load(f->ctx, &model, f->folder, NULL));
    assert_refused(f->ctx, SARA_ERROR_INPUT, "bf16",
                   sara_model_load(f->ctx, &model, BASE, &(sara_model_options){.variant = "bf16"}));
    assert_null(model);
}

static void test_inspect_counts(void **state)
{
    fixture *f = *state;
    sara_model_report report;
    int64_t entries = 0;
    assert_ok(f->ctx, sara_model_inspect(f->ctx, &report, f->model));
    assert_int_equal(report.component_count, 3);
    assert_int_equal(report.components[0].parameters, 8788228);
    for (int i = 0; i < SARA_HISTOGRAM_BINS; i++)
        entries += report.histogram[i];
    assert_int_equal(entries, 8788228);
    for (int t = 0; t < report.threshold_count; t++) {
        const sara_params *params = &f->model->denoiser->params;
        int64_t below = 0;
        for (size_t i = 0; i < params->count; i++)
            for (int64_t j = 0; j < sara_shape_count(&params->items[i].value.shape); j++)
                below += fabsf(f->original[i][j]) < (float)report.thresholds[t];
        assert_int_equal(report.selected[t], below);
    }
}

/* Four bins to a power of ten, the first from zero and the last without end. */
static void test_inspect_histogram(void **state)
{
    fixture *f = *state;
    const sara_params *params = &f->model->denoiser->params;
    float *values = params->items[0].value.data;
    const float ends[] = {10.0f, 11.0f, 1e30f, 1e-30f, 0.0f};
    int64_t expected[SARA_HISTOGRAM_BINS] = {0};
    sara_model_report report;
    memcpy(values, ends, sizeof(ends));
    for (size_t i = 0; i < params->count; i++)
        for (int64_t j = 0; j < sara_shape_count(&params->items[i].value.shape); j++) {
            double magnitude = fabs((double)((const float *)params->items[i].value.data)[j]);
            int bin = SARA_HISTOGRAM_BINS - 1;
            while (bin > 0 && magnitude < pow(10, (bin - 20) / 4.0))
                bin--;
            expected[bin]++;
        }
    assert_ok(f->ctx, sara_model_inspect(f->ctx, &report, f->model));
    assert_true(expected[0] > 0 && expected[SARA_HISTOGRAM_BINS - 1] == 3);
    assert_memory_equal(report.histogram, expected, sizeof(expected));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_apply_and_remove, setup, teardown),
        cmocka_unit_test_setup_teardown(test_another_base_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_save_in_f32, setup, teardown),
        cmocka_unit_test_setup_teardown(test_save_rounds, setup, teardown),
        cmocka_unit_test_setup_teardown(test_save_carries_along, setup, teardown),
        cmocka_unit_test_setup_teardown(test_failed_save, setup, teardown),
        cmocka_unit_test_setup_teardown(test_loading_refusals, setup, teardown),
        cmocka_unit_test_setup_teardown(test_inspect_counts, setup, teardown),
        cmocka_unit_test_setup_teardown(test_inspect_histogram, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Adapters from two models. */
#include "support_pipeline.h"
#include "support/memory.h"

#include <math.h>

static const sara_extract_options all = {.tolerance = -1};

/* The base with every stride-th entry moved, as a folder; *adapter: what was merged into it. */
static const char *make_tuned(test_pipe *pipe, const char *path, bool unet_only, size_t stride,
                              const char *dtype, const char **adapter)
{
    const char *out = test_text(pipe, "%s/tuned-%zu-%s", pipe->folder, stride, dtype);
    sara_model *model = test_model(pipe, path, unet_only);
    *adapter = test_adapter(pipe, "merged.safetensors", model, stride, 0.25f);
    assert_ok(pipe->ctx, sara_model_apply(pipe->ctx, model, *adapter, 1, false));
    assert_ok(pipe->ctx, sara_model_save(pipe->ctx, NULL, model, out, dtype));
    sara_model_free(model);
    return out;
}

typedef struct two {
    sara_model *base, *tuned;
} two;

static two load_two(test_pipe *pipe, const char *base, const char *tuned, bool unet_only,
                    const char *weight_dtype)
{
    return (two){test_model_stored(pipe, base, unet_only, weight_dtype),
                 test_model_stored(pipe, tuned, unet_only, weight_dtype)};
}

static void free_two(two m)
{
    sara_model_free(m.base);
    sara_model_free(m.tuned);
}

static const char *sha256(test_pipe *pipe, const char *path)
{
    char text[65];
    assert_ok(pipe->ctx, sara_sha256_file(pipe->ctx, text, path));
    return test_text(pipe, "%s", text);
}

static void assert_same_values(test_pipe *pipe, const sara_model *a, const sara_model *b)
{
    size_t count, others;
    const float *x = test_values(pipe, a, &count), *y = test_values(pipe, b, &others);
    assert_int_equal(count, others);
    assert_memory_equal(x, y, count * sizeof(*x));
}

/* ---------------------------------------------------------------------------------- exact ones */

static void assert_same_entries(test_pipe *pipe, const char *a, const char *b)
{
    sara_adapter x, y;
    assert_ok(pipe->ctx, sara_adapter_load(pipe->ctx, &x, a));
    assert_ok(pipe->ctx, sara_adapter_load(pipe->ctx, &y, b));
    assert_int_equal(x.count, y.count);
    for (size_t i = 0; i < x.count; i++) {
        const sara_adapter_entry *p = &x.entries[i], *q = &y.entries[i];
        assert_string_equal(p->name, q->name);
        assert_int_equal(p->count, q->count);
        assert_memory_equal(p->positions, q->positions, p->count * sizeof(*p->positions));
        assert_memory_equal(p->values, q->values, p->count * sizeof(*p->values));
    }
    sara_adapter_free(&x);
    sara_adapter_free(&y);
}

/* Merged and extracted again it is the same adapter, with the base's hash and no date. */
static void test_merged(void **state)
{
    test_pipe *pipe = *state;
    const char *adapter, *path = test_path(pipe, "x.safetensors");
    const char *tuned = make_tuned(pipe, TEST_TINY, true, 7, "fp32", &adapter);
    two m = load_two(pipe, TEST_TINY, tuned, true, NULL);
    sara_extract_report report;
    sara_adapter made;
    assert_ok(pipe->ctx, sara_model_extract(pipe->ctx, &report, m.base, m.tuned, path, &all));
    assert_same_entries(pipe, path, adapter);
    assert_int_equal(report.parameters, sara_params_entries(&m.base->denoiser->params));
    assert_int_equal(report.differing, report.kept);
    assert_true(report.left_out == 0);
    assert_close(fabs(report.change_norm / (0.25 * sqrt((double)report.kept)) - 1), 1e-6, "norm");
    assert_ok(pipe->ctx, sara_adapter_load(pipe->ctx, &made, path));
    assert_string_equal(sara_adapter_metadata(&made, "sara.method"), "extract");
    assert_string_equal(sara_adapter_metadata(&made, "sara.target"), "unet");
    assert_string_equal(sara_adapter_metadata(&made, "sara.base_sha256"), m.base->base.sha256);
    assert_string_equal(sara_adapter_metadata(&made, "sara.base_precision"),
                        sara_precision_name(m.base->base.precision));
    assert_string_equal(sara_adapter_metadata(&made, "sara.selected"),
                        test_text(pipe, "%lld", (long long)report.kept));
    assert_null(sara_adapter_metadata(&made, "sara.tolerance"));
    assert_null(sara_adapter_metadata(&made, "modelspec.date"));
    sara_adapter_free(&made);
    assert_ok(pipe->ctx, sara_model_apply(pipe->ctx, m.base, path, 1, false));
    assert_same_values(pipe, m.base, m.tuned);
    free_two(m);
}

/* 16-bit files: in memory as they are or as floats, the adapter is the same file; base and adapter
 * make the tuned model to the bit. */
static void test_halves(void **state)
{
    static const char *const dtypes[] = {"fp16", "fp32", "bf16"};
    test_pipe *pipe = *state;
    for (size_t i = 0; i < 3; i++) {
        const char *adapter, *a = test_text(pipe, "%s/a-%zu.safetensors", pipe->folder, i);
        const char *b = test_text(pipe, "%s/b-%zu.safetensors", pipe->folder, i);
        const char *tuned = make_tuned(pipe, TEST_BASE, false, 9, dtypes[i], &adapter);
        two m = load_two(pipe, TEST_BASE, tuned, false, "auto");
        sara_extract_options options = all;
        if (i == 2) /* bf16 has rounded most of the fp16 base's entries */
            options.top_fraction = 0.9999;
        assert_ok(pipe->ctx, sara_model_extract(pipe->ctx, NULL, m.base, m.tuned, a, &options));
        free_two(m);
        m = load_two(pipe, TEST_BASE, tuned, false, NULL);
        assert_ok(pipe->ctx, sara_model_extract(pipe->ctx, NULL, m.base, m.tuned, b, &options));
        assert_string_equal(sha256(pipe, a), sha256(pipe, b));
        assert_ok(pipe->ctx, sara_model_apply(pipe->ctx, m.base, b, 1, false));
        assert_same_values(pipe, m.base, m.tuned);
        free_two(m);
    }
}

/* Adapters on the tuned model count. */
static void test_applied(void **state)
{
    test_pipe *pipe = *state;
    two m = load_two(pipe, TEST_TINY, TEST_TINY, true, NULL);
    const char *adapter = test_adapter(pipe, "a.safetensors", m.base, 5, 0.5f);
    const char *path = test_path(pipe, "x.safetensors"), *none = test_path(pipe, "none");
    assert_refused(pipe->ctx, SARA_ERROR_INPUT, "no entry differs",
                   sara_model_extract(pipe->ctx, NULL, m.base, m.tuned, none, &all));
    assert_ok(pipe->ctx, sara_model_apply(pipe->ctx, m.tuned, adapter, 0.5, false));
    assert_ok(pipe->ctx, sara_model_extract(pipe->ctx, NULL, m.base, m.tuned, path, &all));
    assert_ok(pipe->ctx, sara_model_apply(pipe->ctx, m.base, path, 1, false));
    assert_same_values(pipe, m.base, m.tuned);
    assert_refused(pipe->ctx, SARA_ERROR_USAGE, "adapters are applied to it",
                   sara_model_extract(pipe->ctx, NULL, m.base, m.tuned, none, &all));
    sara_model_remove(m.base);
    assert_ok(pipe->ctx, sara_model_extract(pipe->ctx, NULL, m.base, m.tuned, none, &all));
    assert_string_equal(sha256(pipe, path), sha256(pipe, none));
    free_two(m);
}

/* ------------------------------------------------------------------------------------- a part */

/* Extracts, and checks the report against what base and adapter make. */
static int64_t check_part(test_pipe *pipe, two m, const char *name,
                          const sara_extract_options *options)
{
    const char *path = test_path(pipe, name);
    sara_extract_report report;
    size_t count;
    double change = 0, left = 0;
    assert_ok(pipe->ctx, sara_model_extract(pipe->ctx, &report, m.base, m.tuned, path, options));
    const float *base = test_values(pipe, m.base, &count);
    const float *tuned = test_values(pipe, m.tuned, &count);
    assert_ok(pipe->ctx, sara_model_apply(pipe->ctx, m.base, path, 1, false));
    const float *made = test_values(pipe, m.base, &count);
    sara_model_remove(m.base);
    for (size_t i = 0; i < count; i++) {
        double a = (double)tuned[i] - (double)base[i], b = (double)tuned[i] - (double)made[i];
        change += a * a;
        left += b * b;
    }
    assert_close(fabs(report.change_norm / sqrt(change) - 1), 1e-9, "change");
    assert_close(fabs(report.left_out - sqrt(left / change)), 1e-9, "left out");
    return report.kept;
}

static void test_parts(void **state)
{
    test_pipe *pipe = *state;
    two m = load_two(pipe, TEST_TINY, TEST_TINY, true, NULL);
    const char *a = test_adapter(pipe, "a.safetensors", m.base, 2, 0.25f);
    const char *b = test_adapter(pipe, "b.safetensors", m.base, 3, 0.0625f);
    int64_t entries = sara_params_entries(&m.base->denoiser->params);
    sara_extract_options options = all;
    assert_ok(pipe->ctx, sara_model_apply(pipe->ctx, m.tuned, a, 1, false));
    assert_ok(pipe->ctx, sara_model_apply(pipe->ctx, m.tuned, b, 1, false));
    assert_refused(pipe->ctx, SARA_ERROR_USAGE, "give top_fraction",
                   sara_model_extract(pipe->ctx, NULL, m.base, m.tuned,
                                      test_path(pipe, "x.safetensors"), &options));
    assert_false(sara_path_exists(test_path(pipe, "x.safetensors")));
    options.top_fraction = 0.1;
    assert_int_equal(check_part(pipe, m, "tenth", &options), (int64_t)rint(0.1 * (double)entries));
    options.top_fraction = 1e-9;
    assert_int_equal(check_part(pipe, m, "one", &options), 1);
    options.top_fraction = 1;
    int64_t differing = check_part(pipe, m, "everything", &options);
    assert_true(differing > entries / 2 && differing < entries * 3 / 4);
    options.save_precision = "bf16";
    assert_int_equal(check_part(pipe, m, "rounded", &options), differing);
    options = (sara_extract_options){.tolerance = 0.1, .save_precision = "fp16"};
    int64_t large = check_part(pipe, m, "large", &options);
    assert_true(large > entries * 2 / 5 && large < entries * 3 / 5);
    options.tolerance = 0;
    assert_int_equal(check_part(pipe, m, "above zero", &options), differing);
    options.tolerance = 1;
    assert_refused(pipe->ctx, SARA_ERROR_USAGE, "tolerance 1 keeps nothing: the largest change is",
                   sara_model_extract(pipe->ctx, NULL, m.base, m.tuned,
                                      test_path(pipe, "x.safetensors"), &options));
    free_two(m);
}

/* The tiny U-Net, which draws pictures 16 latents wide and 32 high. */
static const char *make_upright(test_pipe *pipe)
{
    static const char weights[] = "diffusion_pytorch_model.safetensors";
    const char *folder = test_path(pipe, "upright");
    json_t *config = json_load_file(TEST_TINY "/config.json", 0, NULL);
    json_object_set_new(config, "sample_size", json_pack("[i,i]", 32, 16));
    assert_ok(pipe->ctx, sara_json_save(pipe->ctx, folder, "config.json", config, 0));
    json_decref(config);
    assert_ok(pipe->ctx, sara_file_copy(pipe->ctx, test_text(pipe, TEST_TINY "/%s", weights),
                                        test_text(pipe, "%s/%s", folder, weights)));
    return folder;
}

/* Width and height in pixels, of which a latent has eight a side. */
static void test_resolution(void **state)
{
    test_pipe *pipe = *state;
    const char *folder = make_upright(pipe), *path = test_path(pipe, "x.safetensors");
    two m = load_two(pipe, folder, folder, true, NULL);
    sara_adapter made;
    assert_ok(pipe->ctx,
              sara_model_apply(pipe->ctx, m.tuned,
                               test_adapter(pipe, "a.safetensors", m.base, 7, 0.25f), 1, false));
    assert_ok(pipe->ctx, sara_model_extract(pipe->ctx, NULL, m.base, m.tuned, path, &all));
    assert_ok(pipe->ctx, sara_adapter_load(pipe->ctx, &made, path));
    assert_string_equal(sara_adapter_metadata(&made, "modelspec.resolution"), "128x256");
    sara_adapter_free(&made);
    free_two(m);
}

/* Half of the entries are still an exact adapter, one more are not. */
static void test_half_differs(void **state)
{
    test_pipe *pipe = *state;
    two m = load_two(pipe, TEST_TINY, TEST_TINY, true, NULL);
    const char *adapter = test_adapter(pipe, "half.safetensors", m.base, 2, 0.25f);
    const sara_params *params = &m.tuned->denoiser->params;
    int64_t half = sara_params_entries(params) / 2;
    sara_extract_report report;
    assert_ok(pipe->ctx, sara_model_apply(pipe->ctx, m.tuned, adapter, 1, false));
    assert_ok(pipe->ctx, sara_model_extract(pipe->ctx, &report, m.base, m.tuned,
                                            test_path(pipe, "a.safetensors"), &all));
    assert_true(report.kept == half && report.parameters == 2 * half);
    ((float *)params->items[0].value.data)[1] += 0.25f; /* the adapter moves the even ones */
    assert_refused(
        pipe->ctx, SARA_ERROR_USAGE,
        test_text(pipe, "%lld of %lld entries differ", (long long)half + 1, (long long)half * 2),
        sara_model_extract(pipe->ctx, NULL, m.base, m.tuned, test_path(pipe, "b.safetensors"),
                           &all));
    free_two(m);
}

/* A folder's text encoder with one tensor twice as large. */
static void change_text_encoder(test_pipe *pipe, const char *folder)
{
    static const char name[] = "text_model.final_layer_norm.weight";
    const char *path = test_text(pipe, "%s/text_encoder/model.safetensors", folder);
    sara_safetensors *file = NULL;
    sara_tensor_source *sources = NULL;
    assert_ok(pipe->ctx, sara_safetensors_open(pipe->ctx, &file, path));
    size_t count = sara_safetensors_count(file);
    assert_ok(pipe->ctx, sara_arena_alloc(&pipe->strings, &sources, count, sizeof(*sources)));
    for (size_t i = 0; i < count; i++) {
        const sara_tensor_info *info = sara_safetensors_at(file, i);
        size_t size = (size_t)sara_shape_count(&info->shape);
        float *values = NULL;
        assert_ok(pipe->ctx, sara_arena_alloc(&pipe->strings, &values, size, sizeof(*values)));
        assert_ok(pipe->ctx, sara_safetensors_read_f32(file, values, info));
        for (size_t j = 0; strstr(name, info->name) && j < size; j++)
            values[j] *= 2;
        sources[i] = (sara_tensor_source){info->name, SARA_F32, info->shape, values};
    }
    assert_ok(pipe->ctx, sara_safetensors_save(pipe->ctx, path, sources, count, NULL, 0));
    sara_safetensors_close(file);
}

/* What else differs is told, whichever way the models are stored; what does not is not. */
static void test_text_encoder(void **state)
{
    test_pipe *pipe = *state;
    const char *adapter, *tuned = make_tuned(pipe, TEST_BASE, false, 7, "fp32", &adapter);
    const char *base = test_path(pipe, "base"), *single = test_path(pipe, "base.safetensors");
    sara_model *model = test_model(pipe, TEST_BASE, false), *file = NULL;
    assert_ok(pipe->ctx, sara_model_save(pipe->ctx, NULL, model, base, "fp32"));
    assert_ok(pipe->ctx, sara_model_save(pipe->ctx, NULL, model, single, "fp32"));
    sara_model_free(model);
    for (int changed = 0; changed < 2; changed++) {
        two m = load_two(pipe, base, tuned, false, NULL);
        assert_ok(pipe->ctx,
                  sara_model_extract(pipe->ctx, NULL, m.base, m.tuned,
                                     test_text(pipe, "%s/%d-a", pipe->folder, changed), &all));
        assert_ok(pipe->ctx, sara_model_load(pipe->ctx, &file, single,
                                             &(sara_model_options){.unet_only = true}));
        assert_ok(pipe->ctx,
                  sara_model_extract(pipe->ctx, NULL, file, m.tuned,
                                     test_text(pipe, "%s/%d-b", pipe->folder, changed), &all));
        sara_model_free(file);
        free_two(m);
        if (!changed) {
            assert_null(strstr(pipe->log, "text encoder"));
            change_text_encoder(pipe, tuned);
        }
    }
    const char *first = strstr(pipe->log, "its text encoder is another than the base's (1 tensors");
    assert_non_null(first);
    assert_non_null(strstr(first + 1, "its text encoder is another"));
    assert_null(strstr(pipe->log, "VAE"));
}

/* ------------------------------------------------------------------------------------ refusals */

static void test_options_refused(void **state)
{
    static const struct {
        sara_extract_options options;
        const char *line;
    } cases[] = {
        {{.tolerance = 0, .top_fraction = 0.5}, "top_fraction 0.5 and tolerance 0: give one"},
        {{.tolerance = -1, .top_fraction = 1.5}, "top_fraction 1.5: expected"},
        {{.tolerance = -1, .top_fraction = -1}, "top_fraction -1: expected"},
        {{.tolerance = (double)NAN}, "tolerance nan: expected"},
        {{.tolerance = -1, .save_precision = "fp8"}, "save_precision fp8: expected fp32, fp16"},
    };
    test_pipe *pipe = *state;
    const char *path = test_path(pipe, "x.safetensors");
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++)
        assert_refused(pipe->ctx, SARA_ERROR_USAGE, cases[i].line,
                       sara_extract_check(pipe->ctx, path, &cases[i].options));
    assert_ok(pipe->ctx, sara_extract_check(pipe->ctx, path, &all));
    assert_false(sara_path_exists(path));
    test_write(pipe, path, "precious");
    assert_refused(pipe->ctx, SARA_ERROR_USAGE, "x.safetensors: exists; name a new file",
                   sara_extract_check(pipe->ctx, path, &all));
    assert_refused(pipe->ctx, SARA_ERROR_USAGE, "no output",
                   sara_extract_check(pipe->ctx, "", &all));
    assert_refused(pipe->ctx, SARA_ERROR_IO, "/none/x",
                   sara_extract_check(pipe->ctx, test_path(pipe, "none/x"), &all));
}

static void test_models_refused(void **state)
{
    test_pipe *pipe = *state;
    const char *path = test_path(pipe, "x.safetensors");
    two m = load_two(pipe, TEST_TINY, SARA_TEST_GOLDEN "/unet_sd1", true, NULL);
    assert_refused(pipe->ctx, SARA_ERROR_INPUT, "conv_in.bias: shape [4] in the base, [32] in the",
                   sara_model_extract(pipe->ctx, NULL, m.base, m.tuned, path, &all));
    free_two(m);
    m = load_two(pipe, TEST_TINY, TEST_TINY, true, "bf16");
    assert_refused(pipe->ctx, SARA_ERROR_USAGE, "weight_dtype bf16, which rounded",
                   sara_model_extract(pipe->ctx, NULL, m.base, m.tuned, path, &all));
    free_two(m);
    assert_false(sara_path_exists(path));
}

/* ------------------------------------------------------------------------------------- memory */

static sara_status extract(sara_context *ctx, const char *folder)
{
    static int number;
    const sara_model_options unet = {.unet_only = true};
    sara_model *base = NULL, *tuned = NULL;
    char *adapter = NULL, *path = NULL;
    sara_status status;
    TRY(sara_path_join(ctx, &adapter, folder, "a.safetensors"));
    TRY(sara_format(ctx, &path, "%s/x-%d", folder, number++));
    TRY(sara_model_load(ctx, &base, TEST_TINY, &unet));
    TRY(sara_model_load(ctx, &tuned, TEST_TINY, &unet));
    TRY(sara_model_apply(ctx, tuned, adapter, 1, false));
    TRY(sara_model_extract(ctx, NULL, base, tuned, path, &all));
done:
    sara_model_free(base);
    sara_model_free(tuned);
    sara_free(ctx, adapter);
    sara_free(ctx, path);
    return status;
}

static void test_memory(void **state)
{
    test_pipe *pipe = *state;
    sara_model *model = test_model(pipe, TEST_TINY, true);
    test_adapter(pipe, "a.safetensors", model, 40, 0.25f);
    sara_model_free(model);
    test_every_allocation(extract, pipe->folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST_CASE(test_merged),          TEST_CASE(test_halves),         TEST_CASE(test_applied),
        TEST_CASE(test_parts),           TEST_CASE(test_half_differs),   TEST_CASE(test_resolution),
        TEST_CASE(test_options_refused), TEST_CASE(test_models_refused), TEST_CASE(test_memory),
        TEST_CASE(test_text_encoder),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Adapters on a model: strengths bit by bit, several of them, bases, what is refused. */
#include "support_pipeline.h"

#include <math.h>

static void test_strengths(void **state)
{
    test_pipe *pipe = *state;
    sara_model *model = test_model(pipe, TEST_TINY, true);
    const char *path = test_adapter(pipe, "a.safetensors", model, 7, 0.25f);
    size_t count, same;
    const float *base = test_values(pipe, model, &count);
    assert_ok(pipe->ctx, sara_model_apply(pipe->ctx, model, path, 1, false));
    const float *full = test_values(pipe, model, &same);
    assert_int_equal(count, same);
    sara_model_remove(model);
    assert_memory_equal(test_values(pipe, model, &same), base, count * sizeof(*base));
    size_t changed = 0;
    for (size_t i = 0; i < count; i++) {
        changed += full[i] != base[i];
        assert_true(full[i] == base[i] || full[i] == base[i] + 0.25f);
    }
    assert_true(changed > count / 8 && changed < count / 6);
    assert_ok(pipe->ctx, sara_model_apply(pipe->ctx, model, path, 0, false));
    assert_memory_equal(test_values(pipe, model, &same), base, count * sizeof(*base));
    sara_model_remove(model);
    assert_ok(pipe->ctx, sara_model_apply(pipe->ctx, model, path, 0.5, false));
    const float *half = test_values(pipe, model, &same);
    for (size_t i = 0; i < count; i++) {
        double wanted = (double)base[i] + 0.5 * ((double)full[i] - (double)base[i]);
        assert_true(half[i] == (float)wanted);
    }
    sara_model_remove(model);
    sara_model_remove(model); /* nothing is left to take off */
    assert_memory_equal(test_values(pipe, model, &same), base, count * sizeof(*base));
    sara_model_free(model);
}

/* Two add up as changes, in either order to the same bits. */
static void test_two(void **state)
{
    test_pipe *pipe = *state;
    sara_model *model = test_model(pipe, TEST_TINY, true);
    const char *a = test_adapter(pipe, "a.safetensors", model, 3, 0.25f);
    const char *b = test_adapter(pipe, "b.safetensors", model, 5, -0.125f);
    size_t count;
    const float *base = test_values(pipe, model, &count);
    assert_ok(pipe->ctx, sara_model_apply(pipe->ctx, model, a, 0.6, false));
    assert_ok(pipe->ctx, sara_model_apply(pipe->ctx, model, b, 0.6, false));
    const float *first = test_values(pipe, model, &count);
    sara_model_remove(model);
    assert_ok(pipe->ctx, sara_model_apply(pipe->ctx, model, b, 0.6, false));
    assert_ok(pipe->ctx, sara_model_apply(pipe->ctx, model, a, 0.6, false));
    assert_memory_equal(test_values(pipe, model, &count), first, count * sizeof(*first));
    sara_model_remove(model);
    assert_memory_equal(test_values(pipe, model, &count), base, count * sizeof(*base));
    sara_model_free(model);
}

/* An adapter of an adapted model is one of its base: the base's hash stays. */
static void test_base_hash(void **state)
{
    test_pipe *pipe = *state;
    sara_model *model = test_model(pipe, TEST_TINY, true);
    const char *path = test_adapter(pipe, "a.safetensors", model, 7, 0.25f);
    sara_model_report before, after;
    assert_ok(pipe->ctx, sara_model_inspect(pipe->ctx, &before, model));
    assert_ok(pipe->ctx, sara_model_apply(pipe->ctx, model, path, 1, false));
    assert_ok(pipe->ctx, sara_model_inspect(pipe->ctx, &after, model));
    assert_string_equal(before.base_sha256, after.base_sha256);
    assert_memory_not_equal(before.histogram, after.histogram, sizeof(before.histogram));
    sara_model_free(model);
}

static void test_other_base(void **state)
{
    test_pipe *pipe = *state;
    sara_model *model = test_model(pipe, TEST_TINY, true);
    const char *path = test_adapter(pipe, "a.safetensors", model, 7, 0.25f);
    sara_params *params = &model->denoiser->params;
    ((float *)params->items[0].value.data)[0] += 1;
    model->base.sha256[0] = '\0'; /* as if that had been loaded */
    size_t count;
    const float *base = test_values(pipe, model, &count);
    assert_refused(pipe->ctx, SARA_ERROR_INPUT, "a.safetensors: adapter: made for the base ",
                   sara_model_apply(pipe->ctx, model, path, 1, false));
    assert_memory_equal(test_values(pipe, model, &count), base, count * sizeof(*base));
    assert_ok(pipe->ctx, sara_model_apply(pipe->ctx, model, path, 1, true));
    assert_memory_not_equal(test_values(pipe, model, &count), base, count * sizeof(*base));
    sara_model_remove(model);
    assert_memory_equal(test_values(pipe, model, &count), base, count * sizeof(*base));
    sara_model_free(model);
}

/* Another architecture is refused even when forced, and nothing is changed. */
static void test_other_model(void **state)
{
    test_pipe *pipe = *state;
    sara_model *tiny = test_model(pipe, TEST_TINY, true);
    sara_model *other = test_model(pipe, SARA_TEST_GOLDEN "/unet_sd1", true);
    const char *path = test_adapter(pipe, "a.safetensors", other, 1000, 0.25f);
    size_t count;
    const float *base = test_values(pipe, tiny, &count);
    assert_refused(pipe->ctx, SARA_ERROR_INPUT, "a.safetensors",
                   sara_model_apply(pipe->ctx, tiny, path, 1, true));
    assert_memory_equal(test_values(pipe, tiny, &count), base, count * sizeof(*base));
    sara_model_free(other);
    sara_model_free(tiny);
}

static void test_refused(void **state)
{
    test_pipe *pipe = *state;
    sara_model *model = test_model(pipe, TEST_TINY, true);
    const char *path = test_adapter(pipe, "a.safetensors", model, 7, 0.25f);
    assert_refused(pipe->ctx, SARA_ERROR_USAGE, "strength nan",
                   sara_model_apply(pipe->ctx, model, path, NAN, false));
    assert_refused(pipe->ctx, SARA_ERROR_USAGE, "strength inf",
                   sara_model_apply(pipe->ctx, model, path, INFINITY, false));
    assert_refused(
        pipe->ctx, SARA_ERROR_IO, "none.safetensors",
        sara_model_apply(pipe->ctx, model, test_path(pipe, "none.safetensors"), 1, false));
    const sara_metadata metadata[] = {{"sara.base_sha256", model->base.sha256},
                                      {"sara.target", "transformer"}};
    uint32_t position = 0;
    float value = 1;
    const sara_adapter_entry entry = {"conv_in.bias", &position, &value, 1};
    path = test_path(pipe, "b.safetensors");
    assert_ok(pipe->ctx, sara_adapter_save(pipe->ctx, path, &entry, 1, metadata, 2, SARA_F32));
    assert_refused(pipe->ctx, SARA_ERROR_INPUT,
                   "b.safetensors: sara.target is transformer, expected unet",
                   sara_model_apply(pipe->ctx, model, path, 1, true));
    sara_model_free(model);
}

/* FILE[:X]: of a file that is there the colon belongs to its name. */
static void test_split(void **state)
{
    static const struct {
        const char *text, *path;
        double strength;
    } cases[] = {{"a", "a", 1},
                 {"a:0.5", "a", 0.5},
                 {"a:-2e1", "a", -20},
                 {"a:100", "a", 100},
                 {"a:-100", "a", -100},
                 {"a:", "a:", 1},
                 {"a:b:0.25", "a:b", 0.25},
                 {"a:0.5x", "a:0.5x", 1}};
    test_pipe *pipe = *state;
    const char *there = test_path(pipe, "there:0.5");
    char *path = NULL;
    double strength;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        assert_ok(pipe->ctx, sara_adapter_split(pipe->ctx, &path, &strength, cases[i].text));
        assert_string_equal(path, cases[i].path);
        assert_true(strength == cases[i].strength);
        sara_free(pipe->ctx, path);
    }
    assert_refused(pipe->ctx, SARA_ERROR_USAGE, "strength 100.5, expected -100 to 100",
                   sara_adapter_split(pipe->ctx, &path, &strength, "a:100.5"));
    test_write(pipe, there, "");
    assert_ok(pipe->ctx, sara_adapter_split(pipe->ctx, &path, &strength, there));
    assert_string_equal(path, there);
    assert_true(strength == 1);
    sara_free(pipe->ctx, path);
}

/* As pictures tell of them. */
static void test_names(void **state)
{
    static const char *const cases[][2] = {{"runs/ink.safetensors", "ink"},
                                           {"ink.v2.safetensors", "ink.v2"},
                                           {"ink", "ink"},
                                           {"a.b/ink.pt", "ink.pt"},
                                           {"runs/.safetensors", ".safetensors"}};
    test_pipe *pipe = *state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        char *name = NULL;
        assert_ok(pipe->ctx, sara_adapter_name(pipe->ctx, &name, cases[i][0]));
        assert_string_equal(name, cases[i][1]);
        sara_free(pipe->ctx, name);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST_CASE(test_strengths),  TEST_CASE(test_two),         TEST_CASE(test_base_hash),
        TEST_CASE(test_other_base), TEST_CASE(test_other_model), TEST_CASE(test_refused),
        TEST_CASE(test_split),      TEST_CASE(test_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

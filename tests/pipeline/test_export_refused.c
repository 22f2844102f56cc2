/* Exports that are refused, interrupted or run out of memory. */
#include "support/memory.h"
#include "support_export.h"

static void test_options_refused(void **state)
{
    static const struct {
        sara_export_options options;
        const char *line;
    } cases[] = {
        {{.format = NULL}, "no format given: expected comfyui, a1111, lora, peft or shira"},
        {{.format = "diffusers"}, "format diffusers: expected comfyui"},
        {{.format = "lora"}, "format lora: no rank given"},
        {{.format = "peft", .rank = -3}, "rank -3: expected at least 1"},
        {{.format = "a1111", .rank = 3}, "rank 3: format a1111 holds the whole change"},
        {{.format = "comfyui", .save_precision = "int8"}, "save_precision int8: expected fp32"},
    };
    test_pipe *pipe = *state;
    const char *path = test_path(pipe, "x.safetensors"), *name = test_path(pipe, "x");
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++)
        assert_refused(pipe->ctx, SARA_ERROR_USAGE, cases[i].line,
                       sara_export_check(pipe->ctx, path, &cases[i].options));
    const sara_export_options file = test_export_options("a1111", 0, NULL);
    const sara_export_options folder = test_export_options("peft", 2, NULL);
    test_write(pipe, path, "precious");
    test_write(pipe, name, "precious");
    assert_refused(pipe->ctx, SARA_ERROR_USAGE, "x.safetensors: exists; name a new file",
                   sara_export_check(pipe->ctx, path, &file));
    assert_refused(pipe->ctx, SARA_ERROR_USAGE, "x: exists and is no folder",
                   sara_export_check(pipe->ctx, name, &folder));
    assert_refused(pipe->ctx, SARA_ERROR_USAGE, "exists and holds 2 entries; name a new folder",
                   sara_export_check(pipe->ctx, pipe->folder, &folder));
    assert_refused(pipe->ctx, SARA_ERROR_IO, "none/x.safetensors",
                   sara_export_check(pipe->ctx, test_path(pipe, "none/x.safetensors"), &file));
}

/* A name by which nobody would load it is refused with the one to give. */
static void test_names_refused(void **state)
{
    static const struct {
        const char *format, *out, *line; /* NULL: taken */
    } cases[] = {
        {"lora", "name", "name: format lora is a file; name it name.safetensors"},
        {"a1111", "a.b/name/", "a.b/name/: format a1111 is a file; name it a.b/name.safetensors"},
        {"comfyui", "x.safetensors/", "format comfyui is a file; name it x.safetensors"},
        {"comfyui", "x.ckpt", "name it x.ckpt.safetensors"},
        {"peft", "x.safetensors", "x.safetensors: format peft is a folder; name it x"},
        {"peft", "x.safetensors//", "format peft is a folder; name it x"},
        {"peft", "none/x/", NULL},
        {"peft", "x.safetensors.d", NULL},
    };
    test_pipe *pipe = *state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        const bool ranked =
            strcmp(cases[i].format, "lora") == 0 || !strcmp(cases[i].format, "peft");
        const sara_export_options options =
            test_export_options(cases[i].format, ranked ? 2 : 0, NULL);
        const char *path = cases[i].line ? cases[i].out : test_path(pipe, cases[i].out);
        if (cases[i].line)
            assert_refused(pipe->ctx, SARA_ERROR_USAGE, cases[i].line,
                           sara_export_check(pipe->ctx, path, &options));
        else
            assert_ok(pipe->ctx, sara_export_check(pipe->ctx, path, &options));
    }
    char **names = NULL;
    size_t count;
    assert_ok(pipe->ctx, sara_directory_list(pipe->ctx, &names, &count, pipe->folder));
    sara_directory_free(pipe->ctx, names, count);
    assert_int_equal(count, 0); /* a check leaves nothing behind */
}

static void test_models_refused(void **state)
{
    test_pipe *pipe = *state;
    const sara_export_options options = test_export_options("a1111", 0, NULL);
    const char *path = test_path(pipe, "x.safetensors");
    sara_model *model = test_model(pipe, TEST_TINY, true);
    assert_refused(pipe->ctx, SARA_ERROR_USAGE, "no adapter changes the model",
                   sara_model_export(pipe->ctx, NULL, model, path, &options));
    const char *adapter = test_adapter(pipe, "a.safetensors", model, 5, 70000);
    assert_ok(pipe->ctx, sara_model_apply(pipe->ctx, model, adapter, 0, false));
    assert_refused(pipe->ctx, SARA_ERROR_USAGE, "no adapter changes the model",
                   sara_model_export(pipe->ctx, NULL, model, path, &options));
    assert_ok(pipe->ctx, sara_model_apply(pipe->ctx, model, adapter, 1, false));
    assert_refused(pipe->ctx, SARA_ERROR_USAGE, "conv_in.bias: the change of entry ",
                   sara_model_export(pipe->ctx, NULL, model, path, &options));
    sara_model_free(model);
    model = test_model_stored(pipe, TEST_TINY, true, "bf16");
    assert_refused(pipe->ctx, SARA_ERROR_USAGE, "weight_dtype bf16, which rounds adapters",
                   sara_model_export(pipe->ctx, NULL, model, path, &options));
    sara_model_free(model);
    assert_false(sara_path_exists(path));
}

/* Nothing is there afterwards. */
static void test_interrupted(void **state)
{
    static const char *const formats[] = {"lora", "peft"};
    static const char *const names[] = {"x.safetensors", "x"};
    test_pipe *pipe = *state;
    test_adapted a = test_adapt(pipe, TEST_TINY, true, 3, 0.25f);
    for (size_t i = 0; i < 2; i++) {
        const sara_export_options options = test_export_options(formats[i], 2, NULL);
        const char *path = test_path(pipe, names[i]);
        pipe->interrupt_at = 5;
        assert_refused(pipe->ctx, SARA_INTERRUPTED, "nothing is written",
                       sara_model_export(pipe->ctx, NULL, a.model, path, &options));
        assert_false(sara_path_exists(path));
        pipe->interrupt_at = -1;
        assert_ok(pipe->ctx, sara_model_export(pipe->ctx, NULL, a.model, path, &options));
    }
    sara_model_free(a.model);
}

static const char *memory_format;

static sara_status load_and_export(sara_context *ctx, const char *folder)
{
    static int number;
    const sara_model_options unet = {.unet_only = true};
    const bool dense = strcmp(memory_format, "a1111") == 0;
    const sara_export_options options = test_export_options(memory_format, dense ? 0 : 2, NULL);
    sara_model *model = NULL;
    char *adapter = NULL, *path = NULL;
    sara_status status;
    TRY(sara_path_join(ctx, &adapter, folder, "a.safetensors"));
    TRY(sara_format(ctx, &path, "%s/x-%d%s", folder, number++,
                    strcmp(memory_format, "peft") == 0 ? "" : ".safetensors"));
    TRY(sara_model_load(ctx, &model, TEST_TINY, &unet));
    TRY(sara_model_apply(ctx, model, adapter, 1, false));
    TRY(sara_model_export(ctx, NULL, model, path, &options));
done:
    sara_model_free(model);
    sara_free(ctx, adapter);
    sara_free(ctx, path);
    return status;
}

static void test_memory(void **state)
{
    static const char *const formats[] = {"a1111", "lora", "peft"};
    static const char *const names[] = {"conv_in.bias", "conv_in.weight", "conv_out.bias"};
    test_pipe *pipe = *state;
    sara_model *model = test_model(pipe, TEST_TINY, true);
    sara_adapter_entry entries[3];
    uint32_t positions[] = {0, 3};
    float values[] = {1, 2};
    const char *base;
    for (size_t i = 0; i < 3; i++)
        entries[i] = (sara_adapter_entry){names[i], positions, values, 2};
    assert_ok(pipe->ctx, sara_model_base_sha256(pipe->ctx, &base, model));
    const sara_metadata metadata[] = {{"sara.base_sha256", base}, {"sara.target", "unet"}};
    assert_ok(pipe->ctx, sara_adapter_save(pipe->ctx, test_path(pipe, "a.safetensors"), entries, 3,
                                           metadata, 2, SARA_F32));
    sara_model_free(model);
    for (size_t i = 0; i < 3; i++) {
        memory_format = formats[i];
        test_every_allocation(load_and_export, pipe->folder);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST_CASE(test_options_refused), TEST_CASE(test_names_refused),
        TEST_CASE(test_models_refused),  TEST_CASE(test_interrupted),
        TEST_CASE(test_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

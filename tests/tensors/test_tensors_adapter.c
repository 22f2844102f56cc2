/* Adapter files of another program's tensors, and every function when memory runs out. */
#include "support/memory.h"
#include "tensors/support_tensors.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static const char *const base = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
static const uint32_t first[] = {0, 3, 4000000000u}, second[] = {7};
static const float first_values[] = {1.5f, -0.1f, 0}, second_values[] = {1 + 0x1p-10f};
static const sara_adapter_part parts[] = {{"a.weight", first, first_values, 3},
                                          {"b.bias", second, second_values, 1}};

static sara_status save(sara_context *ctx, const char *path, const sara_adapter_part *given,
                        size_t count, const char *dtype)
{
    const sara_metadata metadata[] = {{"sara.target", "unet"}, {"sara.base_sha256", base}};
    return sara_adapter_write(ctx, path, given, count, metadata, 2, dtype);
}

static const char *value_of(const sara_adapter_file *file, const char *key)
{
    const sara_metadata *pair;
    for (size_t i = 0; (pair = sara_adapter_metadata_at(file, i)); i++)
        if (strcmp(pair->key, key) == 0)
            return pair->value;
    return "";
}

static void what_is_written_is_read(void **state)
{
    static const struct {
        const char *dtype;
        float first, second;
    } cases[] = {{"fp32", -0.1f, 1 + 0x1p-10f},
                 {"fp16", -0x1.998p-4f, 1 + 0x1p-10f},
                 {"bf16", -0x1.9ap-4f, 1}};
    char path[256];
    (void)state;
    sara_context *ctx = test_context();
    char *folder = test_folder();
    for (size_t i = 0; i < COUNT(cases); i++) {
        sara_adapter_file *file = NULL;
        snprintf(path, sizeof(path), "%s/%s.safetensors", folder, cases[i].dtype);
        assert_ok(ctx, save(ctx, path, parts, 2, cases[i].dtype));
        assert_ok(ctx, sara_adapter_open(ctx, &file, path));
        const sara_adapter_part *a = sara_adapter_part_at(file, 0),
                                *b = sara_adapter_part_at(file, 1);
        assert_string_equal(a->name, "a.weight");
        assert_int_equal(a->count, 3);
        assert_memory_equal(a->positions, first, sizeof(first));
        assert_true(a->values[0] == 1.5f && a->values[1] == cases[i].first && a->values[2] == 0);
        assert_string_equal(b->name, "b.bias");
        assert_int_equal(b->count, 1);
        assert_int_equal(b->positions[0], 7);
        assert_true(b->values[0] == cases[i].second);
        assert_null(sara_adapter_part_at(file, 2));
        assert_string_equal(value_of(file, "sara.format"), "1");
        assert_string_equal(value_of(file, "sara.target"), "unet");
        assert_string_equal(value_of(file, "sara.base_sha256"), base);
        sara_adapter_close(ctx, file);
    }
    sara_adapter_close(ctx, NULL);
    test_folder_remove(folder);
    sara_context_free(ctx);
}

static size_t read_bytes(const char *path, char *bytes, size_t room)
{
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    size_t size = fread(bytes, 1, room, file);
    fclose(file);
    assert_true(size > 0 && size < room);
    return size;
}

static void equal_input_gives_equal_bytes(void **state)
{
    char one[256], two[256], bytes[2][4096];
    (void)state;
    sara_context *ctx = test_context();
    char *folder = test_folder();
    snprintf(one, sizeof(one), "%s/one.safetensors", folder);
    snprintf(two, sizeof(two), "%s/two.safetensors", folder);
    assert_ok(ctx, save(ctx, one, parts, 2, "fp16"));
    assert_ok(ctx, save(ctx, two, parts, 2, "fp16"));
    size_t size = read_bytes(one, bytes[0], sizeof(bytes[0]));
    assert_int_equal(read_bytes(two, bytes[1], sizeof(bytes[1])), size);
    assert_memory_equal(bytes[0], bytes[1], size);
    test_folder_remove(folder);
    sara_context_free(ctx);
}

static void bad_adapters_are_refused(void **state)
{
    static const uint32_t descending[] = {3, 3};
    static const float values[] = {1, 2};
    const sara_adapter_part bad = {"a.weight", descending, values, 2};
    const sara_metadata nothing[] = {{"sara.target", "unet"}};
    char path[256];
    sara_adapter_file *file = (sara_adapter_file *)path;
    (void)state;
    sara_context *ctx = test_context();
    char *folder = test_folder();
    snprintf(path, sizeof(path), "%s/adapter.safetensors", folder);
    assert_refused(ctx, SARA_ERROR_USAGE, "dtype fp8, expected fp32, fp16 or bf16",
                   save(ctx, path, parts, 2, "fp8"));
    assert_refused(ctx, SARA_ERROR_USAGE, "a.weight: position 3 after 3, expected ascending",
                   save(ctx, path, &bad, 1, "fp32"));
    assert_refused(ctx, SARA_ERROR_USAGE, "sara.base_sha256",
                   sara_adapter_write(ctx, path, parts, 2, nothing, 1, "fp32"));
    assert_refused(ctx, SARA_ERROR_IO, "adapter.safetensors", sara_adapter_open(ctx, &file, path));
    assert_null(file);
    assert_ok(ctx, save(ctx, path, parts, 2, "fp32"));
    assert_int_equal(truncate(path, 100), 0);
    file = (sara_adapter_file *)path;
    assert_refused(ctx, SARA_ERROR_INPUT, "adapter.safetensors",
                   sara_adapter_open(ctx, &file, path));
    assert_null(file);
    test_folder_remove(folder);
    sara_context_free(ctx);
}

/* -------------------------------------------------------------------------------------- memory */

static sara_status select_some(sara_context *ctx, const char *argument)
{
    float values[200];
    const sara_tensor_view views[] = {{"a", "F32", values, 100}, {"b", "F32", values + 100, 100}};
    sara_tensor_selection *selection = NULL;
    double threshold;
    (void)argument;
    for (size_t i = 0; i < 200; i++)
        values[i] = (float)(i * 37 % 200);
    sara_status status =
        sara_tensors_select(ctx, &selection, &threshold, views, 2, SARA_BUDGET_COUNT, 50);
    assert_int_equal(selection != NULL, status == SARA_OK);
    sara_tensors_selection_free(ctx, selection);
    return status;
}

/* 0, or what changed although the call failed. */
static sara_status update(sara_context *ctx, const char *argument)
{
    const uint32_t position = 1;
    const float gradient = 1;
    float tensor[2] = {1, 1}, value = 1, moment1 = 0, moment2 = 0;
    const sara_tensor_entries item = {
        {"w", "F32", tensor, 2}, &position, 1, &value, &moment1, &moment2, &gradient, NULL,
        NULL};
    const sara_adamw_options options = {1e-3, 0.9, 0.999, 1e-8, 1e-2, 1, 1, 1};
    (void)argument;
    sara_status status = sara_tensors_adamw(ctx, &item, 1, &options);
    if (status == SARA_OK)
        assert_true(value < 1 && tensor[1] == value);
    else
        assert_true(value == 1 && tensor[1] == 1 && moment1 == 0 && moment2 == 0);
    return status;
}

static sara_status gather_and_norm(sara_context *ctx, const char *argument)
{
    const uint32_t position = 1;
    float dense[2] = {3, 4}, gradient = 1;
    const float *const gradients[] = {dense, &gradient};
    const size_t counts[] = {2, 1};
    const sara_tensor_gathering item = {{"w", "F32", dense, 2}, &position, 1, &gradient, 0};
    double norm = -1;
    (void)argument;
    sara_status status = sara_tensors_gather(ctx, &item, 1);
    assert_true(gradient == (status == SARA_OK ? 4 : 1));
    if (status == SARA_OK)
        status = sara_tensors_norm(ctx, &norm, gradients, counts, 1);
    assert_true(norm == (status == SARA_OK ? 5 : -1));
    return status;
}

static sara_status nuclear(sara_context *ctx, const char *argument)
{
    size_t selected;
    uint32_t *positions = test_positions((size_t)70 * 80, 0, 5, &selected);
    float *values = test_values("F32", selected, 1, 1);
    float *subgradient = test_memory(selected, sizeof(*subgradient));
    double value;
    (void)argument;
    sara_status status =
        sara_tensors_nuclear_norm(ctx, &value, subgradient, 70, 80, positions, values, selected);
    free(positions);
    free(values);
    free(subgradient);
    return status;
}

static sara_status write_and_read(sara_context *ctx, const char *path)
{
    sara_adapter_file *file = NULL;
    sara_status status = save(ctx, path, parts, 2, "bf16");
    if (status == SARA_OK)
        status = sara_adapter_open(ctx, &file, path);
    sara_adapter_close(ctx, file);
    return status;
}

static void every_allocation_may_fail(void **state)
{
    char path[256];
    (void)state;
    char *folder = test_folder();
    snprintf(path, sizeof(path), "%s/adapter.safetensors", folder);
    test_every_allocation(select_some, "select");
    test_every_allocation(update, "adamw");
    test_every_allocation(gather_and_norm, "gather");
    test_every_allocation(nuclear, "nuclear norm");
    test_every_allocation(write_and_read, path);
    test_folder_remove(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_written_is_read),
        cmocka_unit_test(equal_input_gives_equal_bytes),
        cmocka_unit_test(bad_adapters_are_refused),
        cmocka_unit_test(every_allocation_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* What is told of an adapter file: blocks, sizes, the change against a base. */
#include "support/memory.h"
#include "support_pipeline.h"

#include <math.h>

static sara_adapter_report *inspect(test_pipe *pipe, const char *path, sara_model *base)
{
    sara_adapter_report *report = NULL;
    assert_ok(pipe->ctx, sara_adapter_inspect(pipe->ctx, &report, path, base, false));
    return report;
}

/* "down_blocks.0" and so on. */
static const char *block_of(const char *name)
{
    static const char *const blocks[] = {"down_blocks.0", "down_blocks.1", "down_blocks.2",
                                         "down_blocks.3", "mid_block",     "up_blocks.0",
                                         "up_blocks.1",   "up_blocks.2",   "up_blocks.3"};
    for (size_t i = 0; i < sizeof(blocks) / sizeof(*blocks); i++)
        if (strncmp(name, blocks[i], strlen(blocks[i])) == 0)
            return blocks[i];
    return "others";
}

static const sara_adapter_block *find_block(const sara_adapter_report *report, const char *name)
{
    for (int i = 0; i < report->block_count; i++)
        if (strcmp(report->blocks[i].name, name) == 0)
            return &report->blocks[i];
    fail_msg("no block %s", name);
    return NULL;
}

/* Every entry moved by 0.25: the norm of a block is 0.25 sqrt(its entries). */
static void test_blocks(void **state)
{
    test_pipe *pipe = *state;
    sara_model *model = test_model(pipe, TEST_TINY, true);
    const char *path = test_adapter(pipe, "a.safetensors", model, 7, 0.25f);
    sara_adapter_report *report = inspect(pipe, path, model), *alone = inspect(pipe, path, NULL);
    sara_adapter adapter;
    int64_t entries = 0, tensors = 0, in_up = 0;
    double squares = 0;
    assert_ok(pipe->ctx, sara_adapter_load(pipe->ctx, &adapter, path));
    for (size_t i = 0; i < adapter.count; i++)
        if (strcmp(block_of(adapter.entries[i].name), "up_blocks.1") == 0)
            in_up += (int64_t)adapter.entries[i].count;
    for (int i = 0; i < report->block_count; i++) {
        const sara_adapter_block *block = &report->blocks[i];
        double expected = 0.25 * sqrt((double)block->entries);
        assert_close(fabs(block->change_norm - expected), 1e-5 * expected, block->name);
        assert_true(isnan(alone->blocks[i].change_norm));
        assert_int_equal(alone->blocks[i].entries, block->entries);
        entries += block->entries;
        tensors += block->tensors;
        squares += block->change_norm * block->change_norm;
    }
    assert_int_equal(find_block(report, "up_blocks.1")->entries, in_up);
    assert_string_equal(report->blocks[0].name, "down_blocks.0");
    assert_string_equal(report->blocks[report->block_count - 1].name, "others");
    assert_int_equal(entries, report->entries);
    assert_int_equal(tensors, report->tensors);
    assert_int_equal(tensors, adapter.count);
    assert_close(fabs(report->change_norm - sqrt(squares)), 1e-12 * report->change_norm, "all");
    assert_true(isnan(alone->change_norm));
    sara_adapter_free(&adapter);
    sara_adapter_report_free(pipe->ctx, report);
    sara_adapter_report_free(pipe->ctx, alone);
    sara_adapter_report_free(pipe->ctx, NULL);
    sara_model_free(model);
}

/* Names as a U-Net may have them and as a hostile file may, values of two dtypes. */
static void test_fields(void **state)
{
    static const char *const names[] = {"a",
                                        "down_blocks.",
                                        "down_blocks.0.x",
                                        "down_blocks.00.x",
                                        "down_blocks.1x",
                                        "down_blocks.23.x",
                                        "down_blocks.24.x",
                                        "down_blocks.999999999999.x",
                                        "mid_block.x",
                                        "mid_blocks.x",
                                        "up_blocks.2.x",
                                        "up_blocks.23.x"};
    static const struct {
        const char *name;
        int64_t tensors;
    } expected[] = {{"down_blocks.0", 1}, {"down_blocks.23", 1}, {"mid_block", 1},
                    {"up_blocks.2", 1},   {"up_blocks.23", 1},   {"others", 7}};
    enum { COUNT = sizeof(names) / sizeof(*names) };
    test_pipe *pipe = *state;
    const char *hash = test_text(pipe, "%064d", 0), *path = test_path(pipe, "b.safetensors");
    const sara_metadata metadata[] = {
        {"sara.base_sha256", hash}, {"sara.target", "unet"}, {"sara.method", "sara"}};
    sara_adapter_entry entries[COUNT];
    uint32_t positions[] = {3, 200};
    float values[] = {1, 2};
    for (size_t i = 0; i < COUNT; i++)
        entries[i] = (sara_adapter_entry){names[i], positions, values, 2};
    assert_ok(pipe->ctx,
              sara_adapter_save(pipe->ctx, path, entries, COUNT, metadata, 3, SARA_BF16));
    sara_adapter_report *report = inspect(pipe, path, NULL);
    assert_string_equal(report->method, "sara");
    assert_string_equal(report->target, "unet");
    assert_string_equal(report->base_sha256, hash);
    assert_string_equal(report->dtype, "BF16");
    assert_int_equal(report->metadata_count, 4);
    assert_string_equal(report->metadata[1].key, "sara.format");
    assert_int_equal(report->entries, 2 * COUNT);
    assert_int_equal(report->position_bytes, 3 * COUNT);
    assert_int_equal(report->block_count, sizeof(expected) / sizeof(*expected));
    for (int i = 0; i < report->block_count; i++) {
        assert_string_equal(report->blocks[i].name, expected[i].name);
        assert_int_equal(report->blocks[i].tensors, expected[i].tensors);
    }
    char *data = NULL;
    size_t size;
    assert_ok(pipe->ctx, sara_file_read(pipe->ctx, &data, &size, path, 1 << 20));
    assert_int_equal(report->file_bytes, size);
    sara_free(pipe->ctx, data);
    sara_adapter_report_free(pipe->ctx, report);
}

static void test_mixed(void **state)
{
    static const uint8_t position[] = {0};
    static const float value[] = {1};
    static const uint16_t half[] = {0x3C00};
    test_pipe *pipe = *state;
    const char *path = test_path(pipe, "c.safetensors");
    const sara_metadata metadata[] = {{"sara.base_sha256", test_text(pipe, "%064d", 0)},
                                      {"sara.format", "1"},
                                      {"sara.target", "unet"}};
    const sara_tensor_source tensors[] = {{"a.positions", SARA_U8, {1, {1}}, position},
                                          {"a.values", SARA_F32, {1, {1}}, value},
                                          {"b.positions", SARA_U8, {1, {1}}, position},
                                          {"b.values", SARA_F16, {1, {1}}, half}};
    assert_ok(pipe->ctx, sara_safetensors_save(pipe->ctx, path, tensors, 4, metadata, 3));
    sara_adapter_report *report = inspect(pipe, path, NULL);
    assert_string_equal(report->dtype, "mixed");
    assert_string_equal(report->method, "");
    sara_adapter_report_free(pipe->ctx, report);
    assert_ok(pipe->ctx, sara_safetensors_save(pipe->ctx, path, tensors, 0, metadata, 3));
    report = inspect(pipe, path, NULL);
    assert_string_equal(report->dtype, "");
    assert_int_equal(report->entries, 0);
    assert_int_equal(report->block_count, 0);
    sara_adapter_report_free(pipe->ctx, report);
}

/* As applying refuses it. */
static void test_refused(void **state)
{
    test_pipe *pipe = *state;
    sara_model *tiny = test_model(pipe, TEST_TINY, true);
    sara_model *other = test_model(pipe, SARA_TEST_GOLDEN "/unet_sd1", true);
    const char *path = test_adapter(pipe, "a.safetensors", other, 1000, 0.25f), *base;
    sara_adapter_report *report = NULL;
    assert_ok(pipe->ctx, sara_model_base_sha256(pipe->ctx, &base, tiny));
    const char *line = test_text(pipe,
                                 "a.safetensors: adapter: made for the base %.12s, but the "
                                 "model is another, %.12s",
                                 other->base.sha256, base);
    assert_refused(pipe->ctx, SARA_ERROR_INPUT, line,
                   sara_adapter_inspect(pipe->ctx, &report, path, tiny, false));
    assert_null(report);
    assert_refused(pipe->ctx, SARA_ERROR_INPUT, "a.safetensors: adapter: ",
                   sara_adapter_inspect(pipe->ctx, &report, path, tiny, true));
    report = inspect(pipe, path, NULL);
    sara_adapter_report_free(pipe->ctx, report);
    assert_refused(
        pipe->ctx, SARA_ERROR_IO, "none.safetensors",
        sara_adapter_inspect(pipe->ctx, &report, test_path(pipe, "none.safetensors"), NULL, false));
    assert_ok(pipe->ctx, sara_model_apply(pipe->ctx, other, path, 1, false));
    assert_refused(pipe->ctx, SARA_ERROR_USAGE, "has adapters applied",
                   sara_adapter_inspect(pipe->ctx, &report, path, other, false));
    sara_model_remove(other);
    report = inspect(pipe, path, other);
    sara_adapter_report_free(pipe->ctx, report);
    sara_model_free(tiny);
    sara_model_free(other);
}

/* Another base is no obstacle where force says so: the change is against what is there. */
static void test_forced(void **state)
{
    test_pipe *pipe = *state;
    sara_model *model = test_model(pipe, TEST_TINY, true);
    const char *path = test_adapter(pipe, "a.safetensors", model, 7, 0.25f);
    sara_adapter_report *report = NULL;
    ((float *)model->denoiser->params.items[0].value.data)[0] += 3;
    model->base.sha256[0] = '\0'; /* as if that had been loaded */
    assert_refused(pipe->ctx, SARA_ERROR_INPUT, "made for the base",
                   sara_adapter_inspect(pipe->ctx, &report, path, model, false));
    assert_ok(pipe->ctx, sara_adapter_inspect(pipe->ctx, &report, path, model, true));
    const sara_adapter_block *block = find_block(report, "others");
    double expected = sqrt(0.0625 * (double)(block->entries - 1) + 2.75 * 2.75);
    assert_close(fabs(block->change_norm - expected), 1e-5, "others");
    sara_adapter_report_free(pipe->ctx, report);
    sara_model_free(model);
}

static sara_status inspect_once(sara_context *ctx, const char *path)
{
    sara_adapter_report *report = NULL;
    sara_status status = sara_adapter_inspect(ctx, &report, path, NULL, false);
    sara_adapter_report_free(ctx, report);
    return status;
}

static sara_status read_prompts(sara_context *ctx, const char *folder)
{
    sara_generate_options options;
    sara_prompts prompts;
    sara_generate_options_init(&options);
    options.prompt = "a<lora:a:0.5>b<lora:b>c<lora:a:0.25>";
    options.negative_prompt = "<lora:a:2>";
    options.lora_model_dir = folder;
    sara_status status = sara_prompts_read(ctx, &prompts, &options);
    sara_prompts_free(ctx, &prompts);
    return status;
}

static void test_memory(void **state)
{
    test_pipe *pipe = *state;
    sara_model *model = test_model(pipe, TEST_TINY, true);
    const char *path = test_adapter(pipe, "a.safetensors", model, 70, 0.25f);
    test_adapter(pipe, "b.safetensors", model, 70, 0.25f);
    sara_model_free(model);
    test_every_allocation(inspect_once, path);
    test_every_allocation(read_prompts, pipe->folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST_CASE(test_blocks),  TEST_CASE(test_fields), TEST_CASE(test_mixed),
        TEST_CASE(test_refused), TEST_CASE(test_forced), TEST_CASE(test_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

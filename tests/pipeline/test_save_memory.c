/* A model is saved in another dtype tensor by tensor: what that takes beside the model. */
#include "support_pipeline.h"

#include "support/memory.h"

#include <stdlib.h>

/* Of all parts, as float32. */
static size_t widest_tensor(const sara_model *model)
{
    int64_t most = 0;
    for (int part = 0; part < model->family->part_count; part++) {
        const sara_params *params = &model->parts[part].network->params;
        for (size_t i = 0; i < params->count; i++) {
            const int64_t count = sara_shape_count(&params->items[i].value.shape);
            most = count > most ? count : most;
        }
    }
    return (size_t)most * sizeof(float);
}

/* The emoji base: 23 MB in fp16, its widest tensor 2 MB in float32. Three of these are a tensor
 * that is fused, its value and the file's buffer. */
static void check_peak(test_pipe *pipe, const char *name)
{
    test_taken memory = {0};
    const sara_allocator allocator = test_taken_functions(&memory);
    const sara_context_options options = {.allocator = &allocator, .threads = 1};
    sara_context *ctx = NULL;
    sara_model *model = NULL;
    sara_save_report report;
    char *out;
    assert_true(asprintf(&out, "%s/%s", pipe->folder, name) > 0);
    assert_ok(ctx, sara_context_new(&ctx, &options));
    assert_ok(ctx, sara_model_load(ctx, &model, SARA_TEST_EMOJI "/base", NULL));
    const size_t before = memory.now;
    memory.peak = before;
    assert_ok(ctx, sara_model_save(ctx, &report, model, out, "bf16"));
    const size_t extra = memory.peak - before, allowed = 4 * widest_tensor(model) + (2 << 20);
    print_message("%s: %zu KiB beside the model, of %zu allowed\n", name, extra >> 10,
                  allowed >> 10);
    assert_in_range(extra, 1, allowed);
    assert_true(allowed < 16 << 20); /* of 46 MB that all of it is as float32 */
    sara_model_free(model);
    sara_context_free(ctx);
    free(out);
}

static void test_folder_and_file(void **state)
{
    test_pipe *pipe = *state;
    check_peak(pipe, "folder");
    check_peak(pipe, "file.safetensors");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST_CASE(test_folder_and_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

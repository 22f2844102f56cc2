/* Steps that are not finite, and allocations that fail. */
#include "support/memory.h"
#include "support_train.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

/* A replay of the golden micro-batches with given indices; -1 stands for one full of NaN. */
static const char *write_replay(test_run *run, const int *indices, size_t count)
{
    static const char *const names[] = {"encoder_hidden_states", "latents", "noise", "timesteps"};
    sara_tensor_source sources[4];
    sara_safetensors *file = test_open(run->ctx, SARA_TEST_GOLDEN "/train_sd1.safetensors");
    const char *path = test_text(run, "%s/replay.safetensors", run->folder);
    for (size_t i = 0; i < 4; i++) {
        const sara_tensor_info *info = sara_safetensors_find(file, names[i]);
        size_t row = info->size / (size_t)info->shape.dims[0];
        char *data, *out;
        assert_ok(run->ctx, sara_alloc(run->ctx, &data, info->size, 1));
        assert_ok(run->ctx, sara_alloc(run->ctx, &out, row, count));
        assert_ok(run->ctx, sara_safetensors_read(file, data, info));
        for (size_t k = 0; k < count; k++)
            if (indices[k] >= 0 || info->dtype != SARA_F32)
                memcpy(out + k * row, data + (indices[k] < 0 ? 0 : (size_t)indices[k]) * row, row);
            else
                memset(out + k * row, 0xFF, row); /* every float a NaN */
        sources[i] = (sara_tensor_source){names[i], info->dtype, info->shape, out};
        sources[i].shape.dims[0] = (int64_t)count;
        sara_free(run->ctx, data);
    }
    assert_ok(run->ctx, sara_safetensors_save(run->ctx, path, sources, 4, NULL, 0));
    for (size_t i = 0; i < 4; i++)
        sara_free(run->ctx, (void *)(uintptr_t)sources[i].data);
    sara_safetensors_close(file);
    return path;
}

static double *adapter_values(test_run *run, size_t *count)
{
    sara_adapter adapter;
    double *values = NULL;
    size_t capacity = 0;
    *count = 0;
    assert_ok(run->ctx, sara_adapter_load(run->ctx, &adapter,
                                          test_text(run, "%s/adapter.safetensors", run->output)));
    for (size_t i = 0; i < adapter.count; i++)
        for (size_t k = 0; k < adapter.entries[i].count; k++) {
            assert_ok(run->ctx,
                      sara_grow(run->ctx, &values, &capacity, *count + 1, sizeof(*values)));
            values[(*count)++] = (double)adapter.entries[i].values[k];
        }
    sara_adapter_free(&adapter);
    return values;
}

/* The weights are as if the bad batch had not been there. */
static void test_one_is_skipped(void **state)
{
    test_run *run = *state;
    double *with, *without, rates[8];
    size_t count, same;
    run->options.progressive_iter = 0;
    run->options.lr_scheduler = "constant";
    run->options.replay = write_replay(run, (const int[]){0, 1, -1, 2}, 4);
    assert_ok(run->ctx, test_run_train(run));
    assert_int_equal(test_run_events(run, "skipped"), 1);
    assert_int_equal(test_run_column(run, rates, 8, "lr"), 3);
    with = adapter_values(run, &count);
    test_run_output(run, "without");
    run->options.replay = write_replay(run, (const int[]){0, 1, 2}, 3);
    assert_ok(run->ctx, test_run_train(run));
    without = adapter_values(run, &same);
    assert_int_equal(count, same);
    assert_memory_equal(with, without, count * sizeof(*with));
    sara_free(run->ctx, with);
    sara_free(run->ctx, without);
}

static void test_nine_in_a_row_go_on(void **state)
{
    test_run *run = *state;
    run->options.replay =
        write_replay(run, (const int[]){0, -1, -1, -1, -1, -1, -1, -1, -1, -1, 1, -1, 2}, 13);
    assert_ok(run->ctx, test_run_train(run));
    assert_int_equal(test_run_events(run, "skipped"), 10);
}

static void test_ten_in_a_row_stop(void **state)
{
    test_run *run = *state;
    run->options.replay =
        write_replay(run, (const int[]){0, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, 1}, 12);
    assert_refused(run->ctx, SARA_ERROR_DIVERGED, "10 steps in a row", test_run_train(run));
    assert_false(test_run_has(run, "adapter.safetensors"));
}

static void test_too_few_batches(void **state)
{
    test_run *run = *state;
    run->options.max_train_steps = 11;
    assert_refused(run->ctx, SARA_ERROR_INPUT, "10 micro-batches", test_run_train(run));
    run->options.max_train_steps = 6;
    run->options.gradient_accumulation_steps = 2;
    assert_refused(run->ctx, SARA_ERROR_INPUT, "too few for 6 steps of 2", test_run_train(run));
    run->options.max_train_steps = 5;
    test_run_output(run, "enough");
    assert_ok(run->ctx, test_run_train(run));
}

/* ------------------------------------------------------------------------------------- memory */

/* Load, two steps with a reselection, checkpoints, adapter and report of the smallest U-Net; what
 * is in the run folder is gone on with. */
static sara_status train_tiny_in(sara_context *ctx, const char *replay, const char *output)
{
    sara_train_options options;
    sara_train_options_init(&options);
    options.unet_only = SARA_TEST_GOLDEN "/variants/unet_tiny";
    options.replay = replay;
    options.trainable = "20%";
    options.checkpointing_steps = 1;
    options.resume_from_checkpoint = "latest";
    options.output_dir = output;
    return sara_train(ctx, NULL, &options);
}

static sara_status train_tiny(sara_context *ctx, const char *replay)
{
    char output[512];
    snprintf(output, sizeof(output), "%s-run", replay);
    return train_tiny_in(ctx, replay, output);
}

/* The same from the start, in a folder of its own each time. */
static sara_status train_tiny_anew(sara_context *ctx, const char *folder)
{
    static int number;
    char own[512];
    snprintf(own, sizeof(own), "%s-%d", folder, number++);
    return train_tiny_in(ctx, folder, own);
}

/* Micro-batches for the tiny U-Net: its widths are read from its weights. */
static const char *write_tiny_replay(test_run *run)
{
    sara_weights *weights;
    const char *path = test_text(run, "%s/tiny.safetensors", run->folder);
    assert_ok(run->ctx,
              sara_weights_open(run->ctx, &weights, SARA_TEST_GOLDEN "/variants/unet_tiny",
                                SARA_DIFFUSERS_STEM, NULL));
    int64_t channels = sara_weights_find(weights, "conv_in.weight")->shape.dims[1], hidden = 0;
    for (size_t i = 0; i < sara_weights_count(weights); i++)
        if (strstr(sara_weights_at(weights, i)->name, "attn2.to_k.weight"))
            hidden = sara_weights_at(weights, i)->shape.dims[1];
    sara_weights_close(weights);
    enum { STEPS = 2, SIDE = 4, TOKENS = 3 };
    float noise[4096];
    int64_t timesteps[STEPS] = {10, 900};
    sara_draw_normal(noise, 4096, 1, SARA_DRAW_TEST, 0);
    assert_true(STEPS * channels * SIDE * SIDE <= 2048 && STEPS * TOKENS * hidden <= 4096);
    sara_shape shape = {5, {STEPS, 1, channels, SIDE, SIDE}};
    sara_shape states = {4, {STEPS, 1, TOKENS, hidden}};
    const sara_tensor_source sources[] = {
        {"encoder_hidden_states", SARA_F32, states, noise},
        {"latents", SARA_F32, shape, noise},
        {"noise", SARA_F32, shape, noise + 2048},
        {"timesteps", SARA_I64, sara_shape2(STEPS, 1), timesteps},
    };
    assert_ok(run->ctx, sara_safetensors_save(run->ctx, path, sources, 4, NULL, 0));
    return path;
}

static const char *tiny_sha256(test_run *run, const char *replay)
{
    char sha256[65];
    const char *path = test_text(run, "%s-run/adapter.safetensors", replay);
    assert_ok(run->ctx, sara_sha256_file(run->ctx, sha256, path));
    return test_text(run, "%s", sha256);
}

static void test_allocations(void **state)
{
    test_run *run = *state;
    test_every_allocation(train_tiny_anew, write_tiny_replay(run));
}

/* A run that goes on after each failure ends as the run without any. */
static void test_allocations_while_resuming(void **state)
{
    test_run *run = *state;
    const char *replay = write_tiny_replay(run);
    assert_ok(run->ctx, train_tiny(run->ctx, replay));
    const char *clean = tiny_sha256(run, replay);
    assert_ok(run->ctx, sara_directory_remove(run->ctx, test_text(run, "%s-run", replay)));
    test_every_allocation(train_tiny, replay);
    assert_string_equal(tiny_sha256(run, replay), clean);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, test_run_setup, test_run_teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_one_is_skipped),    TEST(test_nine_in_a_row_go_on),
        TEST(test_ten_in_a_row_stop), TEST(test_too_few_batches),
        TEST(test_allocations),       TEST(test_allocations_while_resuming),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

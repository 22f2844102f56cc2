/* Steps whose loss or gradient is not finite change nothing; ten in a row end the run. */
#include "support_train.h"

#include <math.h>

/* Entry 0 with NaN latents. */
#define BAD (-1)

static void take_replay(test_run *run, const char *output, const int *order, size_t count)
{
    run->options.replay = test_run_replay(run, output, order, count, true);
    run->options.lr_scheduler = "constant";
    run->options.progressive_iter = 3;
    test_run_output(run, test_text(run, "run-%s", output));
}

static void test_skipped(void **state)
{
    static const int with[] = {0, 1, 2, BAD, 3, 4, 5}, without[] = {0, 1, 2, 3, 4, 5};
    test_run *run = *state;
    const char *original = run->options.replay;
    sara_train_result result;
    sara_adapter a, b;
    double losses[8], same[8];
    take_replay(run, "with", with, 7);
    test_run_forget_log(run);
    assert_ok(run->ctx, sara_train(run->ctx, &result, &run->options));
    assert_int_equal(result.steps, 6);
    assert_int_equal(result.skipped, 1);
    assert_non_null(strstr(run->log, "after step 3: loss or gradient is not finite"));
    assert_int_equal(test_run_events(run, "skipped"), 1);
    assert_int_equal(test_run_column(run, losses, 8, "loss"), 6);
    test_run_adapter(run, &a);
    run->options.replay = original;
    take_replay(run, "without", without, 6);
    assert_ok(run->ctx, sara_train(run->ctx, &result, &run->options));
    assert_int_equal(result.skipped, 0);
    assert_int_equal(test_run_column(run, same, 8, "loss"), 6);
    assert_memory_equal(losses, same, 6 * sizeof(*losses));
    test_run_adapter(run, &b);
    test_adapters_equal(&a, &b);
    sara_adapter_free(&a);
    sara_adapter_free(&b);
}

/* One bad micro-batch of a step takes the whole step, whatever the others added before. */
static void test_accumulated(void **state)
{
    static const int with[] = {0, 1, 2, BAD, 3, 4}, without[] = {0, 1, 3, 4};
    test_run *run = *state;
    const char *original = run->options.replay;
    sara_adapter a, b;
    run->options.gradient_accumulation_steps = 2;
    take_replay(run, "with", with, 6);
    assert_ok(run->ctx, test_run_train(run));
    test_run_adapter(run, &a);
    run->options.replay = original;
    take_replay(run, "without", without, 4);
    assert_ok(run->ctx, test_run_train(run));
    test_run_adapter(run, &b);
    test_adapters_equal(&a, &b);
    sara_adapter_free(&a);
    sara_adapter_free(&b);
}

static void test_ten_in_a_row(void **state)
{
    static const int order[] = {0, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, 1};
    test_run *run = *state;
    take_replay(run, "ten", order, 12);
    assert_refused(run->ctx, SARA_ERROR_DIVERGED, "10 steps in a row were not finite after step 1",
                   test_run_train(run));
    assert_int_equal(test_run_events(run, "skipped"), 10);
    assert_false(test_run_has(run, "adapter.safetensors"));
}

static void test_nine_in_a_row(void **state)
{
    static const int order[] = {0, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, 1, BAD, 2};
    test_run *run = *state;
    sara_train_result result;
    take_replay(run, "nine", order, 13);
    assert_ok(run->ctx, sara_train(run->ctx, &result, &run->options));
    assert_int_equal(result.steps, 3);
    assert_int_equal(result.skipped, 10);
}

/* Skipped steps are part of where a run stands: its log and its count of ten. */
static void test_interrupted(void **state)
{
    static const int order[] = {0, 1, BAD, BAD, BAD, 2, 3};
    test_run *run = *state;
    take_replay(run, "interrupted", order, 7);
    assert_ok(run->ctx, test_run_train(run));
    const char *sha256 = test_run_sha256(run), *lines = test_run_lines(run);
    test_run_output(run, "again");
    run->interrupt_on = "not finite";
    for (int i = 0; i < 3; i++) {
        assert_refused(run->ctx, SARA_INTERRUPTED, "after step 2", test_run_train(run));
        assert_int_equal(test_run_events(run, "skipped"), i + 1);
        run->options.resume_from_checkpoint = "latest";
    }
    assert_ok(run->ctx, test_run_train(run));
    assert_string_equal(test_run_sha256(run), sha256);
    assert_string_equal(test_run_lines(run), lines);
}

static void test_ten_over_interruptions(void **state)
{
    static const int order[] = {0, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, 1};
    test_run *run = *state;
    take_replay(run, "ten", order, 12);
    run->interrupt_on = "not finite";
    for (int i = 0; i < 9; i++) {
        assert_refused(run->ctx, SARA_INTERRUPTED, "after step 1", test_run_train(run));
        run->options.resume_from_checkpoint = "latest";
    }
    assert_refused(run->ctx, SARA_ERROR_DIVERGED, "10 steps in a row", test_run_train(run));
}

/* Those that were skipped before a good step do not count towards ten in a row, also after an
 * interruption. */
static void test_nine_over_an_interruption(void **state)
{
    static const int order[] = {0, BAD, 1, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, 2};
    test_run *run = *state;
    sara_train_result result;
    take_replay(run, "nine", order, 13);
    run->interrupt_on = "after step 2: loss";
    assert_refused(run->ctx, SARA_INTERRUPTED, "after step 2", test_run_train(run));
    run->interrupt_on = NULL;
    run->options.resume_from_checkpoint = "latest";
    assert_ok(run->ctx, sara_train(run->ctx, &result, &run->options));
    assert_int_equal(result.steps, 3);
    assert_int_equal(result.skipped, 10);
}

/* A learning rate that throws the weights out of range. */
static void test_diverged(void **state)
{
    int order[30];
    test_run *run = *state;
    for (int i = 0; i < 30; i++)
        order[i] = i % TEST_REPLAY_STEPS;
    run->options.replay = test_run_replay(run, "long", order, 30, true);
    run->options.learning_rate = 1e3;
    run->options.lr_scheduler = "constant";
    run->options.adam_weight_decay = 1000; /* p *= 1 - 1e6 each step */
    run->options.lambda_rank = 0;
    assert_refused(run->ctx, SARA_ERROR_DIVERGED, "steps in a row", test_run_train(run));
}

static void test_base_with_nan(void **state)
{
    test_run *run = *state;
    sara_model *model = NULL;
    const sara_model_options options = {.unet_only = true};
    assert_ok(run->ctx, sara_model_load(run->ctx, &model, run->options.unet_only, &options));
    float *value = sara_params_find(&model->denoiser->params, "conv_in.bias")->value.data;
    value[1] = NAN;
    run->options.unet_only = test_text(run, "%s/base", run->folder);
    assert_ok(run->ctx, sara_model_save(run->ctx, NULL, model, run->options.unet_only, NULL));
    sara_model_free(model);
    assert_refused(run->ctx, SARA_ERROR_INPUT, "conv_in.bias", test_run_train(run));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST_CASE(test_skipped),      TEST_TINY(test_accumulated),
        TEST_TINY(test_ten_in_a_row), TEST_TINY(test_nine_in_a_row),
        TEST_TINY(test_interrupted),  TEST_TINY(test_ten_over_interruptions),
        TEST_TINY(test_nine_over_an_interruption),
        TEST_TINY(test_diverged),     TEST_TINY(test_base_with_nan),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* --method adaptformer: bottlenecks beside the feed-forwards, against PyTorch, cut and resumed. */
#include "support_recorded.h"

#include "train/trainer.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define RESULT "adaptformer.safetensors"

static void set(test_run *run, const char *name, const char *value)
{
    assert_ok(run->ctx, sara_train_options_set(run->ctx, &run->options, name, value));
}

static void refuse(test_run *run, const char *name, const char *value, const char *line)
{
    const sara_train_options before = run->options;
    set(run, name, value);
    assert_refused(run->ctx, SARA_ERROR_USAGE, line, test_run_train(run));
    run->options = before;
}

/* SD1's kind, a few steps. */
static void use_adaptformer(test_run *run)
{
    run->options.method = "adaptformer";
    run->options.lr_scheduler = "constant";
    run->options.max_train_steps = 3;
    set(run, "adapter_width", "4");
}

static const char *start_of(test_run *run, const char *kind)
{
    return test_text(run, "%s/adaptformer_%s_start.safetensors", SARA_TEST_GOLDEN, kind);
}

static sara_safetensors *open_result(test_run *run)
{
    return test_open(run->ctx, test_text(run, "%s/" RESULT, run->output));
}

static void replay_recorded(test_run *run, const char *kind)
{
    const char *start = start_of(run, kind);
    run->options.method = "adaptformer";
    run->options.adapter = start;
    sara_safetensors *file = test_recorded_open(run, "adaptformer", kind);
    assert_ok(run->ctx, test_run_train(run));
    test_recorded_losses(run, file);
    test_recorded_values(run, file, start, test_text(run, "%s/" RESULT, run->output), 2e-3);
    sara_safetensors_close(file);
}

static void test_sd1(void **state)
{
    replay_recorded(*state, "sd1");
}

static void test_sd2(void **state)
{
    replay_recorded(*state, "sd2");
}

static void test_frozen(void **state)
{
    test_run *run = *state;
    use_adaptformer(run);
    test_recorded_frozen(run);
}

/* New ones change nothing: the first loss is the base's. Down is torch's kaiming_uniform_ of
 * a = sqrt(5), bounded by 1 / sqrt(channels); the first step moves what is zero alone. */
static void test_new(void **state)
{
    test_run *run = *state;
    double losses[3], base[3];
    sara_train_result result;
    use_adaptformer(run);
    set(run, "learning_rate", "1e-25");
    test_run_forget_log(run);
    assert_ok(run->ctx, sara_train(run->ctx, &result, &run->options));
    assert_string_equal(result.result, RESULT);
    assert_non_null(strstr(run->log, "beside 4 feed-forwards, width 4, scale 0.1"));
    test_run_column(run, losses, 3, "loss");
    sara_safetensors *file = open_result(run);
    int64_t values = 0;
    for (size_t i = 0; i < sara_safetensors_count(file); i++) {
        const sara_tensor_info *info = sara_safetensors_at(file, i);
        size_t count;
        float *data = test_load_f32(run->ctx, file, info->name, &count);
        double bound = 0, square = 0;
        if (strstr(info->name, ".ff.down.weight"))
            bound = 1 / sqrt((double)info->shape.dims[1]);
        for (size_t k = 0; k < count; k++) {
            assert_true(fabs((double)data[k]) <= bound + 1e-20);
            square += (double)data[k] * data[k] / (double)count;
        }
        assert_close(fabs(sqrt(square) - bound / sqrt(3)), 0.2 * bound + 1e-20, info->name);
        values += (int64_t)count;
        sara_free(run->ctx, data);
    }
    assert_int_equal(values, result.selected);
    assert_string_equal(sara_safetensors_metadata(file, "sara.adapter_width"), "4");
    assert_string_equal(sara_safetensors_metadata(file, "sara.adapter_scale"),
                        "0.10000000000000001");
    sara_safetensors_close(file);
    run->options.method = "sara";
    run->options.adapter_width = 0;
    test_run_output(run, "base");
    assert_ok(run->ctx, test_run_train(run));
    test_run_column(run, base, 3, "loss");
    assert_memory_equal(losses, base, sizeof(losses));
}

/* The width that comes nearest, from one up. */
static void test_size(void **state)
{
    static const struct {
        const char *size;
        int width;
    } cases[] = {{"2k", 5}, {"5", 1}, {"10k", 29}, {"1%", 27}};
    test_run *run = *state;
    run->options.method = "adaptformer";
    run->options.max_train_steps = 1;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        sara_train_result result;
        run->options.trainable = cases[i].size;
        test_run_output(run, cases[i].size);
        assert_ok(run->ctx, sara_train(run->ctx, &result, &run->options));
        sara_safetensors *file = open_result(run);
        assert_int_equal(atoi(sara_safetensors_metadata(file, "sara.adapter_width")),
                         cases[i].width);
        assert_int_equal(result.selected, 340 * cases[i].width + 168);
        sara_safetensors_close(file);
    }
}

/* ------------------------------------------------------------------------------------ resuming */

static void cut_and_resume(test_run *run, const char *dtype)
{
    use_adaptformer(run);
    run->options.weight_dtype = dtype;
    run->options.max_train_steps = 4;
    test_run_output(run, test_text(run, "whole-%s", dtype));
    assert_ok(run->ctx, test_run_train(run));
    const char *whole = test_run_sha256(run), *lines = test_run_lines(run);
    for (int64_t cut = 1; cut < 4; cut++) {
        test_run_output(run, test_text(run, "cut-%s-%d", dtype, (int)cut));
        run->interrupt_at = cut;
        assert_refused(run->ctx, SARA_INTERRUPTED, "and saved", test_run_train(run));
        run->interrupt_at = -1;
        run->options.resume_from_checkpoint = "latest";
        assert_ok(run->ctx, test_run_train(run));
        run->options.resume_from_checkpoint = NULL;
        assert_string_equal(test_run_sha256(run), whole);
        assert_string_equal(test_run_lines(run), lines);
    }
}

static void test_resume(void **state)
{
    cut_and_resume(*state, "fp32");
    cut_and_resume(*state, "bf16");
}

/* A run that began from a file goes on without it. */
static void test_resume_from_adapter(void **state)
{
    test_run *run = *state;
    use_adaptformer(run);
    run->options.adapter_width = 0;
    test_run_copy(run, "start.safetensors", start_of(run, "sd1"));
    const char *start = test_text(run, "%s/start.safetensors:0.5", run->folder);
    run->options.adapter = start;
    assert_ok(run->ctx, test_run_train(run));
    const char *whole = test_run_sha256(run);
    test_run_output(run, "cut");
    run->interrupt_at = 1;
    assert_refused(run->ctx, SARA_INTERRUPTED, "and saved", test_run_train(run));
    run->interrupt_at = -1;
    assert_int_equal(remove(test_text(run, "%s/start.safetensors", run->folder)), 0);
    run->options.resume_from_checkpoint = "latest";
    run->options.adapter = NULL;
    refuse(run, "adapter_width", "8", "that it began with; leave --adapter_width out");
    refuse(run, "adapter_scale", "0.2", "that it began with; leave --adapter_scale out");
    assert_ok(run->ctx, test_run_train(run));
    assert_string_equal(test_run_sha256(run), whole);
}

/* ------------------------------------------------------------------------------------- refusals */

static void test_refusals(void **state)
{
    test_run *run = *state;
    use_adaptformer(run);
    refuse(run, "trainable", "2k", "--adapter_width 4 and --trainable 2k: give one of them");
    refuse(run, "threshold", "0.002", "--threshold 0.002: goes with --method sara");
    assert_ok(run->ctx, test_run_train(run));
    run->options.resume_from_checkpoint = "latest";
    refuse(run, "adapter_width", "5", "the run has adapter_width = 4, now it is 5");
    refuse(run, "adapter_scale", "0.2", "the run has adapter_scale = 0.1");
    run->options.resume_from_checkpoint = NULL;
    test_run_output(run, "other");
    run->options.adapter_width = 0;
    run->options.adapter = start_of(run, "sd1");
    refuse(run, "adapter_width", "8", "leave --adapter_width out");
    refuse(run, "adapter_scale", "0.2", "leave --adapter_scale out");
    run->options.unet_only = SARA_TEST_GOLDEN "/unet_sd2";
    run->options.replay = SARA_TEST_GOLDEN "/train_sd2.safetensors";
    run->options.prediction_type = "v_prediction";
    assert_refused(run->ctx, SARA_ERROR_INPUT, "adapter: made for the base ", test_run_train(run));
    run->options.adapter = SARA_TEST_GOLDEN "/adaptformer_sd1.safetensors";
    assert_refused(run->ctx, SARA_ERROR_INPUT,
                   "holds no adapter that is known; --method adaptformer goes on from AdaptFormer",
                   test_run_train(run));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST_CASE(test_sd1),      TEST_CASE(test_sd2),    TEST_CASE(test_new),
        TEST_CASE(test_size),     TEST_CASE(test_resume), TEST_CASE(test_resume_from_adapter),
        TEST_CASE(test_refusals), TEST_CASE(test_frozen),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

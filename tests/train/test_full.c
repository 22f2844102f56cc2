/* --method full: every weight of the denoiser is trained, against PyTorch, cut and resumed. */
#include "support_train.h"

#include <math.h>

#define WEIGHTS "unet/diffusion_pytorch_model.safetensors"

static void use_full(test_run *run)
{
    run->options.method = "full";
    run->options.lr_scheduler = "constant";
}

/* ------------------------------------------------------------------------------------- PyTorch */

static void take_recorded(test_run *run, const sara_safetensors *file, const char *kind)
{
    static const char *const names[] = {"learning_rate",   "lr_scheduler", "max_grad_norm",
                                        "max_train_steps", "adam_epsilon", "adam_weight_decay",
                                        "prediction_type"};
    run->options.unet_only = test_text(run, "%s/unet_%s", SARA_TEST_GOLDEN, kind);
    run->options.replay = test_text(run, "%s/train_%s.safetensors", SARA_TEST_GOLDEN, kind);
    for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
        assert_ok(run->ctx, sara_train_options_set(
                                run->ctx, &run->options, names[i],
                                test_text(run, "%s", sara_safetensors_metadata(file, names[i]))));
}

static void check_column(test_run *run, const sara_safetensors *file, const char *field,
                         const char *recorded, double tolerance)
{
    double values[TEST_REPLAY_STEPS + 1];
    size_t count;
    float *expected = test_load_f32(run->ctx, file, recorded, &count);
    assert_int_equal(count, TEST_REPLAY_STEPS);
    assert_int_equal(test_run_column(run, values, TEST_REPLAY_STEPS + 1, field), count);
    for (size_t i = 0; i < count; i++)
        assert_close(fabs(values[i] / (double)expected[i] - 1), tolerance, field);
    sara_free(run->ctx, expected);
}

/* Every stride-th value of each parameter: how far it is from PyTorch's, beside how far that is
 * from where it began. */
static void check_values(test_run *run, const sara_safetensors *file)
{
    sara_safetensors *base = test_open(
        run->ctx, test_text(run, "%s/diffusion_pytorch_model.safetensors", run->options.unet_only));
    sara_safetensors *tuned = test_open(run->ctx, test_text(run, "%s/" WEIGHTS, run->output));
    size_t stride = (size_t)atoi(sara_safetensors_metadata(file, "stride")), entries, count;
    double error = 0, change = 0;
    assert_int_equal(sara_safetensors_count(tuned), sara_safetensors_count(base));
    for (size_t i = 0; i < sara_safetensors_count(base); i++) {
        const char *name = sara_safetensors_at(base, i)->name;
        float *before = test_load_f32(run->ctx, base, name, &entries);
        float *now = test_load_f32(run->ctx, tuned, name, &entries);
        float *after = test_load_f32(run->ctx, file, test_text(run, "after.%s", name), &count);
        assert_int_equal(count, (entries + stride - 1) / stride);
        for (size_t k = 0; k < count; k++) {
            error += pow((double)now[k * stride] - (double)after[k], 2);
            change += pow((double)after[k] - (double)before[k * stride], 2);
        }
        sara_free(run->ctx, before);
        sara_free(run->ctx, now);
        sara_free(run->ctx, after);
    }
    assert_close(sqrt(error / change), 1e-4, "values after the last step");
    print_message("relative error of the change %.2g\n", sqrt(error / change));
    sara_safetensors_close(base);
    sara_safetensors_close(tuned);
}

static void replay_full(test_run *run, const char *kind)
{
    sara_safetensors *file =
        test_open(run->ctx, test_text(run, "%s/full_%s.safetensors", SARA_TEST_GOLDEN, kind));
    use_full(run);
    take_recorded(run, file, kind);
    assert_ok(run->ctx, test_run_train(run));
    check_column(run, file, "loss", "losses", 1e-5);
    check_column(run, file, "grad_norm", "grad_norms", 1e-4);
    check_values(run, file);
    sara_safetensors_close(file);
}

static void test_sd1(void **state)
{
    replay_full(*state, "sd1");
}

static void test_sd2(void **state)
{
    replay_full(*state, "sd2");
}

/* -------------------------------------------------------------------------------------- result */

/* The folder is what a bare unet/ folder is, and the log tells the rate and the size. */
static void test_result(void **state)
{
    test_run *run = *state;
    sara_train_result result;
    sara_model *model = NULL;
    sara_model_options options;
    size_t size, base_size = 0;
    char *base = NULL;
    use_full(run);
    run->options.max_train_steps = 2;
    test_run_forget_log(run);
    assert_ok(run->ctx, sara_train(run->ctx, &result, &run->options));
    assert_string_equal(result.result, "unet");
    assert_int_equal(result.selected, result.parameters);
    assert_true(isnan(result.threshold) && result.learning_rate == 1e-5);
    assert_non_null(strstr(run->log, "(100.00 %), all of them; learning rate 1e-05 (of full "));
    assert_null(strstr(run->log, "reselection"));
    assert_false(test_run_has(run, "adapter.safetensors"));
    const char *config = test_run_read(run, "unet/config.json", &size);
    assert_ok(run->ctx,
              sara_file_read(run->ctx, &base, &base_size,
                             test_text(run, "%s/config.json", run->options.unet_only), 1 << 20));
    assert_int_equal(size, base_size);
    assert_memory_equal(config, base, size);
    sara_free(run->ctx, base);
    sara_model_options_init(&options);
    options.unet_only = true;
    assert_ok(run->ctx,
              sara_model_load(run->ctx, &model, test_text(run, "%s/unet", run->output), &options));
    sara_model_free(model);
}

/* ------------------------------------------------------------------------------------ resuming */

static void cut_and_resume(test_run *run, const char *dtype)
{
    use_full(run);
    run->options.weight_dtype = dtype;
    run->options.max_train_steps = 5;
    test_run_output(run, test_text(run, "whole-%s", dtype));
    assert_ok(run->ctx, test_run_train(run));
    const char *whole = test_run_sha256(run);
    for (int64_t cut = 1; cut < 5; cut++) {
        test_run_output(run, test_text(run, "cut-%s-%d", dtype, (int)cut));
        run->interrupt_at = cut;
        assert_refused(run->ctx, SARA_INTERRUPTED, "and saved", test_run_train(run));
        run->interrupt_at = -1;
        assert_false(test_run_has(run, "unet"));
        assert_true(test_run_has(run, test_text(run, "checkpoint-%d/denoiser", (int)cut)));
        run->options.resume_from_checkpoint = "latest";
        assert_ok(run->ctx, test_run_train(run));
        run->options.resume_from_checkpoint = NULL;
        assert_string_equal(test_run_sha256(run), whole);
    }
}

static void test_resume(void **state)
{
    cut_and_resume(*state, "fp32");
}

/* The masters are what is saved, not what the weights round them to. */
static void test_resume_bf16(void **state)
{
    test_run *run = *state;
    cut_and_resume(run, "bf16");
    sara_safetensors *file = test_open(run->ctx, test_text(run, "%s/" WEIGHTS, run->output));
    const sara_tensor_info *info = sara_safetensors_find(file, "conv_in.weight");
    size_t count, wide = 0;
    float *values = test_load_f32(run->ctx, file, "conv_in.weight", &count);
    assert_int_equal(info->dtype, SARA_F32);
    for (size_t i = 0; i < count; i++)
        wide += values[i] != sara_bf16_to_f32(sara_f32_to_bf16(values[i]));
    assert_true(wide > count / 2);
    sara_free(run->ctx, values);
    sara_safetensors_close(file);
}

/* A longer run puts its folder in the place of the first one's. */
static void test_longer(void **state)
{
    test_run *run = *state;
    use_full(run);
    run->options.max_train_steps = 2;
    assert_ok(run->ctx, test_run_train(run));
    const char *first = test_run_sha256(run);
    assert_refused(run->ctx, SARA_ERROR_USAGE, "holds a run already", test_run_train(run));
    run->options.resume_from_checkpoint = "latest";
    run->options.max_train_steps = 3;
    assert_ok(run->ctx, test_run_train(run));
    assert_string_not_equal(test_run_sha256(run), first);
    char **names = NULL;
    size_t count, hidden = 0;
    assert_ok(run->ctx, sara_directory_list(run->ctx, &names, &count, run->output));
    for (size_t i = 0; i < count; i++)
        hidden += names[i][0] == '.';
    assert_int_equal(hidden, 0);
    sara_directory_free(run->ctx, names, count);
    run->options.method = "sara";
    assert_refused(run->ctx, SARA_ERROR_USAGE, "the run has method = \"full\", now it is \"sara\"",
                   test_run_train(run));
}

static void test_damaged(void **state)
{
    test_run *run = *state;
    use_full(run);
    run->options.max_train_steps = 2;
    assert_ok(run->ctx, test_run_train(run));
    test_run_flip_bit(run, "checkpoint-2/denoiser/diffusion_pytorch_model.safetensors");
    run->options.resume_from_checkpoint = "checkpoint-2";
    assert_refused(run->ctx, SARA_ERROR_INPUT,
                   "denoiser/diffusion_pytorch_model.safetensors: SHA-256 is ",
                   test_run_train(run));
}

/* ------------------------------------------------------------------------------------- options */

static void test_options_of_others(void **state)
{
    static const char *const given[][2] = {{"threshold", "0.002"},
                                           {"trainable", "5.8%"},
                                           {"lambda_rank", "0"},
                                           {"progressive_iter", "3"},
                                           {"adapter", "x.safetensors"}};
    test_run *run = *state;
    use_full(run);
    for (size_t i = 0; i < sizeof(given) / sizeof(*given); i++) {
        const sara_train_options options = run->options;
        assert_ok(run->ctx,
                  sara_train_options_set(run->ctx, &run->options, given[i][0], given[i][1]));
        assert_refused(run->ctx, SARA_ERROR_USAGE,
                       test_text(run, "--%s %s: goes with --method sara", given[i][0], given[i][1]),
                       test_run_train(run));
        run->options = options;
    }
    run->options.method = "lora";
    assert_refused(run->ctx, SARA_ERROR_USAGE, "--method lora: expected sara or full",
                   test_run_train(run));
}

static void test_places(void **state)
{
    test_run *run = *state;
    use_full(run);
    assert_ok(run->ctx, sara_directory_make(run->ctx, run->output));
    test_run_write(run, "unet", "x", 1);
    run->options.resume_from_checkpoint = "latest";
    assert_refused(run->ctx, SARA_ERROR_IO, "unet: is no folder, and the result goes there",
                   test_run_train(run));
    test_run_output(run, "other");
    assert_ok(run->ctx, sara_directory_make(run->ctx, test_text(run, "%s/unet", run->output)));
    assert_refused(run->ctx, SARA_ERROR_USAGE, "holds unet/ and no checkpoint to go on from",
                   test_run_train(run));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST_CASE(test_sd1),         TEST_CASE(test_sd2),
        TEST_TINY(test_result),      TEST_TINY(test_resume),
        TEST_TINY(test_resume_bf16), TEST_TINY(test_longer),
        TEST_TINY(test_damaged),     TEST_TINY(test_options_of_others),
        TEST_TINY(test_places),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

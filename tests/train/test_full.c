/* --method full: every weight of the denoiser is trained, against PyTorch, cut and resumed. */
#include "support_recorded.h"

#include <math.h>

#define WEIGHTS "unet/diffusion_pytorch_model.safetensors"

static void use_full(test_run *run)
{
    run->options.method = "full";
    run->options.lr_scheduler = "constant";
}

/* ------------------------------------------------------------------------------------- PyTorch */

static void replay_full(test_run *run, const char *kind)
{
    use_full(run);
    sara_safetensors *file = test_recorded_open(run, "full", kind);
    assert_ok(run->ctx, test_run_train(run));
    test_recorded_losses(run, file);
    test_recorded_values(
        run, file, test_text(run, "%s/diffusion_pytorch_model.safetensors", run->options.unet_only),
        test_text(run, "%s/" WEIGHTS, run->output), 1e-4);
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
    run->options.method = "lore";
    assert_refused(run->ctx, SARA_ERROR_USAGE, "--method lore: expected sara, full",
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

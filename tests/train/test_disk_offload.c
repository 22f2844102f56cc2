/* Weights that stay in their files (--disk_offload): to the bits of a run without, and never wrong
 * values. */
#include "pipeline/pipeline.h"
#include "support/memory.h"
#include "support_train.h"

#include <unistd.h>

/* What the run gives without. */
typedef struct plain_run {
    const char *sha256, *lines;
} plain_run;

static plain_run train_plainly(test_run *run, const char *name)
{
    test_run_output(run, test_text(run, "%s-plain", name));
    run->options.disk_offload = false;
    assert_ok(run->ctx, test_run_train(run));
    return (plain_run){test_run_sha256(run), test_run_lines(run)};
}

static void assert_as_plain(test_run *run, const plain_run *plain)
{
    assert_string_equal(test_run_sha256(run), plain->sha256);
    assert_string_equal(test_run_lines(run), plain->lines);
}

static void compare_with_plain(test_run *run, const char *name)
{
    const plain_run plain = train_plainly(run, name);
    test_run_output(run, test_text(run, "%s-offloaded", name));
    run->options.disk_offload = true;
    assert_ok(run->ctx, test_run_train(run));
    assert_non_null(strstr(run->log, "gradient checkpointing is on"));
    assert_as_plain(run, &plain);
}

/* With the low-rank term, a reselection, and what drift is measured of. */
static void test_sd1(void **state)
{
    static const char *const dtypes[] = {"fp32", "bf16", "fp16"};
    test_run *run = *state;
    run->options.progressive_iter = 4;
    run->options.lambda_rank = 0.05;
    run->options.track_drift = 3;
    for (size_t i = 0; i < sizeof(dtypes) / sizeof(*dtypes); i++) {
        run->options.weight_dtype = dtypes[i];
        compare_with_plain(run, dtypes[i]);
        assert_int_equal(test_run_events(run, "reselect"), 1);
    }
}

static void test_families(void **state)
{
    test_run *run = *state;
    run->options.weight_dtype = "bf16";
    run->options.unet_only = SARA_TEST_GOLDEN "/families/sd35_medium/transformer";
    run->options.replay = SARA_TEST_GOLDEN "/families/sd35_medium/train.safetensors";
    compare_with_plain(run, "sd35");
    run->options.unet_only = SARA_TEST_GOLDEN "/families/sdxl/unet";
    run->options.replay = SARA_TEST_GOLDEN "/families/sdxl/train.safetensors";
    compare_with_plain(run, "sdxl");
}

static void test_gradient_mask(void **state)
{
    test_run *run = *state;
    run->options.mask = "gradient";
    run->options.lambda_rank = 0; /* the recorded matrices need not be trained */
    run->options.learning_rate = 1e-3;
    compare_with_plain(run, "gradient");
}

static void test_shira(void **state)
{
    test_run *run = *state;
    run->options.method = "shira";
    compare_with_plain(run, "shira");
}

/* Parameters of a method's own beside weights that are not there; DoRA begins from their norms. */
static void test_beside(void **state)
{
    static const struct {
        const char *method, *result;
    } rows[] = {{"lora", "lora.safetensors"},
                {"dora", "lora.safetensors"},
                {"adaptformer", "adaptformer.safetensors"}};
    test_run *run = *state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        size_t size, offloaded;
        run->options.method = rows[i].method;
        run->options.disk_offload = false;
        test_run_output(run, test_text(run, "%s-plain", rows[i].method));
        assert_ok(run->ctx, test_run_train(run));
        const char *plain = test_run_read(run, rows[i].result, &size);
        const char *lines = test_run_lines(run);
        run->options.disk_offload = true;
        test_run_output(run, test_text(run, "%s-offloaded", rows[i].method));
        assert_ok(run->ctx, test_run_train(run));
        const char *result = test_run_read(run, rows[i].result, &offloaded);
        assert_int_equal(offloaded, size);
        assert_memory_equal(result, plain, size);
        assert_string_equal(test_run_lines(run), lines);
    }
}

/* On a device whose memory the host cannot touch. */
static void test_apart(void **state)
{
    static const char *const dtypes[] = {"fp32", "bf16"};
    test_run *run = *state;
    run->options.device = "cpu-apart";
    run->options.progressive_iter = 4;
    run->options.track_drift = 3;
    for (size_t i = 0; i < sizeof(dtypes) / sizeof(*dtypes); i++) {
        run->options.weight_dtype = dtypes[i];
        compare_with_plain(run, test_text(run, "apart-%s", dtypes[i]));
    }
}

/* A run may go on with it, or without, on either side of a reselection. */
static void test_resumed(void **state)
{
    test_run *run = *state;
    const plain_run plain = train_plainly(run, "whole");
    test_run_output(run, "mixed");
    for (int64_t step = 2; step <= 8; step += 2) {
        run->options.disk_offload = !run->options.disk_offload;
        run->interrupt_at = step;
        assert_refused(run->ctx, SARA_INTERRUPTED, "interrupted", test_run_train(run));
        run->options.resume_from_checkpoint = "latest";
    }
    run->interrupt_at = -1;
    run->options.disk_offload = true;
    assert_ok(run->ctx, test_run_train(run));
    assert_as_plain(run, &plain);
}

static void test_refused(void **state)
{
    test_run *run = *state;
    run->options.disk_offload = true;
    run->options.method = "full";
    assert_refused(run->ctx, SARA_ERROR_USAGE, "--disk_offload", test_run_train(run));
    run->options.method = "sara";
    run->options.gradient_checkpointing_levels = 1;
    assert_refused(run->ctx, SARA_ERROR_USAGE, "--gradient_checkpointing_levels 1: --disk_offload",
                   test_run_train(run));
}

/* LT-SFT's first phase trains all values; its second is refused alike, and goes on without. */
static void test_second_phase(void **state)
{
    test_run *run = *state;
    run->options.method = "ltsft";
    run->options.ltsft_steps = 2;
    run->options.max_train_steps = 6;
    test_run_output(run, "ltsft");
    run->interrupt_at = 4;
    assert_refused(run->ctx, SARA_INTERRUPTED, "interrupted", test_run_train(run));
    run->interrupt_at = -1;
    run->options.resume_from_checkpoint = "latest";
    run->options.disk_offload = true;
    assert_refused(run->ctx, SARA_ERROR_USAGE,
                   "--disk_offload true: goes with --method sara, lora, dora, adaptformer or "
                   "shira; LT-SFT trains all values",
                   test_run_train(run));
    run->options.disk_offload = false;
    assert_ok(run->ctx, test_run_train(run));
    assert_true(test_run_has(run, "adapter.safetensors"));
}

/* A file that was written to or cut after it was opened is told of. */
static void test_cut_file(void **state)
{
    test_run *run = *state;
    const char *folder = test_text(run, "%s/unet", run->folder);
    const char *file = test_text(run, "%s/diffusion_pytorch_model.safetensors", folder);
    const sara_model_options options = {.size = sizeof(options)};
    sara_model *model;
    sara_tape *tape;
    test_run_copy(run, "unet/config.json", SARA_TEST_GOLDEN "/unet_sd1/config.json");
    test_run_copy(run, "unet/diffusion_pytorch_model.safetensors",
                  SARA_TEST_GOLDEN "/unet_sd1/diffusion_pytorch_model.safetensors");
    assert_ok(run->ctx, sara_model_load_offloaded(run->ctx, &model, folder, &options, true));
    assert_ok(run->ctx, sara_tape_new(run->ctx, &tape, model->device));
    const sara_param *param =
        sara_params_find(&model->denoiser->params, "down_blocks.0.resnets.0.conv1.weight");
    assert_null(param->value.data);
    assert_non_null(sara_params_find(&model->denoiser->params, "conv_in.weight")->value.data);
    assert_ok(run->ctx, sara_network_lend_region(tape, model->denoiser, param));
    assert_non_null(param->value.data);
    sara_network_return_region(tape, model->denoiser, param);
    assert_null(param->value.data);
    test_run_copy(run, "unet/diffusion_pytorch_model.safetensors",
                  SARA_TEST_GOLDEN "/unet_sd1/diffusion_pytorch_model.safetensors");
    assert_refused(run->ctx, SARA_ERROR_IO, "diffusion_pytorch_model",
                   sara_network_lend_region(tape, model->denoiser, param));
    sara_network_return_region(tape, model->denoiser, param);
    assert_int_equal(truncate(file, 4096), 0);
    assert_refused(run->ctx, SARA_ERROR_IO, "diffusion_pytorch_model",
                   sara_network_lend_region(tape, model->denoiser, param));
    sara_network_return_region(tape, model->denoiser, param);
    sara_tape_free(tape);
    sara_model_free(model);
}

/* SARA_ERROR_MEMORY wherever an allocation fails, and nothing is left over. */
static void test_offload_allocations(void **state)
{
    test_run *run = *state;
    test_allocator allocator;
    sara_context *ctx = test_allocator_context(&allocator);
    const long before = allocator.alive;
    bool failed = true;
    run->options.disk_offload = true;
    run->options.max_train_steps = 2;
    run->options.progressive_iter = 1;
    for (long n = 0; failed; n += test_stride(17)) {
        test_run_output(run, test_text(run, "n-%ld", n));
        allocator.failures = 0;
        allocator.left = n;
        sara_status status = sara_train(ctx, NULL, &run->options);
        allocator.left = -1;
        failed = allocator.failures > 0;
        assert_int_equal(status, failed ? SARA_ERROR_MEMORY : SARA_OK);
        assert_int_equal(allocator.alive, before);
    }
    sara_context_free(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST_CASE(test_sd1),
        TEST_CASE(test_families),
        TEST_CASE(test_gradient_mask),
        TEST_CASE(test_shira),
        TEST_CASE(test_beside),
        TEST_CASE(test_resumed),
        TEST_CASE(test_apart),
        TEST_CASE(test_second_phase),
        TEST_CASE(test_refused),
        TEST_CASE(test_cut_file),
        TEST_TINY(test_offload_allocations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* On the device whose memory the host cannot touch, runs give what they give on "cpu", to the bit;
 * also where they are cut and go on, on either device. */
#include "support_train.h"

#define WEIGHTS "unet/diffusion_pytorch_model.safetensors"

static const char *sha256_of(test_run *run, const char *name)
{
    char sha256[65];
    const char *path = test_text(run, "%s/%s", run->output, name);
    assert_ok(run->ctx, sara_sha256_file(run->ctx, sha256, path));
    return test_text(run, "%s", sha256);
}

/* The steps up to the cut, or to the end where it is 0. */
static void go_on(test_run *run, const char *device, int64_t cut)
{
    run->options.device = device;
    run->interrupt_at = cut ? cut : -1;
    sara_status status = test_run_train(run);
    if (cut)
        assert_refused(run->ctx, SARA_INTERRUPTED, "and saved", status);
    else
        assert_ok(run->ctx, status);
    run->interrupt_at = -1;
    run->options.resume_from_checkpoint = "latest";
}

/* Of a run in folders of its own these files of the result are equal; cuts: two steps. */
static void compare(test_run *run, const int64_t cuts[2], const char *const *files, size_t count)
{
    const char *folder = run->output, *hashes[4];
    assert_true(count <= sizeof(hashes) / sizeof(*hashes));
    test_run_output(run, test_text(run, "%s-cpu", strrchr(folder, '/') + 1));
    go_on(run, NULL, 0);
    for (size_t i = 0; i < count; i++)
        hashes[i] = sha256_of(run, files[i]);
    const char *lines = test_run_lines(run);
    run->options.resume_from_checkpoint = NULL;
    test_run_output(run, test_text(run, "%s-apart", strrchr(folder, '/') + 1));
    go_on(run, "cpu-apart", cuts[0]);
    go_on(run, "cpu", cuts[0] + 1);
    go_on(run, "cpu-apart", cuts[1]);
    go_on(run, "cpu-apart", 0);
    for (size_t i = 0; i < count; i++)
        assert_string_equal(sha256_of(run, files[i]), hashes[i]);
    assert_string_equal(test_run_lines(run), lines);
    run->options.resume_from_checkpoint = NULL;
    run->options.device = NULL;
}

static void compare_adapters(test_run *run)
{
    static const char *const files[] = {"adapter.safetensors"};
    const int64_t cuts[2] = {3, 7}; /* the reselection comes between */
    compare(run, cuts, files, 1);
}

static void test_golden(void **state)
{
    test_run *run = *state;
    double terms[TEST_REPLAY_STEPS];
    run->options.lambda_rank = 0.05;
    compare_adapters(run);
    assert_int_equal(test_run_events(run, "reselect"), 1);
    assert_int_equal(test_run_column(run, terms, TEST_REPLAY_STEPS, "rank_loss"),
                     TEST_REPLAY_STEPS);
    assert_true(terms[0] > 0 && terms[9] > 0);
    run->options.unet_only = SARA_TEST_GOLDEN "/unet_sd2";
    run->options.replay = SARA_TEST_GOLDEN "/train_sd2.safetensors";
    run->options.prediction_type = "v_prediction";
    run->options.weight_dtype = "bf16";
    run->options.gradient_checkpointing_levels = 1;
    test_run_output(run, "narrow");
    compare_adapters(run);
    assert_int_equal(test_run_events(run, "reselect"), 1);
}

/* Masters and all weights, accumulation, another run's adapter. */
static void test_tiny(void **state)
{
    static const char *const files[] = {WEIGHTS}, *const dtypes[] = {"fp32", "fp16"};
    test_run *run = *state;
    const int64_t cuts[2] = {1, 4};
    for (size_t i = 0; i < 2; i++) {
        run->options.weight_dtype = dtypes[i];
        run->options.method = "full";
        test_run_output(run, test_text(run, "full-%s", dtypes[i]));
        compare(run, cuts, files, 1);
        run->options.method = "sara";
        test_run_output(run, dtypes[i]);
        compare_adapters(run);
        run->options.adapter = test_text(run, "%s/adapter.safetensors:0.7", run->output);
        test_run_output(run, test_text(run, "%s-on", dtypes[i]));
        compare_adapters(run);
        run->options.adapter = NULL;
    }
}

/* A method whose parameters are its own, and a run that goes on from its file. */
static void compare_beside(test_run *run, const char *method, const char *file,
                           const char *strength)
{
    const char *const files[] = {file};
    const int64_t cuts[2] = {3, 7};
    run->options.method = method;
    run->options.gradient_checkpointing_levels = 1;
    run->options.weight_dtype = "bf16";
    test_run_output(run, method);
    compare(run, cuts, files, 1);
    run->options.adapter = test_text(run, "%s/%s%s", run->output, file, strength);
    run->options.lora_targets = NULL;
    test_run_output(run, test_text(run, "%s-on", method));
    compare(run, cuts, files, 1);
    run->options.adapter = NULL;
}

static void test_adaptformer(void **state)
{
    compare_beside(*state, "adaptformer", "adaptformer.safetensors", ":0.7");
}

static void test_lora(void **state)
{
    test_run *run = *state;
    run->options.lora_targets = "all";
    compare_beside(run, "dora", "lora.safetensors", "");
    run->options.lora_targets = "linear";
    compare_beside(run, "lora", "lora.safetensors", ":0.7");
}

/* A picture that is not square is cropped anew at each step. */
static void put_wide_picture(test_run *run, const char *name)
{
    enum { WIDTH = 56, HEIGHT = 40 };
    uint8_t pixels[WIDTH * HEIGHT * 3];
    for (int i = 0; i < WIDTH * HEIGHT * 3; i++)
        pixels[i] = (uint8_t)(i * i / 7);
    const sara_image image = {WIDTH, HEIGHT, pixels};
    assert_ok(run->ctx, sara_image_save(run->ctx, &image,
                                        test_text(run, "%s/images/%s", run->folder, name), NULL));
}

static void test_images(void **state)
{
    static const char *const files[] = {"adapter.safetensors", "samples/step-000004-0.png"};
    test_run *run = *state;
    const int64_t cuts[2] = {1, 3};
    test_run_take_images(run, 2);
    put_wide_picture(run, "u1f301.png");
    run->options.random_flip = true;
    run->options.validation_prompts[0] = "a (foggy:1.2) cat";
    run->options.validation_prompt_count = 1;
    compare(run, cuts, files, 2);
}

static const char *bench_loss(test_run *run, const char *device)
{
    sara_bench_options options;
    char *text = NULL;
    sara_bench_options_init(&options);
    options.shape = "tiny";
    options.latent = 8;
    options.steps = 2;
    options.weight_dtype = "bf16";
    options.rank = true;
    options.device = device;
    test_run_forget_log(run);
    assert_ok(run->ctx, sara_bench(run->ctx, &text, &options));
    sara_free(run->ctx, text);
    const char *at = strstr(run->log, "step 2 of 2: ");
    assert_non_null(at);
    return test_text(run, "%.12s", strstr(at, "loss "));
}

static void test_bench(void **state)
{
    test_run *run = *state;
    const char *loss = bench_loss(run, "cpu");
    assert_string_equal(bench_loss(run, "cpu-apart"), loss);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST_CASE(test_golden), TEST_TINY(test_tiny),   TEST_CASE(test_adaptformer),
        TEST_CASE(test_lora),   TEST_CASE(test_images), TEST_TINY(test_bench),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

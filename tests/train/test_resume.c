/* Interrupted runs end with the same bits as uninterrupted ones. */
#include "support_train.h"

#include <stdio.h>
#include <unistd.h>

/* Trains to the end in as many pieces as there are steps to interrupt at (ended by 0). */
static void train_in_pieces(test_run *run, const int64_t *stops)
{
    for (; *stops; stops++) {
        run->interrupt_at = *stops;
        assert_refused(run->ctx, SARA_INTERRUPTED, "--resume_from_checkpoint latest",
                       test_run_train(run));
        assert_false(test_run_has(run, "adapter.safetensors"));
        run->options.resume_from_checkpoint = "latest";
    }
    run->interrupt_at = -1;
    assert_ok(run->ctx, test_run_train(run));
    run->options.resume_from_checkpoint = NULL;
}

static void check_same(test_run *run, const int64_t *stops, const char *sha256, const char *lines)
{
    static int number;
    test_run_output(run, test_text(run, "run-%d", number++));
    train_in_pieces(run, stops);
    assert_string_equal(test_run_sha256(run), sha256);
    assert_string_equal(test_run_lines(run), lines);
}

/* The U-Net of SD1's kind; the reselection comes before step 6 (counted from 1). */
static void use_replay(test_run *run)
{
    run->options.learning_rate = 2e-3;
    run->options.lambda_rank = 0.05;
    run->options.progressive_iter = 5;
}

static void test_any_step(void **state)
{
    test_run *run = *state;
    use_replay(run);
    assert_ok(run->ctx, test_run_train(run));
    const char *sha256 = test_run_sha256(run), *lines = test_run_lines(run);
    assert_int_equal(test_run_events(run, "reselect"), 1);
    for (int64_t step = 1; step < TEST_REPLAY_STEPS; step++)
        check_same(run, (const int64_t[]){step, 0}, sha256, lines);
    check_same(run, (const int64_t[]){1, 2, 3, 4, 5, 6, 7, 8, 9, 0}, sha256, lines);
}

/* Images, two micro-batches a step, in the middle of an epoch, flipped and cropped at random. */
static void test_images(void **state)
{
    test_run *run = *state;
    run->options.unet_only = run->options.replay = NULL;
    run->options.pretrained_model_name_or_path = SARA_TEST_EMOJI "/base";
    run->options.train_data_dir = test_run_images(run, 5);
    run->options.train_batch_size = 2;
    run->options.gradient_accumulation_steps = 2;
    run->options.max_train_steps = 6;
    run->options.random_flip = true;
    sara_image image = {0}, wide = {0};
    const char *path = test_text(run, "%s/%s", run->options.train_data_dir, "u1f301.png");
    assert_ok(run->ctx, sara_image_read(run->ctx, &image, path));
    assert_ok(run->ctx, sara_image_resize(run->ctx, &wide, &image, 100, 64));
    assert_ok(run->ctx, sara_image_save(run->ctx, &wide, path, NULL));
    sara_image_clear(run->ctx, &image);
    sara_image_clear(run->ctx, &wide);
    assert_ok(run->ctx, test_run_train(run));
    const char *sha256 = test_run_sha256(run), *lines = test_run_lines(run);
    check_same(run, (const int64_t[]){1, 3, 4, 0}, sha256, lines);
}

static void test_finished_run(void **state)
{
    test_run *run = *state;
    use_replay(run);
    assert_ok(run->ctx, test_run_train(run));
    const char *sha256 = test_run_sha256(run), *lines = test_run_lines(run);
    assert_refused(run->ctx, SARA_ERROR_USAGE, "--resume_from_checkpoint latest",
                   test_run_train(run));
    run->options.resume_from_checkpoint = "latest";
    assert_ok(run->ctx, test_run_train(run));
    test_assert_contains(run->log, "finished", __FILE__, __LINE__);
    assert_string_equal(test_run_sha256(run), sha256);
    assert_string_equal(test_run_lines(run), lines);
}

/* Checkpoints at 2, 4, 6, 8; stopped after 8. */
static void stop_after_eight(test_run *run)
{
    use_replay(run);
    run->options.checkpointing_steps = 2;
    run->interrupt_at = 8;
    assert_refused(run->ctx, SARA_INTERRUPTED, "after step 8", test_run_train(run));
    run->interrupt_at = -1;
    run->options.resume_from_checkpoint = "latest";
}

static void test_limit(void **state)
{
    test_run *run = *state;
    stop_after_eight(run);
    assert_false(test_run_has(run, "checkpoint-2"));
    for (int step = 4; step <= 8; step += 2)
        assert_true(test_run_has(run, test_text(run, "checkpoint-%d", step)));
}

static void test_damaged_checkpoint(void **state)
{
    static const char *const files[] = {"adapter.safetensors", "state.safetensors",
                                        "manifest.json"};
    test_run *run = *state;
    use_replay(run);
    assert_ok(run->ctx, test_run_train(run));
    const char *sha256 = test_run_sha256(run), *lines = test_run_lines(run);
    for (size_t i = 0; i < 3; i++) {
        test_run_output(run, files[i]);
        stop_after_eight(run);
        test_run_flip_bit(run, test_text(run, "checkpoint-8/%s", files[i]));
        assert_ok(run->ctx, test_run_train(run));
        test_assert_contains(run->log, "checkpoint-8", __FILE__, __LINE__);
        test_assert_contains(run->log, "resuming after step 6", __FILE__, __LINE__);
        assert_string_equal(test_run_sha256(run), sha256);
        assert_string_equal(test_run_lines(run), lines);
        run->options.resume_from_checkpoint = NULL;
    }
}

static void test_by_path(void **state)
{
    test_run *run = *state;
    stop_after_eight(run);
    run->options.resume_from_checkpoint = test_text(run, "%s/checkpoint-4", run->output);
    assert_ok(run->ctx, test_run_train(run));
    test_assert_contains(run->log, "resuming after step 4", __FILE__, __LINE__);
    test_run_output(run, "another");
    run->options.resume_from_checkpoint = test_text(run, "%s/none", run->folder);
    assert_refused(run->ctx, SARA_ERROR_IO, "none", test_run_train(run));
}

static void test_cut_log(void **state)
{
    test_run *run = *state;
    use_replay(run);
    assert_ok(run->ctx, test_run_train(run));
    const char *lines = test_run_lines(run);
    test_run_output(run, "cut");
    stop_after_eight(run);
    size_t size;
    const char *log = test_run_read(run, "log.jsonl", &size);
    test_run_write(run, "log.jsonl", test_text(run, "%s{\"step\":9,\"lo", log), size + 13);
    assert_ok(run->ctx, test_run_train(run));
    assert_string_equal(test_run_lines(run), lines);
}

static void test_changes_are_refused(void **state)
{
    test_run *run = *state;
    stop_after_eight(run);
    sara_train_options good = run->options;
    run->options.learning_rate = 1e-3;
    assert_refused(run->ctx, SARA_ERROR_USAGE, "learning_rate", test_run_train(run));
    run->options = good;
    run->options.seed = 43;
    assert_refused(run->ctx, SARA_ERROR_USAGE, "seed", test_run_train(run));
    run->options = good;
    run->options.trainable = "6%";
    assert_refused(run->ctx, SARA_ERROR_USAGE, "threshold", test_run_train(run));
    run->options = good;
    run->options.replay = SARA_TEST_GOLDEN "/train_sd2.safetensors";
    assert_refused(run->ctx, SARA_ERROR_USAGE, "data", test_run_train(run));
    run->options = good;
    run->options.unet_only = SARA_TEST_GOLDEN "/unet_sd2";
    assert_int_equal(test_run_train(run), SARA_ERROR_USAGE);
    run->options = good;
    run->options.checkpointing_steps = 3; /* decides nothing */
    assert_ok(run->ctx, test_run_train(run));
}

static void test_two_runs(void **state)
{
    test_run *run = *state;
    sara_run other;
    assert_ok(run->ctx, sara_run_open(run->ctx, &other, run->output));
    assert_refused(run->ctx, SARA_ERROR_IO, "another run", test_run_train(run));
    sara_run_close(&other);
    assert_ok(run->ctx, test_run_train(run));
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, test_run_setup, test_run_teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_any_step),
        TEST(test_images),
        TEST(test_finished_run),
        TEST(test_limit),
        TEST(test_damaged_checkpoint),
        TEST(test_by_path),
        TEST(test_cut_log),
        TEST(test_changes_are_refused),
        TEST(test_two_runs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

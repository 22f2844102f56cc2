/* A run that goes on to another number of steps than it had. */
#include "support_train.h"

#include <math.h>

static void set(test_run *run, const char *name, const char *value)
{
    assert_ok(run->ctx, sara_train_options_set(run->ctx, &run->options, name, value));
}

static void train_to(test_run *run, int64_t steps)
{
    run->options.max_train_steps = steps;
    assert_ok(run->ctx, test_run_train(run));
    run->options.resume_from_checkpoint = "latest";
}

static void constant_rate(test_run *run)
{
    set(run, "lr_scheduler", "constant");
    set(run, "progressive_iter", "0");
}

typedef struct ending {
    const char *sha256, *lines;
} ending;

/* The uninterrupted run of so many steps. */
static ending whole_run(test_run *run, int64_t steps)
{
    run->options.resume_from_checkpoint = NULL;
    test_run_output(run, test_text(run, "whole-%lld", (long long)steps));
    train_to(run, steps);
    run->options.resume_from_checkpoint = NULL;
    return (ending){test_run_sha256(run), test_run_lines(run)};
}

static void assert_ending(test_run *run, const ending *whole)
{
    assert_string_equal(test_run_sha256(run), whole->sha256);
    assert_string_equal(test_run_lines(run), whole->lines);
}

static void test_same_bits(void **state)
{
    test_run *run = *state;
    size_t size;
    constant_rate(run);
    const ending whole = whole_run(run, 8);
    test_run_output(run, "longer");
    train_to(run, 4);
    train_to(run, 8);
    assert_non_null(strstr(run->log, "resuming after step 4 of 8"));
    assert_non_null(strstr(run->log, "the run has now 8 steps instead of 4"));
    assert_null(strstr(run->log, "stretched"));
    assert_ending(run, &whole);
    assert_non_null(strstr(test_run_read(run, "report.html", &size), "Loss over 8 steps"));
}

/* 2, 4, 6 and 8 steps, stopped in the middle of an extension; on from an earlier checkpoint. */
static void test_again_and_again(void **state)
{
    test_run *run = *state;
    constant_rate(run);
    run->options.checkpointing_steps = 1;
    run->options.checkpoints_total_limit = 0;
    const ending whole = whole_run(run, 8);
    test_run_output(run, "often");
    train_to(run, 2);
    train_to(run, 4);
    run->options.max_train_steps = 6;
    run->interrupt_at = 5;
    assert_refused(run->ctx, SARA_INTERRUPTED, "after step 5 of 6", test_run_train(run));
    run->interrupt_at = -1;
    train_to(run, 6);
    run->options.resume_from_checkpoint = "checkpoint-3";
    train_to(run, 8);
    assert_non_null(strstr(run->log, "resuming after step 3 of 8"));
    assert_ending(run, &whole);
}

/* A checkpoint that is come to again, with another length than it says, is written anew. */
static void test_checkpoint_of_another_length(void **state)
{
    test_run *run = *state;
    size_t size;
    constant_rate(run);
    run->options.checkpointing_steps = 1;
    run->options.checkpoints_total_limit = 0;
    train_to(run, 4);
    const char *before = test_run_read(run, "checkpoint-3/manifest.json", &size);
    assert_non_null(strstr(before, "\"max_train_steps\": 4"));
    run->options.resume_from_checkpoint = "checkpoint-2";
    run->options.max_train_steps = 5;
    assert_ok(run->ctx, test_run_train(run));
    const char *after = test_run_read(run, "checkpoint-3/manifest.json", &size);
    assert_non_null(strstr(after, "\"max_train_steps\": 5"));
}

static void note_progress(void *user, const sara_progress *progress)
{
    int *seen = user;
    if (strcmp(progress->phase, "train") != 0)
        return;
    ++*seen;
    assert_close(fabs(progress->seconds_left * progress->steps_per_second -
                      (double)(progress->total - progress->step)),
                 1e-6, "steps left");
}

/* The time that is left is that of the steps that are left. */
static void test_time_left(void **state)
{
    test_run *run = *state;
    sara_context *ctx = NULL;
    int seen = 0;
    const sara_context_options options = {.threads = 1, .progress = note_progress, .user = &seen};
    assert_ok(ctx, sara_context_new(&ctx, &options));
    run->options.max_train_steps = 5;
    assert_ok(ctx, sara_train(ctx, NULL, &run->options));
    assert_int_equal(seen, 5);
    sara_context_free(ctx);
}

/* A warm-up has a length of its own: nothing is stretched. */
static void test_warm_up(void **state)
{
    test_run *run = *state;
    constant_rate(run);
    set(run, "lr_scheduler", "constant_with_warmup");
    set(run, "lr_warmup_steps", "6");
    const ending whole = whole_run(run, 8);
    test_run_output(run, "longer");
    train_to(run, 4);
    train_to(run, 8);
    assert_null(strstr(run->log, "stretched"));
    assert_ending(run, &whole);
}

/* The rates of the steps that follow are those of a run of the new length. */
static void test_stretched(void **state)
{
    static const char *const names[] = {"cosine", "linear", "polynomial", "cosine_with_restarts"};
    test_run *run = *state;
    double rates[10], before[10];
    set(run, "progressive_iter", "0");
    for (size_t i = 0; i < 4; i++) {
        set(run, "lr_scheduler", names[i]);
        whole_run(run, 8);
        assert_int_equal(test_run_column(run, rates, 10, "lr"), 8);
        test_run_output(run, names[i]);
        train_to(run, 4);
        assert_int_equal(test_run_column(run, before, 10, "lr"), 4);
        train_to(run, 8);
        assert_non_null(
            strstr(run->log, test_text(run,
                                       "lr_scheduler %s is stretched to the new length: "
                                       "learning rate %.3g after step 4, where it was ",
                                       names[i], rates[4])));
        for (size_t k = 0; k < 4; k++) { /* what was done stays */
            double now[10];
            assert_int_equal(test_run_column(run, now, 10, "lr"), 8);
            assert_true(now[k] == before[k] && now[k + 4] == rates[k + 4]);
        }
        run->options.resume_from_checkpoint = NULL;
        assert_ok(run->ctx,
                  sara_directory_remove(run->ctx, test_text(run, "%s/whole-8", run->folder)));
    }
}

static void test_reselection_done(void **state)
{
    test_run *run = *state;
    set(run, "lr_scheduler", "constant");
    train_to(run, 4);
    assert_int_equal(test_run_events(run, "reselect"), 1);
    train_to(run, 8);
    assert_non_null(
        strstr(run->log, "the reselection after step 2 was done and is not done again"));
    train_to(run, 10); /* not after 5 either */
    assert_non_null(strstr(run->log, "after step 2 was done"));
    assert_int_equal(test_run_events(run, "reselect"), 1);
    assert_non_null(strstr(test_run_lines(run), "{\"event\":\"reselect\",\"before_step\":3,"));
}

/* Not yet due it comes where the new length has it: the bits of a run that had it from the
 * start. */
static void test_reselection_moves(void **state)
{
    test_run *run = *state;
    set(run, "lr_scheduler", "constant");
    const ending whole = whole_run(run, 8);
    test_run_output(run, "longer");
    run->options.max_train_steps = 6;
    run->interrupt_at = 2;
    assert_refused(run->ctx, SARA_INTERRUPTED, "after step 2 of 6", test_run_train(run));
    run->interrupt_at = -1;
    run->options.resume_from_checkpoint = "latest";
    train_to(run, 8);
    assert_non_null(strstr(run->log, "the reselection moves with the length: after step 4"));
    assert_ending(run, &whole);
}

/* Where the new length has it behind the steps that were done, it is done at once. */
static void test_reselection_at_once(void **state)
{
    test_run *run = *state;
    set(run, "lr_scheduler", "constant");
    run->options.max_train_steps = 10;
    run->interrupt_at = 4;
    assert_refused(run->ctx, SARA_INTERRUPTED, "after step 4 of 10", test_run_train(run));
    run->options.resume_from_checkpoint = "latest";
    run->options.max_train_steps = 6;
    run->interrupt_at = 5;
    assert_refused(run->ctx, SARA_INTERRUPTED, "after step 5 of 6", test_run_train(run));
    run->interrupt_at = -1;
    train_to(run, 6);
    assert_int_equal(test_run_events(run, "reselect"), 1);
    assert_non_null(strstr(test_run_lines(run), "{\"event\":\"reselect\",\"before_step\":5,"));
}

/* A reselection that was asked for by its step stays there; another one is another run. */
static void test_reselection_given(void **state)
{
    test_run *run = *state;
    set(run, "lr_scheduler", "constant");
    set(run, "progressive_iter", "3");
    const ending whole = whole_run(run, 8);
    test_run_output(run, "longer");
    train_to(run, 2);
    set(run, "progressive_iter", "5");
    run->options.max_train_steps = 8;
    assert_refused(run->ctx, SARA_ERROR_USAGE, "the run has progressive_iter = 3, now it is 5",
                   test_run_train(run));
    set(run, "progressive_iter", "3");
    train_to(run, 8);
    assert_ending(run, &whole);
}

static void test_fewer(void **state)
{
    test_run *run = *state;
    sara_train_result result;
    train_to(run, 4);
    const char *sha256 = test_run_sha256(run);
    run->options.max_train_steps = 3;
    assert_refused(run->ctx, SARA_ERROR_USAGE,
                   "checkpoint-4: 4 steps are done, --max_train_steps gives 3; give at least 4",
                   test_run_train(run));
    train_to(run, 4);
    assert_non_null(strstr(run->log, "the run is finished (4 steps)"));
    run->options.max_train_steps = 0; /* not given: its own */
    assert_ok(run->ctx, sara_train(run->ctx, &result, &run->options));
    assert_int_equal(result.steps, 4);
    assert_string_equal(test_run_sha256(run), sha256);
    run->options.max_train_steps = 11; /* the replay has 10 */
    assert_refused(run->ctx, SARA_ERROR_INPUT, "too few for 11 steps", test_run_train(run));
}

/* Without a checkpoint a finished run would start anew over its adapter. */
static void test_no_checkpoint_left(void **state)
{
    test_run *run = *state;
    train_to(run, 4);
    const char *sha256 = test_run_sha256(run);
    assert_ok(run->ctx,
              sara_directory_remove(run->ctx, test_text(run, "%s/checkpoint-4", run->output)));
    assert_refused(run->ctx, SARA_ERROR_USAGE,
                   test_text(run, "in another --output_dir with --adapter %s/adapter.safetensors",
                             run->output),
                   test_run_train(run));
    assert_string_equal(test_run_sha256(run), sha256);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST_TINY(test_same_bits),
        TEST_TINY(test_again_and_again),
        TEST_TINY(test_warm_up),
        TEST_TINY(test_checkpoint_of_another_length),
        TEST_TINY(test_time_left),
        TEST_TINY(test_stretched),
        TEST_TINY(test_reselection_done),
        TEST_TINY(test_reselection_moves),
        TEST_TINY(test_reselection_at_once),
        TEST_TINY(test_reselection_given),
        TEST_TINY(test_fewer),
        TEST_TINY(test_no_checkpoint_left),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

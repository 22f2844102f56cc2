/* An interrupted run that is resumed ends as the uninterrupted one: the same adapter, bit for bit,
 * and the same log. */
#include "support_train.h"

#include <stdlib.h>

/* What the uninterrupted run gave. */
typedef struct outcome {
    const char *sha256, *lines;
} outcome;

static outcome run_whole(test_run *run)
{
    test_run_output(run, "whole");
    assert_ok(run->ctx, test_run_train(run));
    return (outcome){test_run_sha256(run), test_run_lines(run)};
}

static void assert_outcome(test_run *run, const outcome *whole)
{
    assert_string_equal(test_run_sha256(run), whole->sha256);
    assert_string_equal(test_run_lines(run), whole->lines);
}

static void interrupt_at(test_run *run, int64_t step)
{
    run->interrupt_at = step;
    assert_refused(run->ctx, SARA_INTERRUPTED,
                   test_text(run, "interrupted after step %lld of 10", (long long)step),
                   test_run_train(run));
    run->interrupt_at = -1;
    assert_true(test_run_has(run, test_text(run, "checkpoint-%lld", (long long)step)));
    assert_false(test_run_has(run, "adapter.safetensors"));
    run->options.resume_from_checkpoint = "latest";
}

/* The reselection comes before step 6, that is after an interruption at 5. */
static void test_every_step(void **state)
{
    test_run *run = *state;
    outcome whole = run_whole(run);
    for (int64_t step = 1; step < TEST_REPLAY_STEPS; step++) {
        test_run_output(run, test_text(run, "at-%lld", (long long)step));
        run->options.resume_from_checkpoint = NULL;
        interrupt_at(run, step);
        assert_ok(run->ctx, test_run_train(run));
        assert_non_null(
            strstr(run->log, test_text(run, "resuming after step %lld", (long long)step)));
        assert_outcome(run, &whole);
    }
}

static void test_ten_in_a_row(void **state)
{
    test_run *run = *state;
    outcome whole = run_whole(run);
    test_run_output(run, "often");
    sara_context_interrupt(run->ctx); /* before the first step */
    interrupt_at(run, 0);
    for (int64_t step = 1; step < TEST_REPLAY_STEPS; step++)
        interrupt_at(run, step);
    assert_ok(run->ctx, test_run_train(run));
    assert_outcome(run, &whole);
}

/* An early reselection, so that a checkpoint after it holds restarted moments. */
static void test_after_reselection(void **state)
{
    test_run *run = *state;
    run->options.progressive_iter = 2;
    outcome whole = run_whole(run);
    test_run_output(run, "often");
    for (int64_t step = 1; step < 5; step++)
        interrupt_at(run, step);
    assert_ok(run->ctx, test_run_train(run));
    assert_outcome(run, &whole);
}

/* Masters apart from weights that are rounded, before and after a reselection. */
static void test_weights_of_16_bits(void **state)
{
    static const char *const dtypes[] = {"bf16", "fp16"};
    test_run *run = *state;
    for (size_t i = 0; i < 2; i++) {
        run->options.resume_from_checkpoint = NULL;
        run->options.weight_dtype = dtypes[i];
        outcome whole = run_whole(run);
        assert_int_equal(test_run_events(run, "reselect"), 1);
        test_run_output(run, dtypes[i]);
        interrupt_at(run, 2);
        interrupt_at(run, 5);
        interrupt_at(run, 8);
        assert_ok(run->ctx, test_run_train(run));
        assert_outcome(run, &whole);
        assert_ok(run->ctx,
                  sara_directory_remove(run->ctx, test_text(run, "%s/whole", run->folder)));
    }
}

/* Two micro-batches a step: the checkpoint knows how many were used. */
static void test_accumulation(void **state)
{
    static const int order[20] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0};
    test_run *run = *state;
    run->options.gradient_accumulation_steps = 2;
    run->options.gradient_checkpointing = true;
    run->options.replay = test_run_replay(run, "twenty.safetensors", order, 20, true);
    outcome whole = run_whole(run);
    test_run_output(run, "accumulated");
    interrupt_at(run, 3);
    interrupt_at(run, 8);
    assert_ok(run->ctx, test_run_train(run));
    assert_outcome(run, &whole);
}

/* Recomputing activations changes no bit, so a run may go on with it, or without it. */
static void test_checkpointing(void **state)
{
    test_run *run = *state;
    outcome whole = run_whole(run);
    test_run_output(run, "checkpointing");
    interrupt_at(run, 2);
    run->options.gradient_checkpointing = true;
    interrupt_at(run, 4);
    run->options.gradient_checkpointing_levels = 1;
    interrupt_at(run, 6);
    run->options.gradient_checkpointing = false;
    interrupt_at(run, 7);
    run->options.gradient_checkpointing_levels = 0;
    assert_ok(run->ctx, test_run_train(run));
    assert_outcome(run, &whole);
}

/* Without recorded names the matrix of the low-rank term is drawn. */
static void test_drawn_matrices(void **state)
{
    static const int order[10] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9};
    test_run *run = *state;
    run->options.lambda_rank = 0.05;
    run->options.replay = test_run_replay(run, "unnamed.safetensors", order, 10, false);
    outcome whole = run_whole(run);
    test_run_output(run, "drawn");
    interrupt_at(run, 4);
    interrupt_at(run, 7);
    assert_ok(run->ctx, test_run_train(run));
    assert_outcome(run, &whole);
}

/* From a path or a name, going back to an earlier step; checkpoints come out the same again. */
static void test_named(void **state)
{
    test_run *run = *state;
    size_t size, again;
    run->options.checkpointing_steps = 1;
    run->options.checkpoints_total_limit = 0;
    outcome whole = run_whole(run);
    const char *manifest = test_run_read(run, "checkpoint-7/manifest.json", &size);
    const char *names[] = {test_text(run, "%s/checkpoint-4", run->output), "checkpoint-6",
                           test_text(run, "%s/checkpoint-1/", run->output)};
    for (size_t i = 0; i < 3; i++) {
        run->options.resume_from_checkpoint = names[i];
        assert_ok(run->ctx, test_run_train(run));
        assert_outcome(run, &whole);
        const char *now = test_run_read(run, "checkpoint-7/manifest.json", &again);
        assert_int_equal(again, size);
        assert_memory_equal(now, manifest, size);
    }
    run->options.resume_from_checkpoint = test_text(run, "%s/checkpoint-11", run->output);
    assert_refused(run->ctx, SARA_ERROR_IO, "checkpoint-11", test_run_train(run));
}

/* Another folder's checkpoint goes on in a folder of its own, not in one that holds a run. */
static void test_foreign_checkpoint(void **state)
{
    test_run *run = *state;
    run->options.checkpointing_steps = 4;
    outcome whole = run_whole(run);
    const char *path = test_text(run, "%s/checkpoint-8", run->output);
    test_run_output(run, "other");
    assert_ok(run->ctx, test_run_train(run));
    run->options.resume_from_checkpoint = path;
    assert_refused(run->ctx, SARA_ERROR_USAGE, "holds another run already", test_run_train(run));
    test_run_output(run, "new");
    assert_ok(run->ctx, test_run_train(run));
    assert_string_equal(test_run_sha256(run), whole.sha256);
    assert_non_null(strstr(whole.lines, test_run_lines(run))); /* its last lines */
}

static void test_finished(void **state)
{
    test_run *run = *state;
    sara_train_result result;
    size_t sizes[2], again[2];
    outcome whole = run_whole(run);
    const char *log = test_run_read(run, "log.jsonl", &sizes[0]);
    const char *manifest = test_run_read(run, "checkpoint-10/manifest.json", &sizes[1]);
    run->options.resume_from_checkpoint = "latest";
    test_run_forget_log(run);
    assert_ok(run->ctx, sara_train(run->ctx, &result, &run->options));
    assert_non_null(strstr(run->log, "the run is finished (10 steps)"));
    assert_int_equal(result.steps, 10);
    assert_outcome(run, &whole);
    const char *log_now = test_run_read(run, "log.jsonl", &again[0]);
    const char *manifest_now = test_run_read(run, "checkpoint-10/manifest.json", &again[1]);
    assert_memory_equal(sizes, again, sizeof(sizes));
    assert_memory_equal(log, log_now, sizes[0]);
    assert_memory_equal(manifest, manifest_now, sizes[1]);
}

/* There is nothing to resume yet, as after a kill before the first checkpoint. */
static void test_no_checkpoint(void **state)
{
    test_run *run = *state;
    outcome whole = run_whole(run);
    test_run_output(run, "killed");
    assert_ok(run->ctx, sara_directory_make(run->ctx, run->output));
    test_run_write(run, "log.jsonl", "{\"step\":1,\"loss\":1.0}\n{\"st", 26);
    run->options.resume_from_checkpoint = "latest";
    assert_ok(run->ctx, test_run_train(run));
    assert_non_null(strstr(run->log, "no checkpoint yet"));
    assert_outcome(run, &whole);
}

/* A kill leaves half a line and half-written folders and files. */
static void test_remains_of_a_kill(void **state)
{
    static const char half[] = "{\"step\":7,\"loss\":0.1";
    test_run *run = *state;
    outcome whole = run_whole(run);
    size_t size;
    test_run_output(run, "killed");
    interrupt_at(run, 6);
    const char *log = test_run_read(run, "log.jsonl", &size);
    test_run_write(run, "log.jsonl", test_text(run, "%s%s", log, half), size + strlen(half));
    assert_ok(run->ctx, sara_directory_make(
                            run->ctx, test_text(run, "%s/.checkpoint-7.partial", run->output)));
    test_run_write(run, ".checkpoint-7.partial/adapter.safetensors", "x", 1);
    test_run_write(run, ".sara-1-0.tmp", "x", 1);
    assert_ok(run->ctx, test_run_train(run));
    assert_outcome(run, &whole);
    assert_false(test_run_has(run, ".checkpoint-7.partial"));
    assert_false(test_run_has(run, ".sara-1-0.tmp"));
}

/* Lines that the log has lost do not come back, and are not passed over in silence. */
static void test_shortened_log(void **state)
{
    test_run *run = *state;
    outcome whole = run_whole(run);
    size_t size;
    test_run_output(run, "shortened");
    interrupt_at(run, 4);
    const char *log = test_run_read(run, "log.jsonl", &size);
    test_run_write(run, "log.jsonl", log, size - 9);
    assert_ok(run->ctx, test_run_train(run));
    assert_non_null(strstr(run->log, "ends at step 3, the run goes on after 4"));
    assert_string_equal(test_run_sha256(run), whole.sha256);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST_TINY(test_every_step),         TEST_CASE(test_ten_in_a_row),
        TEST_TINY(test_after_reselection),  TEST_TINY(test_accumulation),
        TEST_CASE(test_checkpointing), TEST_CASE(test_drawn_matrices),     TEST_TINY(test_named),
        TEST_TINY(test_foreign_checkpoint), TEST_TINY(test_finished),
        TEST_TINY(test_no_checkpoint),      TEST_TINY(test_remains_of_a_kill),
        TEST_TINY(test_shortened_log),      TEST_CASE(test_weights_of_16_bits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

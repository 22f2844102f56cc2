/* The run folder: one run at a time, what is kept, what is cleared away. */
#include "support_train.h"

#include <math.h>
#include <stdlib.h>
#include <unistd.h>

static size_t count_names(test_run *run, const char *prefix, bool inside)
{
    char **names = NULL;
    size_t count = 0, found = 0;
    assert_ok(run->ctx, sara_directory_list(run->ctx, &names, &count, run->output));
    for (size_t i = 0; i < count; i++)
        found += strncmp(names[i], prefix, strlen(prefix)) == 0;
    sara_directory_free(run->ctx, names, count);
    return inside ? found : count;
}

static void test_contents(void **state)
{
    test_run *run = *state;
    run->options.checkpointing_steps = 1;
    run->options.checkpoints_total_limit = 2;
    assert_ok(run->ctx, test_run_train(run));
    assert_true(test_run_has(run, "checkpoint-9"));
    assert_true(test_run_has(run, "checkpoint-10"));
    assert_true(test_run_has(run, "adapter.safetensors"));
    assert_true(test_run_has(run, "log.jsonl"));
    assert_true(test_run_has(run, "report.html"));
    assert_int_equal(count_names(run, "", false), 5); /* no lock, no half-written file */
}

static void test_limits(void **state)
{
    static const struct {
        const char *limit;
        size_t kept;
    } cases[] = {{"0", 10}, {"1", 1}, {"7", 7}};
    test_run *run = *state;
    run->options.checkpointing_steps = 1;
    for (size_t i = 0; i < 3; i++) {
        test_run_output(run, cases[i].limit);
        assert_ok(run->ctx, sara_train_options_set(run->ctx, &run->options,
                                                   "checkpoints_total_limit", cases[i].limit));
        assert_ok(run->ctx, test_run_train(run));
        assert_int_equal(count_names(run, "checkpoint-", true), cases[i].kept);
        assert_true(test_run_has(run, "checkpoint-10"));
    }
}

/* A stale checkpoint with a larger number does not push out the one just written. */
static void test_limit_and_larger_number(void **state)
{
    test_run *run = *state;
    run->options.checkpoints_total_limit = 1;
    run->options.checkpointing_steps = 3;
    run->interrupt_at = 2;
    assert_refused(run->ctx, SARA_INTERRUPTED, "", test_run_train(run));
    assert_ok(run->ctx,
              sara_directory_make(run->ctx, test_text(run, "%s/checkpoint-4", run->output)));
    run->options.resume_from_checkpoint = "latest";
    run->interrupt_at = 3;
    assert_refused(run->ctx, SARA_INTERRUPTED, "", test_run_train(run));
    assert_non_null(strstr(run->log, "checkpoint-4: damaged"));
    assert_true(test_run_has(run, "checkpoint-3"));
    assert_int_equal(count_names(run, "checkpoint-", true), 1);
}

static void test_existing_run(void **state)
{
    static const char *const traces[] = {"checkpoint-3", "adapter.safetensors", "log.jsonl"};
    test_run *run = *state;
    assert_ok(run->ctx, test_run_train(run));
    assert_refused(run->ctx, SARA_ERROR_USAGE,
                   "holds a run already; continue it with --resume_from_checkpoint latest",
                   test_run_train(run));
    for (size_t i = 0; i < 3; i++) {
        test_run_output(run, traces[i]);
        assert_ok(run->ctx, sara_directory_make(run->ctx, run->output));
        test_run_write(run, traces[i], "{}\n", 3);
        assert_refused(run->ctx, SARA_ERROR_USAGE, "holds a run already", test_run_train(run));
    }
}

/* A folder of its name is a result of the method that writes one, and of no other. */
static void test_folder_of_users(void **state)
{
    test_run *run = *state;
    assert_ok(run->ctx, sara_directory_make(run->ctx, test_text(run, "%s/unet", run->output)));
    test_run_write(run, "unet/notes.txt", "mine", 4);
    run->options.method = "full";
    run->options.learning_rate = 1e-5;
    assert_refused(run->ctx, SARA_ERROR_USAGE, "holds unet/ and no checkpoint to go on from",
                   test_run_train(run));
    run->options.method = "sara";
    assert_ok(run->ctx, test_run_train(run));
    assert_true(test_run_has(run, "unet/notes.txt"));
}

/* Where a result goes stands no link; one among what a killed run left goes, and not what it leads
 * to. */
static void test_links(void **state)
{
    test_run *run = *state;
    const char *kept = test_text(run, "%s/kept", run->folder);
    assert_ok(run->ctx, sara_directory_make(run->ctx, run->output));
    assert_ok(run->ctx, sara_directory_make(run->ctx, kept));
    assert_int_equal(symlink(kept, test_text(run, "%s/unet", run->output)), 0);
    assert_int_equal(symlink(kept, test_text(run, "%s/.sara-1.tmp", run->output)), 0);
    run->options.method = "full";
    run->options.learning_rate = 1e-5;
    assert_refused(run->ctx, SARA_ERROR_USAGE, "unet: is a link, and the result goes there",
                   test_run_train(run));
    assert_false(test_run_has(run, ".sara-1.tmp"));
    assert_true(sara_path_is_directory(kept));
    run->options.method = "sara";
    assert_ok(run->ctx, test_run_train(run));
}

/* A run that failed before its first step is no run; other files stay where they are. */
static void test_failed_start(void **state)
{
    test_run *run = *state;
    run->options.lambda_rank = 0.1;
    assert_ok(run->ctx, sara_directory_make(run->ctx, run->output));
    test_run_write(run, "log.jsonl", "", 0);
    test_run_write(run, "notes.txt", "mine", 4);
    assert_ok(run->ctx, test_run_train(run));
    assert_true(test_run_has(run, "notes.txt"));
}

static void test_locked(void **state)
{
    test_run *run = *state;
    sara_run first = {0}, second = {0};
    assert_ok(run->ctx, sara_run_open(run->ctx, &first, run->output));
    assert_refused(run->ctx, SARA_ERROR_IO, "another run is writing here", test_run_train(run));
    assert_refused(run->ctx, SARA_ERROR_IO, run->output,
                   sara_run_open(run->ctx, &second, run->output));
    assert_true(test_run_has(run, ".lock")); /* still the first one's */
    sara_run_close(&first);
    assert_false(test_run_has(run, ".lock"));
    assert_ok(run->ctx, test_run_train(run));
}

/* The lock file of a killed run is no lock. */
static void test_left_lock(void **state)
{
    test_run *run = *state;
    assert_ok(run->ctx, sara_directory_make(run->ctx, run->output));
    test_run_write(run, ".lock", "", 0);
    assert_ok(run->ctx, test_run_train(run));
    assert_false(test_run_has(run, ".lock"));
}

/* What a killed run left half-written goes, also beside its pictures; other hidden files stay. */
static void test_remains(void **state)
{
    static const char *const remains[] = {".sara-12.tmp", ".checkpoint-3.partial",
                                          "samples/.sara-7.tmp"};
    test_run *run = *state;
    assert_ok(run->ctx, sara_directory_make(run->ctx, test_text(run, "%s/samples", run->output)));
    for (size_t i = 0; i < 3; i++)
        test_run_write(run, remains[i], "x", 1);
    test_run_write(run, ".notes", "x", 1);
    assert_ok(run->ctx, test_run_train(run));
    for (size_t i = 0; i < 3; i++)
        assert_false(test_run_has(run, remains[i]));
    assert_true(test_run_has(run, ".notes"));
}

static void test_checkpoint_numbers(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        int64_t number;
    } cases[] = {{"checkpoint-0", 0},
                 {"checkpoint-012", 12},
                 {"checkpoint-999999999999999999", 999999999999999999},
                 {"checkpoint-", -1},
                 {"checkpoint-5x", -1},
                 {"checkpoint--5", -1},
                 {".checkpoint-5", -1},
                 {"checkpoint-1000000000000000000", -1}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++)
        assert_true(sara_checkpoint_number(cases[i].name) == cases[i].number);
}

static void test_output_is_a_file(void **state)
{
    test_run *run = *state;
    free(test_file(run->folder, "run", "x", 1));
    assert_refused(run->ctx, SARA_ERROR_IO, run->output, test_run_train(run));
    test_run_output(run, "run/below");
    assert_refused(run->ctx, SARA_ERROR_IO, "run", test_run_train(run));
}

/* What the log holds: one line a step with every field, at least nine digits. */
static void test_log(void **state)
{
    static const char *const fields[] = {"loss", "grad_norm", "rank_loss", "lr", "seconds"};
    test_run *run = *state;
    double values[TEST_REPLAY_STEPS + 1];
    assert_ok(run->ctx, test_run_train(run));
    for (size_t i = 0; i < 5; i++)
        assert_int_equal(test_run_column(run, values, TEST_REPLAY_STEPS + 1, fields[i]), 10);
    assert_non_null(strstr(test_run_lines(run), "{\"event\":\"reselect\",\"before_step\":6,"));
}

/* What a resumed run has to have too: of SD1's noise schedule diffusers' first, middle and last. */
static void test_noise_settings(void **state)
{
    test_run *run = *state;
    size_t size;
    assert_ok(run->ctx, test_run_train(run));
    json_t *manifest =
        json_loads(test_run_read(run, "checkpoint-10/manifest.json", &size), 0, NULL);
    const json_t *settings = json_object_get(json_object_get(manifest, "run"), "noise_settings");
    json_t *expected = json_pack("{s:i,s:[s,s,s]}", "num_train_timesteps", 1000, "alphas_cumprod",
                                 "0.99915", "0.276332", "0.0046601");
    assert_true(json_equal(settings, expected));
    json_decref(expected);
    json_decref(manifest);
}

static double mean_of(const double *values, size_t count)
{
    double sum = 0;
    for (size_t i = 0; i < count; i++)
        sum += values[i] / (double)count;
    return sum;
}

/* The result's losses are means over the first and the last twenty steps. */
static void test_mean_losses(void **state)
{
    test_run *run = *state;
    double losses[33];
    int order[32];
    sara_train_result result;
    for (int i = 0; i < 32; i++)
        order[i] = i % TEST_REPLAY_STEPS;
    run->options.replay = test_run_replay(run, "long.safetensors", order, 32, false);
    assert_ok(run->ctx, sara_train(run->ctx, &result, &run->options));
    assert_int_equal(test_run_column(run, losses, 33, "loss"), 32);
    assert_close(fabs(result.first_loss - mean_of(losses, 20)), 1e-12, "first loss");
    assert_close(fabs(result.last_loss - mean_of(losses + 12, 20)), 1e-12, "last loss");
}

/* A program that was built with an earlier header has room for less, one of a later for more. */
static void test_sized_result(void **state)
{
    test_run *run = *state;
    struct {
        sara_train_result now;
        char later[8];
    } result;
    const size_t part = offsetof(sara_train_result, threshold);
    run->options.max_train_steps = 1;
    memset(&result, 'x', sizeof(result));
    assert_ok(run->ctx, sara_train_sized(run->ctx, &result.now, part, &run->options));
    assert_true(result.now.steps == 1 && result.now.selected > 0);
    assert_memory_equal(&result.now.threshold, "xxxxxxxx", 8);
    run->options.resume_from_checkpoint = "latest";
    assert_ok(run->ctx, sara_train_sized(run->ctx, &result.now, sizeof(result), &run->options));
    assert_true(result.now.steps == 1 && result.now.threshold > 0);
    assert_memory_equal(result.later, "xxxxxxxx", 8);
}

/* What a run that goes on keeps of the log: lines up to its step, and as many skipped ones as its
 * checkpoint counts. */
static void test_log_is_cut(void **state)
{
    static const char log[] = "{\"step\":1}\n"
                              "{\"event\":\"skipped\"}\n"
                              "{\"event\":\"reselect\",\"before_step\":2}\n"
                              "{\"step\":2}\n"
                              "{\"event\":\"skipped\"}\n"
                              "{\"event\":\"skipped\"}\n"
                              "{\"event\":\"skipped\"}\n"
                              "{\"step\":3}";
    static const struct {
        int64_t step, skips;
        size_t lines;
        bool short_of; /* lines */
    } cases[] = {{2, 1, 5, false}, {2, 0, 4, false}, {2, 3, 7, false},
                 {2, 4, 7, false}, {1, 0, 1, false}, {1, 1, 2, false},
                 {0, 0, 0, false}, {3, 0, 4, true},  {3, 1, 4, true}};
    test_run *run = *state;
    sara_run folder = {0};
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        const char *end = log;
        size_t size;
        for (size_t line = 0; line < cases[i].lines; line++)
            end = strchr(end, '\n') + 1;
        test_run_output(run, test_text(run, "cut-%zu", i));
        assert_ok(run->ctx, sara_directory_make(run->ctx, run->output));
        test_run_write(run, "log.jsonl", log, sizeof(log) - 1);
        test_run_forget_log(run);
        assert_ok(run->ctx, sara_run_open(run->ctx, &folder, run->output));
        assert_ok(run->ctx, sara_run_log_open(&folder, cases[i].step, cases[i].skips));
        sara_run_close(&folder);
        assert_string_equal(test_run_read(run, "log.jsonl", &size),
                            test_text(run, "%.*s", (int)(end - log), log));
        assert_int_equal(strstr(run->log, "ends at step 2, the run goes on after 3") != NULL,
                         cases[i].short_of);
    }
}

/* The metadata say what the adapter is, and nothing of when and where it was made. */
static void test_metadata(void **state)
{
    test_run *run = *state;
    sara_adapter adapter;
    sara_train_result result;
    assert_ok(run->ctx, sara_train(run->ctx, &result, &run->options));
    test_run_adapter(run, &adapter);
    const char *rate = sara_adapter_metadata(&adapter, "sara.learning_rate");
    assert_true(strtod(rate, NULL) == result.learning_rate); /* to the bit */
    assert_string_equal(sara_adapter_metadata(&adapter, "sara.format"), "1");
    assert_string_equal(sara_adapter_metadata(&adapter, "sara.target"), "unet");
    assert_string_equal(sara_adapter_metadata(&adapter, "sara.max_train_steps"), "10");
    assert_string_equal(sara_adapter_metadata(&adapter, "sara.progressive_iter"), "5");
    assert_string_equal(sara_adapter_metadata(&adapter, "sara.seed"), "42");
    assert_string_equal(sara_adapter_metadata(&adapter, "modelspec.prediction_type"), "epsilon");
    assert_string_equal(sara_adapter_metadata(&adapter, "modelspec.resolution"), "48x32");
    assert_int_equal(strlen(sara_adapter_metadata(&adapter, "sara.base_sha256")), 64);
    assert_string_equal(sara_adapter_metadata(&adapter, "sara.base_precision"), "fp32");
    for (size_t i = 0; i < adapter.metadata_count; i++)
        assert_null(strstr(adapter.metadata[i].value, run->folder));
    sara_adapter_free(&adapter);
}

/* Two contexts, one and two threads, another folder: the same bytes. */
static void test_reproducible(void **state)
{
    test_run *run = *state;
    sara_context *ctx = NULL;
    const sara_context_options one = {.threads = 1};
    assert_ok(run->ctx, test_run_train(run));
    const char *sha256 = test_run_sha256(run);
    test_run_output(run, "again");
    assert_ok(ctx, sara_context_new(&ctx, &one));
    assert_ok(ctx, sara_train(ctx, NULL, &run->options));
    sara_context_free(ctx);
    assert_string_equal(test_run_sha256(run), sha256);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST_TINY(test_contents),
        TEST_TINY(test_limits),
        TEST_TINY(test_existing_run),
        TEST_TINY(test_folder_of_users),
        TEST_TINY(test_links),
        TEST_TINY(test_limit_and_larger_number),
        TEST_TINY(test_failed_start),
        TEST_TINY(test_locked),
        TEST_TINY(test_left_lock),
        TEST_TINY(test_output_is_a_file),
        TEST_CASE(test_log),
        TEST_TINY(test_log_is_cut),
        TEST_TINY(test_mean_losses),
        TEST_TINY(test_sized_result),
        TEST_TINY(test_noise_settings),
        TEST_TINY(test_remains),
        TEST_TINY(test_checkpoint_numbers),
        TEST_TINY(test_metadata),
        TEST_CASE(test_reproducible),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

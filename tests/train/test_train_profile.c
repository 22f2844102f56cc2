/* A training run's trace: the first five steps, without any effect on the run. */
#include "support_train.h"

#include "core/trace.h"
#include "train/profile.h"

#include <math.h>
#include <unistd.h>

static size_t count_events(test_run *run, const char *path, const char *name)
{
    json_t *trace = NULL, *event;
    size_t index, count = 0;
    assert_ok(run->ctx, sara_json_load(run->ctx, &trace, path, false));
    json_array_foreach(json_object_get(trace, "traceEvents"), index, event)
    {
        assert_true(json_number_value(json_object_get(event, "dur")) >= 0);
        count += strcmp(json_string_value(json_object_get(event, "name")), name) == 0;
    }
    json_decref(trace);
    return count;
}

static void test_first_steps(void **state)
{
    test_run *run = *state;
    const char *path = test_text(run, "%s/trace.json", run->folder);
    assert_ok(run->ctx, test_run_train(run));
    const char *sha256 = test_run_sha256(run);
    test_run_output(run, "profiled");
    run->options.profile = path;
    assert_ok(run->ctx, test_run_train(run));
    assert_string_equal(test_run_sha256(run), sha256);
    assert_int_equal(count_events(run, path, "adamw"), 5);
    assert_int_equal(count_events(run, path, "grad norm"), 5);
    assert_true(count_events(run, path, "conv2d") > 5);
}

/* Fewer steps than are shown; and a resumed run need not have the option. */
static void test_short_runs(void **state)
{
    test_run *run = *state;
    run->options.profile = test_text(run, "%s/trace.json", run->folder);
    run->options.max_train_steps = 6;
    run->options.checkpointing_steps = 4;
    run->interrupt_at = 4;
    assert_int_equal(test_run_train(run), SARA_INTERRUPTED);
    assert_false(sara_path_exists(run->options.profile));
    run->interrupt_at = -1;
    run->options.resume_from_checkpoint = "latest";
    assert_ok(run->ctx, test_run_train(run));
    assert_int_equal(count_events(run, run->options.profile, "adamw"), 2);
    run->options.profile = NULL;
    assert_ok(run->ctx, test_run_train(run)); /* finished already; not refused */
}

static void test_refused(void **state)
{
    test_run *run = *state;
    run->options.profile = test_text(run, "%s/trace", run->folder);
    assert_refused(run->ctx, SARA_ERROR_USAGE, "ending in .json", test_run_train(run));
    run->options.profile = test_text(run, "%s/new.json", run->options.unet_only);
    assert_refused(run->ctx, SARA_ERROR_USAGE, "which is read", test_run_train(run));
    assert_false(sara_path_exists(run->options.profile));
    run->options.profile = test_text(run, "%s/none/new.json", run->folder);
    assert_refused(run->ctx, SARA_ERROR_IO, "new.json", test_run_train(run));
}

/* Whatever is there but an older trace stays, also behind a link. */
static void test_old_files(void **state)
{
    test_run *run = *state;
    const char *path = test_text(run, "%s/old.json", run->folder);
    const char *link = test_text(run, "%s/link.json", run->folder);
    run->options.profile = path;
    assert_ok(run->ctx, sara_file_write(run->ctx, path, "", 0));
    assert_ok(run->ctx, test_run_train(run)); /* an empty one holds nothing to lose */
    test_run_output(run, "again");
    assert_ok(run->ctx, test_run_train(run));
    assert_int_equal(count_events(run, path, "adamw"), 5);
    assert_ok(run->ctx, sara_file_write(run->ctx, path, "{\"learning_rate\": 1}", 20));
    assert_int_equal(symlink(path, link), 0);
    test_run_output(run, "third");
    run->options.profile = link;
    assert_refused(run->ctx, SARA_ERROR_USAGE, "is no trace", test_run_train(run));
    char *text = NULL;
    size_t size;
    assert_ok(run->ctx, sara_file_read(run->ctx, &text, &size, path, 100));
    assert_string_equal(text, "{\"learning_rate\": 1}");
    sara_free(run->ctx, text);
}

static double number_of(const json_t *event, const char *key)
{
    const json_t *value = json_object_get(event, key);
    assert_true(json_is_number(value));
    return json_number_value(value);
}

/* Microseconds since the earliest event, which a trace that began within another is not. */
static void test_times(void **state)
{
    test_run *run = *state;
    sara_context *ctx = run->ctx;
    const char *path = test_text(run, "%s/times.json", run->folder);
    sara_writer *writer = NULL;
    json_t *trace = NULL;
    size_t count;
    assert_ok(ctx, sara_trace_start(ctx));
    sara_trace_begin(ctx);
    for (int i = 0; i < 2; i++) {
        sara_trace_begin(ctx);
        usleep(2000);
        assert_ok(ctx, sara_trace_end(ctx, "inner", 5, SARA_OK));
    }
    assert_ok(ctx, sara_trace_end(ctx, "outer", 7, SARA_OK));
    assert_ok(ctx, sara_profile_open(ctx, &writer, path, NULL, 0));
    assert_ok(ctx, sara_profile_save(ctx, &writer));
    assert_ok(ctx, sara_json_load(ctx, &trace, path, false));
    const json_t *list = json_object_get(trace, "traceEvents");
    const sara_trace_event *events = sara_trace_events(ctx, &count);
    assert_int_equal(count, 3);
    assert_int_equal(json_array_size(list), 3);
    for (size_t i = 0; i < 3; i++) {
        const json_t *event = json_array_get(list, i);
        double start = (events[i].start - events[2].start) * 1e6;
        assert_close(fabs(number_of(event, "ts") - start), 1e-3, "start");
        assert_close(fabs(number_of(event, "dur") - events[i].seconds * 1e6), 1e-3, "duration");
        assert_true(number_of(event, "dur") >= 2000);
        assert_true(number_of(json_object_get(event, "args"), "flops") == (i < 2 ? 5 : 7));
    }
    json_decref(trace);
    sara_trace_stop(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {TEST_TINY(test_first_steps), TEST_TINY(test_short_runs),
                                       TEST_TINY(test_refused), TEST_TINY(test_old_files),
                                       TEST_TINY(test_times)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* A training run's trace: the first five steps, without any effect on the run. */
#include "support_train.h"

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
    char *copy = NULL;
    assert_ok(run->ctx, sara_format(run->ctx, &copy, "%s", run->options.replay));
    run->options.profile = copy;
    assert_refused(run->ctx, SARA_ERROR_USAGE, "which is read", test_run_train(run));
    run->options.profile = test_text(run, "%s/new.json", run->options.unet_only);
    assert_refused(run->ctx, SARA_ERROR_USAGE, "which is read", test_run_train(run));
    assert_false(sara_path_exists(run->options.profile));
    run->options.profile = test_text(run, "%s/none/new.json", run->folder);
    assert_refused(run->ctx, SARA_ERROR_IO, "new.json", test_run_train(run));
    sara_free(run->ctx, copy);
}

int main(void)
{
    const struct CMUnitTest tests[] = {TEST_TINY(test_first_steps), TEST_TINY(test_short_runs),
                                       TEST_TINY(test_refused)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Numbers of event files where their varints become longer, by protobuf's encoding. */
#include "support_train.h"

/* The record of a session's start: length, its checksum, then an Event of a time (9 bytes), a step
 * (field 2) and a SessionLog (field 7) whose status is 1. */
static void check_step(sara_context *ctx, int64_t step, const char *bytes, size_t count)
{
    static const char log[] = {0x3A, 2, 8, 1};
    const size_t version = 12 + 9 + 2 + 15 + 4; /* the record before: step 0, "brain.Event:2" */
    char *folder = test_folder(), *text = NULL;
    sara_run run = {.ctx = ctx, .folder = folder};
    size_t size;
    assert_ok(ctx, sara_run_events_open(&run, "logs", step));
    assert_ok(ctx, sara_file_read(ctx, &text, &size, run.events_path, 1 << 20));
    assert_int_equal(size, version + 12 + 9 + count + sizeof(log) + 4);
    assert_int_equal(text[version], 9 + count + sizeof(log));
    assert_memory_equal(text + version + 12 + 9, bytes, count);
    assert_memory_equal(text + version + 12 + 9 + count, log, sizeof(log));
    sara_free(ctx, text);
    sara_run_events_close(&run);
    test_folder_remove(folder);
}

static void test_steps(void **state)
{
    sara_context *ctx = test_context();
    (void)state;
    check_step(ctx, 127, "\x10\x7F", 2);
    check_step(ctx, 128, "\x10\x80\x01", 3);
    check_step(ctx, 300, "\x10\xAC\x02", 3); /* the example of protobuf's documentation */
    check_step(ctx, 16383, "\x10\xFF\x7F", 3);
    check_step(ctx, 16384, "\x10\x80\x80\x01", 4);
    sara_context_free(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_steps)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Work of several threads: what each does once, errors, logs, interruptions, memory. */
#include "support/memory.h"

#define THINGS 300

typedef struct crew_test {
    int done[THINGS];
    size_t failing[2]; /* these fail; THINGS: none */
    size_t stop;       /* here the context is interrupted; THINGS: nowhere */
    bool logs;
    sara_context *ctx;
    char line[64]; /* the last one that was logged */
    int lines;
} crew_test;

static sara_status crew_step(sara_context *own, void *user, size_t index)
{
    crew_test *test = user;
    char *text;
    sara_status status;
    assert_ptr_not_equal(own, test->ctx);
    assert_int_equal(sara_threads(own), 1);
    test->done[index]++;
    TRY(sara_format(own, &text, "thing %zu", index));
    if (test->logs && index == 7)
        sara_log(own, SARA_LOG_WARNING, "%s", text);
    if (index == test->stop)
        sara_context_interrupt(test->ctx);
    if (index == test->failing[0] || index == test->failing[1])
        status = sara_fail(own, SARA_ERROR_INPUT, "%s is bad", text);
    sara_free(own, text);
done:
    return status;
}

static void keep_own_log(sara_context *own, void *user, size_t index, const char *line)
{
    crew_test *test = user;
    assert_ptr_not_equal(own, test->ctx);
    assert_int_equal(index, 7);
    snprintf(test->line, sizeof(test->line), "%s", line);
    test->lines++;
}

static void keep_log(void *user, sara_log_level level, const char *line)
{
    crew_test *test = user;
    assert_int_equal(level, SARA_LOG_WARNING);
    snprintf(test->line, sizeof(test->line), "ctx: %s", line);
    test->lines++;
}

static crew_test crew_test_of(sara_context *ctx)
{
    return (crew_test){.failing = {THINGS, THINGS}, .stop = THINGS, .ctx = ctx};
}

static sara_crew crew_of(crew_test *test)
{
    return (sara_crew){.work = crew_step, .user = test, .phase = "check", .interrupted = "stopped"};
}

static void test_each_once(void **state)
{
    sara_context *ctx = test_context();
    (void)state;
    for (size_t count = 0; count <= THINGS; count += count < 3 ? 1 : 99) {
        crew_test test = crew_test_of(ctx);
        const sara_crew crew = crew_of(&test);
        assert_ok(ctx, sara_crew_run(ctx, &crew, count));
        for (size_t i = 0; i < THINGS; i++)
            assert_int_equal(test.done[i], i < count);
    }
    sara_context_free(ctx);
}

/* The least index of those that failed, as with one thread. */
static void test_first_error(void **state)
{
    sara_context *ctx = test_context();
    (void)state;
    for (int i = 0; i < 50; i++) {
        crew_test test = crew_test_of(ctx);
        const sara_crew crew = crew_of(&test);
        test.failing[0] = 21;
        test.failing[1] = 20;
        assert_refused(ctx, SARA_ERROR_INPUT, "thing 20 is bad", sara_crew_run(ctx, &crew, THINGS));
        assert_int_equal(test.done[THINGS - 1], 0);
    }
    sara_context_free(ctx);
}

static void test_logs(void **state)
{
    crew_test test = crew_test_of(NULL);
    const sara_context_options options = {.threads = 2, .log = keep_log, .user = &test};
    sara_crew crew = crew_of(&test);
    (void)state;
    assert_int_equal(sara_context_new(&test.ctx, &options), SARA_OK);
    test.logs = true;
    assert_ok(test.ctx, sara_crew_run(test.ctx, &crew, 8));
    assert_string_equal(test.line, "ctx: thing 7");
    crew.log = keep_own_log;
    assert_ok(test.ctx, sara_crew_run(test.ctx, &crew, 8));
    assert_string_equal(test.line, "thing 7");
    assert_int_equal(test.lines, 2);
    sara_context_free(test.ctx);
}

static void test_interruption(void **state)
{
    sara_context *ctx = test_context();
    crew_test test = crew_test_of(ctx);
    const sara_crew crew = crew_of(&test);
    (void)state;
    test.stop = 5;
    assert_refused(ctx, SARA_INTERRUPTED, "stopped", sara_crew_run(ctx, &crew, THINGS));
    sara_context_free(ctx);
}

static sara_status run_crew(sara_context *ctx, const char *argument)
{
    crew_test test = crew_test_of(ctx);
    const sara_crew crew = crew_of(&test);
    (void)argument;
    return sara_crew_run(ctx, &crew, 20);
}

static void test_memory(void **state)
{
    (void)state;
    test_every_allocation(run_crew, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_once), cmocka_unit_test(test_first_error),
        cmocka_unit_test(test_logs),      cmocka_unit_test(test_interruption),
        cmocka_unit_test(test_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* The trace of kernel calls: what is recorded, how calls within calls are counted. */
#include "support/memory.h"

#include "core/trace.h"

#include <math.h>

static volatile double sink;

/* Takes measurably long on any clock. */
static void work(void)
{
    double begun = sara_clock();
    while (sara_clock() <= begun)
        sink = sink + 1;
}

static sara_status succeed(void)
{
    work();
    return SARA_OK;
}

static sara_status inner(sara_context *ctx, int depth)
{
    sara_status status = SARA_OK;
    work();
    if (depth > 0)
        TRY(SARA_TRACED(ctx, "inner", 1, inner(ctx, depth - 1)));
    work();
done:
    return status;
}

static void test_off(void **state)
{
    (void)state;
    test_allocator allocator;
    sara_context *ctx = test_allocator_context(&allocator);
    size_t count = 1;
    long before = allocator.alive;
    allocator.left = 0; /* an allocation would fail */
    assert_ok(ctx, SARA_TRACED(ctx, "a", 1, succeed()));
    assert_ok(ctx, SARA_TRACED_VOID(ctx, "b", work()));
    assert_int_equal(allocator.failures, 0);
    assert_int_equal(allocator.alive, before);
    assert_null(sara_trace_events(ctx, &count));
    assert_int_equal(count, 0);
    sara_trace_stop(ctx); /* fine */
    sara_context_free(ctx);
}

static void test_events(void **state)
{
    (void)state;
    sara_context *ctx = test_context();
    size_t count;
    double begun = sara_clock();
    assert_ok(ctx, sara_trace_start(ctx));
    assert_ok(ctx, SARA_TRACED(ctx, "first", 12, succeed()));
    assert_ok(ctx, SARA_TRACED_VOID(ctx, "second", work()));
    const sara_trace_event *events = sara_trace_events(ctx, &count);
    assert_int_equal(count, 2);
    assert_string_equal(events[0].kind, "first");
    assert_string_equal(events[1].kind, "second");
    assert_true(events[0].flops == 12 && events[1].flops == 0);
    assert_true(events[0].start >= begun);
    assert_true(events[1].start >= events[0].start + events[0].seconds);
    for (size_t i = 0; i < count; i++)
        assert_true(events[i].seconds > 0 && events[i].own == events[i].seconds);
    assert_ok(ctx, sara_trace_start(ctx)); /* anew */
    sara_trace_events(ctx, &count);
    assert_int_equal(count, 0);
    sara_context_free(ctx); /* stops it */
}

/* Depths up to the limit and beyond: what is too deep is part of what encloses it. */
static void test_nesting(void **state)
{
    (void)state;
    static const struct {
        int depth;
        size_t recorded;
    } cases[] = {{1, 1}, {2, 2}, {16, 16}, {40, 16}};
    for (size_t c = 0; c < sizeof(cases) / sizeof(*cases); c++) {
        sara_context *ctx = test_context();
        size_t count;
        assert_ok(ctx, sara_trace_start(ctx));
        assert_ok(ctx, inner(ctx, cases[c].depth));
        const sara_trace_event *events = sara_trace_events(ctx, &count);
        assert_int_equal(count, cases[c].recorded);
        double own = 0;
        for (size_t i = 0; i < count; i++) { /* the innermost ended first */
            assert_true(events[i].own > 0 && events[i].own <= events[i].seconds);
            own += events[i].own;
            if (i == 0)
                continue;
            assert_true(events[i].start < events[i - 1].start);
            assert_true(events[i].seconds > events[i - 1].seconds);
            assert_close(fabs(events[i].seconds - events[i - 1].seconds - events[i].own), 1e-9,
                         "own");
        }
        assert_close(fabs(own - events[count - 1].seconds), 1e-9, "sum of own seconds");
        sara_context_free(ctx);
    }
}

/* A failed call leaves no event, and what follows is recorded as if it had not been. */
static void test_failed_calls(void **state)
{
    (void)state;
    sara_context *ctx = test_context();
    size_t count;
    assert_ok(ctx, sara_trace_start(ctx));
    for (int i = 0; i < 100; i++)
        assert_int_equal(SARA_TRACED(ctx, "bad", 1, sara_fail(ctx, SARA_ERROR_IO, "no")),
                         SARA_ERROR_IO);
    assert_string_equal(sara_context_error(ctx), "no");
    assert_ok(ctx, SARA_TRACED(ctx, "good", 1, succeed()));
    const sara_trace_event *events = sara_trace_events(ctx, &count);
    assert_int_equal(count, 1);
    assert_string_equal(events[0].kind, "good");
    assert_true(events[0].own == events[0].seconds);
    sara_context_free(ctx);
}

static sara_status trace_many(sara_context *ctx, const char *argument)
{
    size_t count = 0;
    sara_status status;
    (void)argument;
    TRY(sara_trace_start(ctx));
    for (int i = 0; i < 100; i++)
        TRY(SARA_TRACED(ctx, "call", 1, SARA_OK));
    sara_trace_events(ctx, &count);
    assert_int_equal(count, 100);
done:
    sara_trace_stop(ctx);
    return status;
}

static void test_memory(void **state)
{
    (void)state;
    test_every_allocation(trace_many, "trace");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_off),     cmocka_unit_test(test_events),
        cmocka_unit_test(test_nesting), cmocka_unit_test(test_failed_calls),
        cmocka_unit_test(test_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

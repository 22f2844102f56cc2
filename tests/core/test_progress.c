/* Progress of work in parts is told as one. */
#include "support/support.h"

#include <math.h>

static void keep(void *user, const sara_progress *progress)
{
    *(sara_progress *)user = *progress;
}

static void report(sara_context *ctx, int64_t step, int64_t total)
{
    const sara_progress progress = {"draw", step, total, 0.5, 0.25, 100, 7};
    sara_report_progress(ctx, &progress);
}

static void test_parts(void **state)
{
    sara_progress got = {0};
    const sara_context_options options = {.progress = keep, .user = &got};
    sara_context *ctx = NULL;
    (void)state;
    assert_ok(ctx, sara_context_new(&ctx, &options));
    report(ctx, 3, 10);
    assert_true(got.step == 3 && got.total == 10 && got.steps_per_second == 100 &&
                got.seconds_left == 7);
    sara_progress_part(ctx, 0, 4);
    report(ctx, 3, 10);
    assert_true(got.step == 3 && got.total == 40);
    sara_progress_part(ctx, 2, 4);
    report(ctx, 5, 10);
    assert_true(got.step == 25 && got.total == 40 && got.loss == 0.5 && got.learning_rate == 0.25);
    assert_true(got.steps_per_second > 0 && got.seconds_left > 0);
    double left = got.seconds_left * got.steps_per_second; /* steps */
    assert_close(fabs(left - 15), 1e-9, "steps left");
    sara_progress_part(ctx, 3, 4);
    report(ctx, 10, 10);
    assert_true(got.step == got.total && got.seconds_left == 0);
    sara_progress_part(ctx, 0, 0);
    report(ctx, 3, 10);
    assert_true(got.step == 3 && got.total == 10 && got.seconds_left == 7);
    sara_context_free(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_parts)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

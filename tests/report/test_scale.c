/* Ticks, their texts, ranges and the cutting of texts. */
#include "support_report.h"

/* The ticks of an axis as its texts, with spaces. */
static void assert_ticks(const char *expected, double low, double high, bool log, bool whole,
                         int most)
{
    double ticks[SARA_MAX_TICKS];
    char all[512] = "", text[32];
    int count = sara_ticks(ticks, low, high, log, whole, most);
    for (int i = 0; i < count; i++) {
        sara_tick_text(text, ticks, count, i, log);
        strcat(strcat(all, text), i + 1 < count ? " " : "");
    }
    assert_string_equal(all, expected);
}

static void test_linear(void **state)
{
    (void)state;
    assert_ticks("0.0 0.2 0.4 0.6 0.8 1.0", 0, 1, false, false, 6);
    assert_ticks("0 20 40 60 80 100", 0, 100, false, false, 6);
    assert_ticks("-2 -1 0 1 2", -2.5, 2.4, false, false, 6);
    assert_ticks("0.05 0.10 0.15 0.20", 0.031, 0.22, false, false, 6);
    assert_ticks("0 20000 40000 60000 80000 100000", 0, 100000, false, false, 6);
    assert_ticks("0 5e6 1e7 1.5e7 2e7", 0, 2e7, false, false, 6);
    assert_ticks("1e-6 2e-6 3e-6", 0.9e-6, 3.1e-6, false, false, 4);
    assert_ticks("1 2 3", 1, 3, false, true, 6);
    assert_ticks("1.0 1.5 2.0 2.5 3.0", 1, 3, false, false, 6);
    assert_ticks("", 1, 1, false, false, 6);
}

static void test_log(void **state)
{
    (void)state;
    assert_ticks("1 10 100 1000", 1, 1000, true, false, 6);
    assert_ticks("1 3 10 30 100", 1, 100, true, false, 6);
    assert_ticks("1 2 5 10", 0.9, 11, true, false, 6);
    assert_ticks("2 3 4 5", 2, 5, true, false, 6);
    assert_ticks("0.0001 0.001 0.01", 1e-4, 1e-2, true, false, 4);
    assert_ticks("1e-8 1e-5 0.01", 1e-8, 1, true, false, 3);
    assert_ticks("42.2 42.4 42.6 42.8", 42.1, 42.9, true, false, 4); /* no round one of a decade */
}

static void test_range(void **state)
{
    const sara_extent none = {INFINITY, -INFINITY};
    sara_extent extent = none;
    sara_scale scale = {.from = 100, .to = 300};
    (void)state;
    sara_extent_add(&extent, NAN, false);
    sara_extent_add(&extent, INFINITY, false);
    sara_extent_add(&extent, 0, true);
    sara_extent_add(&extent, -1, true);
    assert_true(extent.low > extent.high);
    sara_extent_add(&extent, 4, false);
    sara_scale_make(&scale, &(sara_axis){0}, extent, 0, 6); /* one value: the middle */
    assert_close(fabs(sara_scale_at(&scale, 4) - 200), 1e-9, "middle");
    sara_extent_add(&extent, 2, false);
    scale = (sara_scale){.from = 100, .to = 300};
    sara_scale_make(&scale, &(sara_axis){0}, extent, 20, 6);
    assert_close(fabs(sara_scale_at(&scale, 2) - 120), 1e-9, "padding below");
    assert_close(fabs(sara_scale_at(&scale, 4) - 280), 1e-9, "padding above");
    scale = (sara_scale){.from = 100, .to = 300};
    sara_scale_make(&scale, &(sara_axis){.zero = true}, extent, 20, 6);
    assert_close(fabs(sara_scale_at(&scale, 0) - 100), 1e-9, "zero is the end");
    scale = (sara_scale){.from = 300, .to = 100};
    sara_scale_make(&scale, &(sara_axis){.log = true}, (sara_extent){1, 100}, 0, 6);
    assert_close(fabs(sara_scale_at(&scale, 10) - 200), 1e-9, "a logarithm's middle");
    assert_true(isnan(sara_scale_at(&scale, 0)) && isnan(sara_scale_at(&scale, -1)));
    scale = (sara_scale){.from = 0, .to = 1};
    sara_scale_make(&scale, &(sara_axis){0}, none, 0, 6);
    assert_true(sara_scale_at(&scale, 0.5) == 0.5);
}

static void assert_cut(const char *text, int columns, const char *expected)
{
    sara_context *ctx = test_context();
    sara_buffer out = {.ctx = ctx};
    assert_ok(ctx, sara_put_cut(&out, text, columns));
    assert_string_equal(out.data, expected);
    sara_buffer_free(&out);
    sara_context_free(ctx);
}

static void test_cut(void **state)
{
    char longest[2000];
    (void)state;
    memset(longest, 'x', sizeof(longest));
    longest[sizeof(longest) - 1] = '\0';
    assert_int_equal(sara_text_columns("aä猫\xff"), 5); /* a wide character has two columns */
    assert_cut("abcdef", 6, "abcdef");
    assert_cut("abcdefg", 6, "abcde…");
    assert_cut("猫猫猫猫", 6, "猫猫…");
    assert_cut("<<<<", 3, "&lt;&lt;…");
    assert_cut(longest, 4, "xxx…");
    longest[250] = '\0';
    assert_cut(longest, 2000, longest);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_linear), cmocka_unit_test(test_log),
                                       cmocka_unit_test(test_range), cmocka_unit_test(test_cut)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

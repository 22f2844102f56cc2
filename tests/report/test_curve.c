/* Curves: any number of points in a bounded number of stretches. */
#include "support_report.h"

#include <stdlib.h>

static double x[2 * SARA_CURVE_STRETCHES], y[2 * SARA_CURVE_STRETCHES];

static sara_curve *curve_of(int count)
{
    sara_curve *curve = calloc(1, sizeof(*curve));
    assert_non_null(curve);
    for (int i = 0; i < count; i++)
        sara_curve_add(curve, i + 1, i % 2 ? 3 : -1);
    return curve;
}

static void test_few(void **state)
{
    sara_curve *curve = curve_of(5);
    (void)state;
    sara_curve_add(curve, 6, NAN);
    sara_curve_add(curve, NAN, 1);
    sara_curve_add(curve, 8, 7);
    assert_int_equal(sara_curve_raw(curve, x, y), 6);
    assert_true(x[0] == 1 && y[0] == -1 && x[4] == 5 && x[5] == 8 && y[5] == 7);
    assert_int_equal(sara_curve_smooth(curve, x, y, 0), 6);
    assert_true(y[1] == 3 && y[5] == 7);
    assert_int_equal(sara_curve_smooth(curve, x, y, 0.01), 6); /* two on each side */
    assert_true(x[2] == 3 && fabs(y[2] - 0.6) < 1e-12);       /* (-1 + 3 - 1 + 3 - 1) / 5 */
    assert_true(fabs(y[1] - 1.0 / 3) < 1e-12); /* one on each side, at the ends none */
    assert_true(y[0] == -1 && y[5] == 7);
    free(curve);
    curve = curve_of(0);
    assert_int_equal(sara_curve_raw(curve, x, y) + sara_curve_smooth(curve, x, y, 0.1), 0);
    free(curve);
}

/* 100,001 points: stretches of 256; each has both values, and the mean 1. */
static void test_many(void **state)
{
    sara_curve *curve = curve_of(100001);
    size_t count = sara_curve_raw(curve, x, y);
    (void)state;
    assert_int_equal(curve->per_stretch, 256);
    assert_int_equal(count, 2 * (100001 / 256 + 1));
    assert_true(x[0] == 128.5 && y[0] == -1 && x[1] == 128.5 && y[1] == 3);
    assert_int_equal(sara_curve_smooth(curve, x, y, 0.02), 100001 / 256 + 1);
    assert_true(fabs(y[200] - 1) < 1e-12 && x[1] == 384.5);
    free(curve);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_few), cmocka_unit_test(test_many)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

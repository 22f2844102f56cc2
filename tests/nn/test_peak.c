/* The measured peak's kernel: its arithmetic is done, and counted right. */
#include "nn/support_simd.h"

#include <math.h>

#include "nn/simd/simd.h"

/* Every lane of every chain goes from its number towards 1 by x = 0.75 x + 0.25. */
static void check_peak(void *argument)
{
    const sara_simd *simd = sara_simd_best();
    const int64_t rounds[] = {0, 1, 5, 200};
    (void)argument;
    for (size_t i = 0; i < sizeof(rounds) / sizeof(*rounds); i++) {
        double flops = -1, expected = 0;
        for (int chain = 0; chain < 12; chain++)
            expected += 1 + (chain - 1) * pow(0.75, (double)rounds[i]);
        double sum = simd->peak(rounds[i], &flops);
        assert_true(flops == 2.0 * 12 * (double)(simd->width * rounds[i]));
        assert_close(fabs(sum / (expected * (double)simd->width) - 1), 1e-5, simd->name);
    }
}

static void test_kernel(void **state)
{
    (void)state;
    test_simd_each(check_peak, NULL);
}

static void test_rate(void **state)
{
    (void)state;
    sara_context *ctx = test_context();
    double rate = sara_nn_peak_flops(ctx);
    assert_true(isfinite(rate) && rate > 0);
    sara_context_free(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_kernel), cmocka_unit_test(test_rate)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Winograd's convolution against the plain kernel, for every instruction set. */
#include "nn/support_nn.h"
#include "nn/support_simd.h"
#include "nn/winograd.h"

#include <stdlib.h>

#define TOLERANCE 3e-6 /* relative L2; a direct sum in float has about 3e-7, this one 8e-7 */

static void check_forward(const sara_conv_shape *s, const float *x, const sara_weight_view *w,
                          const float *b, int threads)
{
    size_t count = test_conv_y(s);
    sara_kernel_env env = test_simd_env(threads);
    float *y = test_nn_random(count, 4), *expected = test_nn_random(count, 5);
    assert_ok(env.ctx, sara_winograd_forward(&env, y, x, w, b, s));
    assert_ok(env.ctx, KERNEL(conv_forward)(&env, expected, x, w, b, s));
    assert_close(test_relative_l2(y, expected, count), TOLERANCE, "forward");
    free(y);
    free(expected);
    test_simd_env_free(&env);
}

static void check_dx(const sara_conv_shape *s, const float *dy, const sara_weight_view *w,
                     bool accumulate)
{
    size_t count = test_conv_x(s);
    sara_kernel_env env = test_simd_env(1);
    float *dx = test_nn_random(count, 6), *expected = test_nn_random(count, 6);
    assert_ok(env.ctx, sara_winograd_dx(&env, dx, dy, w, s, accumulate));
    assert_ok(env.ctx, KERNEL(conv_dx)(&env, expected, dy, w, s, accumulate));
    assert_close(test_relative_l2(dx, expected, count), TOLERANCE, "dx");
    free(dx);
    free(expected);
    test_simd_env_free(&env);
}

static void check_shape(void *argument)
{
    const sara_conv_shape *s = argument;
    assert_true(sara_winograd_fits(s));
    float *x = test_nn_random(test_conv_x(s), 1), *w = test_nn_random(test_conv_w(s), 2);
    float *dy = test_nn_random(test_conv_y(s), 3), *b = test_nn_random((size_t)s->out, 7);
    const sara_weight_view view = {w, SARA_F32, NULL};
    check_forward(s, x, &view, b, 1);
    check_forward(s, x, &view, NULL, 2);
    check_dx(s, dy, &view, false);
    check_dx(s, dy, &view, true);
    free(x);
    free(w);
    free(dy);
    free(b);
}

static const int none[4] = {0, 0, 0, 0}, same[4] = {1, 1, 1, 1}, uneven[4] = {2, 0, 1, 2};

static void test_shapes(void **state)
{
    (void)state;
    sara_conv_shape shapes[] = {
        test_conv_shape(1, 8, 8, 64, 64, 3, 1, same),
        test_conv_shape(2, 7, 5, 17, 33, 3, 1, same),
        test_conv_shape(1, 1, 1, 16, 16, 3, 1, same),
        test_conv_shape(3, 9, 13, 65, 31, 3, 1, none),
        test_conv_shape(1, 3, 3, 20, 47, 3, 1, none),
        test_conv_shape(2, 6, 11, 16, 129, 3, 1, uneven),
        test_conv_shape(1, 4, 4, 160, 96, 3, 1, same),
        test_conv_shape(1, 33, 34, 24, 40, 3, 1, same),
        test_conv_shape(5, 12, 12, 32, 70, 3, 1, uneven),
        test_conv_shape(2, 2, 2, 100, 100, 3, 1, same),
    };
    for (size_t i = 0; i < sizeof(shapes) / sizeof(*shapes); i++)
        test_simd_each(check_shape, &shapes[i]);
}

/* Of Stable Diffusion's U-Net: many tiles, in more than one pass, and many channels. */
static void test_real_shapes(void **state)
{
    (void)state;
    sara_conv_shape shapes[] = {test_conv_shape(1, 64, 64, 96, 32, 3, 1, same),
                                test_conv_shape(1, 8, 8, 1280, 64, 3, 1, same),
                                test_conv_shape(1, 32, 32, 640, 16, 3, 1, same)};
    for (size_t i = 0; i < sizeof(shapes) / sizeof(*shapes); i++)
        test_simd_each(check_shape, &shapes[i]);
}

/* Each sum has one order, whatever the threads. */
static void test_threads(void **state)
{
    (void)state;
    const sara_conv_shape s = test_conv_shape(1, 24, 24, 40, 176, 3, 1, same);
    size_t count = test_conv_y(&s);
    float *x = test_nn_random(test_conv_x(&s), 1), *w = test_nn_random(test_conv_w(&s), 2);
    float *one = test_nn_random(count, 3), *two = test_nn_random(count, 4);
    const sara_weight_view view = {w, SARA_F32, NULL};
    sara_kernel_env env = test_simd_env(1), env2 = test_simd_env(2);
    assert_ok(env.ctx, sara_winograd_forward(&env, one, x, &view, NULL, &s));
    assert_ok(env2.ctx, sara_winograd_forward(&env2, two, x, &view, NULL, &s));
    assert_memory_equal(one, two, count * sizeof(*one));
    test_simd_env_free(&env);
    test_simd_env_free(&env2);
    free(x);
    free(w);
    free(one);
    free(two);
}

static void test_what_fits(void **state)
{
    (void)state;
    const sara_conv_shape strided = test_conv_shape(1, 8, 8, 64, 64, 3, 2, same);
    const sara_conv_shape large = test_conv_shape(1, 8, 8, 64, 64, 5, 1, same);
    const sara_conv_shape narrow = test_conv_shape(1, 8, 8, 4, 64, 3, 1, same);
    const sara_conv_shape thin = test_conv_shape(1, 8, 8, 64, 4, 3, 1, same);
    sara_conv_shape high = test_conv_shape(1, 8, 8, 64, 64, 3, 1, same), wide = high;
    assert_true(sara_winograd_fits(&high));
    high.pad_top = 3;
    wide.pad_left = 3;
    assert_false(sara_winograd_fits(&high));
    assert_false(sara_winograd_fits(&wide));
    assert_false(sara_winograd_fits(&strided));
    assert_false(sara_winograd_fits(&large));
    assert_false(sara_winograd_fits(&narrow));
    assert_false(sara_winograd_fits(&thin));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shapes),
        cmocka_unit_test(test_real_shapes),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_what_fits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

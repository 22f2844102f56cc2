/* The fast convolution kernels against the plain ones, and the cache of weights. */
#include "nn/support_nn.h"
#include "support/memory.h"

#include <stdlib.h>

#define TOLERANCE 1e-5

static void check_forward(test_pair *b, const sara_conv_shape *s, bool biased)
{
    size_t ny = test_conv_y(s);
    float *x = test_nn_random(test_conv_x(s), 1), *w = test_nn_random(test_conv_w(s), 2);
    float *c = test_nn_random((size_t)s->out, 3), *bias = biased ? c : NULL;
    float *y = test_nn_random(ny, 4), *expected = test_nn_random(ny, 5);
    const sara_weight_view view = {w, SARA_F32, NULL};
    assert_ok(b->fe.ctx, sara_kernel_conv_forward(&b->fe, y, x, &view, bias, s));
    assert_ok(b->pe.ctx, sara_kernel_conv_forward(&b->pe, expected, x, &view, bias, s));
    assert_close(test_relative_l2(y, expected, ny), TOLERANCE, "forward");
    free(x);
    free(w);
    free(c);
    free(y);
    free(expected);
}

static void check_dx(test_pair *b, const sara_conv_shape *s, bool accumulate)
{
    size_t nx = test_conv_x(s);
    float *dy = test_nn_random(test_conv_y(s), 1), *w = test_nn_random(test_conv_w(s), 2);
    float *dx = test_nn_random(nx, 3), *expected = test_nn_random(nx, 3);
    const sara_weight_view view = {w, SARA_F32, NULL};
    assert_ok(b->fe.ctx, sara_kernel_conv_dx(&b->fe, dx, dy, &view, s, accumulate));
    assert_ok(b->pe.ctx, sara_kernel_conv_dx(&b->pe, expected, dy, &view, s, accumulate));
    assert_close(test_relative_l2(dx, expected, nx), TOLERANCE, "dx");
    free(dy);
    free(w);
    free(dx);
    free(expected);
}

static void check_dw(test_pair *b, const sara_conv_shape *s, bool accumulate)
{
    size_t nw = test_conv_w(s);
    float *dy = test_nn_random(test_conv_y(s), 1), *x = test_nn_random(test_conv_x(s), 2);
    float *dw = test_nn_random(nw, 3), *expected = test_nn_random(nw, 3);
    assert_ok(b->fe.ctx, sara_kernel_conv_dw(&b->fe, dw, dy, x, s, accumulate));
    assert_ok(b->pe.ctx, sara_kernel_conv_dw(&b->pe, expected, dy, x, s, accumulate));
    assert_close(test_relative_l2(dw, expected, nw), TOLERANCE, "dw");
    free(dy);
    free(x);
    free(dw);
    free(expected);
}

static const int none[4] = {0, 0, 0, 0}, same[4] = {1, 1, 1, 1}, after[4] = {0, 0, 1, 1};
static const int uneven[4] = {2, 0, 1, 3}, skewed[4] = {2, 0, 1, 2}, wide[4] = {4, 4, 4, 4};

static void test_shapes(void **state)
{
    (void)state;
    const sara_conv_shape shapes[] = {
        test_conv_shape(2, 8, 8, 64, 48, 3, 1, same),   /* residual blocks */
        test_conv_shape(1, 16, 16, 4, 32, 3, 1, same),  /* conv_in */
        test_conv_shape(1, 16, 16, 32, 4, 3, 1, same),  /* conv_out */
        test_conv_shape(2, 8, 8, 32, 32, 3, 2, same),   /* the U-Net's downsampling */
        test_conv_shape(1, 9, 9, 16, 16, 3, 2, after),  /* the VAE's */
        test_conv_shape(2, 4, 4, 48, 24, 1, 1, none),   /* shortcuts, projections */
        test_conv_shape(2, 5, 7, 3, 5, 1, 1, none),
        test_conv_shape(2, 5, 7, 3, 5, 1, 2, none),
        test_conv_shape(2, 5, 7, 3, 5, 3, 1, uneven),
        test_conv_shape(2, 5, 7, 17, 5, 3, 2, uneven),
        test_conv_shape(1, 2, 2, 3, 5, 3, 1, wide),     /* kernels over padding alone */
        test_conv_shape(1, 28, 28, 3, 32, 14, 14, none), /* a vision model's patches */
        test_conv_shape(1, 1, 1, 1, 1, 3, 1, same),
        test_conv_shape(1, 32, 33, 8, 20, 3, 1, same), /* dx as a forward convolution */
        test_conv_shape(2, 31, 24, 5, 7, 3, 1, skewed),
    };
    test_pair b = test_pair_open();
    for (size_t i = 0; i < sizeof(shapes) / sizeof(*shapes); i++) {
        check_forward(&b, &shapes[i], false);
        check_forward(&b, &shapes[i], true);
        check_dx(&b, &shapes[i], false);
        check_dx(&b, &shapes[i], true);
        check_dw(&b, &shapes[i], false);
        check_dw(&b, &shapes[i], true);
    }
    test_pair_close(&b);
}

static void check_param(test_pair *b, const sara_conv_shape *s, const sara_param *weight)
{
    size_t nx = test_conv_x(s), ny = test_conv_y(s);
    float *x = test_nn_random(nx, 1), *y = test_nn_zeros(ny), *expected = test_nn_zeros(ny);
    float *dx = test_nn_zeros(nx), *expected_dx = test_nn_zeros(nx);
    const sara_weight_view w = sara_weight_of(weight);
    assert_ok(b->fe.ctx, sara_kernel_conv_forward(&b->fe, y, x, &w, NULL, s));
    assert_ok(b->pe.ctx, sara_kernel_conv_forward(&b->pe, expected, x, &w, NULL, s));
    assert_close(test_relative_l2(y, expected, ny), TOLERANCE, "forward");
    assert_ok(b->fe.ctx, sara_kernel_conv_dx(&b->fe, dx, y, &w, s, false));
    assert_ok(b->pe.ctx, sara_kernel_conv_dx(&b->pe, expected_dx, expected, &w, s, false));
    assert_close(test_relative_l2(dx, expected_dx, nx), TOLERANCE, "dx");
    free(x);
    free(y);
    free(expected);
    free(dx);
    free(expected_dx);
}

/* A frozen parameter's cached copy is used again, and made anew after a change of its version; one
 * that is trained is read each time. */
static void test_weight_versions(void **state)
{
    (void)state;
    test_pair b = test_pair_open();
    const sara_conv_shape s = test_conv_shape(1, 6, 6, 32, 16, 3, 1, same);
    const sara_conv_shape larger = test_conv_shape(3, 12, 6, 32, 16, 3, 1, same);
    sara_param frozen = test_nn_param(&b.fast, "frozen", sara_shape4(16, 32, 3, 3), 1);
    sara_param trained = test_nn_param(&b.fast, "trained", sara_shape4(16, 32, 3, 3), 2);
    test_nn_want_dense(&trained);
    for (int i = 0; i < 3; i++) {
        check_param(&b, &s, &frozen);
        check_param(&b, &larger, &frozen);
        check_param(&b, &s, &frozen);
        check_param(&b, &s, &trained);
        ((float *)frozen.value.data)[100 + i] += 50;
        frozen.version++;
        ((float *)trained.value.data)[100 + i] += 50;
        trained.version++;
    }
    test_nn_param_free(&b.fast, &frozen);
    test_nn_param_free(&b.fast, &trained);
    test_pair_close(&b);
}

/* More shapes than primitives are kept. */
static void test_many_shapes(void **state)
{
    (void)state;
    test_pair b = test_pair_open();
    for (int pass = 0; pass < 2; pass++)
        for (int64_t rows = 1; rows <= 1100; rows++) {
            const sara_linear_shape s = {rows, 2, 1};
            float x[2200], y[1100] = {0};
            const float w[2] = {2, 3};
            const sara_weight_view view = {w, SARA_F32, NULL};
            for (int64_t i = 0; i < 2 * rows; i++)
                x[i] = (float)i;
            assert_ok(b.fe.ctx, sara_kernel_linear_forward(&b.fe, y, x, &view, NULL, &s));
            assert_true(y[rows - 1] == 2 * x[2 * rows - 2] + 3 * x[2 * rows - 1]);
        }
    test_pair_close(&b);
}

/* Where there is no memory to keep a frozen weight's layout, it is made each time. */
static void test_no_memory_to_keep(void **state)
{
    (void)state;
    const sara_conv_shape s = test_conv_shape(1, 16, 16, 32, 32, 3, 2, same);
    test_allocator allocator;
    sara_kernel_env env = {.ctx = test_allocator_context(&allocator)};
    float *x = test_nn_random(test_conv_x(&s), 1), *w = test_nn_random(test_conv_w(&s), 2);
    float *y = test_nn_zeros(test_conv_y(&s)), *expected = test_nn_zeros(test_conv_y(&s));
    sara_param frozen = {.name = "frozen", .value = {SARA_F32, {0}, w}};
    const sara_weight_view view = {w, SARA_F32, &frozen};
    long made_up_for = 0, n = 0;
    assert_ok(env.ctx, sara_nn_device_open(env.ctx, &env.device, "cpu"));
    assert_ok(env.ctx, sara_kernel_conv_forward(&env, expected, x, &view, NULL, &s));
    allocator.once = true;
    for (bool failed = true; failed; n++) {
        frozen.version++;
        allocator.failures = 0;
        allocator.left = n;
        sara_status status = sara_kernel_conv_forward(&env, y, x, &view, NULL, &s);
        allocator.left = -1;
        failed = allocator.failures > 0;
        made_up_for += failed && status == SARA_OK;
        assert_int_equal(status, failed && status != SARA_OK ? SARA_ERROR_MEMORY : SARA_OK);
        if (status == SARA_OK)
            assert_memory_equal(y, expected, test_conv_y(&s) * sizeof(*y));
        memset(y, 0, test_conv_y(&s) * sizeof(*y));
    }
    assert_int_equal(made_up_for, 2); /* what is kept, and its place in the cache */
    long before = allocator.alive;
    sara_nn_device_forget(env.device, &frozen);
    assert_int_equal(before - allocator.alive, 2);
    sara_nn_device_close(env.device);
    sara_context_free(env.ctx);
    assert_int_equal(allocator.alive, 0);
    free(x);
    free(w);
    free(y);
    free(expected);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shapes),
        cmocka_unit_test(test_weight_versions),
        cmocka_unit_test(test_many_shapes),
        cmocka_unit_test(test_no_memory_to_keep),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

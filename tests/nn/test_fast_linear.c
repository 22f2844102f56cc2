/* The fast linear kernels against the plain ones. */
#include "nn/support_nn.h"

#include <stdlib.h>

#define TOLERANCE 1e-5

static void check_forward(test_pair *b, const sara_linear_shape *s, bool biased)
{
    size_t ny = (size_t)(s->rows * s->out);
    float *x = test_nn_random((size_t)(s->rows * s->in), 1);
    float *w = test_nn_random((size_t)(s->out * s->in), 2), *c = test_nn_random((size_t)s->out, 3);
    float *y = test_nn_random(ny, 4), *expected = test_nn_random(ny, 5);
    const sara_weight_view view = {w, SARA_F32, NULL};
    assert_ok(b->fe.ctx, sara_kernel_linear_forward(&b->fe, y, x, &view, biased ? c : NULL, s));
    assert_ok(b->pe.ctx,
              sara_kernel_linear_forward(&b->pe, expected, x, &view, biased ? c : NULL, s));
    assert_close(test_relative_l2(y, expected, ny), TOLERANCE, "forward");
    free(x);
    free(w);
    free(c);
    free(y);
    free(expected);
}

static void check_dx(test_pair *b, const sara_linear_shape *s, bool accumulate)
{
    size_t nx = (size_t)(s->rows * s->in);
    float *dy = test_nn_random((size_t)(s->rows * s->out), 1);
    float *w = test_nn_random((size_t)(s->out * s->in), 2);
    float *dx = test_nn_random(nx, 3), *expected = test_nn_random(nx, 3);
    const sara_weight_view view = {w, SARA_F32, NULL};
    assert_ok(b->fe.ctx, sara_kernel_linear_dx(&b->fe, dx, dy, &view, s, accumulate));
    assert_ok(b->pe.ctx, sara_kernel_linear_dx(&b->pe, expected, dy, &view, s, accumulate));
    assert_close(test_relative_l2(dx, expected, nx), TOLERANCE, "dx");
    free(dy);
    free(w);
    free(dx);
    free(expected);
}

static void check_dw(test_pair *b, const sara_linear_shape *s)
{
    size_t nw = (size_t)(s->out * s->in), n = (size_t)s->out;
    float *dy = test_nn_random((size_t)(s->rows * s->out), 1);
    float *x = test_nn_random((size_t)(s->rows * s->in), 2);
    float *dw = test_nn_random(nw, 3), *expected = test_nn_random(nw, 3);
    float *db = test_nn_random(n, 4), *expected_db = test_nn_random(n, 4);
    assert_ok(b->fe.ctx, sara_kernel_linear_dw(&b->fe, dw, dy, x, s));
    assert_ok(b->pe.ctx, sara_kernel_linear_dw(&b->pe, expected, dy, x, s));
    assert_close(test_relative_l2(dw, expected, nw), TOLERANCE, "dw");
    assert_ok(b->fe.ctx, sara_kernel_bias_grad(&b->fe, db, dy, s->rows, s->out));
    assert_ok(b->pe.ctx, sara_kernel_bias_grad(&b->pe, expected_db, dy, s->rows, s->out));
    assert_close(test_relative_l2(db, expected_db, n), TOLERANCE, "db");
    free(dy);
    free(x);
    free(dw);
    free(expected);
    free(db);
    free(expected_db);
}

static void test_shapes(void **state)
{
    (void)state;
    static const sara_linear_shape shapes[] = {
        {1, 1, 1},    {1, 320, 128}, {3, 5, 7},     {64, 64, 64},    {77, 96, 160},
        {256, 40, 8}, {1, 3, 200},   {1037, 17, 9}, {1100, 64, 130},
    };
    test_pair b = test_pair_open();
    for (size_t i = 0; i < sizeof(shapes) / sizeof(*shapes); i++) {
        check_forward(&b, &shapes[i], false);
        check_forward(&b, &shapes[i], true);
        check_dx(&b, &shapes[i], false);
        check_dx(&b, &shapes[i], true);
        check_dw(&b, &shapes[i]);
    }
    test_pair_close(&b);
}

/* The same calls twice give the same bits. */
static void test_repeats(void **state)
{
    (void)state;
    const sara_linear_shape s = {300, 96, 64};
    test_pair b = test_pair_open();
    float *x = test_nn_random(300 * 96, 1), *dy = test_nn_random(300 * 64, 2);
    float *first = test_nn_zeros(96 * 64), *second = test_nn_zeros(96 * 64);
    assert_ok(b.fe.ctx, sara_kernel_linear_dw(&b.fe, first, dy, x, &s));
    assert_ok(b.fe.ctx, sara_kernel_linear_dw(&b.fe, second, dy, x, &s));
    assert_memory_equal(first, second, 96 * 64 * sizeof(float));
    free(x);
    free(dy);
    free(first);
    free(second);
    test_pair_close(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shapes),
        cmocka_unit_test(test_repeats),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* The mean squared error on the tape. */
#include "nn/support_gradient.h"

#include <math.h>
#include <stdlib.h>

static const float target[] = {0.5f, -1, 2, 0, 3, -0.25f};

static sara_status build_mse(sara_tape *tape, sara_var **y, sara_var *const *in,
                             sara_param *const *params)
{
    (void)params;
    return sara_nn_mse_loss(tape, y, in[0], target, NULL, NULL);
}

/* [1,2,3]: two planes of three positions. */
static sara_status build_masked(sara_tape *tape, sara_var **y, sara_var *const *in,
                                sara_param *const *params)
{
    static const float weights[] = {3}, mask[] = {0.5f, 0, 2};
    (void)params;
    return sara_nn_mse_loss(tape, y, in[0], target, weights, mask);
}

/* The prediction is used twice: the gradients add up. */
static sara_status build_twice(sara_tape *tape, sara_var **y, sara_var *const *in,
                               sara_param *const *params)
{
    sara_var *first, *second;
    sara_status status;
    (void)params;
    TRY(sara_nn_mse_loss(tape, &first, in[0], target, NULL, NULL));
    TRY(sara_nn_mse_loss(tape, &second, in[0], target + 1, NULL, NULL));
    TRY(sara_nn_add(tape, y, first, second));
done:
    return status;
}

static void test_gradients(void **state)
{
    (void)state;
    const test_graph mse = {
        .name = "mse_loss", .build = build_mse, .in = {sara_shape2(2, 3)}, .in_count = 1};
    const test_graph twice = {
        .name = "two losses", .build = build_twice, .in = {sara_shape1(5)}, .in_count = 1};
    const test_graph masked = {
        .name = "masked loss", .build = build_masked, .in = {sara_shape3(1, 2, 3)}, .in_count = 1};
    test_graph_check(&mse);
    test_graph_check(&masked);
    test_graph_check(&twice);
}

/* A million small differences: a sum in float would lose digits. */
static void test_value(void **state)
{
    (void)state;
    test_nn nn = test_nn_open("cpu");
    const sara_shape shape = sara_shape1(1000000);
    float *prediction = test_nn_zeros(1000000), *zeros = test_nn_zeros(1000000);
    sara_var *x, *loss;
    for (int i = 0; i < 1000000; i++)
        prediction[i] = 0.1f;
    assert_ok(nn.ctx, sara_tape_leaf(nn.tape, &x, &shape, prediction, true));
    assert_ok(nn.ctx, sara_nn_mse_loss(nn.tape, &loss, x, zeros, NULL, NULL));
    assert_close(fabs(loss->data[0] - 0.01), 1e-9, "mean of 0.01");
    assert_ok(nn.ctx, sara_tape_backward(nn.tape, loss, 0.5f));
    assert_close(fabs(x->grad[999999] - 1e-7), 1e-13, "0.5 * 2 * 0.1 / 1e6");
    free(prediction);
    free(zeros);
    test_nn_close(&nn);
}

static void test_refusals(void **state)
{
    (void)state;
    test_nn nn = test_nn_open("cpu");
    const sara_shape shape = sara_shape2(0, 3);
    float data[1] = {0};
    sara_var *x, *loss;
    assert_ok(nn.ctx, sara_tape_leaf(nn.tape, &x, &shape, data, true));
    assert_refused(nn.ctx, SARA_ERROR_INPUT,
                   "mse_loss: prediction: shape [0,3], expected at least one element",
                   sara_nn_mse_loss(nn.tape, &loss, x, data, NULL, NULL));
    assert_null(loss);
    test_nn_close(&nn);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gradients),
        cmocka_unit_test(test_value),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Group, layer and rms norm on the tape. */
#include "nn/support_gradient.h"

static sara_status build_group(sara_tape *tape, sara_var **y, sara_var *const *in,
                               sara_param *const *params)
{
    return sara_nn_group_norm(tape, y, in[0], params[0], params[1], 3, 1e-5f, SARA_IDENTITY);
}

static sara_status build_group_silu(sara_tape *tape, sara_var **y, sara_var *const *in,
                                    sara_param *const *params)
{
    return sara_nn_group_norm(tape, y, in[0], params[0], params[1], 2, 1e-5f, SARA_SILU);
}

static sara_status build_layer(sara_tape *tape, sara_var **y, sara_var *const *in,
                               sara_param *const *params)
{
    return sara_nn_layer_norm(tape, y, in[0], params[0], params[1], 1e-5f);
}

static sara_status build_rms(sara_tape *tape, sara_var **y, sara_var *const *in,
                             sara_param *const *params)
{
    return sara_nn_rms_norm(tape, y, in[0], params[0], 1e-5f);
}

static void test_gradients(void **state)
{
    (void)state;
    const sara_shape nine = sara_shape1(9), ten = sara_shape1(10);
    const test_graph graphs[] = {
        {"group_norm", build_group, {sara_shape4(2, 3, 2, 9)}, 1, {nine, nine}, 2},
        {"group_norm of tokens", build_group, {sara_shape3(1, 5, 9)}, 1, {nine, nine}, 2},
        {"group_norm of vectors", build_group, {sara_shape2(4, 9)}, 1, {nine, nine}, 2},
        {"group_norm, SiLU", build_group_silu, {sara_shape3(2, 4, 10)}, 1, {ten, ten}, 2},
        {"layer_norm", build_layer, {sara_shape3(2, 3, 10)}, 1, {ten, ten}, 2},
        {"layer_norm of one row", build_layer, {sara_shape1(9)}, 1, {nine, nine}, 2},
        {"rms_norm", build_rms, {sara_shape3(2, 3, 10)}, 1, {ten}, 1},
        {"rms_norm of heads", build_rms, {sara_shape4(2, 3, 2, 9)}, 1, {nine}, 1},
        {"rms_norm of one row", build_rms, {sara_shape1(9)}, 1, {nine}, 1},
    };
    for (size_t i = 0; i < sizeof(graphs) / sizeof(*graphs); i++)
        test_graph_check(&graphs[i]);
}

static void test_refusals(void **state)
{
    (void)state;
    test_nn nn = test_nn_open("cpu");
    sara_param w = test_nn_param(&nn, "norm.weight", sara_shape1(6), 1);
    sara_param b = test_nn_param(&nn, "norm.bias", sara_shape1(6), 2);
    sara_param narrow = test_nn_param(&nn, "norm.bias", sara_shape1(5), 3);
    const sara_shape shape = sara_shape3(2, 1, 6), vector = sara_shape1(6);
    float data[12] = {0};
    sara_var *x, *one, *y;
    assert_ok(nn.ctx, sara_tape_leaf(nn.tape, &x, &shape, data, true));
    assert_ok(nn.ctx, sara_tape_leaf(nn.tape, &one, &vector, data, true));
    assert_refused(nn.ctx, SARA_ERROR_INPUT,
                   "group_norm: norm.weight: input [2,1,6] does not divide into 4 groups",
                   sara_nn_group_norm(nn.tape, &y, x, &w, &b, 4, 1e-5f, SARA_IDENTITY));
    assert_null(y);
    assert_refused(nn.ctx, SARA_ERROR_INPUT, "into 0 groups",
                   sara_nn_group_norm(nn.tape, &y, x, &w, &b, 0, 1e-5f, SARA_IDENTITY));
    assert_refused(nn.ctx, SARA_ERROR_INPUT, "input [6]",
                   sara_nn_group_norm(nn.tape, &y, one, &w, &b, 1, 1e-5f, SARA_IDENTITY));
    assert_refused(nn.ctx, SARA_ERROR_INPUT, "norm.bias: shape [5], expected [6]",
                   sara_nn_group_norm(nn.tape, &y, x, &w, &narrow, 2, 1e-5f, SARA_IDENTITY));
    assert_refused(nn.ctx, SARA_ERROR_INPUT, "norm.weight: activation 2",
                   sara_nn_group_norm(nn.tape, &y, x, &w, &b, 2, 1e-5f, SARA_GELU));
    assert_refused(nn.ctx, SARA_ERROR_INPUT, "layer_norm: norm.bias: shape [5], expected [6]",
                   sara_nn_layer_norm(nn.tape, &y, x, &narrow, &b, 1e-5f));
    assert_refused(nn.ctx, SARA_ERROR_INPUT, "rms_norm: norm.bias: shape [5], expected [6]",
                   sara_nn_rms_norm(nn.tape, &y, x, &narrow, 1e-5f));
    assert_null(y);
    test_nn_param_free(&nn, &w);
    test_nn_param_free(&nn, &b);
    test_nn_param_free(&nn, &narrow);
    test_nn_close(&nn);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gradients),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

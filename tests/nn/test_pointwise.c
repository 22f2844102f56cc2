/* Elementwise ops on the tape. */
#include "nn/support_gradient.h"

#define BUILD(name, call)                                                                          \
    static sara_status name(sara_tape *tape, sara_var **y, sara_var *const *in,                    \
                            sara_param *const *params)                                             \
    {                                                                                              \
        (void)params;                                                                              \
        return call;                                                                               \
    }

BUILD(build_silu, sara_nn_activate(tape, y, in[0], SARA_SILU))
BUILD(build_gelu, sara_nn_activate(tape, y, in[0], SARA_GELU))
BUILD(build_quick, sara_nn_activate(tape, y, in[0], SARA_QUICK_GELU))
BUILD(build_identity, sara_nn_activate(tape, y, in[0], SARA_IDENTITY))
BUILD(build_relu, sara_nn_activate(tape, y, in[0], SARA_RELU))
BUILD(build_gelu_tanh, sara_nn_activate(tape, y, in[0], SARA_GELU_TANH))
BUILD(build_gated, sara_nn_gated_gelu(tape, y, in[0], in[1]))
BUILD(build_gated_self, sara_nn_gated_gelu(tape, y, in[0], in[0]))
BUILD(build_geglu, sara_nn_geglu(tape, y, in[0]))
BUILD(build_add, sara_nn_add(tape, y, in[0], in[1]))
BUILD(build_double, sara_nn_add(tape, y, in[0], in[0]))
BUILD(build_add_scaled, sara_nn_add_scaled(tape, y, in[0], in[1], -0.7f))
BUILD(build_double_scaled, sara_nn_add_scaled(tape, y, in[0], in[0], -0.7f))
BUILD(build_multiply, sara_nn_multiply(tape, y, in[0], in[1]))
BUILD(build_square, sara_nn_multiply(tape, y, in[0], in[0]))
BUILD(build_add_per_sample, sara_nn_add_per_sample(tape, y, in[0], in[1]))

static void test_gradients(void **state)
{
    (void)state;
    const sara_shape x = sara_shape3(2, 5, 6);
    const sara_shape few = sara_shape2(2, 6); /* none of which a difference takes across 0 */
    const test_graph graphs[] = {
        {.name = "silu", .build = build_silu, .in = {x}, .in_count = 1},
        {.name = "gelu", .build = build_gelu, .in = {x}, .in_count = 1},
        {.name = "quick_gelu", .build = build_quick, .in = {x}, .in_count = 1},
        {.name = "identity", .build = build_identity, .in = {x}, .in_count = 1},
        {.name = "relu", .build = build_relu, .in = {few}, .in_count = 1},
        {.name = "gelu by tanh", .build = build_gelu_tanh, .in = {x}, .in_count = 1},
        {.name = "gated_gelu", .build = build_gated, .in = {x, x}, .in_count = 2},
        {.name = "gelu(x) x", .build = build_gated_self, .in = {x}, .in_count = 1},
        {.name = "geglu", .build = build_geglu, .in = {x}, .in_count = 1},
        {.name = "add", .build = build_add, .in = {x, x}, .in_count = 2},
        {.name = "x + x", .build = build_double, .in = {x}, .in_count = 1},
        {.name = "add_scaled", .build = build_add_scaled, .in = {x, x}, .in_count = 2},
        {.name = "x - 0.7 x", .build = build_double_scaled, .in = {x}, .in_count = 1},
        {.name = "multiply", .build = build_multiply, .in = {x, x}, .in_count = 2},
        {.name = "x x", .build = build_square, .in = {x}, .in_count = 1},
        {.name = "add_per_sample",
         .build = build_add_per_sample,
         .in = {sara_shape4(2, 3, 2, 5), sara_shape2(2, 5)},
         .in_count = 2},
        {.name = "add_per_sample of vectors",
         .build = build_add_per_sample,
         .in = {sara_shape2(2, 5), sara_shape2(2, 5)},
         .in_count = 2},
    };
    for (size_t i = 0; i < sizeof(graphs) / sizeof(*graphs); i++)
        test_graph_check(&graphs[i]);
}

/* A residual block's pattern: views, a variable used three times, scopes that close. */
static sara_status build_chain(sara_tape *tape, sara_var **y, sara_var *const *in,
                               sara_param *const *params)
{
    sara_var *h, *flat, *tokens, *t;
    const sara_shape view = sara_shape3(2, 6, 4), back = sara_shape4(2, 2, 3, 4);
    sara_status status;
    size_t scope = sara_tape_open(tape);
    TRY(sara_nn_group_norm(tape, &h, in[0], params[0], params[1], 2, 1e-5f, SARA_SILU));
    TRY(sara_nn_add_per_sample(tape, &h, h, in[1]));
    TRY(sara_tape_view(tape, &flat, h, &view));
    TRY(sara_nn_layer_norm(tape, &tokens, flat, params[2], params[3], 1e-5f));
    TRY(sara_nn_attention(tape, &t, tokens, tokens, tokens, 2, false));
    TRY(sara_nn_add(tape, &t, t, flat));
    TRY(sara_tape_view(tape, &t, t, &back));
    TRY(sara_nn_add(tape, &h, t, h));
    TRY(sara_nn_concat(tape, &h, h, in[0]));
    TRY(sara_nn_geglu(tape, y, h));
    sara_tape_close(tape, scope, y, 1);
done:
    return status;
}

static void test_chain(void **state)
{
    (void)state;
    const sara_shape c = sara_shape1(4);
    const test_graph graph = {.name = "chain",
                              .build = build_chain,
                              .in = {sara_shape4(2, 2, 3, 4), sara_shape2(2, 4)},
                              .in_count = 2,
                              .params = {c, c, c, c},
                              .param_count = 4};
    test_graph_check(&graph);
}

static void test_refusals(void **state)
{
    (void)state;
    test_nn nn = test_nn_open("cpu");
    const sara_shape shapes[] = {sara_shape3(2, 3, 5), sara_shape3(2, 3, 4), sara_shape2(3, 5),
                                 sara_shape1(5)};
    float data[30] = {0};
    sara_var *v[4], *y;
    for (int i = 0; i < 4; i++)
        assert_ok(nn.ctx, sara_tape_leaf(nn.tape, &v[i], &shapes[i], data, true));
    assert_refused(nn.ctx, SARA_ERROR_INPUT, "geglu: x: shape [2,3,5], expected [...,2*C]",
                   sara_nn_geglu(nn.tape, &y, v[0]));
    assert_null(y);
    assert_refused(nn.ctx, SARA_ERROR_INPUT, "gated_gelu: b: shape [2,3,4], expected [2,3,5]",
                   sara_nn_gated_gelu(nn.tape, &y, v[0], v[1]));
    assert_null(y);
    assert_refused(nn.ctx, SARA_ERROR_INPUT, "add: b: shape [2,3,4], expected [2,3,5]",
                   sara_nn_add(nn.tape, &y, v[0], v[1]));
    assert_refused(nn.ctx, SARA_ERROR_INPUT, "add_scaled: b: shape [2,3,4], expected [2,3,5]",
                   sara_nn_add_scaled(nn.tape, &y, v[0], v[1], 1));
    assert_refused(nn.ctx, SARA_ERROR_INPUT, "multiply: b: shape [2,3,4], expected [2,3,5]",
                   sara_nn_multiply(nn.tape, &y, v[0], v[1]));
    assert_refused(nn.ctx, SARA_ERROR_INPUT, "add_per_sample: e: shape [3,5], expected [2,5]",
                   sara_nn_add_per_sample(nn.tape, &y, v[0], v[2]));
    assert_refused(nn.ctx, SARA_ERROR_INPUT, "add_per_sample: x: shape [5], expected [N,...,C]",
                   sara_nn_add_per_sample(nn.tape, &y, v[3], v[3]));
    test_nn_close(&nn);
}

/* A gradient goes to the second input where it alone wants one. */
static void test_second_alone(void **state)
{
    (void)state;
    test_nn nn = test_nn_open("cpu");
    const sara_shape shape = sara_shape1(2);
    float data[] = {1, 2};
    const float weights[] = {3, 5};
    sara_var *a, *b, *y, *loss;
    sara_tape_record(nn.tape, true);
    assert_ok(nn.ctx, sara_tape_leaf(nn.tape, &a, &shape, data, false));
    assert_ok(nn.ctx, sara_tape_leaf(nn.tape, &b, &shape, data, true));
    assert_ok(nn.ctx, sara_nn_add(nn.tape, &y, a, b));
    test_nn_project(&nn, &loss, y, weights);
    assert_ok(nn.ctx, sara_tape_backward(nn.tape, loss, 1));
    assert_memory_equal(b->grad, weights, sizeof(weights));
    assert_null(a->grad);
    test_nn_close(&nn);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_second_alone),
        cmocka_unit_test(test_gradients),
        cmocka_unit_test(test_chain),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Attention on the tape. */
#include "nn/support_gradient.h"

#include <math.h>
#include <stdlib.h>

static sara_status build(sara_tape *tape, sara_var **y, sara_var *const *in,
                         sara_param *const *params)
{
    (void)params;
    return sara_nn_attention(tape, y, in[0], in[1], in[2], 2, false);
}

static sara_status build_causal(sara_tape *tape, sara_var **y, sara_var *const *in,
                                sara_param *const *params)
{
    (void)params;
    return sara_nn_attention(tape, y, in[0], in[1], in[2], 1, true);
}

/* One variable in all three places: its gradient is the sum. */
static sara_status build_shared(sara_tape *tape, sara_var **y, sara_var *const *in,
                                sara_param *const *params)
{
    (void)params;
    return sara_nn_attention(tape, y, in[0], in[0], in[0], 2, false);
}

/* The bias has no gradient; it is the same of both samples. */
static sara_status build_biased(sara_tape *tape, sara_var **y, sara_var *const *in,
                                sara_param *const *params)
{
    static const float bias[] = {0.5f, -1, 2, 0, 1, -0.25f, 0.75f, -2, 1.5f,  -0.5f, 0.25f, 1,
                                 -1,   3,  0, 1, 2, -1,     0,     1,  -1.5f, 0,     0.5f,  -3};
    const sara_shape shape = sara_shape3(2, 3, 4);
    sara_var *leaf;
    sara_status status;
    (void)params;
    TRY(sara_tape_leaf(tape, &leaf, &shape, bias, false));
    TRY(sara_nn_attention_biased(tape, y, in[0], in[1], in[2], leaf, 2, 1));
done:
    return status;
}

static void test_gradients(void **state)
{
    (void)state;
    const sara_shape q = sara_shape3(2, 3, 6), k = sara_shape3(2, 4, 6), c = sara_shape3(1, 5, 3);
    const test_graph graphs[] = {
        {.name = "attention", .build = build, .in = {q, k, k}, .in_count = 3},
        {.name = "biased attention", .build = build_biased, .in = {q, k, k}, .in_count = 3},
        {.name = "causal attention", .build = build_causal, .in = {c, c, c}, .in_count = 3},
        {.name = "shared q, k, v", .build = build_shared, .in = {k}, .in_count = 1},
    };
    for (size_t i = 0; i < sizeof(graphs) / sizeof(*graphs); i++)
        test_graph_check(&graphs[i]);
}

/* A gradient goes only where it is wanted. */
static void test_only_keys(void **state)
{
    (void)state;
    test_nn nn = test_nn_open("cpu");
    const sara_shape shape = sara_shape3(1, 3, 4);
    float *data = test_nn_random(12, 1), *weights = test_nn_random(12, 2);
    sara_var *q, *k, *v, *y, *loss;
    assert_ok(nn.ctx, sara_tape_leaf(nn.tape, &q, &shape, data, false));
    assert_ok(nn.ctx, sara_tape_leaf(nn.tape, &k, &shape, data, true));
    assert_ok(nn.ctx, sara_tape_leaf(nn.tape, &v, &shape, data, false));
    assert_ok(nn.ctx, sara_nn_attention(nn.tape, &y, q, k, v, 2, false));
    test_nn_project(&nn, &loss, y, weights);
    assert_ok(nn.ctx, sara_tape_backward(nn.tape, loss, 1));
    assert_non_null(k->grad);
    assert_null(q->grad);
    assert_null(v->grad);
    free(data);
    free(weights);
    test_nn_close(&nn);
}

static void test_refusals(void **state)
{
    (void)state;
    test_nn nn = test_nn_open("cpu");
    const sara_shape shapes[] = {sara_shape3(2, 3, 6), sara_shape3(2, 4, 6), sara_shape3(1, 3, 6),
                                 sara_shape3(2, 3, 5), sara_shape2(6, 6),    sara_shape3(2, 0, 6)};
    float data[48] = {0};
    sara_var *v[6], *y;
    for (int i = 0; i < 6; i++)
        assert_ok(nn.ctx, sara_tape_leaf(nn.tape, &v[i], &shapes[i], data, true));
    assert_refused(nn.ctx, SARA_ERROR_INPUT, "attention: q: shape [2,3,6], expected [N,T,4*D]",
                   sara_nn_attention(nn.tape, &y, v[0], v[0], v[0], 4, false));
    assert_null(y);
    assert_refused(nn.ctx, SARA_ERROR_INPUT, "attention: q: shape [6,6]",
                   sara_nn_attention(nn.tape, &y, v[4], v[0], v[0], 2, false));
    assert_refused(nn.ctx, SARA_ERROR_INPUT, "attention: q: shape [2,3,6], expected [N,T,0*D]",
                   sara_nn_attention(nn.tape, &y, v[0], v[0], v[0], 0, false));
    assert_refused(nn.ctx, SARA_ERROR_INPUT, "k: shape [1,3,6] does not fit q [2,3,6]",
                   sara_nn_attention(nn.tape, &y, v[0], v[2], v[2], 2, false));
    assert_refused(nn.ctx, SARA_ERROR_INPUT, "k: shape [2,3,5] does not fit q [2,3,6]",
                   sara_nn_attention(nn.tape, &y, v[0], v[3], v[3], 2, false));
    assert_refused(nn.ctx, SARA_ERROR_INPUT, "k: shape [2,0,6] does not fit q [2,3,6]",
                   sara_nn_attention(nn.tape, &y, v[0], v[5], v[5], 2, false));
    assert_refused(nn.ctx, SARA_ERROR_INPUT, "attention: v: shape [2,3,6], expected [2,4,6]",
                   sara_nn_attention(nn.tape, &y, v[0], v[1], v[0], 2, false));
    assert_refused(nn.ctx, SARA_ERROR_INPUT, "k: 4 positions, expected the 3 of q",
                   sara_nn_attention(nn.tape, &y, v[0], v[1], v[1], 2, true));
    sara_tape_record(nn.tape, false);
    assert_refused(nn.ctx, SARA_ERROR_INPUT, "attention: bias: shape [2,4,6], expected [2,3,4]",
                   sara_nn_attention_biased(nn.tape, &y, v[0], v[1], v[1], v[1], 2, 1));
    assert_null(y);
    sara_tape_record(nn.tape, true);
    assert_refused(nn.ctx, SARA_ERROR_INPUT, "bias: requires a gradient, which is not made",
                   sara_nn_attention_biased(nn.tape, &y, v[0], v[1], v[1], v[1], 2, 1));
    test_nn_close(&nn);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gradients),
        cmocka_unit_test(test_only_keys),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

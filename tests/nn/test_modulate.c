/* Adaptive norms and gates, and patches: on the tape, and the fast kernels against the plain
 * ones. */
#include "nn/support_gradient.h"

#include <math.h>
#include <stdlib.h>

#define BUILD(name, call)                                                                          \
    static sara_status name(sara_tape *tape, sara_var **y, sara_var *const *in,                    \
                            sara_param *const *params)                                             \
    {                                                                                              \
        (void)params;                                                                              \
        return call;                                                                               \
    }

BUILD(build_norm, sara_nn_modulated_norm(tape, y, in[0], in[1], in[2], 1e-6f))
BUILD(build_gate, sara_nn_multiply_per_sample(tape, y, in[0], in[1]))
BUILD(build_patches, sara_nn_from_patches(tape, y, in[0], 2, 3, 2))

/* A variable that is normed twice, and gated by what shifts it. */
static sara_status build_block(sara_tape *tape, sara_var **y, sara_var *const *in,
                               sara_param *const *params)
{
    size_t scope = sara_tape_open(tape);
    sara_var *a, *b;
    sara_status status;
    (void)params;
    TRY(sara_nn_modulated_norm(tape, &a, in[0], in[1], in[2], 1e-6f));
    TRY(sara_nn_modulated_norm(tape, &b, in[0], in[2], in[1], 1e-6f));
    TRY(sara_nn_multiply(tape, &a, a, b));
    TRY(sara_nn_multiply_per_sample(tape, &a, a, in[1]));
    TRY(sara_nn_add(tape, y, a, in[0]));
    sara_tape_close(tape, scope, y, 1);
done:
    return status;
}

static void test_gradients(void **state)
{
    (void)state;
    const sara_shape x = sara_shape3(3, 4, 7), e = sara_shape2(3, 7);
    const test_graph graphs[] = {
        {.name = "modulated_norm", .build = build_norm, .in = {x, e, e}, .in_count = 3},
        {.name = "modulated_norm of vectors", .build = build_norm, .in = {e, e, e}, .in_count = 3},
        {.name = "multiply_per_sample", .build = build_gate, .in = {x, e}, .in_count = 2},
        {.name = "multiply_per_sample of images",
         .build = build_gate,
         .in = {sara_shape4(2, 3, 2, 5), sara_shape2(2, 5)},
         .in_count = 2},
        {.name = "block", .build = build_block, .in = {x, e, e}, .in_count = 3},
        {.name = "from_patches",
         .build = build_patches,
         .in = {sara_shape3(2, 6, 12)},
         .in_count = 1},
    };
    for (size_t i = 0; i < sizeof(graphs) / sizeof(*graphs); i++)
        test_graph_check(&graphs[i]);
}

/* Of each sample its own numbers: rows -1, 1 have mean 0 and variance 1. */
static void test_values(void **state)
{
    (void)state;
    static const char *const devices[] = {"cpu", "cpu-plain"};
    const sara_shape shape = sara_shape3(2, 2, 2), vectors = sara_shape2(2, 2);
    float x[] = {-1, 1, 3, 5, 1, -1, -2, 0}, scale[] = {1, 2, -1, 0}, shift[] = {10, 20, 30, 40};
    const float normed[] = {8, 23, 8, 23, 30, 39, 30, 41};
    const float gated[] = {-1, 2, 3, 10, -1, 0, 2, 0};
    for (int d = 0; d < 2; d++) {
        test_nn nn = test_nn_open(devices[d]);
        sara_var *leaf, *factor, *term, *y;
        assert_ok(nn.ctx, sara_tape_leaf(nn.tape, &leaf, &shape, x, false));
        assert_ok(nn.ctx, sara_tape_leaf(nn.tape, &factor, &vectors, scale, false));
        assert_ok(nn.ctx, sara_tape_leaf(nn.tape, &term, &vectors, shift, false));
        assert_ok(nn.ctx, sara_nn_modulated_norm(nn.tape, &y, leaf, factor, term, 0));
        assert_close(test_relative_l2(y->data, normed, 8), 1e-6, "normed");
        assert_ok(nn.ctx, sara_nn_modulated_norm(nn.tape, &y, leaf, factor, term, 3));
        assert_close(fabs(y->data[0] - 9.0), 1e-6, "eps");
        assert_ok(nn.ctx, sara_nn_multiply_per_sample(nn.tape, &y, leaf, factor));
        assert_memory_equal(y->data, gated, sizeof(gated));
        test_nn_close(&nn);
    }
}

/* Three tokens of 2x2 pixels with two channels, side by side and one below the other. */
static void test_patches(void **state)
{
    (void)state;
    const sara_shape shape = sara_shape3(1, 3, 8);
    const float beside[] = {0, 1, 2, 3, 8,  9,  10, 11, 16, 17, 18, 19,
                            4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23};
    const int64_t sides[][2] = {{1, 3}, {3, 1}};
    float x[24];
    for (int i = 0; i < 24; i++)
        x[i] = (float)i;
    for (int k = 0; k < 2; k++) {
        test_nn nn = test_nn_open("cpu");
        const sara_shape image = sara_shape4(1, 2 * sides[k][0], 2 * sides[k][1], 2);
        sara_var *leaf, *y;
        assert_ok(nn.ctx, sara_tape_leaf(nn.tape, &leaf, &shape, x, false));
        assert_ok(nn.ctx, sara_nn_from_patches(nn.tape, &y, leaf, sides[k][0], sides[k][1], 2));
        assert_true(sara_shape_equal(&y->shape, &image));
        assert_memory_equal(y->data, k ? x : beside, sizeof(x));
        test_nn_close(&nn);
    }
}

/* What is frozen takes no memory: a gate without a gradient keeps nothing of what it gates. */
static void test_frozen_gate(void **state)
{
    (void)state;
    const sara_shape shape = sara_shape3(1, 64, 64), vectors = sara_shape2(1, 64);
    float *x = test_nn_random(64 * 64, 1), *e = test_nn_random(64, 2);
    size_t left[2];
    for (int wanted = 0; wanted < 2; wanted++) {
        test_nn nn = test_nn_open("cpu");
        sara_var *leaf, *gate, *h, *loss;
        sara_tape_record(nn.tape, true);
        assert_ok(nn.ctx, sara_tape_leaf(nn.tape, &leaf, &shape, x, true));
        assert_ok(nn.ctx, sara_tape_leaf(nn.tape, &gate, &vectors, e, wanted));
        size_t scope = sara_tape_open(nn.tape);
        for (int i = 0; i < 4; i++) {
            assert_ok(nn.ctx, sara_nn_add(nn.tape, &h, i ? h : leaf, leaf));
            assert_ok(nn.ctx, sara_nn_multiply_per_sample(nn.tape, &h, h, gate));
            sara_tape_close(nn.tape, scope, &h, 1);
        }
        test_nn_project(&nn, &loss, h, x);
        assert_ok(nn.ctx, sara_tape_backward(nn.tape, loss, 1));
        left[wanted] = sara_tape_peak(nn.tape);
        assert_true(wanted == (gate->grad != NULL));
        test_nn_close(&nn);
    }
    assert_true(left[0] + 64 * 64 * sizeof(float) <= left[1]);
    free(x);
    free(e);
}

/* The tape makes a norm again: the same bits of every gradient, in less memory. */
static void test_remade(void **state)
{
    (void)state;
    const sara_shape shape = sara_shape3(2, 40, 48), vectors = sara_shape2(2, 48);
    enum { COUNT = 2 * 40 * 48, VECTOR = 2 * 48 };
    float *x = test_nn_random(COUNT, 1), *e = test_nn_random(VECTOR, 2), *grads[2][2];
    size_t peaks[2];
    for (int on = 0; on < 2; on++) {
        test_nn nn = test_nn_open("cpu");
        sara_var *leaf, *scale, *h, *a, *loss;
        sara_tape_record(nn.tape, true);
        sara_tape_remaking(nn.tape, on);
        assert_ok(nn.ctx, sara_tape_leaf(nn.tape, &leaf, &shape, x, true));
        assert_ok(nn.ctx, sara_tape_leaf(nn.tape, &scale, &vectors, e, true));
        size_t scope = sara_tape_open(nn.tape);
        h = leaf;
        for (int i = 0; i < 4; i++) {
            assert_ok(nn.ctx, sara_nn_modulated_norm(nn.tape, &a, h, scale, scale, 1e-6f));
            assert_ok(nn.ctx, sara_nn_multiply(nn.tape, &a, a, a));
            assert_ok(nn.ctx, sara_nn_add(nn.tape, &h, a, h));
            sara_tape_close(nn.tape, scope, &h, 1);
        }
        test_nn_project(&nn, &loss, h, x);
        assert_ok(nn.ctx, sara_tape_backward(nn.tape, loss, 1));
        peaks[on] = sara_tape_peak(nn.tape);
        grads[on][0] = test_nn_copy(leaf->grad, COUNT);
        grads[on][1] = test_nn_copy(scale->grad, VECTOR);
        test_nn_close(&nn);
    }
    assert_true(peaks[1] < peaks[0]);
    assert_memory_equal(grads[1][0], grads[0][0], COUNT * sizeof(float));
    assert_memory_equal(grads[1][1], grads[0][1], VECTOR * sizeof(float));
    for (int on = 0; on < 2; on++) {
        free(grads[on][0]);
        free(grads[on][1]);
    }
    free(x);
    free(e);
}

/* As many tokens as SD3's text has, at its width; with and without norms, which are all 1. */
static void test_fast_gate(void **state)
{
    (void)state;
    enum { ROWS = 1333, C = 1536 };
    const size_t count = (size_t)ROWS * C;
    test_pair pair = test_pair_open();
    float *x = test_nn_random(count, 1), *dy = test_nn_random(count, 2), *m = test_nn_random(C, 3);
    float *norm = test_nn_random(C, 4), *y = test_nn_zeros(count), *expected = test_nn_zeros(count);
    float *dm = test_nn_zeros(C), *want = test_nn_zeros(C);
    for (int with = 0; with < 2; with++) {
        const float *n = with ? norm : NULL;
        assert_ok(pair.fe.ctx, sara_kernel_scale_outputs(&pair.fe, y, x, m, n, NULL, ROWS, C));
        assert_ok(pair.pe.ctx,
                  sara_kernel_scale_outputs(&pair.pe, expected, x, m, n, NULL, ROWS, C));
        assert_close(test_relative_l2(y, expected, count), 1e-6, "y");
        for (int add = 0; add < 2; add++) {
            assert_ok(pair.fe.ctx, sara_kernel_scale_outputs_backward(&pair.fe, y, dm, dy, x, m, n,
                                                                      ROWS, C, add));
            assert_ok(pair.pe.ctx, sara_kernel_scale_outputs_backward(&pair.pe, expected, want, dy,
                                                                      x, m, n, ROWS, C, add));
            assert_close(test_relative_l2(y, expected, count), 1e-6, "dx");
            assert_close(test_relative_l2(dm, want, C), 1e-5, "dm");
        }
        assert_ok(pair.fe.ctx, sara_kernel_scale_outputs_backward(&pair.fe, y, NULL, dy, NULL, m, n,
                                                                  ROWS, C, false));
        assert_ok(pair.pe.ctx, sara_kernel_scale_outputs_backward(&pair.pe, expected, NULL, dy,
                                                                  NULL, m, n, ROWS, C, false));
        assert_close(test_relative_l2(y, expected, count), 1e-6, "dx alone");
    }
    float *const all[] = {x, dy, m, norm, y, expected, dm, want};
    for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++)
        free(all[i]);
    test_pair_close(&pair);
}

static void test_refusals(void **state)
{
    (void)state;
    test_nn nn = test_nn_open("cpu");
    const sara_shape shapes[] = {sara_shape3(2, 3, 4), sara_shape2(2, 4), sara_shape2(3, 4),
                                 sara_shape1(4)};
    float data[24] = {0};
    sara_var *v[4], *y;
    for (int i = 0; i < 4; i++)
        assert_ok(nn.ctx, sara_tape_leaf(nn.tape, &v[i], &shapes[i], data, true));
    assert_refused(nn.ctx, SARA_ERROR_INPUT, "modulated_norm: scale: shape [3,4], expected [2,4]",
                   sara_nn_modulated_norm(nn.tape, &y, v[0], v[2], v[1], 1e-6f));
    assert_null(y);
    assert_refused(nn.ctx, SARA_ERROR_INPUT, "modulated_norm: shift: shape [3,4], expected [2,4]",
                   sara_nn_modulated_norm(nn.tape, &y, v[0], v[1], v[2], 1e-6f));
    assert_refused(nn.ctx, SARA_ERROR_INPUT,
                   "multiply_per_sample: x: shape [4], expected [N,...,C]",
                   sara_nn_multiply_per_sample(nn.tape, &y, v[3], v[1]));
    assert_refused(nn.ctx, SARA_ERROR_INPUT, "from_patches: shape [2,3,4], expected [N,4,4*C]",
                   sara_nn_from_patches(nn.tape, &y, v[0], 2, 2, 2));
    assert_refused(nn.ctx, SARA_ERROR_INPUT, "from_patches: shape [2,3,4], expected [N,3,9*C]",
                   sara_nn_from_patches(nn.tape, &y, v[0], 1, 3, 3));
    assert_null(y);
    test_nn_close(&nn);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gradients), cmocka_unit_test(test_values),
        cmocka_unit_test(test_patches),   cmocka_unit_test(test_frozen_gate),
        cmocka_unit_test(test_remade),    cmocka_unit_test(test_fast_gate),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

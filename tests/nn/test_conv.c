/* The convolution op on the tape, on both devices. */
#include "nn/support_nn.h"

#include <limits.h>
#include <stdlib.h>

enum { N = 2, H = 5, W = 7, C = 3, PIXELS = N * H * W * C, ENTRIES = C * C * 9 };
static const sara_conv2d_options same = {1, 1, 1, 1, 1};

/* The gradients of sum(weights * f(f(x))), f a convolution, by the plain kernels. */
typedef struct answer {
    float dx[PIXELS], dw[ENTRIES], db[C];
} answer;

static answer expect(const float *x, const sara_param *w, const sara_param *b, const float *weights)
{
    static const int ones[4] = {1, 1, 1, 1};
    const sara_conv_shape s = test_conv_shape(N, H, W, C, C, 3, 1, ones);
    test_nn nn = test_nn_open("cpu-plain");
    sara_kernel_env env = sara_tape_env(nn.tape);
    float h[PIXELS], dh[PIXELS];
    answer result = {.dw = {0}};
    const sara_weight_view view = sara_weight_of(w);
    assert_ok(nn.ctx, sara_kernel_conv_forward(&env, h, x, &view, b->value.data, &s));
    assert_ok(nn.ctx, sara_kernel_conv_dx(&env, dh, weights, &view, &s, false));
    assert_ok(nn.ctx, sara_kernel_conv_dx(&env, result.dx, dh, &view, &s, false));
    assert_ok(nn.ctx, sara_kernel_conv_dw(&env, result.dw, weights, h, &s, true));
    assert_ok(nn.ctx, sara_kernel_conv_dw(&env, result.dw, dh, x, &s, true));
    assert_ok(nn.ctx, sara_kernel_bias_grad(&env, result.db, weights, N * H * W, C));
    assert_ok(nn.ctx, sara_kernel_bias_grad(&env, result.db, dh, N * H * W, C));
    test_nn_close(&nn);
    return result;
}

/* One parameter used twice. */
static void run_twice(test_nn *nn, float *dx, float *x, sara_param *w, sara_param *b,
                      const float *weights)
{
    const sara_shape shape = sara_shape4(N, H, W, C);
    sara_var *in, *h, *y, *loss;
    assert_ok(nn->ctx, sara_tape_leaf(nn->tape, &in, &shape, x, true));
    assert_ok(nn->ctx, sara_nn_conv2d(nn->tape, &h, in, w, b, &same));
    assert_ok(nn->ctx, sara_nn_conv2d(nn->tape, &y, h, w, b, &same));
    assert_true(sara_shape_equal(&y->shape, &shape));
    test_nn_project(nn, &loss, y, weights);
    assert_ok(nn->ctx, sara_tape_backward(nn->tape, loss, 1));
    memcpy(dx, in->grad, sizeof(float) * PIXELS);
    sara_tape_reset(nn->tape);
}

/* density 0: dense */
static void check(const char *device, double density)
{
    test_nn nn = test_nn_open(device);
    sara_param w = test_nn_param(&nn, "w", sara_shape4(C, C, 3, 3), 1);
    sara_param b = test_nn_param(&nn, "b", sara_shape1(C), 2);
    float *x = test_nn_random(PIXELS, 3), *weights = test_nn_random(PIXELS, 4), dx[PIXELS];
    answer expected = expect(x, &w, &b, weights);
    if (density > 0) {
        test_nn_want_sampled(&w, density);
        test_nn_want_sampled(&b, density);
    } else {
        test_nn_want_dense(&w);
        test_nn_want_dense(&b);
    }
    run_twice(&nn, dx, x, &w, &b, weights);
    for (size_t e = 0; e < w.selected; e++)
        expected.dw[e] = expected.dw[w.positions[e]];
    for (size_t e = 0; e < b.selected; e++)
        expected.db[e] = expected.db[b.positions[e]];
    assert_close(test_relative_l2(dx, expected.dx, PIXELS), 1e-5, "dx");
    assert_close(test_relative_l2(w.grad, expected.dw, density > 0 ? w.selected : ENTRIES), 1e-5,
                 "dw");
    assert_close(test_relative_l2(b.grad, expected.db, density > 0 ? b.selected : C), 1e-5, "db");
    free(x);
    free(weights);
    test_nn_param_free(&nn, &w);
    test_nn_param_free(&nn, &b);
    test_nn_close(&nn);
}

static void test_gradients(void **state)
{
    (void)state;
    for (double density = 0; density < 1.5; density += 0.13) {
        check("cpu", density);
        check("cpu-plain", density);
    }
}

/* An input that needs no gradient still gives the weight's. */
static void test_first_layer(void **state)
{
    (void)state;
    const sara_shape shape = sara_shape4(1, 4, 4, 2);
    const sara_conv2d_options halve = {2, 0, 0, 1, 1};
    test_nn nn = test_nn_open("cpu");
    sara_param w = test_nn_param(&nn, "w", sara_shape4(1, 2, 3, 3), 1);
    float *x = test_nn_random(32, 2), weights[4] = {0, 0, 0, 1};
    sara_var *in, *y, *loss;
    test_nn_want_dense(&w);
    assert_ok(nn.ctx, sara_tape_leaf(nn.tape, &in, &shape, x, false));
    assert_ok(nn.ctx, sara_nn_conv2d(nn.tape, &y, in, &w, NULL, &halve));
    assert_int_equal(y->shape.dims[1], 2);
    assert_int_equal(y->shape.dims[2], 2);
    test_nn_project(&nn, &loss, y, weights);
    assert_ok(nn.ctx, sara_tape_backward(nn.tape, loss, 1));
    assert_null(in->grad);
    for (int i = 0; i < 2; i++) /* the last output reads pixels (2..3, 2..3), then padding */
        for (int ky = 0; ky < 3; ky++)
            for (int kx = 0; kx < 3; kx++) {
                float seen = ky < 2 && kx < 2 ? x[((2 + ky) * 4 + 2 + kx) * 2 + i] : 0;
                assert_true(w.grad[(i * 3 + ky) * 3 + kx] == seen);
            }
    free(x);
    test_nn_param_free(&nn, &w);
    test_nn_close(&nn);
}

static void test_refusals(void **state)
{
    (void)state;
    const sara_conv2d_options still = {0, 1, 1, 1, 1}, plain = {1, 0, 0, 0, 0};
    const sara_shape fits = sara_shape4(1, 2, 2, 3), flat = sara_shape2(4, 3);
    test_nn nn = test_nn_open("cpu");
    sara_param w = test_nn_param(&nn, "in.w", sara_shape4(4, 3, 3, 3), 1);
    sara_param other = test_nn_param(&nn, "other.w", sara_shape4(4, 9, 3, 3), 1);
    sara_param b = test_nn_param(&nn, "in.b", sara_shape2(4, 1), 1);
    float data[12] = {0};
    sara_var *x, *z, *y;
    assert_ok(nn.ctx, sara_tape_leaf(nn.tape, &x, &fits, data, false));
    assert_ok(nn.ctx, sara_tape_leaf(nn.tape, &z, &flat, data, false));
    assert_refused(nn.ctx, SARA_ERROR_INPUT,
                   "conv2d: other.w: shape [4,9,3,3] does not fit the input [1,2,2,3]",
                   sara_nn_conv2d(nn.tape, &y, x, &other, NULL, &same));
    assert_null(y);
    assert_refused(nn.ctx, SARA_ERROR_INPUT,
                   "conv2d: in.w: shape [4,3,3,3] does not fit the input [4,3]",
                   sara_nn_conv2d(nn.tape, &y, z, &w, NULL, &same));
    assert_refused(nn.ctx, SARA_ERROR_INPUT, "conv2d: in.b: shape [4,1], expected [4]",
                   sara_nn_conv2d(nn.tape, &y, x, &w, &b, &same));
    assert_refused(nn.ctx, SARA_ERROR_INPUT, "conv2d: in.w: stride 0",
                   sara_nn_conv2d(nn.tape, &y, x, &w, NULL, &still));
    assert_refused(nn.ctx, SARA_ERROR_INPUT,
                   "conv2d: in.w: shape [4,3,3,3] is larger than the padded input [1,2,2,3]",
                   sara_nn_conv2d(nn.tape, &y, x, &w, NULL, &plain));
    test_nn_param_free(&nn, &w);
    test_nn_param_free(&nn, &other);
    test_nn_param_free(&nn, &b);
    test_nn_close(&nn);
}

/* All allocations from the n-th on fail, for every n: an error of memory, no leak. (The tape's pool
 * tries again after a single failure.) */
typedef struct failing {
    long left;
} failing;

static void *failing_allocate(void *user, size_t size)
{
    failing *f = user;
    return f->left-- > 0 ? malloc(size) : NULL;
}

static void failing_release(void *user, void *memory)
{
    (void)user;
    free(memory);
}

static sara_status train_once(sara_context *ctx, float *x, sara_param *frozen, sara_param *trained)
{
    const sara_shape shape = sara_shape4(1, 6, 6, 8), one = sara_shape1(1);
    sara_device *device = NULL;
    sara_tape *tape = NULL;
    sara_var *in, *h, *y, *loss;
    sara_status status;
    TRY(sara_nn_device_open(ctx, &device, "cpu"));
    TRY(sara_tape_new(ctx, &tape, device));
    sara_tape_record(tape, true);
    TRY(sara_tape_leaf(tape, &in, &shape, x, true));
    TRY(sara_nn_conv2d(tape, &h, in, frozen, NULL, &same));
    TRY(sara_nn_conv2d(tape, &y, h, trained, NULL, &(sara_conv2d_options){1, 0, 0, 0, 0}));
    TRY(sara_tape_view(tape, &loss, y, &one));
    TRY(sara_tape_backward(tape, loss, 1));
done:
    sara_tape_free(tape);
    sara_nn_device_close(device);
    return status;
}

static void test_failing_allocations(void **state)
{
    (void)state;
    failing plan = {LONG_MAX};
    const sara_allocator allocator = {failing_allocate, failing_release, &plan};
    const sara_context_options options = {.allocator = &allocator, .threads = 2};
    test_nn nn = test_nn_open("cpu");
    sara_param frozen = test_nn_param(&nn, "frozen", sara_shape4(8, 8, 3, 3), 1);
    sara_param trained = test_nn_param(&nn, "trained", sara_shape4(1, 8, 6, 6), 2);
    float *x = test_nn_random(288, 3);
    test_nn_want_sampled(&trained, 0.1);
    sara_context *ctx = NULL;
    sara_status status = SARA_ERROR_MEMORY;
    assert_ok(ctx, sara_context_new(&ctx, &options));
    long n = 0;
    for (; status == SARA_ERROR_MEMORY && n < 1000; n++) {
        plan.left = n;
        status = train_once(ctx, x, &frozen, &trained);
    }
    assert_int_equal(status, SARA_OK);
    assert_true(n > 20);
    plan.left = LONG_MAX;
    sara_context_free(ctx);
    free(x);
    test_nn_param_free(&nn, &frozen);
    test_nn_param_free(&nn, &trained);
    test_nn_close(&nn);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gradients),
        cmocka_unit_test(test_first_layer),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_failing_allocations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

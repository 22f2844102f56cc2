/* The linear op on the tape, on both devices. */
#include "nn/support_nn.h"

#include <stdlib.h>

enum { ROWS = 6, WIDTH = 5, ENTRIES = WIDTH * WIDTH };

/* y [ROWS][WIDTH] = x w^T + b in double */
static void multiply(double *y, const double *x, const float *w, const float *b)
{
    for (int r = 0; r < ROWS; r++)
        for (int o = 0; o < WIDTH; o++) {
            y[r * WIDTH + o] = b[o];
            for (int i = 0; i < WIDTH; i++)
                y[r * WIDTH + o] += x[r * WIDTH + i] * w[o * WIDTH + i];
        }
}

/* Adds to dx, dw, db for dy. */
static void multiply_backward(double *dx, double *dw, double *db, const double *dy, const double *x,
                              const float *w)
{
    for (int r = 0; r < ROWS; r++)
        for (int o = 0; o < WIDTH; o++) {
            db[o] += dy[r * WIDTH + o];
            for (int i = 0; i < WIDTH; i++) {
                dx[r * WIDTH + i] += dy[r * WIDTH + o] * w[o * WIDTH + i];
                dw[o * WIDTH + i] += dy[r * WIDTH + o] * x[r * WIDTH + i];
            }
        }
}

/* The gradients of sum(weights * f(f(x))), f a linear layer. */
typedef struct answer {
    float dx[ROWS * WIDTH], dw[ENTRIES], db[WIDTH];
} answer;

static answer expect(const float *x, const float *w, const float *b, const float *weights)
{
    double h0[ROWS * WIDTH], h1[ROWS * WIDTH], d2[ROWS * WIDTH], d1[ROWS * WIDTH] = {0};
    double dx[ROWS * WIDTH] = {0}, dw[ENTRIES] = {0}, db[WIDTH] = {0};
    answer result;
    for (int i = 0; i < ROWS * WIDTH; i++) {
        h0[i] = x[i];
        d2[i] = weights[i];
    }
    multiply(h1, h0, w, b);
    multiply_backward(d1, dw, db, d2, h1, w);
    multiply_backward(dx, dw, db, d1, h0, w);
    for (int i = 0; i < ROWS * WIDTH; i++)
        result.dx[i] = (float)dx[i];
    for (int i = 0; i < ENTRIES; i++)
        result.dw[i] = (float)dw[i];
    for (int i = 0; i < WIDTH; i++)
        result.db[i] = (float)db[i];
    return result;
}

/* One parameter used twice; the gradients are added to what grad holds. */
static void run_twice(test_nn *nn, float *dx, float *x, sara_param *w, sara_param *b,
                      const float *weights)
{
    const sara_shape shape = sara_shape3(2, ROWS / 2, WIDTH);
    sara_var *in, *h, *y, *loss;
    assert_ok(nn->ctx, sara_tape_leaf(nn->tape, &in, &shape, x, true));
    assert_ok(nn->ctx, sara_nn_linear(nn->tape, &h, in, w, b));
    assert_ok(nn->ctx, sara_nn_linear(nn->tape, &y, h, w, b));
    assert_true(sara_shape_equal(&y->shape, &shape));
    test_nn_project(nn, &loss, y, weights);
    assert_ok(nn->ctx, sara_tape_backward(nn->tape, loss, 1));
    memcpy(dx, in->grad, sizeof(float) * ROWS * WIDTH);
    sara_tape_reset(nn->tape);
}

static void check_dense(const char *device)
{
    test_nn nn = test_nn_open(device);
    sara_param w = test_nn_param(&nn, "w", sara_shape4(WIDTH, WIDTH, 1, 1), 1);
    sara_param b = test_nn_param(&nn, "b", sara_shape1(WIDTH), 2);
    float *x = test_nn_random(ROWS * WIDTH, 3), *weights = test_nn_random(ROWS * WIDTH, 4);
    float dx[ROWS * WIDTH];
    test_nn_want_dense(&w);
    test_nn_want_dense(&b);
    w.grad[3] = 100;
    b.grad[1] = 100;
    answer expected = expect(x, w.value.data, b.value.data, weights);
    run_twice(&nn, dx, x, &w, &b, weights);
    w.grad[3] -= 100;
    b.grad[1] -= 100;
    assert_close(test_relative_l2(dx, expected.dx, ROWS * WIDTH), 1e-5, "dx");
    assert_close(test_relative_l2(w.grad, expected.dw, ENTRIES), 1e-5, "dw");
    assert_close(test_relative_l2(b.grad, expected.db, WIDTH), 1e-5, "db");
    free(x);
    free(weights);
    test_nn_param_free(&nn, &w);
    test_nn_param_free(&nn, &b);
    test_nn_close(&nn);
}

static void check_sampled(const char *device, double density)
{
    test_nn nn = test_nn_open(device);
    sara_param w = test_nn_param(&nn, "w", sara_shape2(WIDTH, WIDTH), 1);
    sara_param b = test_nn_param(&nn, "b", sara_shape1(WIDTH), 2);
    float *x = test_nn_random(ROWS * WIDTH, 3), *weights = test_nn_random(ROWS * WIDTH, 4);
    float dx[ROWS * WIDTH], dw[ENTRIES], db[WIDTH];
    test_nn_want_sampled(&w, density);
    test_nn_want_sampled(&b, density);
    answer expected = expect(x, w.value.data, b.value.data, weights);
    run_twice(&nn, dx, x, &w, &b, weights);
    for (size_t e = 0; e < w.selected; e++)
        dw[e] = expected.dw[w.positions[e]];
    for (size_t e = 0; e < b.selected; e++)
        db[e] = expected.db[b.positions[e]];
    assert_close(test_relative_l2(dx, expected.dx, ROWS * WIDTH), 1e-5, "dx");
    assert_close(test_relative_l2(w.grad, dw, w.selected), 1e-5, "sampled dw");
    assert_close(test_relative_l2(b.grad, db, b.selected), 1e-5, "sampled db");
    free(x);
    free(weights);
    test_nn_param_free(&nn, &w);
    test_nn_param_free(&nn, &b);
    test_nn_close(&nn);
}

static void test_dense(void **state)
{
    (void)state;
    check_dense("cpu");
    check_dense("cpu-plain");
}

static void test_sampled(void **state)
{
    (void)state;
    for (double density = 0.1; density < 1.5; density += 0.3) {
        check_sampled("cpu", density);
        check_sampled("cpu-plain", density);
    }
}

/* A frozen layer passes gradients on and does not keep its input; without any wish there is no
 * node at all. */
static void test_frozen(void **state)
{
    (void)state;
    const sara_shape shape = sara_shape2(2, 3);
    test_nn nn = test_nn_open("cpu");
    sara_param w = test_nn_param(&nn, "w", sara_shape2(4, 3), 1);
    sara_var *leaf, *x, *y, *loss;
    float *data = test_nn_random(6, 2), *weights = test_nn_random(8, 3), one[9] = {1, 0, 0, 0, 1,
                                                                                   0, 0, 0, 1};
    sara_param identity = {.name = "one", .value = {SARA_F32, sara_shape2(3, 3), one}};
    assert_ok(nn.ctx, sara_tape_leaf(nn.tape, &leaf, &shape, data, false));
    assert_ok(nn.ctx, sara_nn_linear(nn.tape, &y, leaf, &w, NULL));
    assert_false(y->requires_grad);
    leaf->requires_grad = true;
    size_t scope = sara_tape_open(nn.tape);
    assert_ok(nn.ctx, sara_nn_linear(nn.tape, &x, leaf, &identity, NULL));
    assert_ok(nn.ctx, sara_nn_linear(nn.tape, &y, x, &w, NULL));
    sara_tape_close(nn.tape, scope, &y, 1);
    assert_null(x->data);
    test_nn_project(&nn, &loss, y, weights);
    assert_ok(nn.ctx, sara_tape_backward(nn.tape, loss, 2));
    for (int r = 0; r < 2; r++)
        for (int i = 0; i < 3; i++) {
            double sum = 0;
            for (int o = 0; o < 4; o++)
                sum += 2.0 * weights[r * 4 + o] * ((float *)w.value.data)[o * 3 + i];
            assert_close(sum > leaf->grad[r * 3 + i] ? sum - leaf->grad[r * 3 + i]
                                                     : leaf->grad[r * 3 + i] - sum,
                         1e-5, "dx of a frozen layer");
        }
    free(data);
    free(weights);
    test_nn_param_free(&nn, &w);
    test_nn_close(&nn);
}

static sara_status region(sara_tape *tape, sara_var **y, sara_var *const *in, const void *argument)
{
    sara_param *w = *(sara_param *const *)argument;
    return sara_nn_linear(tape, y, in[0], w, NULL);
}

/* A checkpointed region whose parameters alone want a gradient, as the first of a model does. */
static void test_checkpointed(void **state)
{
    (void)state;
    test_nn nn = test_nn_open("cpu");
    sara_param w = test_nn_param(&nn, "block.w", sara_shape2(4, 3), 1), *argument = &w;
    const sara_shape shape = sara_shape2(2, 3);
    float *data = test_nn_random(6, 2), *weights = test_nn_random(8, 3), plain[12];
    sara_var *x, *y, *loss;
    test_nn_want_dense(&w);
    for (int i = 0; i < 2; i++) {
        sara_tape_record(nn.tape, true);
        memset(w.grad, 0, sizeof(plain));
        assert_ok(nn.ctx, sara_tape_leaf(nn.tape, &x, &shape, data, false));
        assert_ok(nn.ctx,
                  i ? sara_tape_checkpoint(nn.tape, &y, region, &x, 1, &argument, sizeof(argument))
                    : region(nn.tape, &y, &x, &argument));
        test_nn_project(&nn, &loss, y, weights);
        assert_ok(nn.ctx, sara_tape_backward(nn.tape, loss, 1));
        assert_true(w.grad[0] != 0);
        if (i)
            assert_memory_equal(w.grad, plain, sizeof(plain));
        memcpy(plain, w.grad, sizeof(plain));
        sara_tape_reset(nn.tape);
    }
    free(data);
    free(weights);
    test_nn_param_free(&nn, &w);
    test_nn_close(&nn);
}

static void test_refusals(void **state)
{
    (void)state;
    test_nn nn = test_nn_open("cpu");
    sara_param w = test_nn_param(&nn, "block.w", sara_shape2(4, 3), 1);
    sara_param cube = test_nn_param(&nn, "cube.w", sara_shape4(4, 3, 1, 2), 1);
    sara_param b = test_nn_param(&nn, "block.b", sara_shape1(3), 1);
    const sara_shape fits = sara_shape2(2, 3), other = sara_shape3(1, 2, 5);
    float data[10] = {0};
    sara_var *x, *z, *y;
    assert_ok(nn.ctx, sara_tape_leaf(nn.tape, &x, &fits, data, false));
    assert_ok(nn.ctx, sara_tape_leaf(nn.tape, &z, &other, data, false));
    assert_refused(nn.ctx, SARA_ERROR_INPUT,
                   "linear: block.w: shape [4,3] does not fit the input [1,2,5]",
                   sara_nn_linear(nn.tape, &y, z, &w, NULL));
    assert_null(y);
    assert_refused(nn.ctx, SARA_ERROR_INPUT,
                   "linear: cube.w: shape [4,3,1,2] does not fit the input [2,3]",
                   sara_nn_linear(nn.tape, &y, x, &cube, NULL));
    assert_refused(nn.ctx, SARA_ERROR_INPUT, "linear: block.b: shape [3], expected [4]",
                   sara_nn_linear(nn.tape, &y, x, &w, &b));
    test_nn_param_free(&nn, &w);
    test_nn_param_free(&nn, &cube);
    test_nn_param_free(&nn, &b);
    test_nn_close(&nn);
}

static void test_devices(void **state)
{
    (void)state;
    sara_context *ctx = test_context();
    sara_device *device = NULL;
    assert_refused(ctx, SARA_ERROR_DEVICE,
                   "device cuda: unknown, expected cpu, cpu-bf16, cpu-plain or cpu-apart, or dry, "
                   "dry-bf16, dry-plain or dry-apart",
                   sara_nn_device_open(ctx, &device, "cuda"));
    assert_null(device);
    sara_nn_device_close(NULL);
    sara_context_free(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_dense),    cmocka_unit_test(test_sampled),
        cmocka_unit_test(test_frozen),   cmocka_unit_test(test_checkpointed),
        cmocka_unit_test(test_refusals), cmocka_unit_test(test_devices),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

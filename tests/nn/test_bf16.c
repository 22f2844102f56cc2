/* Mixed precision: linear layers and convolutions against the plain kernels on operands that were
 * rounded to bf16; products of bf16 are exact in float32, so that only the order of sums
 * differs. */
#include "nn/bf16.h"
#include "nn/support_nn.h"

#include <stdlib.h>

#define TOLERANCE 1e-5

static float *rounded(size_t count, uint64_t seed)
{
    float *values = test_nn_random(count, seed);
    for (size_t i = 0; i < count; i++)
        values[i] = sara_bf16_to_f32(sara_f32_to_bf16(values[i]));
    return values;
}

/* The device under test with the plain kernels beside it. */
typedef struct narrow_pair {
    test_nn fast, plain;
    sara_kernel_env fe, pe;
} narrow_pair;

static narrow_pair pair_open(void)
{
    narrow_pair pair = {.fast = test_nn_open("cpu-bf16"), .plain = test_nn_open("cpu-plain")};
    pair.fe = sara_tape_env(pair.fast.tape);
    pair.pe = sara_tape_env(pair.plain.tape);
    return pair;
}

static void pair_close(narrow_pair *pair)
{
    test_nn_close(&pair->fast);
    test_nn_close(&pair->plain);
}

static void check_linear(narrow_pair *b, const sara_linear_shape *s, sara_dtype dtype)
{
    size_t nx = (size_t)(s->rows * s->in), ny = (size_t)(s->rows * s->out);
    size_t nw = (size_t)(s->in * s->out);
    float *x = rounded(nx, 1), *dy = rounded(ny, 2), *w = rounded(nw, 3);
    float *bias = test_nn_random((size_t)s->out, 4), *y = test_nn_random(ny, 5);
    float *expected = test_nn_random(ny, 6), *dx = test_nn_random(nx, 7),
          *dx2 = test_nn_copy(dx, nx);
    uint16_t *halves = malloc(nw * sizeof(*halves));
    sara_convert_from_f32(halves, SARA_BF16, w, nw);
    const sara_weight_view plain = {w, SARA_F32, NULL};
    const sara_weight_view view = {dtype == SARA_F32 ? (void *)w : (void *)halves, dtype, NULL};
    assert_ok(b->fe.ctx, sara_kernel_linear_forward(&b->fe, y, x, &view, bias, s));
    assert_ok(b->pe.ctx, sara_kernel_linear_forward(&b->pe, expected, x, &plain, bias, s));
    assert_close(test_relative_l2(y, expected, ny), TOLERANCE, "linear forward");
    assert_ok(b->fe.ctx, sara_kernel_linear_dx(&b->fe, dx, dy, &view, s, true));
    assert_ok(b->pe.ctx, sara_kernel_linear_dx(&b->pe, dx2, dy, &plain, s, true));
    assert_close(test_relative_l2(dx, dx2, nx), TOLERANCE, "linear dx");
    float *all[] = {x, dy, w, bias, y, expected, dx, dx2};
    for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++)
        free(all[i]);
    free(halves);
}

static void check_conv(narrow_pair *b, const sara_conv_shape *s)
{
    size_t nx = test_conv_x(s), ny = test_conv_y(s);
    float *x = rounded(nx, 1), *dy = rounded(ny, 2), *w = rounded(test_conv_w(s), 3);
    float *bias = test_nn_random((size_t)s->out, 4), *y = test_nn_random(ny, 5);
    float *expected = test_nn_random(ny, 6);
    const sara_weight_view view = {w, SARA_F32, NULL};
    assert_ok(b->fe.ctx, sara_kernel_conv_forward(&b->fe, y, x, &view, bias, s));
    assert_ok(b->pe.ctx, sara_kernel_conv_forward(&b->pe, expected, x, &view, bias, s));
    assert_close(test_relative_l2(y, expected, ny), TOLERANCE, "convolution forward");
    for (int accumulate = 0; accumulate < 2; accumulate++) {
        float *dx = test_nn_random(nx, 7), *dx2 = test_nn_copy(dx, nx);
        assert_ok(b->fe.ctx, sara_kernel_conv_dx(&b->fe, dx, dy, &view, s, accumulate));
        assert_ok(b->pe.ctx, sara_kernel_conv_dx(&b->pe, dx2, dy, &view, s, accumulate));
        assert_close(test_relative_l2(dx, dx2, nx), TOLERANCE, "convolution dx");
        free(dx);
        free(dx2);
    }
    float *all[] = {x, dy, w, bias, y, expected};
    for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++)
        free(all[i]);
}

static void check_layers(void)
{
    static const int same[4] = {1, 1, 1, 1}, after[4] = {0, 0, 1, 1};
    const sara_linear_shape matrices[] = {{64, 96, 80}, {77, 33, 17}, {1, 5, 3}, {256, 320, 1280}};
    const sara_conv_shape convolutions[] = {
        test_conv_shape(2, 9, 7, 32, 48, 3, 1, same),
        test_conv_shape(1, 16, 16, 64, 64, 3, 2, after),
        test_conv_shape(1, 8, 8, 4, 32, 3, 1, same),
        test_conv_shape(1, 8, 8, 32, 4, 3, 1, same),
        test_conv_shape(1, 5, 5, 33, 17, 3, 1, same),
    };
    narrow_pair pair = pair_open();
    for (size_t i = 0; i < sizeof(matrices) / sizeof(*matrices); i++) {
        check_linear(&pair, &matrices[i], SARA_F32);
        check_linear(&pair, &matrices[i], SARA_BF16);
    }
    for (size_t i = 0; i < sizeof(convolutions) / sizeof(*convolutions); i++)
        check_conv(&pair, &convolutions[i]);
    pair_close(&pair);
}

/* The oracle gets what narrowing makes of operands that are no bf16 numbers. */
static void check_rounding(void)
{
    enum { COUNT = 1003 };
    uint16_t got[COUNT], expected[COUNT];
    float *x = test_nn_random(COUNT, 8);
    x[0] = 3.0e38f;
    x[1] = -0.0f;
    x[2] = 1.00390625f; /* a tie */
    sara_bf16_narrow(got, x, COUNT, 2);
    sara_convert_from_f32(expected, SARA_BF16, x, COUNT);
    assert_memory_equal(got, expected, sizeof(got));
    free(x);
}

/* One of two: it computes right, or says what the processor lacks. */
static void test_device(void **state)
{
    (void)state;
    sara_context *ctx = NULL;
    sara_device *device = NULL;
    assert_ok(ctx, sara_context_new(&ctx, NULL));
    sara_status status = sara_nn_device_open(ctx, &device, "cpu-bf16");
    if (sara_bf16_lacks()) {
        assert_refused(ctx, SARA_ERROR_DEVICE, "AVX512-BF16", status);
    } else {
        assert_ok(ctx, status);
        assert_string_equal(device->name, "cpu-bf16");
        check_layers();
        check_rounding();
    }
    sara_nn_device_close(device);
    sara_context_free(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_device)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

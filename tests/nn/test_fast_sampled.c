/* Gradients at chosen entries against the gathered dense gradient. */
#include "nn/support_nn.h"

#include <stdlib.h>

#include "nn/sampled.h"
#include "nn/simd/simd.h"
#include "nn/support_simd.h"

#define TOLERANCE 1e-5

static const int none[4] = {0, 0, 0, 0}, same[4] = {1, 1, 1, 1}, after[4] = {0, 0, 1, 1};
static const int uneven[4] = {2, 0, 1, 3}, wide[4] = {4, 4, 4, 4};

/* Adds to what was there, so the result starts from draws. */
static void compare(test_nn *nn, const sara_conv_shape *s, const float *dense, const float *dy,
                    const float *x, const uint32_t *positions, size_t count)
{
    sara_kernel_env env = sara_tape_env(nn->tape);
    float *start = test_nn_random(count, 9), *got = test_nn_copy(start, count);
    float *expected = test_nn_zeros(count);
    for (size_t e = 0; e < count; e++)
        expected[e] = start[e] + dense[positions[e]];
    assert_ok(nn->ctx, sara_kernel_conv_dw_sampled(&env, got, dy, x, positions, count, s));
    assert_close(test_relative_l2(got, expected, count), TOLERANCE, "sampled dw");
    if (count > 0) { /* also where the kernel would have chosen the dense gradient */
        memcpy(got, start, count * sizeof(*got));
        assert_ok(nn->ctx, sara_sampled_by_planes(&env, got, dy, x, positions, count, s));
        assert_close(test_relative_l2(got, expected, count), TOLERANCE, "dw by planes");
    }
    free(start);
    free(got);
    free(expected);
}

static void check(test_nn *fast, test_nn *plain, sara_conv_shape s)
{
    static const double densities[] = {0.001, 0.006, 0.058, 0.2, 0.29, 0.31, 0.7, 1.1};
    sara_kernel_env env = sara_tape_env(plain->tape);
    size_t entries = (size_t)(s.out * s.in * s.kh * s.kw), count;
    float *x = test_nn_random((size_t)(s.n * s.h * s.w * s.in), 1);
    float *dy = test_nn_random((size_t)(s.n * s.oh * s.ow * s.out), 2);
    float *dense = test_nn_zeros(entries);
    assert_ok(plain->ctx, sara_kernel_conv_dw(&env, dense, dy, x, &s, true));
    for (size_t i = 0; i < sizeof(densities) / sizeof(*densities); i++) {
        uint32_t *positions = test_nn_positions(&count, entries, densities[i], i);
        compare(fast, &s, dense, dy, x, positions, count);
        free(positions);
    }
    free(x);
    free(dy);
    free(dense);
}

static void check_shapes(void *unused)
{
    (void)unused;
    test_nn fast = test_nn_open("cpu"), plain = test_nn_open("cpu-plain");
    check(&fast, &plain, test_conv_shape(2, 8, 8, 40, 24, 3, 1, same));
    check(&fast, &plain, test_conv_shape(1, 32, 32, 20, 12, 3, 1, same)); /* several chunks */
    check(&fast, &plain, test_conv_shape(3, 9, 8, 16, 24, 3, 2, same));
    check(&fast, &plain, test_conv_shape(1, 9, 9, 16, 16, 3, 2, after));
    check(&fast, &plain, test_conv_shape(2, 5, 7, 3, 5, 3, 1, uneven));
    check(&fast, &plain, test_conv_shape(2, 5, 7, 3, 5, 3, 2, uneven));
    check(&fast, &plain, test_conv_shape(2, 5, 7, 3, 5, 3, 3, uneven));
    check(&fast, &plain, test_conv_shape(2, 5, 7, 17, 5, 1, 1, none));
    check(&fast, &plain, test_conv_shape(2, 5, 7, 17, 5, 1, 2, none));
    check(&fast, &plain, test_conv_shape(1, 2, 2, 3, 5, 3, 1, wide));
    check(&fast, &plain, test_conv_shape(2, 7, 5, 33, 20, 1, 1, same));
    check(&fast, &plain, test_conv_shape(1, 12, 12, 3, 40, 4, 4, none));
    check(&fast, &plain, test_conv_shape(2, 11, 6, 5, 7, 5, 1, wide));
    check(&fast, &plain, test_conv_shape(1, 1, 1, 1, 1, 3, 1, same));
    test_nn_close(&fast);
    test_nn_close(&plain);
}

static void test_shapes(void **state)
{
    (void)state;
    test_simd_each(check_shapes, NULL);
}

/* Several passes over images: one image's planes are larger than a pass, or a few fill it. */
static void test_passes(void **state)
{
    (void)state;
    test_nn fast = test_nn_open("cpu"), plain = test_nn_open("cpu-plain");
    const sara_conv_shape s = test_conv_shape(7, 30, 30, 400, 300, 3, 1, same);
    sara_kernel_env fe = sara_tape_env(fast.tape), pe = sara_tape_env(plain.tape);
    uint32_t positions[500];
    float *x = test_nn_random((size_t)(s.n * s.h * s.w * s.in), 1);
    float *dy = test_nn_random((size_t)(s.n * s.h * s.w * s.out), 2);
    float got[500] = {0}, expected[500] = {0};
    for (uint32_t e = 0; e < 500; e++)
        positions[e] = e * 2159 + e % 7;
    assert_ok(fast.ctx, sara_kernel_conv_dw_sampled(&fe, got, dy, x, positions, 500, &s));
    assert_ok(plain.ctx, sara_kernel_conv_dw_sampled(&pe, expected, dy, x, positions, 500, &s));
    assert_close(test_relative_l2(got, expected, 500), TOLERANCE, "sampled dw in passes");
    free(x);
    free(dy);
    test_nn_close(&fast);
    test_nn_close(&plain);
}

static void check_linear(test_nn *fast, test_nn *plain, sara_linear_shape s, double density)
{
    sara_kernel_env fe = sara_tape_env(fast->tape), pe = sara_tape_env(plain->tape);
    size_t count;
    uint32_t *positions = test_nn_positions(&count, (size_t)(s.out * s.in), density, 3);
    float *x = test_nn_random((size_t)(s.rows * s.in), 1);
    float *dy = test_nn_random((size_t)(s.rows * s.out), 2);
    float *got = test_nn_random(count, 4), *expected = test_nn_random(count, 4);
    assert_ok(fast->ctx, sara_kernel_linear_dw_sampled(&fe, got, dy, x, positions, count, &s));
    assert_ok(plain->ctx,
              sara_kernel_linear_dw_sampled(&pe, expected, dy, x, positions, count, &s));
    assert_close(test_relative_l2(got, expected, count), TOLERANCE, "sampled linear dw");
    free(positions);
    free(x);
    free(dy);
    free(got);
    free(expected);
}

static void test_linear(void **state)
{
    (void)state;
    static const sara_linear_shape shapes[] = {{1, 5, 3},      {1, 320, 64}, {4, 64, 320},
                                               {77, 96, 50},   {513, 7, 9},  {1030, 40, 33},
                                               {128, 300, 700}};
    test_nn fast = test_nn_open("cpu"), plain = test_nn_open("cpu-plain");
    for (size_t i = 0; i < sizeof(shapes) / sizeof(*shapes); i++)
        for (double density = 0.002; density < 2; density *= 5)
            check_linear(&fast, &plain, shapes[i], density);
    test_nn_close(&fast);
    test_nn_close(&plain);
}

/* ------------------------------------------------------------- Stable Diffusion 1.5's layers */

#define CHECKED ((int64_t)4 << 20) /* multiplications of the plain kernel */

/* By the kernel's choice and by planes; the plain kernel takes every so many of the entries. */
static void check_real(test_nn *fast, test_nn *plain, const sara_conv_shape *s, double density)
{
    sara_kernel_env fe = sara_tape_env(fast->tape), pe = sara_tape_env(plain->tape);
    size_t count, some, most = (size_t)(CHECKED / (s->oh * s->ow));
    uint32_t *positions = test_nn_positions(&count, test_conv_w(s), density, 3);
    size_t step = count / most + 1;
    float *x = test_nn_random(test_conv_x(s), 1), *dy = test_nn_random(test_conv_y(s), 2);
    float *chosen = test_nn_zeros(count), *planes = test_nn_zeros(count);
    assert_ok(fast->ctx, sara_kernel_conv_dw_sampled(&fe, chosen, dy, x, positions, count, s));
    assert_ok(fast->ctx, sara_sampled_by_planes(&fe, planes, dy, x, positions, count, s));
    some = (count + step - 1) / step;
    float *expected = test_nn_zeros(some);
    for (size_t e = 0; e < some; e++) {
        positions[e] = positions[e * step];
        chosen[e] = chosen[e * step];
        planes[e] = planes[e * step];
    }
    assert_ok(plain->ctx, sara_kernel_conv_dw_sampled(&pe, expected, dy, x, positions, some, s));
    assert_close(test_relative_l2(chosen, expected, some), TOLERANCE, "sampled dw");
    assert_close(test_relative_l2(planes, expected, some), TOLERANCE, "dw by planes");
    free(positions);
    free(x);
    free(dy);
    free(chosen);
    free(planes);
    free(expected);
}

/* Linear layers are 1x1 convolutions of an image one pixel wide. */
static void check_real_layers(void *unused)
{
    const sara_conv_shape layers[] = {
        test_conv_shape(1, 4096, 1, 320, 2560, 1, 1, none),
        test_conv_shape(1, 1024, 1, 640, 640, 1, 1, none),
        test_conv_shape(1, 256, 1, 5120, 1280, 1, 1, none),
        test_conv_shape(1, 77, 1, 768, 1280, 1, 1, none),
        test_conv_shape(1, 1, 1, 1280, 1280, 1, 1, none),
        test_conv_shape(1, 64, 64, 960, 320, 1, 1, none),
        test_conv_shape(1, 64, 64, 320, 320, 3, 1, same),
        test_conv_shape(1, 32, 32, 1920, 640, 3, 1, same),
        test_conv_shape(1, 8, 8, 1280, 1280, 3, 1, same),
        test_conv_shape(1, 64, 64, 4, 320, 3, 1, same),
        test_conv_shape(1, 64, 64, 320, 4, 3, 1, same),
        test_conv_shape(1, 64, 64, 320, 320, 3, 2, same),
        test_conv_shape(1, 16, 16, 1280, 1280, 3, 2, same),
    };
    (void)unused;
    test_nn fast = test_nn_open("cpu"), plain = test_nn_open("cpu-plain");
    for (size_t i = 0; i < sizeof(layers) / sizeof(*layers); i++) {
        check_real(&fast, &plain, &layers[i], 0.058);
        check_real(&fast, &plain, &layers[i], 0.006);
    }
    test_nn_close(&fast);
    test_nn_close(&plain);
}

static void test_real_layers(void **state)
{
    (void)state;
    test_simd_each(check_real_layers, NULL);
}

/* All entries in one output row, one entry alone, none. */
static void test_uneven_rows(void **state)
{
    (void)state;
    test_nn fast = test_nn_open("cpu"), plain = test_nn_open("cpu-plain");
    const sara_conv_shape s = test_conv_shape(1, 6, 6, 20, 30, 3, 1, same);
    sara_kernel_env env = sara_tape_env(plain.tape);
    uint32_t row[180], last[] = {5399};
    float *x = test_nn_random(36 * 20, 1), *dy = test_nn_random(36 * 30, 2);
    float *dense = test_nn_zeros(5400);
    assert_ok(plain.ctx, sara_kernel_conv_dw(&env, dense, dy, x, &s, true));
    for (uint32_t e = 0; e < 180; e++)
        row[e] = 17 * 180 + e;
    compare(&fast, &s, dense, dy, x, row, 180);
    compare(&fast, &s, dense, dy, x, last, 1);
    compare(&fast, &s, dense, dy, x, NULL, 0);
    free(x);
    free(dy);
    free(dense);
    test_nn_close(&fast);
    test_nn_close(&plain);
}

static void run_with_threads(int threads, float *dw, const float *dy, const float *x,
                             const uint32_t *positions, size_t count, const sara_conv_shape *s)
{
    sara_context *ctx = NULL;
    sara_device *device = NULL;
    const sara_context_options options = {.threads = threads};
    assert_ok(ctx, sara_context_new(&ctx, &options));
    assert_ok(ctx, sara_nn_device_open(ctx, &device, "cpu"));
    const sara_kernel_env env = {.ctx = ctx, .device = device};
    assert_ok(ctx, sara_kernel_conv_dw_sampled(&env, dw, dy, x, positions, count, s));
    sara_nn_device_close(device);
    sara_context_free(ctx);
}

/* The result does not depend on the number of threads. */
static void test_threads(void **state)
{
    (void)state;
    const sara_conv_shape s = test_conv_shape(2, 24, 24, 31, 17, 3, 1, same);
    size_t count;
    uint32_t *positions = test_nn_positions(&count, 31 * 17 * 9, 0.1, 3);
    float *x = test_nn_random(2 * 576 * 31, 1), *dy = test_nn_random(2 * 576 * 17, 2);
    float *one = test_nn_zeros(count), *two = test_nn_zeros(count);
    run_with_threads(1, one, dy, x, positions, count, &s);
    run_with_threads(2, two, dy, x, positions, count, &s);
    assert_memory_equal(one, two, count * sizeof(*one));
    free(positions);
    free(x);
    free(dy);
    free(one);
    free(two);
}

/* Rows of several lengths, as columns of planes that lie further apart. */
static void check_columns(void *unused)
{
    (void)unused;
    const float *rows[48];
    float *x = test_nn_random(48 * 29, 1), *planes = test_nn_zeros(26 * 64);
    for (int p = 0; p < 48; p++)
        rows[p] = x + p * 29;
    for (int n = 0; n <= 26; n++) {
        memset(planes, 0, 26 * 64 * sizeof(*planes));
        sara_simd_best()->columns(planes, 64, rows, 3, 48, n);
        for (int c = 0; c < 26; c++)
            for (int p = 0; p < 64; p++)
                assert_true(planes[c * 64 + p] == (c < n && p < 48 ? rows[p][3 + c] : 0));
    }
    free(x);
    free(planes);
}

#define DOTS_ROWS 9
#define DOTS_ROW  60

/* Row o has o * o % 23 entries, so that groups of entries end within rows and between them. */
static void check_dots_of(int64_t length)
{
    uint32_t positions[200], begin[DOTS_ROWS], end[DOTS_ROWS], offsets[30], count = 0;
    float *x = test_nn_random((size_t)length + 100, 1);
    float *dy = test_nn_random((size_t)length * DOTS_ROWS, 2);
    float *got = test_nn_random(200, 3), *expected = test_nn_copy(got, 200);
    for (uint32_t j = 0; j < 30; j++)
        offsets[j] = j * 37 % 101;
    for (uint32_t o = 0; o < DOTS_ROWS; o++) {
        begin[o] = count;
        for (uint32_t j = 0; j < o * o % 23; j++)
            positions[count++] = o * DOTS_ROW + 20 + j + j / 6;
        end[o] = count;
    }
    for (uint32_t o = 1; o < DOTS_ROWS; o++)
        for (uint32_t e = begin[o]; e < end[o]; e++) {
            const float *from = x + offsets[positions[e] - o * DOTS_ROW - 20];
            double sum = expected[e];
            for (int64_t p = 0; p < length; p++)
                sum += (double)dy[o * length + p] * from[p];
            expected[e] = (float)sum;
        }
    const sara_simd_dots dots = {got, dy, x, positions, begin, end, offsets, 20, DOTS_ROW, length};
    sara_simd_best()->sampled_dots(&dots, 1, DOTS_ROWS);
    assert_close(test_relative_l2(got, expected, 200), 1e-6, "dot products");
    free(x);
    free(dy);
    free(got);
    free(expected);
}

static void check_dots(void *unused)
{
    (void)unused;
    for (int64_t length = 16; length <= 320; length += 16)
        check_dots_of(length);
}

/* A layer as those of Stable Diffusion. */
static void check_choice(void *unused)
{
    (void)unused;
    const sara_conv_shape s = test_conv_shape(1, 32, 32, 640, 640, 3, 1, same);
    const size_t entries = test_conv_w(&s);
    assert_true(sara_sampled_is_worth_it(&s, 1));
    assert_true(sara_sampled_is_worth_it(&s, entries / 10));
    assert_false(sara_sampled_is_worth_it(&s, entries));
}

static void test_simd(void **state)
{
    (void)state;
    test_simd_each(check_columns, NULL);
    test_simd_each(check_dots, NULL);
    test_simd_each(check_choice, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shapes),      cmocka_unit_test(test_passes),
        cmocka_unit_test(test_linear),      cmocka_unit_test(test_uneven_rows),
        cmocka_unit_test(test_threads),     cmocka_unit_test(test_simd),
        cmocka_unit_test(test_real_layers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* The fast elementwise kernels against the plain ones. */
#include "nn/support_simd.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>

#define TOLERANCE 1e-5

static const sara_activation all[] = {SARA_IDENTITY,   SARA_SILU, SARA_GELU,
                                      SARA_QUICK_GELU, SARA_RELU, SARA_GELU_TANH};
enum { ACTIVATIONS = sizeof(all) / sizeof(*all) };

/* Every element within 2^-21 of its size, or 1e-7 where that is less. */
static void assert_each(const float *got, const float *expected, size_t count, const char *what)
{
    for (size_t i = 0; i < count; i++)
        assert_close(fabs((double)got[i] - expected[i]), 1e-7 + 4.8e-7 * fabs((double)expected[i]),
                     what);
}

static void check_activations(void *argument)
{
    const size_t counts[] = {1, 7, 16, 17, 16384 + 5, 40000};
    test_pair *pair = argument;
    for (size_t c = 0; c < sizeof(counts) / sizeof(*counts); c++) {
        size_t n = counts[c];
        float *x = test_nn_random(n, 1), *dy = test_nn_random(n, 2), *y = test_nn_zeros(n);
        float *expected = test_nn_zeros(n);
        for (int a = 0; a < ACTIVATIONS; a++) {
            assert_ok(pair->fe.ctx,
                      sara_kernel_activate_forward(&pair->fe, y, x, (int64_t)n, all[a]));
            assert_ok(pair->pe.ctx,
                      sara_kernel_activate_forward(&pair->pe, expected, x, (int64_t)n, all[a]));
            assert_each(y, expected, n, "y");
            assert_ok(pair->fe.ctx, sara_kernel_activate_backward(&pair->fe, y, dy, x, (int64_t)n,
                                                                  all[a], false));
            assert_ok(pair->pe.ctx, sara_kernel_activate_backward(&pair->pe, expected, dy, x,
                                                                  (int64_t)n, all[a], false));
            assert_close(test_relative_l2(y, expected, n), TOLERANCE, "dx");
            assert_ok(pair->fe.ctx,
                      sara_kernel_activate_backward(&pair->fe, y, dy, x, (int64_t)n, all[a], true));
            assert_ok(pair->pe.ctx, sara_kernel_activate_backward(&pair->pe, expected, dy, x,
                                                                  (int64_t)n, all[a], true));
            assert_close(test_relative_l2(y, expected, n), TOLERANCE, "accumulated dx");
        }
        free(x);
        free(dy);
        free(y);
        free(expected);
    }
}

/* A fine grid of -100..100, and what lies beyond. */
static void check_range(void *argument)
{
    enum { STEPS = 40001 };
    const float beyond[] = {-FLT_MAX, -1e30f, -0.0f, 0, 1e-40f, 1e30f, FLT_MAX};
    test_pair *pair = argument;
    float *x = test_nn_zeros(STEPS), *y = test_nn_zeros(STEPS), *expected = test_nn_zeros(STEPS);
    float *ones = test_nn_zeros(STEPS), edge[7];
    for (int i = 0; i < STEPS; i++) {
        x[i] = (float)(i - STEPS / 2) / 200;
        ones[i] = 1;
    }
    for (int a = 0; a < ACTIVATIONS; a++) {
        assert_ok(pair->fe.ctx, sara_kernel_activate_forward(&pair->fe, y, x, STEPS, all[a]));
        assert_ok(pair->pe.ctx,
                  sara_kernel_activate_forward(&pair->pe, expected, x, STEPS, all[a]));
        assert_each(y, expected, STEPS, "y");
        assert_ok(pair->fe.ctx,
                  sara_kernel_activate_backward(&pair->fe, y, ones, x, STEPS, all[a], false));
        assert_ok(pair->pe.ctx, sara_kernel_activate_backward(&pair->pe, expected, ones, x, STEPS,
                                                              all[a], false));
        for (int i = 0; i < STEPS; i++)
            assert_close(fabs((double)y[i] - expected[i]), 1e-6, "derivative");
        assert_ok(pair->fe.ctx, sara_kernel_activate_forward(&pair->fe, edge, beyond, 7, all[a]));
        for (int i = 0; i < 7; i++)
            assert_true(isfinite(edge[i]));
        edge[0] = NAN;
        assert_ok(pair->fe.ctx, sara_kernel_activate_forward(&pair->fe, edge, edge, 1, all[a]));
        assert_true(isnan(edge[0]));
    }
    free(x);
    free(y);
    free(expected);
    free(ones);
}

static void check_geglu(void *argument)
{
    const int64_t rows[] = {1, 3, 100}, widths[] = {5, 16, 321};
    test_pair *pair = argument;
    for (int i = 0; i < 9; i++) {
        int64_t r = rows[i / 3], c = widths[i % 3];
        size_t n = (size_t)(r * c);
        float *x = test_nn_random(2 * n, 1), *dy = test_nn_random(n, 2), *y = test_nn_zeros(n);
        float *expected = test_nn_zeros(n), *dx = test_nn_zeros(2 * n),
              *want = test_nn_zeros(2 * n);
        assert_ok(pair->fe.ctx, sara_kernel_geglu_forward(&pair->fe, y, x, r, c));
        assert_ok(pair->pe.ctx, sara_kernel_geglu_forward(&pair->pe, expected, x, r, c));
        assert_close(test_relative_l2(y, expected, n), TOLERANCE, "geglu");
        for (int accumulate = 0; accumulate < 2; accumulate++) {
            assert_ok(pair->fe.ctx,
                      sara_kernel_geglu_backward(&pair->fe, dx, dy, x, r, c, accumulate));
            assert_ok(pair->pe.ctx,
                      sara_kernel_geglu_backward(&pair->pe, want, dy, x, r, c, accumulate));
            assert_close(test_relative_l2(dx, want, 2 * n), TOLERANCE, "geglu's dx");
        }
        free(x);
        free(dy);
        free(y);
        free(expected);
        free(dx);
        free(want);
    }
}

static void check_gated_gelu(void *argument)
{
    const size_t counts[] = {1, 7, 17, 16384 + 5, 40000};
    test_pair *pair = argument;
    for (size_t i = 0; i < sizeof(counts) / sizeof(*counts); i++) {
        size_t n = counts[i];
        int64_t count = (int64_t)n;
        float *a = test_nn_random(n, 1), *b = test_nn_random(n, 2), *dy = test_nn_random(n, 3);
        float *got[3], *want[3]; /* y, da, db */
        for (int k = 0; k < 3; k++) {
            got[k] = test_nn_zeros(n);
            want[k] = test_nn_zeros(n);
        }
        assert_ok(pair->fe.ctx, sara_kernel_gated_gelu_forward(&pair->fe, got[0], a, b, count));
        assert_ok(pair->pe.ctx, sara_kernel_gated_gelu_forward(&pair->pe, want[0], a, b, count));
        for (int add = 0; add < 4; add++) {
            assert_ok(pair->fe.ctx,
                      sara_kernel_gated_gelu_backward(&pair->fe, add == 2 ? NULL : got[1],
                                                      add == 3 ? NULL : got[2], dy, a, b, count,
                                                      add == 1, add > 0));
            assert_ok(pair->pe.ctx,
                      sara_kernel_gated_gelu_backward(&pair->pe, add == 2 ? NULL : want[1],
                                                      add == 3 ? NULL : want[2], dy, a, b, count,
                                                      add == 1, add > 0));
            for (int k = 0; k < 3; k++)
                assert_close(test_relative_l2(got[k], want[k], n), TOLERANCE, "gated gelu");
        }
        for (int k = 0; k < 3; k++) {
            free(got[k]);
            free(want[k]);
        }
        free(a);
        free(b);
        free(dy);
    }
}

static void check_additions(void *argument)
{
    const int64_t shapes[][3] = {{1, 1, 3}, {2, 900, 40}, {3, 65, 7}, {1, 130, 321}, {2, 64, 64}};
    test_pair *pair = argument;
    for (size_t i = 0; i < sizeof(shapes) / sizeof(*shapes); i++) {
        int64_t n = shapes[i][0], inner = shapes[i][1], c = shapes[i][2], count = n * inner * c;
        size_t nx = (size_t)count, ne = (size_t)(n * c);
        float *x = test_nn_random(nx, 1), *e = test_nn_random(ne, 2), *y = test_nn_zeros(nx);
        float *expected = test_nn_zeros(nx), *de = test_nn_random(ne, 3);
        float *want = test_nn_random(ne, 3);
        assert_ok(pair->fe.ctx, sara_kernel_add_per_sample(&pair->fe, y, x, e, n, inner, c));
        assert_ok(pair->pe.ctx, sara_kernel_add_per_sample(&pair->pe, expected, x, e, n, inner, c));
        assert_memory_equal(y, expected, nx * sizeof(float));
        assert_ok(pair->fe.ctx, sara_kernel_add(&pair->fe, y, y, x, count));
        assert_ok(pair->pe.ctx, sara_kernel_add(&pair->pe, expected, expected, x, count));
        assert_memory_equal(y, expected, nx * sizeof(float));
        assert_ok(pair->fe.ctx, sara_kernel_accumulate(&pair->fe, y, x, count));
        assert_ok(pair->pe.ctx, sara_kernel_accumulate(&pair->pe, expected, x, count));
        assert_memory_equal(y, expected, nx * sizeof(float));
        for (int add = 0; add < 2; add++) {
            const float *a = add ? x : NULL;
            assert_ok(pair->fe.ctx, sara_kernel_add_scaled(&pair->fe, y, a, y, count, -0.7f));
            assert_ok(pair->pe.ctx,
                      sara_kernel_add_scaled(&pair->pe, expected, a, expected, count, -0.7f));
            assert_close(test_relative_l2(y, expected, nx), TOLERANCE, "scaled");
        }
        assert_ok(pair->fe.ctx, sara_kernel_add_per_sample_de(&pair->fe, de, x, n, inner, c));
        assert_ok(pair->pe.ctx, sara_kernel_add_per_sample_de(&pair->pe, want, x, n, inner, c));
        assert_close(test_relative_l2(de, want, ne), TOLERANCE, "de");
        free(x);
        free(e);
        free(y);
        free(expected);
        free(de);
        free(want);
    }
}

/* GEGLU of 4096 tokens at 1280 channels and the additions around it, by the plain kernels. */
typedef struct layer {
    float *x, *dy, *y, *dx, *added, *sum, *de; /* dx: twice the gradient; sum: of y and dy */
    test_pair *pair;
} layer;

enum { ROWS = 4096, WIDTH = 1280, COUNT = ROWS * WIDTH };

static void check_layer(void *argument)
{
    const layer *l = argument;
    const sara_kernel_env *env = &l->pair->fe;
    float *y = test_nn_zeros(COUNT), *dx = test_nn_zeros(2 * COUNT), *de = test_nn_zeros(WIDTH);
    assert_ok(env->ctx, sara_kernel_geglu_forward(env, y, l->x, ROWS, WIDTH));
    assert_close(test_relative_l2(y, l->y, COUNT), TOLERANCE, "geglu");
    assert_ok(env->ctx, sara_kernel_geglu_backward(env, dx, l->dy, l->x, ROWS, WIDTH, false));
    assert_ok(env->ctx, sara_kernel_geglu_backward(env, dx, l->dy, l->x, ROWS, WIDTH, true));
    assert_close(test_relative_l2(dx, l->dx, 2 * COUNT), TOLERANCE, "geglu's dx");
    assert_ok(env->ctx, sara_kernel_add(env, y, l->y, l->dy, COUNT));
    assert_memory_equal(y, l->sum, COUNT * sizeof(float));
    assert_ok(env->ctx, sara_kernel_add_per_sample(env, y, l->dy, l->x, 1, ROWS, WIDTH));
    assert_memory_equal(y, l->added, COUNT * sizeof(float));
    assert_ok(env->ctx, sara_kernel_add_per_sample_de(env, de, l->dy, 1, ROWS, WIDTH));
    assert_close(test_relative_l2(de, l->de, WIDTH), TOLERANCE, "de");
    free(y);
    free(dx);
    free(de);
}

static void test_real_shapes(void **state)
{
    (void)state;
    test_pair pair = test_pair_open();
    layer l = {test_nn_random(2 * COUNT, 1), test_nn_random(COUNT, 2),
               test_nn_zeros(COUNT),         test_nn_zeros(2 * COUNT),
               test_nn_zeros(COUNT),         test_nn_zeros(COUNT),
               test_nn_zeros(WIDTH),         &pair};
    assert_ok(pair.pe.ctx, sara_kernel_geglu_forward(&pair.pe, l.y, l.x, ROWS, WIDTH));
    assert_ok(pair.pe.ctx,
              sara_kernel_geglu_backward(&pair.pe, l.dx, l.dy, l.x, ROWS, WIDTH, false));
    assert_ok(pair.pe.ctx, sara_kernel_accumulate(&pair.pe, l.dx, l.dx, 2 * COUNT));
    assert_ok(pair.pe.ctx, sara_kernel_add(&pair.pe, l.sum, l.y, l.dy, COUNT));
    assert_ok(pair.pe.ctx,
              sara_kernel_add_per_sample(&pair.pe, l.added, l.dy, l.x, 1, ROWS, WIDTH));
    assert_ok(pair.pe.ctx, sara_kernel_add_per_sample_de(&pair.pe, l.de, l.dy, 1, ROWS, WIDTH));
    test_simd_each(check_layer, &l);
    float *all_of[] = {l.x, l.dy, l.y, l.dx, l.added, l.sum, l.de};
    for (size_t i = 0; i < sizeof(all_of) / sizeof(*all_of); i++)
        free(all_of[i]);
    test_pair_close(&pair);
}

static void run(void (*check)(void *argument))
{
    test_pair pair = test_pair_open();
    test_simd_each(check, &pair);
    test_pair_close(&pair);
}

static void test_activations(void **state)
{
    (void)state;
    run(check_activations);
}

static void test_range(void **state)
{
    (void)state;
    run(check_range);
}

static void test_geglu(void **state)
{
    (void)state;
    run(check_geglu);
}

static void test_gated_gelu(void **state)
{
    (void)state;
    run(check_gated_gelu);
}

static void test_additions(void **state)
{
    (void)state;
    run(check_additions);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_activations), cmocka_unit_test(test_range),
        cmocka_unit_test(test_geglu),       cmocka_unit_test(test_additions),
        cmocka_unit_test(test_real_shapes), cmocka_unit_test(test_gated_gelu),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

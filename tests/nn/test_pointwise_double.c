/* Plain elementwise and data-moving kernels in double against finite differences. */
#include "nn/support_fd.h"

#include <math.h>
#include <stdlib.h>

#include "nn/kernels.h"

typedef struct problem {
    sara_kernel_env env;
    sara_activation activation;
    int64_t n, inner, c; /* of x, or of what x is made of */
    double *x, *e;
} problem;

static problem start(void)
{
    problem p = {.env = {.ctx = test_context()}, .n = 2, .inner = 3, .c = 5};
    p.x = test_fd_random(60, 1);
    p.e = test_fd_random(10, 2);
    return p;
}

static void finish(problem *p)
{
    free(p->x);
    free(p->e);
    sara_context_free(p->env.ctx);
}

static void activate(void *data, double *y)
{
    problem *p = data;
    assert_ok(p->env.ctx, KERNEL(activate_forward)(&p->env, y, p->x, 60, p->activation));
}

static void test_activations(void **state)
{
    (void)state;
    const sara_activation all[] = {SARA_IDENTITY,   SARA_SILU, SARA_GELU,
                                   SARA_QUICK_GELU, SARA_RELU, SARA_GELU_TANH};
    for (int i = 0; i < 6; i++) {
        problem p = start();
        double *dy = test_fd_random(60, 3), *dx = test_fd_random(60, 4), twice[60];
        p.activation = all[i];
        assert_ok(p.env.ctx, KERNEL(activate_backward)(&p.env, dx, dy, p.x, 60, all[i], false));
        memcpy(twice, dx, sizeof(twice));
        assert_ok(p.env.ctx, KERNEL(activate_backward)(&p.env, twice, dy, p.x, 60, all[i], true));
        for (int j = 0; j < 60; j++)
            assert_close(fabs(twice[j] - 2 * dx[j]), 1e-13, "accumulated dx");
        const test_fd_input input = {"x", p.x, dx, 60};
        test_fd_check(activate, &p, 60, dy, &input, 1);
        free(dy);
        free(dx);
        finish(&p);
    }
}

/* SiLU, GELU, quick GELU, ReLU and GELU by tanh as PyTorch computes them in double. */
static void test_values(void **state)
{
    (void)state;
    problem p = start();
    const double x[] = {-2, -0.5, 0, 1, 3};
    const double expected[5][5] = {
        {-0.23840584404424, -0.18877033439907, 0, 0.73105857863000, 2.85772238046730},
        {-0.04550026389636, -0.15426876936299, 0, 0.84134474606854, 2.99595030590511},
        {-0.06434137685579, -0.14961156339362, 0, 0.84579576593282, 2.98192869029221},
        {0, 0, 0, 1, 3},
        {-0.04540230591222, -0.15428599017486, 0, 0.84119199060828, 2.99636260791823},
    };
    for (int i = 0; i < 5; i++) {
        double y[5];
        assert_ok(p.env.ctx,
                  KERNEL(activate_forward)(&p.env, y, x, 5, SARA_SILU + (sara_activation)i));
        for (int j = 0; j < 5; j++)
            assert_close(fabs(y[j] - expected[i][j]), 1e-13, "activation");
    }
    finish(&p);
}

static void geglu(void *data, double *y)
{
    problem *p = data;
    assert_ok(p->env.ctx, KERNEL(geglu_forward)(&p->env, y, p->x, 6, 5));
}

static void test_geglu(void **state)
{
    (void)state;
    problem p = start();
    double *dy = test_fd_random(30, 3), *dx = test_fd_random(60, 4), twice[60];
    assert_ok(p.env.ctx, KERNEL(geglu_backward)(&p.env, dx, dy, p.x, 6, 5, false));
    memcpy(twice, dx, sizeof(twice));
    assert_ok(p.env.ctx, KERNEL(geglu_backward)(&p.env, twice, dy, p.x, 6, 5, true));
    for (int j = 0; j < 60; j++)
        assert_close(fabs(twice[j] - 2 * dx[j]), 1e-13, "accumulated dx");
    const test_fd_input input = {"x", p.x, dx, 60};
    test_fd_check(geglu, &p, 30, dy, &input, 1);
    free(dy);
    free(dx);
    finish(&p);
}

static void gated_gelu(void *data, double *y)
{
    problem *p = data;
    assert_ok(p->env.ctx, KERNEL(gated_gelu_forward)(&p->env, y, p->x, p->e, 10));
}

/* Of both at once; each alone adds the same. */
static void test_gated_gelu(void **state)
{
    (void)state;
    problem p = start();
    double *dy = test_fd_random(10, 3), da[10], db[10], twice[2][10];
    assert_ok(p.env.ctx,
              KERNEL(gated_gelu_backward)(&p.env, da, db, dy, p.x, p.e, 10, false, false));
    memcpy(twice[0], da, sizeof(da));
    memcpy(twice[1], db, sizeof(db));
    assert_ok(p.env.ctx,
              KERNEL(gated_gelu_backward)(&p.env, twice[0], NULL, dy, p.x, p.e, 10, true, false));
    assert_ok(p.env.ctx,
              KERNEL(gated_gelu_backward)(&p.env, NULL, twice[1], dy, p.x, p.e, 10, false, true));
    for (int i = 0; i < 10; i++) {
        assert_close(fabs(twice[0][i] - 2 * da[i]), 1e-13, "accumulated da");
        assert_close(fabs(twice[1][i] - 2 * db[i]), 1e-13, "accumulated db");
    }
    const test_fd_input inputs[] = {{"a", p.x, da, 10}, {"b", p.e, db, 10}};
    test_fd_check(gated_gelu, &p, 10, dy, inputs, 2);
    free(dy);
    finish(&p);
}

static void add_per_sample(void *data, double *y)
{
    problem *p = data;
    assert_ok(p->env.ctx, KERNEL(add_per_sample)(&p->env, y, p->x, p->e, p->n, p->inner, p->c));
}

static void test_add_per_sample(void **state)
{
    (void)state;
    problem p = start();
    double *dy = test_fd_random(30, 3), de[10] = {0};
    assert_ok(p.env.ctx, KERNEL(add_per_sample_de)(&p.env, de, dy, p.n, p.inner, p.c));
    const test_fd_input inputs[] = {{"x", p.x, dy, 30}, {"e", p.e, de, 10}};
    test_fd_check(add_per_sample, &p, 30, dy, inputs, 2);
    free(dy);
    finish(&p);
}

static void multiply(void *data, double *y)
{
    problem *p = data;
    assert_ok(p->env.ctx, KERNEL(multiply)(&p->env, y, p->x, p->e, 10, false));
}

static void test_multiply(void **state)
{
    (void)state;
    problem p = start();
    double *dy = test_fd_random(10, 3), dx[10], de[10], twice[10];
    assert_ok(p.env.ctx, KERNEL(multiply)(&p.env, dx, dy, p.e, 10, false));
    assert_ok(p.env.ctx, KERNEL(multiply)(&p.env, de, dy, p.x, 10, false));
    memcpy(twice, dx, sizeof(twice));
    assert_ok(p.env.ctx, KERNEL(multiply)(&p.env, twice, dy, p.e, 10, true));
    for (int i = 0; i < 10; i++)
        assert_close(fabs(twice[i] - 2 * dx[i]), 1e-13, "accumulated dx");
    const test_fd_input inputs[] = {{"x", p.x, dx, 10}, {"e", p.e, de, 10}};
    test_fd_check(multiply, &p, 10, dy, inputs, 2);
    free(dy);
    finish(&p);
}

static void add_scaled(void *data, double *y)
{
    problem *p = data;
    assert_ok(p->env.ctx, KERNEL(add_scaled)(&p->env, y, p->x, p->e, 10, -0.7));
}

/* The gradient of what is scaled is the kernel's own, assigned or added. */
static void test_add_scaled(void **state)
{
    (void)state;
    problem p = start();
    double *dy = test_fd_random(10, 3), de[10];
    assert_ok(p.env.ctx, KERNEL(add_scaled)(&p.env, de, NULL, dy, 10, -0.2));
    assert_ok(p.env.ctx, KERNEL(add_scaled)(&p.env, de, de, dy, 10, -0.5));
    const test_fd_input inputs[] = {{"x", p.x, dy, 10}, {"e", p.e, de, 10}};
    test_fd_check(add_scaled, &p, 10, dy, inputs, 2);
    free(dy);
    finish(&p);
}

static void upsample(void *data, double *y)
{
    problem *p = data;
    assert_ok(p->env.ctx, KERNEL(upsample_forward)(&p->env, y, p->x, 2, 2, 3, 3, 7, 5));
}

static void test_upsample(void **state)
{
    (void)state;
    problem p = start();
    double *dy = test_fd_random(2 * 3 * 7 * 5, 3), dx[60] = {0};
    assert_ok(p.env.ctx, KERNEL(upsample_dx)(&p.env, dx, dy, 2, 2, 3, 3, 7, 5));
    const test_fd_input input = {"x", p.x, dx, 60};
    test_fd_check(upsample, &p, 2 * 3 * 7 * 5, dy, &input, 1);
    free(dy);
    finish(&p);
}

/* Swapping back gives what was there, and adding adds; columns land where they should. */
static void test_moves(void **state)
{
    (void)state;
    problem p = start();
    double swapped[60], back[60], columns[4 * 7];
    assert_ok(p.env.ctx, KERNEL(swap_axes)(&p.env, swapped, p.x, 2, 3, 5, 2, false));
    for (int n = 0; n < 2; n++)
        for (int a = 0; a < 3; a++)
            for (int b = 0; b < 5; b++)
                assert_memory_equal(swapped + ((n * 5 + b) * 3 + a) * 2,
                                    p.x + ((n * 3 + a) * 5 + b) * 2, 2 * sizeof(double));
    memcpy(back, p.x, sizeof(back));
    assert_ok(p.env.ctx, KERNEL(swap_axes)(&p.env, back, swapped, 2, 5, 3, 2, true));
    for (int i = 0; i < 60; i++) {
        assert_true(back[i] == 2 * p.x[i]);
        columns[i % 28] = 1;
    }
    assert_ok(p.env.ctx, KERNEL(copy_columns)(&p.env, columns, 7, 2, p.x, 5, 1, 4, 3, false));
    assert_ok(p.env.ctx, KERNEL(copy_columns)(&p.env, columns, 7, 2, p.x, 5, 1, 4, 3, true));
    for (int i = 0; i < 28; i++) {
        bool inside = i % 7 >= 2 && i % 7 < 5;
        assert_true(columns[i] == (inside ? 2 * p.x[i / 7 * 5 + 1 + i % 7 - 2] : 1));
    }
    finish(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_activations), cmocka_unit_test(test_values),
        cmocka_unit_test(test_geglu),       cmocka_unit_test(test_add_per_sample),
        cmocka_unit_test(test_add_scaled),  cmocka_unit_test(test_multiply),
        cmocka_unit_test(test_upsample),    cmocka_unit_test(test_moves),
        cmocka_unit_test(test_gated_gelu),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

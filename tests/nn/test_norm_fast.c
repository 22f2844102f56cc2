/* The fast norm kernels against the plain ones. */
#include "nn/support_simd.h"

#include <math.h>
#include <stdlib.h>

#define TOLERANCE 1e-5

/* groups 0: layer norm of n rows; -1: rms norm. */
typedef struct problem {
    sara_group_norm_shape shape;
    size_t nx, nc, ns; /* elements of x, w and the statistics */
    float *x, *w, *b, *dy, *start;
    float *y, *mean, *rstd, *dx, *dw, *db; /* what the plain kernels give */
} problem;

static void forward(const sara_kernel_env *env, const problem *p, float *y, float *mean,
                    float *rstd)
{
    const sara_group_norm_shape *s = &p->shape;
    if (s->groups > 0)
        assert_ok(env->ctx,
                  sara_kernel_group_norm_forward(env, y, mean, rstd, p->x, p->w, p->b, s));
    else if (s->groups < 0)
        assert_ok(env->ctx,
                  sara_kernel_rms_norm_forward(env, y, rstd, p->x, p->w, s->n, s->c, s->eps));
    else
        assert_ok(env->ctx, sara_kernel_layer_norm_forward(env, y, mean, rstd, p->x, p->w, p->b,
                                                           s->n, s->c, s->eps));
}

static void backward(const sara_kernel_env *env, const problem *p, float *dx, float *dw, float *db,
                     bool accumulate)
{
    const sara_group_norm_shape *s = &p->shape;
    if (s->groups > 0)
        assert_ok(env->ctx, sara_kernel_group_norm_backward(env, dx, dw, db, p->dy, p->x, p->mean,
                                                            p->rstd, p->w, p->b, s, accumulate));
    else if (s->groups < 0)
        assert_ok(env->ctx, sara_kernel_rms_norm_backward(env, dx, dw, p->dy, p->x, p->rstd, p->w,
                                                          s->n, s->c, accumulate));
    else
        assert_ok(env->ctx, sara_kernel_layer_norm_backward(env, dx, dw, db, p->dy, p->x, p->mean,
                                                            p->rstd, p->w, s->n, s->c, accumulate));
}

static problem start(const sara_group_norm_shape *shape, float offset)
{
    problem p = {.shape = *shape};
    p.nx = (size_t)(shape->n * shape->inner * shape->c);
    p.nc = (size_t)shape->c;
    p.ns = (size_t)(shape->n * (shape->groups > 0 ? shape->groups : 1));
    p.x = test_nn_random(p.nx, 1);
    for (size_t i = 0; i < p.nx; i++)
        p.x[i] += offset;
    p.w = test_nn_random(p.nc, 2);
    p.b = test_nn_random(p.nc, 3);
    p.dy = test_nn_random(p.nx, 4);
    p.start = test_nn_random(p.nx, 5);
    p.y = test_nn_zeros(p.nx);
    p.mean = test_nn_zeros(p.ns);
    p.rstd = test_nn_zeros(p.ns);
    p.dx = test_nn_copy(p.start, p.nx);
    p.dw = test_nn_random(p.nc, 6);
    p.db = test_nn_random(p.nc, 7);
    return p;
}

static void finish(problem *p)
{
    float *all[] = {p->x, p->w, p->b, p->dy, p->start, p->y, p->mean, p->rstd, p->dx, p->dw, p->db};
    for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++)
        free(all[i]);
}

static void check_forward(void *argument)
{
    const problem *p = argument;
    test_nn nn = test_nn_open("cpu");
    sara_kernel_env env = sara_tape_env(nn.tape);
    float *y = test_nn_zeros(p->nx), *mean = test_nn_zeros(p->ns), *rstd = test_nn_zeros(p->ns);
    forward(&env, p, y, mean, rstd);
    assert_close(test_relative_l2(y, p->y, p->nx), TOLERANCE, "y");
    assert_close(test_relative_l2(mean, p->mean, p->ns), TOLERANCE, "mean");
    assert_close(test_relative_l2(rstd, p->rstd, p->ns), TOLERANCE, "rstd");
    free(y);
    free(mean);
    free(rstd);
    test_nn_close(&nn);
}

static void check_backward(void *argument)
{
    const problem *p = argument;
    test_nn nn = test_nn_open("cpu");
    sara_kernel_env env = sara_tape_env(nn.tape);
    float *dx = test_nn_copy(p->start, p->nx), *dw = test_nn_random(p->nc, 6);
    float *db = test_nn_random(p->nc, 7), *assigned = test_nn_random(p->nx, 8);
    backward(&env, p, dx, dw, db, true);
    assert_close(test_relative_l2(dx, p->dx, p->nx), TOLERANCE, "dx");
    assert_close(test_relative_l2(dw, p->dw, p->nc), TOLERANCE, "dw");
    assert_close(test_relative_l2(db, p->db, p->nc), TOLERANCE, "db");
    backward(&env, p, assigned, NULL, NULL, false);
    for (size_t i = 0; i < p->nx; i++)
        assigned[i] += p->start[i];
    assert_close(test_relative_l2(assigned, p->dx, p->nx), TOLERANCE, "assigned dx");
    sara_draw_normal(dw, p->nc, 6, SARA_DRAW_TEST, 0);
    backward(&env, p, NULL, dw, NULL, false);
    assert_close(test_relative_l2(dw, p->dw, p->nc), TOLERANCE, "dw alone");
    free(dx);
    free(dw);
    free(db);
    free(assigned);
    test_nn_close(&nn);
}

static void check(const sara_group_norm_shape *shape, float offset)
{
    problem p = start(shape, offset);
    test_nn nn = test_nn_open("cpu-plain");
    sara_kernel_env env = sara_tape_env(nn.tape);
    forward(&env, &p, p.y, p.mean, p.rstd);
    backward(&env, &p, p.dx, p.dw, p.db, true);
    test_simd_each(check_forward, &p);
    test_simd_each(check_backward, &p);
    test_nn_close(&nn);
    finish(&p);
}

static void test_group_norm(void **state)
{
    (void)state;
    for (int silu = 0; silu < 2; silu++) {
        check(&(sara_group_norm_shape){1, 500, 320, 32, 1e-5f, silu}, 0);
        check(&(sara_group_norm_shape){2, 65, 40, 8, 1e-5f, silu}, 3);
        check(&(sara_group_norm_shape){1, 1, 32, 16, 1e-6f, silu}, 0);
        check(&(sara_group_norm_shape){2, 33, 7, 1, 1e-5f, silu}, -1);
        check(&(sara_group_norm_shape){3, 31, 65, 13, 1e-5f, silu}, 0);
        check(&(sara_group_norm_shape){1, 129, 9, 3, 1e-5f, silu}, 0);
    }
}

static void test_layer_norm(void **state)
{
    (void)state;
    const int64_t rows[] = {1, 3, 33, 77, 200}, widths[] = {1, 7, 16, 40, 321};
    for (int i = 0; i < 5; i++)
        for (int j = 0; j < 5; j++)
            check(&(sara_group_norm_shape){rows[i], 1, widths[j], 0, 1e-5f, false}, (float)j);
}

static void test_rms_norm(void **state)
{
    (void)state;
    const int64_t rows[] = {1, 33, 77}, widths[] = {1, 7, 16, 321};
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 4; j++)
            check(&(sara_group_norm_shape){rows[i], 1, widths[j], -1, 1e-6f, false}, (float)j);
    check(&(sara_group_norm_shape){4096, 1, 64, -1, 1e-6f, false}, 0); /* heads of SD3's */
    check(&(sara_group_norm_shape){77, 1, 4096, -1, 1e-6f, false}, 0); /* T5-XXL's */
}

/* Of Stable Diffusion 1.5 at 512x512 pixels, the wide ones after a concatenation. */
static void test_real_shapes(void **state)
{
    (void)state;
    check(&(sara_group_norm_shape){1, 4096, 320, 32, 1e-5f, true}, 0.5f);
    check(&(sara_group_norm_shape){1, 4096, 960, 32, 1e-5f, true}, 0);
    check(&(sara_group_norm_shape){1, 4096, 320, 32, 1e-6f, false}, 0); /* before attention */
    check(&(sara_group_norm_shape){1, 1024, 1920, 32, 1e-5f, true}, 0);
    check(&(sara_group_norm_shape){1, 256, 1280, 32, 1e-5f, true}, 0);
    check(&(sara_group_norm_shape){1, 256, 2560, 32, 1e-5f, true}, -1);
    check(&(sara_group_norm_shape){1, 64, 1280, 32, 1e-6f, false}, 0);
    check(&(sara_group_norm_shape){1, 64, 2560, 32, 1e-5f, true}, 0);
    check(&(sara_group_norm_shape){4096, 1, 320, 0, 1e-5f, false}, 0);
    check(&(sara_group_norm_shape){1024, 1, 640, 0, 1e-5f, false}, 0.5f);
    check(&(sara_group_norm_shape){256, 1, 1280, 0, 1e-5f, false}, 0);
    check(&(sara_group_norm_shape){64, 1, 1280, 0, 1e-5f, false}, 0);
    check(&(sara_group_norm_shape){333, 1, 1536, 0, 1e-6f, false}, 0); /* SD3's text */
}

/* A mean far from zero: sums of squares would cancel. */
static void test_offset(void **state)
{
    (void)state;
    check(&(sara_group_norm_shape){1, 300, 40, 8, 1e-5f, true}, 300);
    check(&(sara_group_norm_shape){20, 1, 321, 0, 1e-5f, false}, 300);
}

/* Rows of zeros, whose norm is eps alone: zeros and finite gradients. */
static void check_zeros(void *argument)
{
    problem *p = argument;
    test_nn nn = test_nn_open("cpu");
    sara_kernel_env env = sara_tape_env(nn.tape);
    forward(&env, p, p->y, p->mean, p->rstd);
    backward(&env, p, p->dx, p->dw, p->db, false);
    for (size_t i = 0; i < p->nx; i++)
        assert_true(p->y[i] == 0 && isfinite(p->dx[i]));
    test_nn_close(&nn);
}

static void test_zeros(void **state)
{
    (void)state;
    problem p = start(&(sara_group_norm_shape){5, 1, 37, -1, 1e-6f, false}, 0);
    memset(p.x, 0, p.nx * sizeof(*p.x));
    test_simd_each(check_zeros, &p);
    finish(&p);
}

/* Constant rows: the result is the bias, and the gradients are finite. */
static void check_constant(void *argument)
{
    problem *p = argument;
    test_nn nn = test_nn_open("cpu");
    sara_kernel_env env = sara_tape_env(nn.tape);
    forward(&env, p, p->y, p->mean, p->rstd);
    for (size_t i = 0; i < p->nx; i++)
        assert_true(p->y[i] == p->b[i % p->nc]);
    backward(&env, p, p->dx, p->dw, p->db, false);
    for (size_t i = 0; i < p->nx; i++)
        assert_true(isfinite(p->dx[i]));
    for (size_t i = 0; i < p->nc; i++)
        assert_true(isfinite(p->dw[i]) && isfinite(p->db[i]));
    test_nn_close(&nn);
}

static void test_constant(void **state)
{
    (void)state;
    const sara_group_norm_shape shapes[] = {{2, 70, 12, 3, 1e-5f, false},
                                            {5, 1, 37, 0, 1e-5f, false}};
    for (int i = 0; i < 2; i++) {
        problem p = start(&shapes[i], 0);
        for (size_t j = 0; j < p.nx; j++)
            p.x[j] = 3.7f;
        test_simd_each(check_constant, &p);
        finish(&p);
    }
}

/* One thread and two give the same bits. */
static void test_threads(void **state)
{
    (void)state;
    const sara_group_norm_shape shapes[] = {{2, 200, 40, 8, 1e-5f, true},
                                            {150, 1, 37, 0, 1e-5f, false},
                                            {150, 1, 37, -1, 1e-6f, false}};
    for (int i = 0; i < 3; i++) {
        problem a = start(&shapes[i], 0), b = start(&shapes[i], 0);
        sara_kernel_env one = test_simd_env(1), two = test_simd_env(2);
        forward(&one, &a, a.y, a.mean, a.rstd);
        backward(&one, &a, a.dx, a.dw, a.db, true);
        forward(&two, &b, b.y, b.mean, b.rstd);
        backward(&two, &b, b.dx, b.dw, b.db, true);
        assert_memory_equal(a.y, b.y, a.nx * sizeof(float));
        assert_memory_equal(a.dx, b.dx, a.nx * sizeof(float));
        assert_memory_equal(a.dw, b.dw, a.nc * sizeof(float));
        assert_memory_equal(a.db, b.db, a.nc * sizeof(float));
        test_simd_env_free(&one);
        test_simd_env_free(&two);
        finish(&a);
        finish(&b);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_group_norm), cmocka_unit_test(test_layer_norm),
        cmocka_unit_test(test_offset),     cmocka_unit_test(test_constant),
        cmocka_unit_test(test_rms_norm),   cmocka_unit_test(test_zeros),
        cmocka_unit_test(test_threads),    cmocka_unit_test(test_real_shapes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

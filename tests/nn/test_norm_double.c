/* Plain norm kernels in double against finite differences. */
#include "nn/support_fd.h"

#include <math.h>
#include <stdlib.h>

#include "nn/kernels.h"

typedef struct problem {
    sara_kernel_env env;
    sara_group_norm_shape shape; /* groups 0: layer norm of n rows; -1: rms norm */
    double *x, *w, *b, *mean, *rstd;
} problem;

static void forward(void *data, double *y)
{
    problem *p = data;
    const sara_group_norm_shape *s = &p->shape;
    if (s->groups > 0)
        assert_ok(p->env.ctx,
                  KERNEL(group_norm_forward)(&p->env, y, p->mean, p->rstd, p->x, p->w, p->b, s));
    else if (s->groups < 0)
        assert_ok(p->env.ctx,
                  KERNEL(rms_norm_forward)(&p->env, y, p->rstd, p->x, p->w, s->n, s->c, s->eps));
    else
        assert_ok(p->env.ctx, KERNEL(layer_norm_forward)(&p->env, y, p->mean, p->rstd, p->x, p->w,
                                                         p->b, s->n, s->c, s->eps));
}

static void backward(problem *p, double *dx, double *dw, double *db, const double *dy,
                     bool accumulate)
{
    const sara_group_norm_shape *s = &p->shape;
    if (s->groups > 0)
        assert_ok(p->env.ctx, KERNEL(group_norm_backward)(&p->env, dx, dw, db, dy, p->x, p->mean,
                                                          p->rstd, p->w, p->b, s, accumulate));
    else if (s->groups < 0)
        assert_ok(p->env.ctx, KERNEL(rms_norm_backward)(&p->env, dx, dw, dy, p->x, p->rstd, p->w,
                                                        s->n, s->c, accumulate));
    else
        assert_ok(p->env.ctx, KERNEL(layer_norm_backward)(&p->env, dx, dw, db, dy, p->x, p->mean,
                                                          p->rstd, p->w, s->n, s->c, accumulate));
}

/* Adding gives twice what assigning gave; gradients that are not wanted are not written. */
static void check_parts(problem *p, const double *dx, const double *dw, const double *dy, size_t nx)
{
    double *twice = test_fd_zeros(nx), *again = test_fd_zeros((size_t)p->shape.c);
    memcpy(twice, dx, nx * sizeof(*dx));
    backward(p, twice, NULL, NULL, dy, true);
    for (size_t i = 0; i < nx; i++)
        assert_close(fabs(twice[i] - 2 * dx[i]), 1e-12, "accumulated dx");
    backward(p, NULL, again, NULL, dy, false);
    for (int64_t i = 0; i < p->shape.c; i++)
        assert_true(again[i] == dw[i]);
    free(twice);
    free(again);
}

static void check(int64_t n, int64_t inner, int64_t c, int groups, bool silu)
{
    problem p = {.env = {.ctx = test_context()}, .shape = {n, inner, c, groups, 1e-5, silu}};
    size_t nx = (size_t)(n * inner * c), nc = (size_t)c;
    p.x = test_fd_random(nx, 1);
    p.w = test_fd_random(nc, 2);
    p.b = test_fd_random(nc, 3);
    p.mean = test_fd_zeros((size_t)(n * (groups > 0 ? groups : 1)));
    p.rstd = test_fd_zeros((size_t)(n * (groups > 0 ? groups : 1)));
    double *dy = test_fd_random(nx, 4), *dx = test_fd_random(nx, 5), *y = test_fd_zeros(nx);
    double *dw = test_fd_zeros(nc), *db = test_fd_zeros(nc);
    forward(&p, y);
    backward(&p, dx, dw, db, dy, false);
    check_parts(&p, dx, dw, dy, nx);
    const test_fd_input inputs[] = {{"x", p.x, dx, nx}, {"w", p.w, dw, nc}, {"b", p.b, db, nc}};
    test_fd_check(forward, &p, nx, dy, inputs, groups < 0 ? 2 : 3);
    free(p.x);
    free(p.w);
    free(p.b);
    free(p.mean);
    free(p.rstd);
    free(dy);
    free(dx);
    free(y);
    free(dw);
    free(db);
    sara_context_free(p.env.ctx);
}

static void test_group_norm(void **state)
{
    (void)state;
    check(2, 5, 6, 3, false);
    check(1, 7, 10, 2, true);
    check(3, 1, 9, 3, true);
    check(2, 4, 5, 5, false);
    check(2, 3, 7, 1, true);
}

static void test_layer_norm(void **state)
{
    (void)state;
    check(1, 1, 7, 0, false);
    check(5, 1, 9, 0, false);
    check(3, 1, 2, 0, false);
}

static void test_rms_norm(void **state)
{
    (void)state;
    check(1, 1, 7, -1, false);
    check(5, 1, 9, -1, false);
    check(3, 1, 2, -1, false);
}

/* torch.nn.RMSNorm with eps 0.25, in double, of two rows of 3. */
static void test_rms_values(void **state)
{
    (void)state;
    sara_kernel_env env = {.ctx = test_context()};
    const double x[] = {1, -2, 0.5, 0, 0.25, -0.125}, w[] = {2, -1, 0.5};
    const double expected[] = {1.41421356237309,  1.41421356237309, 0.17677669529664, 0,
                               -0.47583095143089, -0.11895773785772};
    double y[6], rstd[2];
    assert_ok(env.ctx, KERNEL(rms_norm_forward)(&env, y, rstd, x, w, 2, 3, 0.25));
    for (int i = 0; i < 6; i++)
        assert_close(fabs(y[i] - expected[i]), 1e-13, "y");
    sara_context_free(env.ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_group_norm),
        cmocka_unit_test(test_layer_norm),
        cmocka_unit_test(test_rms_norm),
        cmocka_unit_test(test_rms_values),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

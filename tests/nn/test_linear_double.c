/* Plain linear kernels in double against finite differences. */
#include "nn/support_fd.h"

#include <math.h>
#include <stdlib.h>

#include "nn/kernels.h"

typedef struct problem {
    sara_kernel_env env;
    sara_linear_shape shape;
    double *x, *w, *b;
} problem;

static void forward(void *data, double *y)
{
    problem *p = data;
    const sara_weight_view w = {p->w, SARA_F64, NULL};
    assert_ok(p->env.ctx,
              KERNEL(linear_forward)(&p->env, y, p->x, &w, p->b, &p->shape));
}

static void check(int64_t rows, int64_t in, int64_t out)
{
    problem p = {.env = {.ctx = test_context()}, .shape = {rows, in, out}};
    size_t nx = (size_t)(rows * in), nw = (size_t)(out * in), ny = (size_t)(rows * out);
    p.x = test_fd_random(nx, 1);
    p.w = test_fd_random(nw, 2);
    p.b = test_fd_random((size_t)out, 3);
    double *dy = test_fd_random(ny, 4), *dx = test_fd_random(nx, 5);
    double *dw = test_fd_zeros(nw), *db = test_fd_zeros((size_t)out);
    const sara_weight_view w = {p.w, SARA_F64, NULL};
    assert_ok(p.env.ctx, KERNEL(linear_dx)(&p.env, dx, dy, &w, &p.shape, false));
    assert_ok(p.env.ctx, KERNEL(linear_dw)(&p.env, dw, dy, p.x, &p.shape));
    assert_ok(p.env.ctx, KERNEL(bias_grad)(&p.env, db, dy, rows, out));
    const test_fd_input inputs[] = {
        {"x", p.x, dx, nx}, {"w", p.w, dw, nw}, {"b", p.b, db, (size_t)out}};
    test_fd_check(forward, &p, ny, dy, inputs, 3);
    free(p.x);
    free(p.w);
    free(p.b);
    free(dy);
    free(dx);
    free(dw);
    free(db);
    sara_context_free(p.env.ctx);
}

static void test_gradients(void **state)
{
    (void)state;
    check(1, 3, 5);
    check(1, 1, 1);
    check(7, 4, 1);
    check(5, 9, 6);
}

/* Accumulating adds to what was there; sampled entries equal the dense ones. */
static void test_accumulate_and_sampled(void **state)
{
    (void)state;
    sara_kernel_env env = {.ctx = test_context()};
    const sara_linear_shape shape = {4, 3, 2};
    const uint32_t positions[] = {1, 2, 5};
    double *x = test_fd_random(12, 1), *w = test_fd_random(6, 2), *dy = test_fd_random(8, 3);
    const sara_weight_view view = {w, SARA_F64, NULL};
    double dx[12], twice[12], dw[6] = {0}, sampled[3] = {10, 20, 30};
    assert_ok(env.ctx, KERNEL(linear_dx)(&env, dx, dy, &view, &shape, false));
    memcpy(twice, dx, sizeof(dx));
    assert_ok(env.ctx, KERNEL(linear_dx)(&env, twice, dy, &view, &shape, true));
    for (int i = 0; i < 12; i++)
        assert_close(fabs(twice[i] - 2 * dx[i]), 1e-12, "accumulated dx");
    assert_ok(env.ctx, KERNEL(linear_dw)(&env, dw, dy, x, &shape));
    assert_ok(env.ctx, KERNEL(linear_dw_sampled)(&env, sampled, dy, x, positions, 3, &shape));
    for (int i = 0; i < 3; i++)
        assert_true(sampled[i] == 10.0 * (i + 1) + dw[positions[i]]);
    free(x);
    free(w);
    free(dy);
    sara_context_free(env.ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gradients),
        cmocka_unit_test(test_accumulate_and_sampled),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

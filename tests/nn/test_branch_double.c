/* Plain kernels of low-rank branches in double against finite differences. */
#include "nn/support_fd.h"

#include <math.h>
#include <stdlib.h>

#include "nn/kernels.h"

enum { ROWS = 6, OUT = 5 };

typedef struct problem {
    sara_kernel_env env;
    double *x, *m, *norm, *b; /* norm NULL: all 1 */
} problem;

static void forward(void *data, double *y)
{
    problem *p = data;
    assert_ok(p->env.ctx, KERNEL(scale_outputs)(&p->env, y, p->x, p->m, p->norm, p->b, ROWS, OUT));
}

static void check_scale_outputs(bool normed)
{
    problem p = {.env = {.ctx = test_context()},
                 .x = test_fd_random(ROWS * OUT, 1),
                 .m = test_fd_random(OUT, 2),
                 .norm = normed ? test_fd_random(OUT, 3) : NULL,
                 .b = test_fd_random(OUT, 4)};
    double *dy = test_fd_random(ROWS * OUT, 5), dx[ROWS * OUT], twice[ROWS * OUT], dm[OUT] = {0};
    for (int i = 0; normed && i < OUT; i++)
        p.norm[i] = 1 + fabs(p.norm[i]);
    assert_ok(p.env.ctx, KERNEL(scale_outputs_backward)(&p.env, dx, dm, dy, p.x, p.m, p.norm, ROWS,
                                                        OUT, false));
    const test_fd_input inputs[] = {{"x", p.x, dx, ROWS * OUT}, {"m", p.m, dm, OUT}};
    test_fd_check(forward, &p, ROWS * OUT, dy, inputs, 2);
    memcpy(twice, dx, sizeof(dx));
    assert_ok(p.env.ctx, KERNEL(scale_outputs_backward)(&p.env, twice, NULL, dy, NULL, p.m, p.norm,
                                                        ROWS, OUT, true));
    for (int i = 0; i < ROWS * OUT; i++)
        assert_close(fabs(twice[i] - 2 * dx[i]), 1e-12, "accumulated dx");
    free(p.x);
    free(p.m);
    free(p.norm);
    free(p.b);
    free(dy);
    sara_context_free(p.env.ctx);
}

static void test_scale_outputs(void **state)
{
    (void)state;
    check_scale_outputs(true);
    check_scale_outputs(false);
}

/* w = [[3, 0], [1, 1]], up down = [[0, 2], [0, 4]] */
static void test_norm(void **state)
{
    (void)state;
    sara_kernel_env env = {.ctx = test_context()};
    const double w[] = {3, 0, 1, 1}, down[] = {0, 2}, up[] = {1, 2};
    const sara_weight_view view = {w, SARA_F64, NULL};
    double norm[2];
    assert_ok(env.ctx, KERNEL(low_rank_norm)(&env, norm, &view, down, up, 2, 2, 2, 1));
    assert_close(fabs(norm[0] - 5), 1e-12, "norm");
    assert_close(fabs(norm[1] - sqrt(82)), 1e-12, "norm");
    sara_context_free(env.ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_scale_outputs),
        cmocka_unit_test(test_norm),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

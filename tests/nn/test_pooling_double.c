/* Plain pooling in double against finite differences. */
#include "nn/support_fd.h"

#include <stdlib.h>

#include "nn/kernels.h"

typedef struct pooling_problem {
    sara_kernel_env env;
    sara_pooling_shape shape;
    bool max;
    double *x;
} pooling_problem;

static void pool(void *data, double *y)
{
    pooling_problem *p = data;
    assert_ok(p->env.ctx, p->max ? KERNEL(max_pool_forward)(&p->env, y, p->x, &p->shape)
                                 : KERNEL(average_pool_forward)(&p->env, y, p->x, &p->shape));
}

static void test_pooling(void **state)
{
    (void)state;
    const sara_pooling_shape shapes[] = {{2, 5, 4, 3, 5, 4, 3, 3, 1, 1},
                                         {1, 7, 6, 2, 3, 2, 3, 3, 2, 0},
                                         {2, 4, 3, 2, 1, 1, 4, 3, 1, 0}};
    for (int i = 0; i < 6; i++) {
        pooling_problem p = {.env = {.ctx = test_context()}, .shape = shapes[i / 2], .max = i % 2};
        const sara_pooling_shape *s = &p.shape;
        size_t in = (size_t)(s->n * s->h * s->w * s->c),
               out = (size_t)(s->n * s->oh * s->ow * s->c);
        double *dy = test_fd_random(out, 3), *dx = test_fd_zeros(in);
        p.x = test_fd_random(in, 1);
        assert_ok(p.env.ctx, p.max ? KERNEL(max_pool_dx)(&p.env, dx, dy, p.x, s)
                                   : KERNEL(average_pool_dx)(&p.env, dx, dy, s));
        const test_fd_input input = {"x", p.x, dx, in};
        test_fd_check(pool, &p, out, dy, &input, 1);
        free(dy);
        free(dx);
        free(p.x);
        sara_context_free(p.env.ctx);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_pooling)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

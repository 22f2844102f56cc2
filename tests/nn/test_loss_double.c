/* The plain kernels of the loss in double: the formula, and finite differences. */
#include "nn/support_fd.h"

#include <math.h>
#include <stdlib.h>

#include "nn/kernels.h"

enum { SAMPLES = 3, COUNT = 4, ALL = SAMPLES * COUNT };

typedef struct problem {
    sara_kernel_env env;
    double *x, *target;
    const double *weights;
} problem;

static const double weights[SAMPLES] = {0.5, 0, 3};

static problem start(const double *weights_or_none)
{
    problem p = {.env = {.ctx = test_context()}, .weights = weights_or_none};
    p.x = test_fd_random(ALL, 1);
    p.target = test_fd_random(ALL, 2);
    return p;
}

static void finish(problem *p)
{
    free(p->x);
    free(p->target);
    sara_context_free(p->env.ctx);
}

static void forward(void *data, double *loss)
{
    problem *p = data;
    assert_ok(p->env.ctx,
              KERNEL(mse_forward)(&p->env, loss, p->x, p->target, p->weights, SAMPLES, COUNT));
}

/* As PyTorch code has it: ((x - target)**2).mean(1), times the weights, .mean(). */
static void test_formula(void **state)
{
    (void)state;
    problem p = start(weights);
    double loss, expected = 0;
    for (int n = 0; n < SAMPLES; n++) {
        double mean = 0;
        for (int i = 0; i < COUNT; i++)
            mean += pow(p.x[n * COUNT + i] - p.target[n * COUNT + i], 2) / COUNT;
        expected += weights[n] * mean / SAMPLES;
    }
    forward(&p, &loss);
    assert_close(fabs(loss - expected), 1e-13, "weighted mean");
    finish(&p);
}

static void test_gradients(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++) {
        problem p = start(i ? weights : NULL);
        const double dloss = 0.7;
        double dx[ALL], twice[ALL];
        assert_ok(p.env.ctx, KERNEL(mse_backward)(&p.env, dx, &dloss, p.x, p.target, p.weights,
                                                  SAMPLES, COUNT, false));
        memcpy(twice, dx, sizeof(twice));
        assert_ok(p.env.ctx, KERNEL(mse_backward)(&p.env, twice, &dloss, p.x, p.target, p.weights,
                                                  SAMPLES, COUNT, true));
        for (int j = 0; j < ALL; j++)
            assert_close(fabs(twice[j] - 2 * dx[j]), 1e-13, "accumulated dx");
        const test_fd_input input = {"x", p.x, dx, ALL};
        test_fd_check(forward, &p, 1, &dloss, &input, 1);
        finish(&p);
    }
}

/* Weights of 1 and none are the same to the bit. */
static void test_ones(void **state)
{
    (void)state;
    const double ones[SAMPLES] = {1, 1, 1}, dloss = 0.3;
    double losses[2], dx[2][ALL];
    for (int i = 0; i < 2; i++) {
        problem p = start(i ? ones : NULL);
        forward(&p, &losses[i]);
        assert_ok(p.env.ctx, KERNEL(mse_backward)(&p.env, dx[i], &dloss, p.x, p.target, p.weights,
                                                  SAMPLES, COUNT, false));
        finish(&p);
    }
    assert_memory_equal(&losses[0], &losses[1], sizeof(losses[0]));
    assert_memory_equal(dx[0], dx[1], sizeof(dx[0]));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_formula),
        cmocka_unit_test(test_gradients),
        cmocka_unit_test(test_ones),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

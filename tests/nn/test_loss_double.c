/* The plain kernels of the loss in double: the formula, and finite differences. */
#include "nn/support_fd.h"

#include <math.h>
#include <stdlib.h>

#include "nn/kernels.h"

enum { SAMPLES = 3, COUNT = 4, PLANE = 2, ALL = SAMPLES * COUNT };

typedef struct problem {
    sara_kernel_env env;
    double *x, *target;
    const double *weights, *mask;
} problem;

static const double weights[SAMPLES] = {0.5, 0, 3};
static const double mask[SAMPLES * PLANE] = {1, 0, 0.25, 2, 0, 0.5};

static problem start(const double *weights_or_none, const double *mask_or_none)
{
    problem p = {.env = {.ctx = test_context()}, .weights = weights_or_none, .mask = mask_or_none};
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
    assert_ok(p->env.ctx, KERNEL(mse_forward)(&p->env, loss, p->x, p->target, p->weights, p->mask,
                                              SAMPLES, COUNT, PLANE));
}

/* As PyTorch code has it: ((x - target)**2 * mask).mean(1), times the weights, .mean(); samples
 * have two planes. */
static void test_formula(void **state)
{
    (void)state;
    for (int masked = 0; masked < 2; masked++) {
        problem p = start(weights, masked ? mask : NULL);
        double loss, expected = 0;
        for (int n = 0; n < SAMPLES; n++) {
            double mean = 0;
            for (int i = 0; i < COUNT; i++)
                mean += pow(p.x[n * COUNT + i] - p.target[n * COUNT + i], 2) / COUNT *
                        (masked ? mask[n * PLANE + i % PLANE] : 1);
            expected += weights[n] * mean / SAMPLES;
        }
        forward(&p, &loss);
        assert_close(fabs(loss - expected), 1e-13, "weighted mean");
        finish(&p);
    }
}

static void test_gradients(void **state)
{
    (void)state;
    for (int i = 0; i < 4; i++) {
        problem p = start(i & 1 ? weights : NULL, i & 2 ? mask : NULL);
        const double dloss = 0.7;
        double dx[ALL], twice[ALL];
        assert_ok(p.env.ctx, KERNEL(mse_backward)(&p.env, dx, &dloss, p.x, p.target, p.weights,
                                                  p.mask, SAMPLES, COUNT, PLANE, false));
        memcpy(twice, dx, sizeof(twice));
        assert_ok(p.env.ctx, KERNEL(mse_backward)(&p.env, twice, &dloss, p.x, p.target, p.weights,
                                                  p.mask, SAMPLES, COUNT, PLANE, true));
        for (int j = 0; j < ALL; j++)
            assert_close(fabs(twice[j] - 2 * dx[j]), 1e-13, "accumulated dx");
        for (int j = 0; j < ALL; j++) /* nothing outside of the mask */
            if (p.mask && mask[j / COUNT * PLANE + j % PLANE] == 0)
                assert_true(dx[j] == 0 && twice[j] == 0);
        const test_fd_input input = {"x", p.x, dx, ALL};
        test_fd_check(forward, &p, 1, &dloss, &input, 1);
        finish(&p);
    }
}

/* Weights and masks of 1 and none are the same to the bit. */
static void test_ones(void **state)
{
    (void)state;
    const double ones[SAMPLES] = {1, 1, 1}, whole[SAMPLES * PLANE] = {1, 1, 1, 1, 1, 1};
    const double dloss = 0.3;
    double losses[2], dx[2][ALL];
    for (int i = 0; i < 2; i++) {
        problem p = start(i ? ones : NULL, i ? whole : NULL);
        forward(&p, &losses[i]);
        assert_ok(p.env.ctx, KERNEL(mse_backward)(&p.env, dx[i], &dloss, p.x, p.target, p.weights,
                                                  p.mask, SAMPLES, COUNT, PLANE, false));
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

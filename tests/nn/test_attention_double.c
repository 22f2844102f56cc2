/* Plain attention in double: the definition written out, and finite differences. */
#include "nn/support_fd.h"

#include <math.h>
#include <stdlib.h>

#include "nn/kernels.h"

typedef struct problem {
    sara_kernel_env env;
    sara_attention_shape shape;
    double *q, *k, *v, *lse, *bias; /* bias NULL: none */
} problem;

static void forward(void *data, double *y)
{
    problem *p = data;
    assert_ok(p->env.ctx,
              KERNEL(attention_forward)(&p->env, y, p->lse, p->q, p->k, p->v, p->bias, &p->shape));
}

static size_t count_of(const sara_attention_shape *s, int64_t length)
{
    return (size_t)(s->n * length * s->heads * s->dim);
}

static problem start(const sara_attention_shape *shape, bool biased)
{
    problem p = {.env = {.ctx = test_context()}, .shape = *shape};
    p.q = test_fd_random(count_of(shape, shape->t), 1);
    p.k = test_fd_random(count_of(shape, shape->s), 2);
    p.v = test_fd_random(count_of(shape, shape->s), 3);
    p.lse = test_fd_zeros((size_t)(shape->n * shape->heads * shape->t));
    if (biased)
        p.bias = test_fd_random((size_t)(shape->heads * shape->t * shape->s), 5);
    return p;
}

static void finish(problem *p)
{
    free(p->q);
    free(p->k);
    free(p->v);
    free(p->lse);
    free(p->bias);
    sara_context_free(p->env.ctx);
}

static void check(const sara_attention_shape *shape, bool biased)
{
    problem p = start(shape, biased);
    size_t nq = count_of(shape, shape->t), nk = count_of(shape, shape->s);
    double *y = test_fd_zeros(nq), *dy = test_fd_random(nq, 4), *dq = test_fd_zeros(nq);
    double *dk = test_fd_zeros(nk), *dv = test_fd_zeros(nk), *only = test_fd_zeros(nk);
    forward(&p, y);
    assert_ok(p.env.ctx, KERNEL(attention_backward)(&p.env, dq, dk, dv, dy, y, p.lse, p.q, p.k, p.v,
                                                    p.bias, shape));
    assert_ok(p.env.ctx, KERNEL(attention_backward)(&p.env, NULL, only, NULL, dy, y, p.lse, p.q,
                                                    p.k, p.v, p.bias, shape));
    assert_memory_equal(only, dk, nk * sizeof(*dk));
    const test_fd_input inputs[] = {{"q", p.q, dq, nq}, {"k", p.k, dk, nk}, {"v", p.v, dv, nk}};
    test_fd_check(forward, &p, nq, dy, inputs, 3);
    free(y);
    free(dy);
    free(dq);
    free(dk);
    free(dv);
    free(only);
    finish(&p);
}

static void test_gradients(void **state)
{
    (void)state;
    check(&(sara_attention_shape){2, 3, 5, 2, 3, false, 0}, false);
    check(&(sara_attention_shape){1, 4, 1, 1, 2, false, 0}, false);
    check(&(sara_attention_shape){1, 1, 6, 3, 1, false, 0}, false);
    check(&(sara_attention_shape){2, 5, 5, 2, 3, true, 0}, false);
    check(&(sara_attention_shape){2, 3, 5, 2, 3, false, 1}, true);
    check(&(sara_attention_shape){2, 3, 5, 2, 3, false, 0}, true);
    check(&(sara_attention_shape){2, 4, 4, 3, 2, true, 0.3}, true);
}

/* Head 1 of two, written out for 2 queries and 3 keys of dimension 1; biased: scaled by a half. */
static void check_definition(bool biased)
{
    const sara_attention_shape shape = {1, 2, 3, 2, 1, false, biased ? 0.5 : 0};
    problem p = start(&shape, biased);
    double y[4];
    forward(&p, y);
    for (int t = 0; t < 2; t++) {
        double sum = 0, value = 0;
        for (int s = 0; s < 3; s++) {
            double weight = exp((biased ? 0.5 : 1) * p.q[2 * t + 1] * p.k[2 * s + 1] +
                                (biased ? p.bias[(2 + t) * 3 + s] : 0));
            sum += weight;
            value += weight * p.v[2 * s + 1];
        }
        assert_close(fabs(y[2 * t + 1] - value / sum), 1e-14, "y");
        assert_close(fabs(p.lse[2 + t] - log(sum)), 1e-14, "lse");
    }
    finish(&p);
}

static void test_definition(void **state)
{
    (void)state;
    check_definition(false);
    check_definition(true);
}

/* A later key or value changes nothing for an earlier query. */
static void test_causal(void **state)
{
    (void)state;
    const sara_attention_shape shape = {1, 4, 4, 1, 3, true, 0};
    problem p = start(&shape, false);
    double before[12], after[12];
    forward(&p, before);
    p.k[6] += 1; /* of key 2 */
    p.v[9] += 1; /* of value 3 */
    forward(&p, after);
    assert_memory_equal(before, after, 6 * sizeof(double));
    assert_true(before[6] != after[6]);
    assert_true(before[9] != after[9]);
    assert_memory_equal(before, p.v, 3 * sizeof(double)); /* query 0 sees value 0 alone */
    finish(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gradients),
        cmocka_unit_test(test_definition),
        cmocka_unit_test(test_causal),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Blockwise attention against the plain one. */
#include "nn/support_simd.h"

#include <math.h>
#include <stdlib.h>

#define TOLERANCE 1e-5

typedef struct problem {
    sara_attention_shape shape;
    size_t nq, nk, nl;
    float *q, *k, *v, *dy, *bias;  /* bias: where the scale is given; else NULL */
    float *y, *lse, *dq, *dk, *dv; /* what the plain kernels give */
} problem;

static problem start(const sara_attention_shape *s)
{
    problem p = {.shape = *s};
    p.nq = (size_t)(s->n * s->t * s->heads * s->dim);
    p.nk = (size_t)(s->n * s->s * s->heads * s->dim);
    p.nl = (size_t)(s->n * s->heads * s->t);
    p.q = test_nn_random(p.nq, 1);
    p.k = test_nn_random(p.nk, 2);
    p.v = test_nn_random(p.nk, 3);
    p.dy = test_nn_random(p.nq, 4);
    if (s->scale != 0)
        p.bias = test_nn_random((size_t)(s->heads * s->t * s->s), 8);
    p.y = test_nn_zeros(p.nq);
    p.lse = test_nn_zeros(p.nl);
    p.dq = test_nn_random(p.nq, 5);
    p.dk = test_nn_random(p.nk, 6);
    p.dv = test_nn_random(p.nk, 7);
    return p;
}

static void finish(problem *p)
{
    float *all[] = {p->q, p->k, p->v, p->dy, p->bias, p->y, p->lse, p->dq, p->dk, p->dv};
    for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++)
        free(all[i]);
}

static void run(const sara_kernel_env *env, problem *p)
{
    assert_ok(env->ctx, sara_kernel_attention_forward(env, p->y, p->lse, p->q, p->k, p->v, p->bias,
                                                      &p->shape));
    assert_ok(env->ctx,
              sara_kernel_attention_backward(env, p->dq, p->dk, p->dv, p->dy, p->y, p->lse, p->q,
                                             p->k, p->v, p->bias, &p->shape));
}

/* Each gradient alone gives what all together give. */
static void check_parts(const sara_kernel_env *env, const problem *p)
{
    float *dq = test_nn_random(p->nq, 5), *dk = test_nn_random(p->nk, 6);
    float *dv = test_nn_random(p->nk, 7);
    float *const wanted[3][3] = {{dq, NULL, NULL}, {NULL, dk, NULL}, {NULL, NULL, dv}};
    for (int i = 0; i < 3; i++)
        assert_ok(env->ctx, sara_kernel_attention_backward(env, wanted[i][0], wanted[i][1],
                                                           wanted[i][2], p->dy, p->y, p->lse, p->q,
                                                           p->k, p->v, p->bias, &p->shape));
    assert_memory_equal(dq, p->dq, p->nq * sizeof(float));
    assert_memory_equal(dk, p->dk, p->nk * sizeof(float));
    assert_memory_equal(dv, p->dv, p->nk * sizeof(float));
    free(dq);
    free(dk);
    free(dv);
}

static void check_fast(void *argument)
{
    const problem *expected = argument;
    problem p = start(&expected->shape);
    test_nn nn = test_nn_open("cpu");
    sara_kernel_env env = sara_tape_env(nn.tape);
    memcpy(p.q, expected->q, p.nq * sizeof(float));
    memcpy(p.k, expected->k, p.nk * sizeof(float));
    run(&env, &p);
    assert_close(test_relative_l2(p.y, expected->y, p.nq), TOLERANCE, "y");
    assert_close(test_relative_l2(p.lse, expected->lse, p.nl), TOLERANCE, "lse");
    assert_close(test_relative_l2(p.dq, expected->dq, p.nq), TOLERANCE, "dq");
    assert_close(test_relative_l2(p.dk, expected->dk, p.nk), TOLERANCE, "dk");
    assert_close(test_relative_l2(p.dv, expected->dv, p.nk), TOLERANCE, "dv");
    check_parts(&env, &p);
    test_nn_close(&nn);
    finish(&p);
}

static void check_problem(problem *p)
{
    test_nn nn = test_nn_open("cpu-plain");
    sara_kernel_env env = sara_tape_env(nn.tape);
    run(&env, p);
    test_simd_each(check_fast, p);
    test_nn_close(&nn);
}

static void check(const sara_attention_shape *shape)
{
    problem p = start(shape);
    check_problem(&p);
    finish(&p);
}

static void test_shapes(void **state)
{
    (void)state;
    const sara_attention_shape shapes[] = {
        {1, 200, 200, 4, 40, false, 0}, {2, 64, 77, 2, 80, false, 0},
        {1, 130, 70, 2, 9, false, 0},   {1, 77, 77, 3, 64, true, 0},
        {1, 300, 300, 1, 8, true, 0},   {1, 70, 150, 1, 160, false, 0},
        {1, 65, 129, 1, 1, false, 0},   {1, 200, 200, 1, 33, true, 0},
        {2, 1, 1, 2, 5, false, 0},      {1, 260, 3, 20, 4, false, 0},
    };
    for (size_t i = 0; i < sizeof(shapes) / sizeof(*shapes); i++)
        check(&shapes[i]);
}

/* Heads of Stable Diffusion's U-Net, several spans of blocks, and rests of both. */
static void test_spans(void **state)
{
    (void)state;
    const sara_attention_shape shapes[] = {
        {1, 1024, 1024, 1, 40, false, 0}, {1, 256, 256, 1, 160, false, 0},
        {1, 577, 77, 2, 40, false, 0},    {1, 300, 333, 2, 80, false, 0},
        {1, 64, 1100, 1, 7, false, 0},    {1, 1100, 97, 1, 8, false, 0},
        {1, 333, 333, 2, 40, true, 0},    {2, 95, 95, 3, 64, true, 0},
        {1, 129, 96, 2, 16, false, 0},    {9, 70, 200, 2, 24, false, 0},
    };
    for (size_t i = 0; i < sizeof(shapes) / sizeof(*shapes); i++)
        check(&shapes[i]);
}

/* [rows][dim] of one head from rows that hold all of them; free(). */
static float *head_of(const float *from, int64_t rows, const sara_attention_shape *s, int head)
{
    float *to = test_nn_zeros((size_t)(rows * s->dim));
    for (int64_t r = 0; r < rows; r++)
        memcpy(to + r * s->dim, from + (r * s->heads + head) * s->dim,
               (size_t)s->dim * sizeof(float));
    return to;
}

static void compare_head(const float *all, const float *expected, int64_t rows,
                         const sara_attention_shape *s, int head, const char *what)
{
    float *got = head_of(all, rows, s, head);
    assert_close(test_relative_l2(got, expected, (size_t)(rows * s->dim)), TOLERANCE, what);
    free(got);
}

typedef struct one_head {
    problem one, all;
    int head;
} one_head;

static void check_head(void *argument)
{
    one_head *h = argument;
    problem *p = &h->all;
    const sara_attention_shape *s = &p->shape;
    test_nn nn = test_nn_open("cpu");
    sara_kernel_env env = sara_tape_env(nn.tape);
    memset(p->dq, 0, p->nq * sizeof(float));
    memset(p->dk, 0, p->nk * sizeof(float));
    memset(p->dv, 0, p->nk * sizeof(float));
    run(&env, p);
    compare_head(p->y, h->one.y, s->t, s, h->head, "a head's y");
    compare_head(p->dq, h->one.dq, s->t, s, h->head, "a head's dq");
    compare_head(p->dk, h->one.dk, s->s, s, h->head, "a head's dk");
    compare_head(p->dv, h->one.dv, s->s, s, h->head, "a head's dv");
    assert_close(test_relative_l2(p->lse + h->head * s->t, h->one.lse, (size_t)s->t), TOLERANCE,
                 "a head's lse");
    test_nn_close(&nn);
}

/* The fast kernels on all heads, the plain ones on one of them. */
static void check_one_head(const sara_attention_shape *s, int head)
{
    const sara_attention_shape shape = {1, s->t, s->s, 1, s->dim, s->causal, 0};
    one_head h = {start(&shape), start(s), head};
    float *const inputs[][2] = {
        {h.one.q, h.all.q}, {h.one.k, h.all.k}, {h.one.v, h.all.v}, {h.one.dy, h.all.dy}};
    for (int i = 0; i < 4; i++) {
        int64_t rows = i == 0 || i == 3 ? s->t : s->s;
        float *part = head_of(inputs[i][1], rows, s, head);
        memcpy(inputs[i][0], part, (size_t)(rows * s->dim) * sizeof(float));
        free(part);
    }
    memset(h.one.dq, 0, h.one.nq * sizeof(float));
    memset(h.one.dk, 0, h.one.nk * sizeof(float));
    memset(h.one.dv, 0, h.one.nk * sizeof(float));
    test_nn plain = test_nn_open("cpu-plain");
    sara_kernel_env env = sara_tape_env(plain.tape);
    run(&env, &h.one);
    test_simd_each(check_head, &h);
    test_nn_close(&plain);
    finish(&h.one);
    finish(&h.all);
}

/* Stable Diffusion 1.5's at 512x512 pixels; the last looks at the text. */
static void test_real_shapes(void **state)
{
    (void)state;
    check_one_head(&(sara_attention_shape){1, 4096, 4096, 8, 40, false, 0}, 7);
    check_one_head(&(sara_attention_shape){1, 1024, 1024, 8, 80, false, 0}, 0);
    check_one_head(&(sara_attention_shape){1, 256, 256, 8, 160, false, 0}, 5);
    check_one_head(&(sara_attention_shape){1, 4096, 77, 8, 40, false, 0}, 3);
}

/* With a bias and a scale of its own; T5-XXL's heads, and rests of blocks. */
static void test_biased(void **state)
{
    (void)state;
    const sara_attention_shape shapes[] = {
        {1, 77, 77, 8, 64, false, 1},    {2, 130, 150, 2, 12, false, 1},
        {2, 200, 97, 3, 9, false, 0.3f}, {1, 100, 100, 2, 16, true, 0.5f},
        {1, 3, 17, 2, 5, false, 1},      {1, 1100, 65, 1, 8, false, -0.2f},
        {1, 70, 1100, 1, 7, false, 0.2f}};
    for (size_t i = 0; i < sizeof(shapes) / sizeof(*shapes); i++)
        check(&shapes[i]);
}

/* Every remainder of the small matrix products. */
static void test_small(void **state)
{
    (void)state;
    for (int64_t t = 1; t < 18; t++) {
        check(&(sara_attention_shape){1, t, 18 - t, 2, t, false, 0});
        check(&(sara_attention_shape){1, t, t, 1, 5, true, 0});
    }
}

/* Scores of up to +-1e4; whole numbers, so that they are exact however they are summed. */
static void test_extreme_scores(void **state)
{
    (void)state;
    const sara_attention_shape shape = {1, 70, 140, 1, 4, false, 0};
    problem p = start(&shape);
    for (size_t i = 0; i < p.nq; i++)
        p.q[i] = roundf(p.q[i] * 30);
    for (size_t i = 0; i < p.nk; i++)
        p.k[i] = roundf(p.k[i] * 30);
    for (int i = 0; i < 4; i++) { /* query 0 against key 0: 1e4; against key 1: -1e4 */
        p.q[i] = p.k[i] = 71;
        p.k[4 + i] = -71;
        p.q[4 + i] = -71;
    }
    check_problem(&p);
    for (size_t i = 0; i < p.nq; i++)
        assert_true(isfinite(p.y[i]) && isfinite(p.dq[i]));
    for (size_t i = 0; i < p.nk; i++)
        assert_true(isfinite(p.dk[i]) && isfinite(p.dv[i]));
    finish(&p);
}

/* A NaN reaches its own query's result and no other's. */
static void check_nan(void *argument)
{
    problem *p = argument;
    test_nn nn = test_nn_open("cpu");
    sara_kernel_env env = sara_tape_env(nn.tape);
    assert_ok(env.ctx,
              sara_kernel_attention_forward(&env, p->y, p->lse, p->q, p->k, p->v, NULL, &p->shape));
    for (size_t i = 0; i < p->nq; i++)
        assert_true(isnan(p->y[i]) == (i / 6 == 3));
    assert_true(isnan(p->lse[3]));
    test_nn_close(&nn);
}

static void test_nan(void **state)
{
    (void)state;
    problem p = start(&(sara_attention_shape){1, 7, 9, 1, 6, false, 0});
    p.q[3 * 6 + 2] = NAN;
    test_simd_each(check_nan, &p);
    finish(&p);
}

/* One thread and two give the same bits. */
static void test_threads(void **state)
{
    (void)state;
    const sara_attention_shape shape = {1, 300, 200, 3, 12, false, 0.3f};
    problem a = start(&shape), b = start(&shape);
    sara_kernel_env one = test_simd_env(1), two = test_simd_env(2);
    run(&one, &a);
    run(&two, &b);
    assert_memory_equal(a.y, b.y, a.nq * sizeof(float));
    assert_memory_equal(a.dq, b.dq, a.nq * sizeof(float));
    assert_memory_equal(a.dk, b.dk, a.nk * sizeof(float));
    assert_memory_equal(a.dv, b.dv, a.nk * sizeof(float));
    test_simd_env_free(&one);
    test_simd_env_free(&two);
    finish(&a);
    finish(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shapes), cmocka_unit_test(test_spans),
        cmocka_unit_test(test_small),  cmocka_unit_test(test_extreme_scores),
        cmocka_unit_test(test_nan),    cmocka_unit_test(test_threads),
        cmocka_unit_test(test_biased), cmocka_unit_test(test_real_shapes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

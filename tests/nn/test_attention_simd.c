/* The small matrix products and the softmax of one block, with every instruction set. */
#include "nn/support_simd.h"

#include <math.h>
#include <stdlib.h>

#include "nn/simd/simd.h"

enum { MOST = 40, LD = 64 };

/* c [m][n] against the sums in double; nothing beside it is written. */
static void check_product(const sara_simd *simd, int64_t m, int64_t n, int64_t k, bool transposed,
                          bool accumulate)
{
    float *a = test_nn_random(MOST * MOST, 1), *b = test_nn_random(MOST * LD, 2);
    float *c = test_nn_random(MOST * LD, 3), *before = test_nn_copy(c, MOST * LD);
    int64_t row = transposed ? 1 : MOST, column = transposed ? MOST : 1;
    simd->gemm(c, LD, a, row, column, b, LD, m, n, k, accumulate);
    for (int64_t i = 0; i < MOST; i++)
        for (int64_t j = 0; j < LD; j++) {
            double expected = accumulate || i >= m || j >= n ? before[i * LD + j] : 0;
            for (int64_t p = 0; p < k && i < m && j < n; p++)
                expected += (double)a[i * row + p * column] * b[p * LD + j];
            if (i < m && j < n)
                assert_close(fabs(c[i * LD + j] - expected), 1e-5, "product");
            else
                assert_true(c[i * LD + j] == before[i * LD + j]);
        }
    free(a);
    free(b);
    free(c);
    free(before);
}

static void check_gemm(void *argument)
{
    const sara_simd *simd = sara_simd_best();
    (void)argument;
    for (int64_t m = 1; m < 18; m++)
        for (int64_t n = 1; n <= LD - 2; n += n < 20 ? 1 : 7)
            for (int option = 0; option < 4; option++)
                check_product(simd, m, n, 1 + m % 5, option & 1, option & 2);
}

static void test_gemm(void **state)
{
    (void)state;
    test_simd_each(check_gemm, NULL);
}

/* Nothing beside the columns is written. */
static void check_transposed(const float *x, int64_t x_stride, int64_t rows, int64_t n)
{
    int64_t stride = rows + 3;
    float *y = test_nn_random((size_t)(n * stride), 2);
    float *before = test_nn_copy(y, (size_t)(n * stride));
    sara_simd_best()->transpose(y, stride, x, x_stride, rows, n);
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < stride; j++)
            assert_true(y[i * stride + j] ==
                        (j < rows ? x[j * x_stride + i] : before[i * stride + j]));
    free(y);
    free(before);
}

static void check_transpose(void *argument)
{
    const float *x = argument;
    for (int64_t rows = 1; rows <= MOST; rows++)
        for (int64_t n = 1; n <= MOST; n++)
            check_transposed(x, n + 5, rows, n);
    check_transposed(x, 40, 1040, 37);
    check_transposed(x, 1100, 37, 1040);
}

static void test_transpose(void **state)
{
    (void)state;
    float *x = test_nn_random(1100 * MOST, 1);
    test_simd_each(check_transpose, x);
    free(x);
}

/* Two blocks of one query, the second with the greater scores: weights of both, as the factor puts
 * them together, are the softmax. The query lies in lane 2 of 3; the others are not written. */
static void check_softmax(void *argument)
{
    const float scores[2][4] = {{1, -2, 0.5f, 3}, {8, 7, -INFINITY, 6.5f}};
    float block[2][4][16], max[3], sum[3] = {0}, factor[3];
    double total = 0;
    (void)argument;
    max[0] = max[1] = max[2] = -INFINITY;
    for (int b = 0; b < 2; b++) {
        const sara_simd_scores shape = {.rows = 4, .columns = 3, .stride = 16, .scale = 0.5f};
        for (int j = 0; j < 4; j++) {
            for (int i = 0; i < 16; i++)
                block[b][j][i] = i == 2 ? scores[b][j] : 99;
            total += exp(0.5 * scores[b][j]);
        }
        sara_simd_best()->softmax(&block[b][0][0], max, sum, factor, &shape);
        for (int j = 0; j < 4; j++)
            for (int i = 3; i < 16; i++)
                assert_true(block[b][j][i] == 99);
    }
    assert_true(max[2] == 4 && block[1][2][2] == 0);
    assert_close(fabs(factor[2] - exp(-2.5)), 1e-7, "factor");
    assert_close(fabs(max[2] + log(sum[2]) - log(total)), 1e-6, "log-sum-exp");
    for (int j = 0; j < 4; j++) {
        assert_close(fabs(block[0][j][2] * factor[2] / sum[2] - exp(0.5 * scores[0][j]) / total),
                     1e-7, "first block");
        assert_close(fabs(block[1][j][2] / sum[2] - exp(0.5 * scores[1][j]) / total), 2e-7,
                     "second block");
    }
}

/* A query whose greatest score is 0: weights are e^x, 0 below -87.3. */
static void check_weights(void *argument)
{
    enum { COUNT = 4000 };
    float *scores = test_nn_zeros(COUNT), max = -INFINITY, sum = 0, factor;
    const sara_simd_scores shape = {.rows = COUNT, .columns = 1, .stride = 1, .scale = 1};
    (void)argument;
    for (int j = 0; j < COUNT; j++)
        scores[j] = -0.0225f * (float)j;
    float *x = test_nn_copy(scores, COUNT);
    sara_simd_best()->softmax(scores, &max, &sum, &factor, &shape);
    for (int j = 0; j < COUNT; j++) {
        double error = fabs(scores[j] / exp((double)x[j]) - 1) * (1 << 24);
        if (x[j] < -87.3f)
            assert_true(scores[j] == 0);
        else
            assert_close(error, 2, "weight");
    }
    free(scores);
    free(x);
}

static void test_weights(void **state)
{
    (void)state;
    test_simd_each(check_weights, NULL);
}

static void test_softmax(void **state)
{
    (void)state;
    test_simd_each(check_softmax, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gemm),
        cmocka_unit_test(test_transpose),
        cmocka_unit_test(test_softmax),
        cmocka_unit_test(test_weights),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

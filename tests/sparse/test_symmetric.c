#include "sparse/support_sparse.h"
#include "sparse/low_rank.h"

#include <math.h>

/* Around the sizes of leaves, tiles and stripes. */
static const int64_t sizes[] = {1, 2, 31, 32, 33, 47, 65, 97, 160, 239, 240, 241, 401};
#define SIZES (sizeof(sizes) / sizeof(*sizes))

static sara_block new_block(sara_context *ctx, int64_t rows, int64_t ld, uint64_t index)
{
    sara_block b = {NULL, ld, false};
    assert_ok(ctx, sara_alloc(ctx, &b.at, (size_t)rows, (size_t)ld * sizeof(float)));
    sara_draw_normal(b.at, (size_t)(rows * ld), 5, SARA_DRAW_TEST, index);
    return b;
}

/* Products of one row with another, in double. */
static double row_dot(sara_block a, int64_t i, sara_block b, int64_t j, int64_t k)
{
    double sum = 0;
    for (int64_t p = 0; p < k; p++)
        sum += (double)a.at[i * a.ld + p] * (double)b.at[j * b.ld + p];
    return sum;
}

/* c = alpha X X^T + beta c for X [n][k], given as it is and as its transpose. */
static void check_product(sara_context *ctx, int64_t n, int64_t k, bool transposed, float beta)
{
    sara_block x = new_block(ctx, n, k + 3, 1), y = new_block(ctx, k, n + 1, 2);
    sara_block c = new_block(ctx, n, n + 5, 3), old = new_block(ctx, n, n + 5, 3);
    for (int64_t i = 0; i < n; i++)
        for (int64_t p = 0; p < k; p++)
            y.at[p * y.ld + i] = x.at[i * x.ld + p];
    sara_block left = transposed ? (sara_block){y.at, y.ld, true} : x;
    sara_block right = transposed ? y : (sara_block){x.at, x.ld, true};
    assert_ok(ctx, sara_symmetric_product(ctx, c, left, right, n, k, -2, beta));
    sara_symmetric_mirror(ctx, c, n);
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < n; j++) {
            double before = (double)old.at[i >= j ? i * old.ld + j : j * old.ld + i];
            double expected = -2 * row_dot(x, i, x, j, k) + (double)beta * before;
            assert_close(fabs((double)c.at[i * c.ld + j] - expected), 1e-4 * (double)(k + 1),
                         "product");
        }
    for (int64_t i = 0; i < n; i++) /* nothing beyond the rows */
        assert_memory_equal(c.at + i * c.ld + n, old.at + i * c.ld + n, 5 * sizeof(float));
    sara_free(ctx, x.at);
    sara_free(ctx, y.at);
    sara_free(ctx, c.at);
    sara_free(ctx, old.at);
}

static void symmetric_products(void **state)
{
    (void)state;
    sara_context *ctx = test_context();
    for (size_t i = 0; i < SIZES; i++) {
        check_product(ctx, sizes[i], 37, false, 0);
        check_product(ctx, sizes[i], 90, true, 1);
    }
    sara_context_free(ctx);
}

/* X X^T / k + shift and its inverse give the identity. */
static void check_inverse(sara_context *ctx, int64_t n, int64_t k, float shift, double tolerance)
{
    sara_block x = new_block(ctx, n, k, 1), c = new_block(ctx, n, n + 2, 2);
    sara_block a = new_block(ctx, n, n, 3);
    float *spare = NULL;
    assert_ok(ctx, sara_alloc(ctx, &spare, sara_symmetric_spare(n), sizeof(float)));
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < n; j++) {
            a.at[i * n + j] = (float)(row_dot(x, i, x, j, k) / (double)k) + (i == j ? shift : 0);
            if (j <= i) /* the upper triangle holds anything */
                c.at[i * c.ld + j] = a.at[i * n + j];
        }
    assert_ok(ctx, sara_symmetric_invert(ctx, c, n, shift / 2, spare));
    sara_symmetric_mirror(ctx, c, n);
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < n; j++)
            assert_close(fabs(row_dot(a, i, c, j, n) - (i == j)), tolerance, "identity");
    sara_free(ctx, x.at);
    sara_free(ctx, c.at);
    sara_free(ctx, a.at);
    sara_free(ctx, spare);
}

static void inverses(void **state)
{
    (void)state;
    sara_context *ctx = test_context();
    for (size_t i = 0; i < SIZES; i++)
        check_inverse(ctx, sizes[i], 2 * sizes[i] + 8, 0.1f, 1e-4);
    check_inverse(ctx, 241, 100, 1e-3f, 5e-3); /* of a low rank but for the shift */
    sara_context_free(ctx);
}

/* Singular, with the leading part singular too: bounded by what is said to be the least. */
static void inverse_of_what_rounding_left(void **state)
{
    (void)state;
    sara_context *ctx = test_context();
    const int64_t n = 130;
    sara_block c = new_block(ctx, n, n, 1);
    float *spare = NULL;
    assert_ok(ctx, sara_alloc(ctx, &spare, sara_symmetric_spare(n), sizeof(float)));
    for (int64_t i = 0; i < n * n; i++)
        c.at[i] = 1;
    assert_ok(ctx, sara_symmetric_invert(ctx, c, n, 1e-3f, spare));
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j <= i; j++)
            assert_close(fabs((double)c.at[i * n + j]), 1.4e5, "entry");
    sara_free(ctx, c.at);
    sara_free(ctx, spare);
    sara_context_free(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(symmetric_products),
        cmocka_unit_test(inverses),
        cmocka_unit_test(inverse_of_what_rounding_left),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

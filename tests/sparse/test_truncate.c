/* The truncated singular value decomposition against LAPACK's own. */
#include "sparse/support_sparse.h"

#include <lapacke.h>
#include <math.h>

typedef struct matrix {
    int64_t rows, cols;
    size_t count;
    uint32_t *positions;
    float *values;
    double *dense; /* [rows][cols] */
} matrix;

/* Uniform entries at the given density. */
static matrix matrix_new(sara_context *ctx, int64_t rows, int64_t cols, double density)
{
    matrix a = {.rows = rows, .cols = cols};
    size_t entries = (size_t)(rows * cols);
    float *draws = NULL;
    assert_ok(ctx, sara_alloc(ctx, &draws, 2 * entries, sizeof(*draws)));
    assert_ok(ctx, sara_alloc(ctx, &a.positions, entries, sizeof(*a.positions)));
    assert_ok(ctx, sara_alloc(ctx, &a.values, entries, sizeof(*a.values)));
    assert_ok(ctx, sara_alloc_zero(ctx, &a.dense, entries, sizeof(*a.dense)));
    sara_draw_uniform(draws, 2 * entries, 5, SARA_DRAW_TEST, (uint64_t)(rows * 31 + cols));
    for (size_t i = 0; i < entries; i++)
        if ((double)draws[i] < density) {
            a.positions[a.count] = (uint32_t)i;
            a.values[a.count] = draws[entries + i] - 0.5f;
            a.dense[i] = (double)a.values[a.count++];
        }
    sara_free(ctx, draws);
    return a;
}

/* rank one plus entries 1e-4 as large: a spectrum that falls steeply */
static matrix matrix_steep(sara_context *ctx, int64_t rows, int64_t cols)
{
    matrix a = matrix_new(ctx, rows, cols, 1.0);
    for (size_t i = 0; i < a.count; i++) {
        double row = (double)(a.positions[i] / cols + 1), col = (double)(a.positions[i] % cols + 1);
        a.values[i] = (float)(sin(row) * cos(col) + 1e-4 * (double)a.values[i]);
        a.dense[a.positions[i]] = (double)a.values[i];
    }
    return a;
}

static void matrix_free(sara_context *ctx, matrix *a)
{
    sara_free(ctx, a->positions);
    sara_free(ctx, a->values);
    sara_free(ctx, a->dense);
}

/* Singular values by LAPACK; destroys a copy. */
static double *exact_values(sara_context *ctx, const matrix *a)
{
    size_t entries = (size_t)(a->rows * a->cols);
    lapack_int m = (lapack_int)a->cols, n = (lapack_int)a->rows;
    double *copy = NULL, *s = NULL, *rest = NULL, none;
    assert_ok(ctx, sara_alloc(ctx, &copy, entries, sizeof(*copy)));
    assert_ok(ctx, sara_alloc(ctx, &s, (size_t)(m < n ? m : n), sizeof(*s)));
    assert_ok(ctx, sara_alloc(ctx, &rest, (size_t)(m < n ? m : n), sizeof(*rest)));
    memcpy(copy, a->dense, entries * sizeof(*copy));
    assert_int_equal(
        LAPACKE_dgesvd(LAPACK_COL_MAJOR, 'N', 'N', m, n, copy, m, s, &none, 1, &none, 1, rest), 0);
    sara_free(ctx, copy);
    sara_free(ctx, rest);
    return s;
}

/* The squared distance of up x down from the matrix. */
static double distance2(const matrix *a, const float *up, const float *down, int64_t rank)
{
    double sum = 0;
    for (int64_t i = 0; i < a->rows; i++)
        for (int64_t j = 0; j < a->cols; j++) {
            double value = a->dense[i * a->cols + j];
            for (int64_t k = 0; k < rank; k++)
                value -= (double)up[i * rank + k] * (double)down[k * a->cols + j];
            sum += value * value;
        }
    return sum;
}

/* Of the factors as they are, and as 16 bits and a scale change them; the plain double sum
 * tells. */
static void check_gain(sara_context *ctx, const matrix *a, float *up, float *down, int64_t rank,
                       double all, const uint32_t *positions)
{
    static const double scales[] = {1, 0.75, -2};
    for (int i = 0; i < 3; i++) {
        double gain;
        for (int64_t k = 0; i == 1 && k < a->rows * rank; k++)
            up[k] = sara_bf16_to_f32(sara_f32_to_bf16(up[k]));
        assert_ok(ctx, sara_product_gain(ctx, &gain, up, down, scales[i], a->rows, a->cols, rank,
                                         positions, a->values, a->count));
        for (int64_t k = 0; k < a->rows * rank; k++)
            up[k] *= (float)scales[i];
        double expected = all - distance2(a, up, down, rank);
        assert_close(fabs(gain - expected), 1e-6 * all, "gain");
        assert_true(i == 2 || gain > 0);
        for (int64_t k = 0; k < a->rows * rank; k++)
            up[k] /= (float)scales[i];
    }
}

/* The singular values are LAPACK's, and the distance is what Eckart and Young say; of all entries
 * also without positions. */
static void check_given(sara_context *ctx, const matrix *a, int64_t rank, bool dense)
{
    const uint32_t *positions = dense ? NULL : a->positions;
    int64_t sides = a->rows < a->cols ? a->rows : a->cols;
    double *exact = exact_values(ctx, a), *s = NULL, all = 0, tail = 0;
    float *up = NULL, *down = NULL;
    assert_ok(ctx, sara_alloc(ctx, &s, (size_t)rank, sizeof(*s)));
    assert_ok(ctx, sara_alloc(ctx, &up, (size_t)(a->rows * rank), sizeof(*up)));
    assert_ok(ctx, sara_alloc(ctx, &down, (size_t)(rank * a->cols), sizeof(*down)));
    assert_ok(ctx, sara_truncated_svd(ctx, up, down, s, a->rows, a->cols, rank, positions,
                                      a->values, a->count));
    for (int64_t k = 0; k < sides; k++) {
        if (k < rank && exact[k] > 1e-6 * exact[0])
            assert_close(fabs(s[k] / exact[k] - 1), 1e-6, "singular value");
        all += exact[k] * exact[k];
        tail += k < rank ? 0 : exact[k] * exact[k];
    }
    double distance = distance2(a, up, down, rank);
    assert_close(fabs(distance - tail), 1e-6 * tail + 1e-12 * all, "distance");
    check_gain(ctx, a, up, down, rank, all, positions);
    sara_free(ctx, exact);
    sara_free(ctx, s);
    sara_free(ctx, up);
    sara_free(ctx, down);
}

static void check(sara_context *ctx, const matrix *a, int64_t rank)
{
    check_given(ctx, a, rank, false);
    if (a->count == (size_t)(a->rows * a->cols))
        check_given(ctx, a, rank, true);
}

static void equals_lapack(void **state)
{
    static const int64_t shapes[][3] = {{40, 90, 7}, {90, 40, 7}, {64, 64, 64},  {1, 50, 1},
                                        {50, 1, 1},  {3, 200, 3}, {130, 70, 70}, {70, 130, 1}};
    static const double densities[] = {0.06, 0.5, 1.0};
    (void)state;
    sara_context *ctx = test_context();
    for (size_t i = 0; i < sizeof(shapes) / sizeof(*shapes); i++)
        for (size_t d = 0; d < sizeof(densities) / sizeof(*densities); d++) {
            matrix a = matrix_new(ctx, shapes[i][0], shapes[i][1], densities[d]);
            if (a.count > 0)
                check(ctx, &a, shapes[i][2]);
            matrix_free(ctx, &a);
        }
    sara_context_free(ctx);
}

static void steep_spectrum(void **state)
{
    (void)state;
    sara_context *ctx = test_context();
    matrix a = matrix_steep(ctx, 60, 100), b = matrix_steep(ctx, 100, 60);
    check(ctx, &a, 1);
    check(ctx, &a, 30);
    check(ctx, &b, 30);
    matrix_free(ctx, &a);
    matrix_free(ctx, &b);
    sara_context_free(ctx);
}

/* Beyond the matrix's own rank there is nothing: no noise divided by noise. */
static void rank_deficient(void **state)
{
    static const uint32_t positions[] = {3, 27};
    static const float values[] = {3e-20f, 4e-20f};
    (void)state;
    sara_context *ctx = test_context();
    float up[10 * 5], down[5 * 12];
    double s[5];
    assert_ok(ctx, sara_truncated_svd(ctx, up, down, s, 10, 12, 5, positions, values, 2));
    assert_close(fabs(s[0] / 5e-20 - 1), 1e-6, "largest");
    for (int k = 1; k < 5; k++) {
        assert_true(s[k] == 0);
        for (int i = 0; i < 10; i++)
            assert_true(up[i * 5 + k] == 0);
        for (int j = 0; j < 12; j++)
            assert_true(down[k * 12 + j] == 0);
    }
    assert_ok(ctx, sara_truncated_svd(ctx, up, down, s, 10, 12, 5, NULL, NULL, 0));
    assert_true(s[0] == 0 && up[0] == 0 && down[0] == 0);
    sara_context_free(ctx);
}

/* To the same bits with any number of threads. */
static void threads_change_nothing(void **state)
{
    (void)state;
    float up[2][150 * 8], down[2][8 * 300];
    double s[2][8], gain[2];
    for (int i = 0; i < 2; i++) {
        const sara_context_options options = {.threads = i ? 3 : 1};
        sara_context *ctx = NULL;
        assert_int_equal(sara_context_new(&ctx, &options), SARA_OK);
        matrix a = matrix_new(ctx, 150, 300, 0.3);
        assert_ok(ctx, sara_truncated_svd(ctx, up[i], down[i], s[i], 150, 300, 8, a.positions,
                                          a.values, a.count));
        assert_ok(ctx, sara_product_gain(ctx, &gain[i], up[i], down[i], 1, 150, 300, 8, a.positions,
                                         a.values, a.count));
        matrix_free(ctx, &a);
        sara_context_free(ctx);
    }
    assert_memory_equal(&gain[0], &gain[1], sizeof(gain[0]));
    assert_memory_equal(up[0], up[1], sizeof(up[0]));
    assert_memory_equal(down[0], down[1], sizeof(down[0]));
    assert_memory_equal(s[0], s[1], sizeof(s[0]));
}

static void bad_ranks_are_refused(void **state)
{
    static const uint32_t position = 120;
    static const float value = 1;
    (void)state;
    sara_context *ctx = test_context();
    float factor[120];
    double s[10];
    assert_refused(ctx, SARA_ERROR_USAGE, "rank 0 of a [10,12] matrix",
                   sara_truncated_svd(ctx, factor, factor, s, 10, 12, 0, NULL, NULL, 0));
    assert_refused(ctx, SARA_ERROR_USAGE, "rank 11 of a [10,12] matrix",
                   sara_truncated_svd(ctx, factor, factor, s, 10, 12, 11, NULL, NULL, 0));
    assert_refused(ctx, SARA_ERROR_USAGE, "[10,12]",
                   sara_truncated_svd(ctx, factor, factor, s, 10, 12, 1, &position, &value, 1));
    sara_context_free(ctx);
}

static sara_status scenario(sara_context *ctx, void *user)
{
    float up[10 * 2], down[2 * 12];
    double s[2], gain;
    const matrix *a = user;
    sara_status status;
    TRY(sara_truncated_svd(ctx, up, down, s, 10, 12, 2, a->positions, a->values, a->count));
    TRY(sara_product_gain(ctx, &gain, up, down, 1, 10, 12, 2, a->positions, a->values, a->count));
done:
    return status;
}

static void test_every_allocation(void **state)
{
    (void)state;
    sara_context *ctx = test_context();
    matrix a = matrix_new(ctx, 10, 12, 0.5);
    assert_true(test_fail_allocations(scenario, &a) > 8);
    matrix_free(ctx, &a);
    sara_context_free(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equals_lapack),         cmocka_unit_test(steep_spectrum),
        cmocka_unit_test(rank_deficient),        cmocka_unit_test(threads_change_nothing),
        cmocka_unit_test(bad_ranks_are_refused), cmocka_unit_test(test_every_allocation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

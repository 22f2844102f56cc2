#include "sparse/support_sparse.h"
#include "sparse/low_rank.h"

#include <math.h>
#include <stdio.h>

/* A matrix given by its nonzero entries. */
typedef struct sample {
    int64_t rows, cols;
    size_t count;
    uint32_t *positions;
    float *values, *subgradient;
    double nuclear;
} sample;

static sample sample_new(sara_context *ctx, int64_t rows, int64_t cols, const float *dense)
{
    sample s = {.rows = rows, .cols = cols};
    size_t entries = (size_t)(rows * cols);
    assert_ok(ctx, sara_alloc(ctx, &s.positions, entries, sizeof(*s.positions)));
    assert_ok(ctx, sara_alloc(ctx, &s.values, entries, sizeof(*s.values)));
    assert_ok(ctx, sara_alloc(ctx, &s.subgradient, entries, sizeof(*s.subgradient)));
    for (size_t i = 0; i < entries; i++)
        if (dense[i] != 0) {
            s.positions[s.count] = (uint32_t)i;
            s.values[s.count++] = dense[i];
        }
    return s;
}

static void sample_run(sara_context *ctx, sample *s)
{
    assert_ok(ctx, sara_nuclear_norm(ctx, &s->nuclear, s->subgradient, s->rows, s->cols,
                                     s->positions, s->values, s->count));
}

static void sample_free(sara_context *ctx, sample *s)
{
    sara_free(ctx, s->positions);
    sara_free(ctx, s->values);
    sara_free(ctx, s->subgradient);
}

/* polar: dense */
static double cosine(const sample *s, const float *polar)
{
    double dot = 0, a = 0, b = 0;
    for (size_t i = 0; i < s->count; i++) {
        double x = s->subgradient[i], y = polar[s->positions[i]];
        dot += x * y;
        a += x * x;
        b += y * y;
    }
    return dot / sqrt(a * b);
}

/* Relative error of value and 1 - cosine within the method's bounds. */
static void assert_matches(const sample *s, const float *polar, double nuclear)
{
    assert_close(fabs(s->nuclear / nuclear - 1), 1e-4, "nuclear norm");
    assert_close(1 - cosine(s, polar), 1e-4, "1 - cosine");
}

/* A golden matrix, of which the file has the entries at these positions; all others are 0. */
static float *scattered(sara_context *ctx, const sara_safetensors *file, const char *kind, int i,
                        const int32_t shape[2])
{
    const sara_shape any = sara_shape1(-1);
    sara_tensor positions;
    float *dense = NULL;
    size_t count;
    assert_ok(ctx, sara_safetensors_load(file, &positions, sara_name_of("positions_%d", i).text,
                                         SARA_I32, &any));
    float *values = test_load_f32(ctx, file, sara_name_of("%s_%d", kind, i).text, &count);
    assert_int_equal(count, sara_shape_count(&positions.shape));
    assert_ok(ctx, sara_alloc_zero(ctx, &dense, (size_t)(shape[0] * shape[1]), sizeof(*dense)));
    for (size_t at = 0; at < count; at++)
        dense[((const int32_t *)positions.data)[at]] = values[at];
    sara_tensor_free(ctx, &positions);
    sara_free(ctx, values);
    return dense;
}

static void golden_matrices(void **state)
{
    const sara_shape two = sara_shape1(2);
    (void)state;
    sara_context *ctx = test_context();
    sara_safetensors *file = test_open(ctx, SARA_TEST_GOLDEN "/low_rank.safetensors");
    for (int i = 0; i < 4; i++) {
        size_t count;
        sara_tensor tensor;
        assert_ok(ctx, sara_safetensors_load(file, &tensor, sara_name_of("shape_%d", i).text,
                                             SARA_I32, &two));
        const int32_t *shape = tensor.data;
        float *matrix = scattered(ctx, file, "matrix", i, shape);
        float *polar = scattered(ctx, file, "polar", i, shape);
        float *nuclear = test_load_f32(ctx, file, sara_name_of("nuclear_%d", i).text, &count);
        sample s = sample_new(ctx, shape[0], shape[1], matrix);
        sample_run(ctx, &s);
        assert_matches(&s, polar, (double)nuclear[0]);
        sample_free(ctx, &s);
        sara_tensor_free(ctx, &tensor);
        sara_free(ctx, matrix);
        sara_free(ctx, polar);
        sara_free(ctx, nuclear);
    }
    sara_safetensors_close(file);
    sara_context_free(ctx);
}

/* Uniform entries at the given density. */
static float *random_matrix(sara_context *ctx, int64_t rows, int64_t cols, double density)
{
    float *dense = NULL;
    size_t entries = (size_t)(rows * cols);
    assert_ok(ctx, sara_alloc(ctx, &dense, entries, sizeof(*dense)));
    sara_draw_uniform(dense, entries, 3, SARA_DRAW_TEST, (uint64_t)(rows * 7 + cols));
    for (size_t i = 0; i < entries; i++)
        dense[i] = (double)dense[i] < density ? (float)((double)dense[i] / density * 2 - 1) : 0.0f;
    return dense;
}

/* The dense polar factor of the matrix by the SVD, transposing as needed. */
static float *exact_polar(sara_context *ctx, double *nuclear, int64_t rows, int64_t cols,
                          const float *dense)
{
    float *polar = NULL, *a = NULL, *x = NULL;
    sara_arena work;
    size_t entries = (size_t)(rows * cols);
    bool wide = rows <= cols;
    int64_t m = wide ? rows : cols, n = wide ? cols : rows;
    assert_ok(ctx, sara_alloc(ctx, &polar, entries, sizeof(*polar)));
    assert_ok(ctx, sara_alloc(ctx, &a, entries, sizeof(*a)));
    assert_ok(ctx, sara_alloc(ctx, &x, entries, sizeof(*x)));
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++)
            a[i * n + j] = wide ? dense[i * cols + j] : dense[j * cols + i];
    sara_arena_init(&work, ctx);
    assert_ok(ctx, sara_polar_exact(ctx, &work, x, nuclear, a, m, n));
    sara_arena_free(&work);
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < cols; j++)
            polar[i * cols + j] = wide ? x[i * n + j] : x[j * n + i];
    sara_free(ctx, a);
    sara_free(ctx, x);
    return polar;
}

/* All routes against the SVD: square, wide, tall, few entries to a row, rank-deficient. */
static void routes_agree_with_the_svd(void **state)
{
    static const struct {
        int64_t rows, cols;
        double density;
    } cases[] = {{230, 230, 0.058}, {230, 230, 0.5},  {320, 320, 0.006}, {180, 540, 0.058},
                 {540, 180, 0.058}, {200, 480, 0.01}, {480, 200, 0.005}, {300, 260, 0.003},
                 {261, 190, 0.5}, {171, 300, 0.3},    {433, 171, 0.2}};
    (void)state;
    sara_context *ctx = test_context();
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        int64_t rows = cases[i].rows, cols = cases[i].cols;
        double nuclear;
        float *dense = random_matrix(ctx, rows, cols, cases[i].density);
        float *polar = exact_polar(ctx, &nuclear, rows, cols, dense);
        sample s = sample_new(ctx, rows, cols, dense);
        sample_run(ctx, &s);
        assert_matches(&s, polar, nuclear);
        sample_free(ctx, &s);
        sara_free(ctx, dense);
        sara_free(ctx, polar);
    }
    sara_context_free(ctx);
}

/* The largest singular value of the dense subgradient, by power iteration. */
static double spectral_norm(sara_context *ctx, const float *x, int64_t m, int64_t n)
{
    double *u = NULL, *v = NULL, norm = 0;
    assert_ok(ctx, sara_alloc(ctx, &u, (size_t)m, sizeof(*u)));
    assert_ok(ctx, sara_alloc(ctx, &v, (size_t)n, sizeof(*v)));
    for (int64_t j = 0; j < n; j++)
        v[j] = 1 + (double)(j % 7) / 7;
    for (int round = 0; round < 30; round++) {
        double length = 0;
        for (int64_t j = 0; j < n; j++)
            length += v[j] * v[j];
        norm = sqrt(sqrt(length)); /* the last round multiplied by X^T X */
        for (int64_t i = 0; i < m; i++) {
            u[i] = 0;
            for (int64_t j = 0; j < n; j++)
                u[i] += (double)x[i * n + j] * v[j] / sqrt(length);
        }
        memset(v, 0, (size_t)n * sizeof(*v));
        for (int64_t i = 0; i < m; i++)
            for (int64_t j = 0; j < n; j++)
                v[j] += (double)x[i * n + j] * u[i];
    }
    sara_free(ctx, u);
    sara_free(ctx, v);
    return norm;
}

/* The polar factor of a dense matrix by one of the ways of products; true if it was certain. */
static bool rational_polar(sara_context *ctx, float *x, const float *dense, int64_t m, int64_t n,
                           bool wide)
{
    sara_columns a = {.m = m, .n = n};
    float *entries = NULL, *work = NULL;
    bool certain = false;
    assert_ok(ctx, sara_alloc(ctx, &a.first, (size_t)n + 1, sizeof(*a.first)));
    assert_ok(ctx, sara_alloc(ctx, &a.rows, (size_t)(m * n), sizeof(*a.rows)));
    assert_ok(ctx, sara_alloc(ctx, &a.values, (size_t)(m * n), sizeof(*a.values)));
    assert_ok(ctx, sara_alloc(ctx, &entries, (size_t)(m * n), sizeof(*entries)));
    assert_ok(ctx, sara_alloc(ctx, &work, sara_polar_floats(m), sizeof(*work)));
    for (int64_t j = 0; j <= n; j++)
        a.first[j] = (size_t)(j * m);
    for (int64_t e = 0; e < m * n; e++) {
        a.rows[e] = (uint32_t)(e % m);
        a.values[e] = dense[e % m * n + e / m];
    }
    assert_ok(ctx, sara_polar_rational(ctx, work, entries, &certain, &a, wide));
    for (int64_t e = 0; e < m * n; e++)
        x[e % m * n + e / m] = entries[e];
    sara_free(ctx, work);
    sara_free(ctx, a.first);
    sara_free(ctx, a.rows);
    sara_free(ctx, a.values);
    sara_free(ctx, entries);
    return certain;
}

/* Each way by itself: singular values at most 1.01, and where it claims certainty all are 1. */
static void polar_factors_are_bounded(void **state)
{
    static const struct {
        int64_t m, n;
        double density;
        bool wide;
    } cases[] = {{200, 200, 0.1, false}, {200, 200, 0.004, false}, {150, 600, 0.1, true},
                 {150, 600, 0.002, true}, {150, 600, 0.002, false}};
    (void)state;
    sara_context *ctx = test_context();
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        int64_t m = cases[i].m, n = cases[i].n;
        float *dense = random_matrix(ctx, m, n, cases[i].density), *x = NULL;
        double sum = 0;
        assert_ok(ctx, sara_alloc(ctx, &x, (size_t)(m * n), sizeof(*x)));
        bool certain = rational_polar(ctx, x, dense, m, n, cases[i].wide);
        assert_close(spectral_norm(ctx, x, m, n), 1.01, "largest singular value");
        for (int64_t k = 0; k < m * n; k++)
            sum += (double)x[k] * (double)x[k];
        if (certain)
            assert_close(fabs(sum / (double)m - 1), 1e-3, "mean squared singular value");
        assert_int_equal(certain, cases[i].density == 0.1);
        sara_free(ctx, dense);
        sara_free(ctx, x);
    }
    sara_context_free(ctx);
}

/* Two rows all but equal, and one far below the others. */
static void nearly_rank_deficient(void **state)
{
    (void)state;
    sara_context *ctx = test_context();
    const int64_t m = 220, n = 260;
    float *dense = random_matrix(ctx, m, n, 0.1), *x = NULL;
    double nuclear;
    for (int64_t j = 0; j < n; j++) {
        dense[n + j] = dense[j] * (j % 2 ? 1 : 1 + 0x1p-18f);
        dense[2 * n + j] *= 0x1p-30f;
    }
    float *polar = exact_polar(ctx, &nuclear, m, n, dense);
    sample s = sample_new(ctx, m, n, dense);
    sample_run(ctx, &s);
    assert_matches(&s, polar, nuclear);
    assert_ok(ctx, sara_alloc(ctx, &x, (size_t)(m * n), sizeof(*x)));
    assert_false(rational_polar(ctx, x, dense, m, n, false));
    assert_close(spectral_norm(ctx, x, m, n), 1.01, "largest singular value");
    sample_free(ctx, &s);
    sara_free(ctx, dense);
    sara_free(ctx, polar);
    sara_free(ctx, x);
    sara_context_free(ctx);
}

/* Exactly rank one (powers of two), at sizes of each route. */
static void rank_one(void **state)
{
    static const int64_t sizes[][2] = {{70, 70}, {200, 200}, {180, 500}};
    (void)state;
    sara_context *ctx = test_context();
    for (size_t k = 0; k < 3; k++) {
        int64_t rows = sizes[k][0], cols = sizes[k][1];
        float *dense = NULL, *polar = NULL;
        double norm = 0;
        assert_ok(ctx, sara_alloc(ctx, &dense, (size_t)(rows * cols), sizeof(*dense)));
        assert_ok(ctx, sara_alloc(ctx, &polar, (size_t)(rows * cols), sizeof(*polar)));
        for (int64_t i = 0; i < rows * cols; i++) {
            dense[i] = (float)ldexp((i / cols + i % cols) % 2 ? 1 : -1,
                                    (int)(i / cols % 4 + i % cols % 3));
            norm += (double)dense[i] * (double)dense[i];
        }
        for (int64_t i = 0; i < rows * cols; i++)
            polar[i] = (float)((double)dense[i] / sqrt(norm));
        sample s = sample_new(ctx, rows, cols, dense);
        sample_run(ctx, &s);
        assert_matches(&s, polar, sqrt(norm));
        sample_free(ctx, &s);
        sara_free(ctx, dense);
        sara_free(ctx, polar);
    }
    sara_context_free(ctx);
}

static void zero_matrix(void **state)
{
    uint32_t positions[] = {0, 5, 8000};
    float values[] = {0, 0, -0.0f}, subgradient[] = {1, 1, 1};
    double value = 1;
    (void)state;
    sara_context *ctx = test_context();
    assert_ok(ctx, sara_nuclear_norm(ctx, &value, subgradient, 100, 100, positions, values, 3));
    assert_true(value == 0);
    for (int i = 0; i < 3; i++)
        assert_true(subgradient[i] == 0);
    assert_ok(ctx, sara_nuclear_norm(ctx, &value, NULL, 100, 100, NULL, NULL, 0));
    assert_true(value == 0);
    sara_context_free(ctx);
}

/* A selected entry that is zero in a row that is not has a subgradient, in an empty row none. */
static void zero_entries(void **state)
{
    uint32_t positions[] = {0, 1, 100, 101, 505};
    float values[] = {3, 0, 4, 5, 0}, subgradient[5];
    double value;
    (void)state;
    sara_context *ctx = test_context();
    assert_ok(ctx, sara_nuclear_norm(ctx, &value, subgradient, 100, 100, positions, values, 5));
    /* of [[3, 0], [4, 5]]: sqrt(45) + sqrt(5), polar [[2, -1], [1, 2]] / sqrt(5) */
    assert_close(fabs(value - 8.94427190999916), 1e-6, "value");
    const double polar[] = {2, -1, 1, 2, 0};
    for (int i = 0; i < 5; i++)
        assert_close(fabs((double)subgradient[i] - polar[i] / sqrt(5)), 1e-6, "subgradient");
    sara_context_free(ctx);
}

static void scales(void **state)
{
    static const double factors[] = {1e30, 1e-41, 1.0};
    (void)state;
    sara_context *ctx = test_context();
    float *dense = random_matrix(ctx, 200, 210, 0.1);
    double unit = 0;
    float *polar = exact_polar(ctx, &unit, 200, 210, dense);
    for (size_t k = 0; k < 3; k++) {
        sample s = sample_new(ctx, 200, 210, dense);
        for (size_t i = 0; i < s.count; i++)
            s.values[i] = (float)((double)s.values[i] * factors[k]);
        sample_run(ctx, &s);
        assert_true(isfinite(s.nuclear) && s.nuclear > 0);
        for (size_t i = 0; i < s.count; i++)
            assert_close(fabs((double)s.subgradient[i]), 1.01, "entry");
        if (factors[k] > 1e-30) /* subnormals have no digits left */
            assert_matches(&s, polar, unit * factors[k]);
        sample_free(ctx, &s);
    }
    sara_free(ctx, dense);
    sara_free(ctx, polar);
    sara_context_free(ctx);
}

static void not_finite_values_give_nan(void **state)
{
    uint32_t positions[] = {0, 1};
    float values[] = {1, INFINITY}, subgradient[] = {1, 1};
    double value = 0;
    (void)state;
    sara_context *ctx = test_context();
    assert_ok(ctx, sara_nuclear_norm(ctx, &value, subgradient, 100, 100, positions, values, 2));
    assert_true(isnan(value));
    assert_true(subgradient[0] == 0 && subgradient[1] == 0);
    positions[1] = 10000;
    assert_refused(ctx, SARA_ERROR_USAGE, "position 10000 in a [100,100]",
                   sara_nuclear_norm(ctx, &value, subgradient, 100, 100, positions, values, 2));
    sara_context_free(ctx);
}

static void equal_runs_are_equal(void **state)
{
    (void)state;
    sara_context *ctx = test_context();
    float *dense = random_matrix(ctx, 240, 250, 0.05);
    sample a = sample_new(ctx, 240, 250, dense), b = sample_new(ctx, 240, 250, dense);
    sample_run(ctx, &a);
    sample_run(ctx, &b);
    assert_true(a.nuclear == b.nuclear);
    assert_memory_equal(a.subgradient, b.subgradient, a.count * sizeof(float));
    sample_free(ctx, &a);
    sample_free(ctx, &b);
    sara_free(ctx, dense);
    sara_context_free(ctx);
}

/* What larger and other matrices have left in the working memory does not matter. */
static void kept_memory_has_no_effect(void **state)
{
    static const int64_t shapes[][2] = {{260, 270}, {240, 250}, {180, 500}, {230, 170}};
    (void)state;
    sara_context *ctx = test_context();
    enum { FLOATS = 1 << 21 };
    sara_arena work;
    float *everything;
    sara_arena_init(&work, ctx);
    for (size_t k = 0; k < 4; k++) {
        float *dense = random_matrix(ctx, shapes[k][0], shapes[k][1], k % 2 ? 0.05 : 0.3);
        sample a = sample_new(ctx, shapes[k][0], shapes[k][1], dense), b = a;
        double kept;
        assert_ok(ctx, sara_alloc(ctx, &b.subgradient, a.count, sizeof(*b.subgradient)));
        sample_run(ctx, &a);
        assert_ok(ctx, sara_nuclear_norm_in(ctx, &work, &kept, b.subgradient, a.rows, a.cols,
                                            a.positions, a.values, a.count));
        assert_true(kept == a.nuclear);
        assert_memory_equal(a.subgradient, b.subgradient, a.count * sizeof(float));
        sara_arena_reset(&work);
        assert_ok(ctx, sara_arena_alloc(&work, &everything, FLOATS, sizeof(*everything)));
        for (size_t i = 0; i < FLOATS; i++)
            everything[i] = NAN;
        sara_arena_reset(&work);
        sara_free(ctx, b.subgradient);
        sample_free(ctx, &a);
        sara_free(ctx, dense);
    }
    sara_arena_free(&work);
    sara_context_free(ctx);
}

static sara_status all_routes(sara_context *ctx, void *user)
{
    sara_status status = SARA_OK;
    const sample *samples = user;
    for (int i = 0; i < 3; i++) {
        double value;
        TRY(sara_nuclear_norm(ctx, &value, samples[i].subgradient, samples[i].rows,
                              samples[i].cols, samples[i].positions, samples[i].values,
                              samples[i].count));
    }
done:
    return status;
}

static void allocations_may_fail(void **state)
{
    (void)state;
    sara_context *ctx = test_context();
    float *small = random_matrix(ctx, 70, 80, 0.2), *wide = random_matrix(ctx, 170, 400, 0.1),
          *poor = random_matrix(ctx, 260, 260, 0.008);
    sample samples[] = {sample_new(ctx, 70, 80, small), sample_new(ctx, 170, 400, wide),
                        sample_new(ctx, 260, 260, poor)};
    assert_true(test_fail_allocations(all_routes, samples) > 20);
    for (int i = 0; i < 3; i++)
        sample_free(ctx, &samples[i]);
    sara_free(ctx, small);
    sara_free(ctx, wide);
    sara_free(ctx, poor);
    sara_context_free(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(golden_matrices),
        cmocka_unit_test(routes_agree_with_the_svd),
        cmocka_unit_test(polar_factors_are_bounded),
        cmocka_unit_test(nearly_rank_deficient),
        cmocka_unit_test(rank_one),
        cmocka_unit_test(zero_matrix),
        cmocka_unit_test(zero_entries),
        cmocka_unit_test(scales),
        cmocka_unit_test(not_finite_values_give_nan),
        cmocka_unit_test(equal_runs_are_equal),
        cmocka_unit_test(kept_memory_has_no_effect),
        cmocka_unit_test(allocations_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

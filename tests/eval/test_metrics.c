/* FID, KID and CMMD against torch-fidelity and CMMD's formula. */
#include "eval/metrics.h"
#include "eval/support_formula.h"
#include "support/memory.h"

#include <math.h>

#include "eval/recorded_metrics.h"

static sara_features features_new(sara_context *ctx, int64_t count, int64_t width, uint32_t stream)
{
    sara_features set = {NULL, count, width};
    assert_ok(ctx, sara_alloc(ctx, &set.values, (size_t)(count * width), sizeof(float)));
    for (int64_t i = 0; i < count; i++)
        for (int64_t j = 0; j < width; j++) {
            float x = test_formula((uint32_t)(i * width + j), stream);
            float mirrored = test_formula((uint32_t)(i * width + width - 1 - j), stream);
            set.values[i * width + j] = x + 2.0f * mirrored + 0.25f * (float)stream;
        }
    return set;
}

/* As make_metrics.py's sets(). */
static void sets_new(sara_context *ctx, sara_features *a, sara_features *b, size_t i)
{
    int64_t width = recorded[i].width;
    const char *name = recorded[i].name;
    *a = features_new(ctx, recorded[i].n, width, 1);
    *b = features_new(ctx, recorded[i].m, width, strncmp(name, "equal", 5) == 0 ? 1 : 2);
    for (int64_t k = 0; k < b->count && strcmp(name, "singular") == 0; k++)
        for (int64_t j = 5; j < width; j++)
            b->values[k * width + j] = b->values[k * width];
    for (int64_t k = 0; k < b->count && strcmp(name, "constant") == 0; k++) {
        a->values[k * width + 1] = 0.5f;
        for (int64_t j = 0; j < 3; j++)
            b->values[k * width + j] = 0.5f;
    }
}

static void sets_free(sara_context *ctx, sara_features *a, sara_features *b)
{
    sara_free(ctx, a->values);
    sara_free(ctx, b->values);
}

static double difference(double got, double expected)
{
    return fabs(got - expected) / (fabs(expected) > 1e-3 ? fabs(expected) : 1);
}

static void test_recorded(void **state)
{
    sara_context *ctx = test_context();
    for (size_t i = 0; i < sizeof(recorded) / sizeof(*recorded); i++) {
        sara_features a, b;
        double fid, kid, deviation, cmmd;
        int smaller = recorded[i].n < recorded[i].m ? recorded[i].n : recorded[i].m;
        int size = recorded[i].n == recorded[i].m ? 1000 : smaller < 10 ? smaller : 10;
        sets_new(ctx, &a, &b, i);
        assert_ok(ctx, sara_fid(ctx, &fid, &a, &b));
        assert_close(difference(fid, recorded[i].fid), 1e-6, recorded[i].name);
        assert_true(fid >= 0);
        assert_ok(ctx, sara_kid(ctx, &kid, &deviation, &a, &b, size, 3, 7));
        assert_close(difference(kid, recorded[i].kid), 1e-10, recorded[i].name);
        assert_close(difference(deviation, recorded[i].deviation), 1e-10, recorded[i].name);
        a.count = a.count < 1000 ? a.count : 1000;
        assert_ok(ctx, sara_cmmd(ctx, &cmmd, &a, &b));
        assert_close(difference(cmmd, recorded[i].cmmd), 1e-8, recorded[i].name);
        sets_free(ctx, &a, &b);
    }
    sara_context_free(ctx);
    (void)state;
}

/* All pictures alike: covariances of nothing. Of CMMD one picture is enough. */
static void test_alike(void **state)
{
    sara_context *ctx = test_context();
    float ones[] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}, threes[] = {3, 3, 3, 3};
    double value;
    sara_features a = {ones, 6, 2}, b = {threes, 2, 2};
    assert_ok(ctx, sara_fid(ctx, &value, &a, &b));
    assert_close(fabs(value - 8), 1e-12, "FID");
    assert_ok(ctx, sara_fid(ctx, &value, &b, &a));
    assert_close(fabs(value - 8), 1e-12, "FID");
    a.count = b.count = 1;
    assert_ok(ctx, sara_cmmd(ctx, &value, &a, &b)); /* of one direction */
    assert_close(fabs(value), 1e-9, "CMMD");
    sara_context_free(ctx);
    (void)state;
}

static void test_refusals(void **state)
{
    sara_context *ctx = test_context();
    float x[] = {1, 2, 3, 4, 5, 7, 9, 8}, y[] = {1, 2, 3, NAN, 5, 7, 9, 8}, z[] = {1, 2, 0, 0};
    sara_features a = {x, 4, 2}, b = {y, 4, 2}, one = {x, 1, 2}, wide = {x, 2, 4}, zero = {z, 2, 2};
    double value, other;
    assert_refused(ctx, SARA_ERROR_INPUT, "FID of 1 and 4 pictures: each set needs at least 2",
                   sara_fid(ctx, &value, &one, &a));
    assert_refused(ctx, SARA_ERROR_INPUT, "KID of 4 and 1 pictures: each set needs at least 2",
                   sara_kid(ctx, &value, &other, &a, &one, 10, 1, 0));
    assert_refused(ctx, SARA_ERROR_INPUT, "FID of 2 and 4 features", //
                   sara_fid(ctx, &value, &a, &wide));
    assert_refused(ctx, SARA_ERROR_INPUT,
                   "FID: feature 1 of picture 1 of the second set is not finite",
                   sara_fid(ctx, &value, &a, &b));
    assert_refused(ctx, SARA_ERROR_INPUT,
                   "KID: feature 1 of picture 1 of the first set is not finite",
                   sara_kid(ctx, &value, &other, &b, &a, 10, 1, 0));
    y[3] = INFINITY;
    assert_refused(ctx, SARA_ERROR_INPUT, "CMMD: feature 1 of picture 1",
                   sara_cmmd(ctx, &value, &b, &a));
    assert_refused(ctx, SARA_ERROR_INPUT,
                   "CMMD: the features of picture 1 of the second set are all 0",
                   sara_cmmd(ctx, &value, &a, &zero));
    assert_refused(ctx, SARA_ERROR_USAGE, "KID of 5 subsets of 1 pictures",
                   sara_kid(ctx, &value, &other, &a, &a, 1, 5, 0));
    assert_refused(ctx, SARA_ERROR_USAGE, "KID of 0 subsets of 4 pictures",
                   sara_kid(ctx, &value, &other, &a, &a, 4, 0, 0));
    sara_context_free(ctx);
    (void)state;
}

/* One number of threads after another; the same bits. */
static void test_threads(void **state)
{
    double values[2][4];
    for (int i = 0; i < 2; i++) {
        sara_context *ctx = NULL;
        sara_context_options options = {.threads = 1 + 2 * i};
        assert_ok(ctx, sara_context_new(&ctx, &options));
        sara_features a = features_new(ctx, 300, 290, 1), b = features_new(ctx, 310, 290, 2);
        assert_ok(ctx, sara_fid(ctx, &values[i][0], &a, &b));
        assert_ok(ctx, sara_kid(ctx, &values[i][1], &values[i][2], &a, &b, 100, 4, 1));
        assert_ok(ctx, sara_cmmd(ctx, &values[i][3], &a, &b));
        sets_free(ctx, &a, &b);
        sara_context_free(ctx);
    }
    assert_memory_equal(values[0], values[1], sizeof(values[0]));
    (void)state;
}

static sara_status measure_all(sara_context *ctx, const char *argument)
{
    sara_status status;
    float x[] = {1, 2, 3, 4, 5, 7, 9, 8};
    sara_features a = {x, 4, 2}, b = {x + 4, 2, 2};
    double value, other;
    TRY(sara_fid(ctx, &value, &a, &b));
    TRY(sara_kid(ctx, &value, &other, &a, &b, 2, 3, 0));
    TRY(sara_cmmd(ctx, &value, &a, &b));
done:
    (void)argument;
    return status;
}

static void test_memory(void **state)
{
    test_every_allocation(measure_all, NULL);
    (void)state;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_recorded), cmocka_unit_test(test_alike),
        cmocka_unit_test(test_refusals), cmocka_unit_test(test_threads),
        cmocka_unit_test(test_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

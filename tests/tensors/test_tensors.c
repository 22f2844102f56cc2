/* Selection, gathering and rounding on another program's tensors. */
#include "tensors/support_tensors.h"

#include <math.h>
#include <stdlib.h>

static const char *const dtypes[] = {"F32", "F16", "BF16"};

/* ----------------------------------------------------------------------------------- selection */

/* The positions are those of a plain loop, whatever the dtype. */
static void check_positions(const sara_tensor_selection *selection, const sara_tensor_view *views,
                            size_t count, double threshold)
{
    for (size_t t = 0; t < count; t++) {
        size_t got, next = 0;
        const uint32_t *positions = sara_tensors_positions(selection, t, &got);
        for (size_t i = 0; i < (size_t)views[t].entries; i++)
            if (fabsf(test_value(views[t].dtype, views[t].data, i)) < (float)threshold) {
                assert_true(next < got);
                assert_int_equal(positions[next++], i);
            }
        assert_int_equal(next, got);
    }
}

static void budgets_select_in_every_dtype(void **state)
{
    static const struct {
        sara_budget_kind kind;
        double value;
    } budgets[] = {{SARA_BUDGET_THRESHOLD, 2e-3},
                   {SARA_BUDGET_THRESHOLD, 1},
                   {SARA_BUDGET_FRACTION, 0.058},
                   {SARA_BUDGET_COUNT, 700},
                   {SARA_BUDGET_FRACTION, 1}};
    sara_tensor_view views[4];
    (void)state;
    sara_context *ctx = test_context();
    for (size_t t = 0; t < 3; t++)
        views[t] = test_view(dtypes[t], dtypes[t], test_values(dtypes[t], 5000, t, 0.02f), 5000);
    views[3] = test_view("empty", "F32", NULL, 0);
    for (size_t i = 0; i < COUNT(budgets); i++) {
        sara_tensor_selection *selection = NULL;
        double threshold = -1;
        size_t total = 0, count;
        assert_ok(ctx, sara_tensors_select(ctx, &selection, &threshold, views, 4, budgets[i].kind,
                                           budgets[i].value));
        check_positions(selection, views, 4, threshold);
        for (size_t t = 0; t < 4; t++) {
            sara_tensors_positions(selection, t, &count);
            total += count;
        }
        if (budgets[i].kind == SARA_BUDGET_THRESHOLD)
            assert_true(threshold == budgets[i].value);
        if (budgets[i].kind == SARA_BUDGET_COUNT)
            assert_true(total <= 700 && total > 500); /* 16-bit weights have ties */
        if (budgets[i].value == 1)
            assert_int_equal(total, 15000);
        sara_tensors_selection_free(ctx, selection);
    }
    sara_tensors_selection_free(ctx, NULL);
    for (size_t t = 0; t < 3; t++)
        free(views[t].data);
    sara_context_free(ctx);
}

static void selections_that_cannot_be_are_refused(void **state)
{
    static float values[] = {0.25f, -0.5f}, damaged[] = {1, NAN};
    static const struct {
        sara_tensor_view view;
        sara_budget_kind kind;
        double value;
        sara_status status;
        const char *line;
    } bad[] = {
        {{"a", "F64", values, 2},
         SARA_BUDGET_THRESHOLD,
         1,
         SARA_ERROR_USAGE,
         "a: dtype F64, expected F32, F16 or BF16"},
        {{"a", "I64", values, 2}, SARA_BUDGET_THRESHOLD, 1, SARA_ERROR_USAGE, "dtype I64"},
        {{"a", "f32", values, 2}, SARA_BUDGET_THRESHOLD, 1, SARA_ERROR_USAGE, "dtype f32"},
        {{"a", "F32", values, -1}, SARA_BUDGET_THRESHOLD, 1, SARA_ERROR_USAGE, "a: -1 entries"},
        {{"a", "F32", values, 4294967297},
         SARA_BUDGET_THRESHOLD,
         1,
         SARA_ERROR_USAGE,
         "a: 4294967297 entries, expected 0 to 4294967296"},
        {{"b", "F32", damaged, 2}, SARA_BUDGET_THRESHOLD, 1, SARA_ERROR_INPUT, "b: entry 1 is NaN"},
        {{"a", "F32", values, 2},
         SARA_BUDGET_THRESHOLD,
         0.25,
         SARA_ERROR_USAGE,
         "threshold 0.25 selects nothing"},
        {{"a", "F32", values, 2}, SARA_BUDGET_THRESHOLD, 0, SARA_ERROR_USAGE, "above 0"},
        {{"a", "F32", values, 2}, SARA_BUDGET_FRACTION, 1.5, SARA_ERROR_USAGE, "at most 1"},
        {{"a", "F32", values, 2}, SARA_BUDGET_COUNT, 0.5, SARA_ERROR_USAGE, "whole number"},
        {{"a", "F32", values, 2}, (sara_budget_kind)7, 1, SARA_ERROR_USAGE, "unknown kind 7"},
        {{"a", "F32", NULL, 0}, SARA_BUDGET_THRESHOLD, 1, SARA_ERROR_USAGE, "selects nothing"},
    };
    (void)state;
    sara_context *ctx = test_context();
    for (size_t i = 0; i < COUNT(bad); i++) {
        sara_tensor_selection *selection = (sara_tensor_selection *)values;
        double threshold = -1;
        assert_refused(ctx, bad[i].status, bad[i].line,
                       sara_tensors_select(ctx, &selection, &threshold, &bad[i].view, 1,
                                           bad[i].kind, bad[i].value));
        assert_null(selection);
        assert_true(threshold == -1); /* outputs are published last */
    }
    sara_context_free(ctx);
}

/* --------------------------------------------------------------------------- gather, write back */

/* Counts around the size from which more threads take part. The first micro-batch is not added. */
static void gathering_takes_what_is_at_the_positions(void **state)
{
    static const size_t entries[] = {0, 1, 1000, 3 * 16383, 3 * 16384, 3 * 16385, 3 * 40000};
    (void)state;
    sara_context *ctx = test_context();
    for (size_t k = 0; k < COUNT(entries) * 3; k++) {
        const char *dtype = dtypes[k % 3];
        size_t n = entries[k / 3], selected;
        void *dense = test_values(dtype, n, 5, 1);
        sara_tensor_view view = test_view("w", dtype, dense, n);
        uint32_t *positions = test_positions(n, n % 2, 3, &selected);
        float *gradient = test_memory(selected + 1, sizeof(*gradient));
        sara_tensor_gathering item = {view, positions, selected, gradient, 0};
        for (size_t i = 0; i <= selected; i++)
            gradient[i] = NAN;
        for (item.adds = 0; item.adds < 3; item.adds++)
            assert_ok(ctx, sara_tensors_gather(ctx, &item, 1));
        for (size_t i = 0; i < selected; i++) {
            float value = test_value(dtype, dense, positions[i]), twice = value + value;
            assert_true(gradient[i] == twice + value);
        }
        assert_true(isnan(gradient[selected]));
        free(gradient);
        free(positions);
        free(dense);
    }
    sara_context_free(ctx);
}

/* The same on one thread and three, to the bit; squares may be beyond a float. */
static void the_norm_is_of_all_together(void **state)
{
    static const size_t counts[] = {0, 1, 3, 4, 6, 500, 40001};
    float *gradients[COUNT(counts)];
    double square = 0, norms[2];
    (void)state;
    for (size_t k = 0; k < COUNT(counts); k++) {
        gradients[k] = test_values("F32", counts[k], 7 + k, 1e25f);
        for (size_t i = 0; i < counts[k]; i++)
            square += (double)gradients[k][i] * gradients[k][i];
    }
    for (int k = 0; k < 2; k++) {
        const sara_context_options options = {.threads = 1 + 2 * k};
        sara_context *ctx = NULL;
        assert_int_equal(sara_context_new(&ctx, &options), SARA_OK);
        assert_ok(ctx, sara_tensors_norm(ctx, &norms[k], (const float *const *)gradients, counts,
                                         COUNT(counts)));
        assert_close(fabs(norms[k] / sqrt(square) - 1), 1e-12, "norm");
        assert_ok(ctx, sara_tensors_norm(ctx, &square, NULL, NULL, 0));
        assert_true(square == 0);
        square = norms[k] * norms[k];
        sara_context_free(ctx);
    }
    assert_true(norms[0] == norms[1]);
    gradients[6][40000] = INFINITY;
    sara_context *ctx = test_context();
    assert_ok(
        ctx, sara_tensors_norm(ctx, norms, (const float *const *)gradients, counts, COUNT(counts)));
    assert_true(isinf(norms[0]));
    for (size_t k = 0; k < COUNT(counts); k++)
        free(gradients[k]);
    sara_context_free(ctx);
}

/* Nearest, halves to even; what is too large for half precision becomes infinite. */
static void values_are_rounded_to_nearest_even(void **state)
{
    static const float values[] = {1 + 0x1p-8f,  1 + 0x3p-8f,    -1 - 0x1p-8f, 1 + 0x1.02p-8f,
                                   1 + 0x1p-11f, 1 + 0x3p-11f,   65519,        65520,
                                   0x1p-24f,     0x1p-25f,       0x1.8p-24f,   -0.0f,
                                   0x1p-133f,    3.3895314e+38f, 1e-3f,        -2048.5f};
    static const float bf16[] = {1,          1 + 0x2p-7f, -1,        1 + 0x1p-7f,    1,
                                 1,          65536,       65536,     0x1p-24f,       0x1p-25f,
                                 0x1.8p-24f, -0.0f,       0x1p-133f, 3.3895314e+38f, 0x1.06p-10f,
                                 -2048};
    static const float f16[] = {
        1 + 0x1p-8f, 1 + 0x3p-8f, -1 - 0x1p-8f, 1 + 0x1p-8f, 1,        1 + 0x2p-10f,
        65504,       INFINITY,    0x1p-24f,     0,           0x2p-24f, -0.0f,
        0,           INFINITY,    0x1.064p-10f, -2048};
    const size_t count = COUNT(values);
    const float *expected[] = {values, f16, bf16};
    const sara_adamw_options still = {0, 0.9, 0.999, 1e-8, 0, 1, 1, 1}; /* nothing but writes */
    (void)state;
    sara_context *ctx = test_context();
    for (size_t k = 0; k < 3; k++) {
        size_t selected, n = 2 * count + 1;
        uint32_t *positions = test_positions(n, 1, 2, &selected);
        void *data = test_values(dtypes[k], n, 1, 1), *before = test_values(dtypes[k], n, 1, 1);
        float masters[COUNT(values)], zeros[COUNT(values)] = {0}, squares[COUNT(values)] = {0};
        memcpy(masters, values, sizeof(values));
        sara_tensor_entries item = {.tensor = test_view("w", dtypes[k], data, n),
                                    .positions = positions,
                                    .count = selected,
                                    .values = masters,
                                    .moment1 = zeros,
                                    .moment2 = squares};
        assert_int_equal(selected, count);
        assert_ok(ctx, sara_tensors_adamw(ctx, &item, 1, &still));
        for (size_t i = 0; i < n; i++) {
            float want = i % 2 ? expected[k][i / 2] : test_value(dtypes[k], before, i);
            float got = test_value(dtypes[k], data, i);
            if (memcmp(&got, &want, sizeof(got)) != 0)
                fail_msg("%s: entry %zu is %a, expected %a", dtypes[k], i, (double)got,
                         (double)want);
        }
        free(positions);
        free(data);
        free(before);
    }
    sara_context_free(ctx);
}

static void other_dtypes_are_refused_by_name(void **state)
{
    float value = 1, gradient = 0;
    uint32_t position = 0;
    const sara_adamw_options options = {1e-3, 0.9, 0.999, 1e-8, 1e-2, 1, 1, 1};
    const sara_tensor_view view = {"mid.weight", "F8", &value, 1};
    const sara_tensor_entries items[] = {{.tensor = {"first", "F32", &value, 1},
                                          .positions = &position,
                                          .count = 1,
                                          .values = &gradient,
                                          .moment1 = &gradient,
                                          .moment2 = &gradient},
                                         {.tensor = view}};
    const sara_tensor_gathering gatherings[] = {
        {{"first", "F32", &value, 1}, &position, 1, &gradient, 1},
        {view, &position, 1, &gradient, 1}};
    (void)state;
    sara_context *ctx = test_context();
    assert_refused(ctx, SARA_ERROR_USAGE, "mid.weight: dtype F8",
                   sara_tensors_gather(ctx, gatherings, 2));
    assert_refused(ctx, SARA_ERROR_USAGE, "mid.weight: dtype F8",
                   sara_tensors_adamw(ctx, items, 2, &options));
    assert_true(value == 1 && gradient == 0); /* nothing was done to the first either */
    assert_ok(ctx, sara_tensors_adamw(ctx, NULL, 0, &options));
    sara_context_free(ctx);
}

/* Also the first that is none: it lies right behind the entries. */
static void positions_beyond_the_entries_are_refused(void **state)
{
    float values[3] = {1, 2, 3}, gradient[2] = {0, 0};
    const sara_adamw_options options = {1e-3, 0.9, 0.999, 1e-8, 1e-2, 1, 1, 1};
    (void)state;
    sara_context *ctx = test_context();
    for (uint32_t last = 2; last <= 4; last++) {
        uint32_t positions[2] = {0, last};
        const sara_tensor_view view = {"w", "F32", values, 3};
        const sara_tensor_gathering gathering = {view, positions, 2, gradient, 0};
        const sara_tensor_entries entries = {.tensor = view,
                                             .positions = positions,
                                             .count = 2,
                                             .values = gradient,
                                             .moment1 = gradient,
                                             .moment2 = gradient};
        sara_status gathered = sara_tensors_gather(ctx, &gathering, 1);
        sara_status stepped = sara_tensors_adamw(ctx, &entries, 1, &options);
        assert_int_equal(gathered, last < 3 ? SARA_OK : SARA_ERROR_USAGE);
        assert_int_equal(stepped, last < 3 ? SARA_OK : SARA_ERROR_USAGE);
        if (last >= 3)
            test_assert_contains(sara_context_error(ctx), "of 3 entries", __FILE__, __LINE__);
    }
    sara_context_free(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(positions_beyond_the_entries_are_refused),
        cmocka_unit_test(budgets_select_in_every_dtype),
        cmocka_unit_test(selections_that_cannot_be_are_refused),
        cmocka_unit_test(gathering_takes_what_is_at_the_positions),
        cmocka_unit_test(the_norm_is_of_all_together),
        cmocka_unit_test(values_are_rounded_to_nearest_even),
        cmocka_unit_test(other_dtypes_are_refused_by_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

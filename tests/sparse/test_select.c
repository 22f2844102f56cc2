#include "sparse/support_sparse.h"

#include <math.h>
#include <stdlib.h>

#define COUNT(array) (sizeof(array) / sizeof(*(array)))

static void budgets_are_parsed(void **state)
{
    static const struct {
        const char *text;
        sara_budget_kind kind;
        double value;
    } good[] = {
        {"5.8%", SARA_BUDGET_FRACTION, 0.058},  {"0.058", SARA_BUDGET_FRACTION, 0.058},
        {"100%", SARA_BUDGET_FRACTION, 1},      {"1e-3", SARA_BUDGET_FRACTION, 1e-3},
        {".5", SARA_BUDGET_FRACTION, 0.5},      {"20M", SARA_BUDGET_COUNT, 20e6},
        {"50k", SARA_BUDGET_COUNT, 50e3},       {"1.5M", SARA_BUDGET_COUNT, 1.5e6},
        {"20.3M", SARA_BUDGET_COUNT, 20300000}, {"50000", SARA_BUDGET_COUNT, 50000},
        {"0.5k", SARA_BUDGET_COUNT, 500},       {"1", SARA_BUDGET_COUNT, 1},
        {"2m", SARA_BUDGET_COUNT, 2e6},         {"3K", SARA_BUDGET_COUNT, 3e3},
        {"2e4", SARA_BUDGET_COUNT, 20000},
    };
    (void)state;
    sara_context *ctx = test_context();
    for (size_t i = 0; i < COUNT(good); i++) {
        sara_budget budget;
        assert_ok(ctx, sara_budget_parse(ctx, &budget, good[i].text));
        assert_int_equal(budget.kind, good[i].kind);
        assert_close(fabs(budget.value - good[i].value), 1e-15 * good[i].value, good[i].text);
    }
    sara_context_free(ctx);
}

static void bad_budgets_are_refused(void **state)
{
    static const struct {
        const char *text, *message;
    } bad[] = {
        {"", "is no number"},       {"many", "is no number"},     {"nan", "is no number"},
        {"inf", "is no number"},    {" 5%", "is no number"},      {"0x10", "is no number"},
        {"-1", "more than 0"},      {"0", "more than 0"},         {"0%", "more than 0"},
        {"1e999", "more than 0"},   {"-5%", "more than 0"},       {"100.1%", "at most 100%"},
        {"1.5", "whole number"},    {"0.0001k", "whole number"},  {"5%%", "after the number"},
        {"1234567.5", "whole number"},
        {"5 %", "after the number"}, {"5G", "after the number"},  {"1e30", "whole number"},
        {"5.8%x", "after the number"}, {"1-2", "after the number"}, {"..", "is no number"},
    };
    (void)state;
    sara_context *ctx = test_context();
    for (size_t i = 0; i < COUNT(bad); i++) {
        sara_budget budget;
        assert_refused(ctx, SARA_ERROR_USAGE, bad[i].message,
                       sara_budget_parse(ctx, &budget, bad[i].text));
    }
    sara_context_free(ctx);
}

static void learning_rate_is_the_formula(void **state)
{
    (void)state;
    assert_close(fabs(sara_default_learning_rate(2e-3) - 4.965853037914095e-4), 1e-18, "2e-3");
    assert_close(fabs(sara_default_learning_rate(2e-4) - 9.32393819905948e-4), 1e-18, "2e-4");
}

/* ----------------------------------------------------------------------------------- selection */

static sara_budget threshold(double value)
{
    return (sara_budget){SARA_BUDGET_THRESHOLD, value};
}

static void selection_is_strict_in_float32(void **state)
{
    /* 0.1 in double lies below 0.1f: compared in double, 0.1f itself would differ */
    static const float values[] = {0.1f, -0.1f, 0.09999999f, -0.09999999f, 0.0f, -0.0f,
                                   1e-42f, 0.2f, -0.3f, 0.10000001f};
    static const uint32_t expected[] = {2, 3, 4, 5, 6};
    const test_tensor tensors[] = {{"a", 10, 0, values}, {"b", 1, 0, values + 7}};
    (void)state;
    sara_context *ctx = test_context();
    sara_params params = test_params(ctx, tensors, 2);
    sara_selection selection;
    sara_budget budget = threshold(0.1);
    assert_ok(ctx, sara_select(ctx, &selection, &params, &budget));
    assert_int_equal(selection.total, 5);
    assert_int_equal(selection.item_count, 2);
    assert_true(selection.threshold == 0.1);
    assert_int_equal(selection.items[0].count, 5);
    assert_memory_equal(selection.items[0].positions, expected, sizeof(expected));
    assert_ptr_equal(selection.items[1].param, &params.items[1]);
    assert_int_equal(selection.items[1].count, 0);
    assert_null(selection.items[1].positions);
    sara_selection_free(ctx, &selection);
    sara_params_free(ctx, &params);
    sara_context_free(ctx);
}

static int compare_floats(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* The reference's rule on a sorted copy. */
static void counts_resolve_as_in_the_reference(void **state)
{
    const test_tensor tensors[] = {{"a", 100, 70, NULL}, {"b", 301, 0, NULL}, {"c", 9, 11, NULL}};
    static const double counts[] = {1, 2, 77, 430, 5000, 7398, 7399};
    (void)state;
    sara_context *ctx = test_context();
    sara_params params = test_params(ctx, tensors, 3);
    size_t total;
    float *sorted = test_snapshot(ctx, &params, &total);
    for (size_t i = 0; i < total; i++)
        sorted[i] = fabsf(sorted[i]);
    qsort(sorted, total, sizeof(*sorted), compare_floats);
    assert_int_equal(total, 7400);
    for (size_t i = 0; i < COUNT(counts); i++) {
        sara_budget count = {SARA_BUDGET_COUNT, counts[i]};
        sara_budget fraction = {SARA_BUDGET_FRACTION, counts[i] / 7400};
        sara_selection selection;
        double resolved;
        assert_ok(ctx, sara_budget_resolve(ctx, &resolved, &params, &count));
        assert_true(resolved == (double)sorted[(size_t)counts[i]]);
        assert_ok(ctx, sara_budget_resolve(ctx, &resolved, &params, &fraction));
        assert_true(resolved == (double)sorted[(size_t)counts[i]]);
        assert_ok(ctx, sara_select(ctx, &selection, &params, &count));
        assert_int_equal(selection.total, counts[i]); /* no ties among these */
        sara_selection_free(ctx, &selection);
    }
    sara_free(ctx, sorted);
    sara_params_free(ctx, &params);
    sara_context_free(ctx);
}

static void fractions_round_half_to_even(void **state)
{
    static const float values[] = {5, 1, 3, 2, 4};
    const test_tensor tensors[] = {{"a", 5, 0, values}};
    (void)state;
    sara_context *ctx = test_context();
    sara_params params = test_params(ctx, tensors, 1);
    sara_budget half = {SARA_BUDGET_FRACTION, 0.5}; /* 2.5 -> 2 */
    sara_budget most = {SARA_BUDGET_FRACTION, 0.7}; /* 3.5 -> 4 */
    double resolved;
    assert_ok(ctx, sara_budget_resolve(ctx, &resolved, &params, &half));
    assert_true(resolved == 3);
    assert_ok(ctx, sara_budget_resolve(ctx, &resolved, &params, &most));
    assert_true(resolved == 5);
    sara_params_free(ctx, &params);
    sara_context_free(ctx);
}

static void all_entries_give_infinity(void **state)
{
    const test_tensor tensors[] = {{"a", 7, 5, NULL}};
    (void)state;
    sara_context *ctx = test_context();
    sara_params params = test_params(ctx, tensors, 1);
    const sara_budget budgets[] = {
        {SARA_BUDGET_FRACTION, 1}, {SARA_BUDGET_COUNT, 35}, {SARA_BUDGET_COUNT, 20e6}};
    for (size_t i = 0; i < COUNT(budgets); i++) {
        sara_selection selection;
        assert_ok(ctx, sara_select(ctx, &selection, &params, &budgets[i]));
        assert_true(isinf(selection.threshold));
        assert_int_equal(selection.total, 35);
        sara_selection_free(ctx, &selection);
    }
    sara_params_free(ctx, &params);
    sara_context_free(ctx);
}

static void ties_are_left_out(void **state)
{
    static const float values[] = {1, -2, 2, -2, 2, 3, 1};
    const test_tensor tensors[] = {{"a", 7, 0, values}};
    (void)state;
    sara_context *ctx = test_context();
    sara_params params = test_params(ctx, tensors, 1);
    sara_selection selection;
    sara_budget four = {SARA_BUDGET_COUNT, 4}, one = {SARA_BUDGET_COUNT, 1};
    assert_ok(ctx, sara_select(ctx, &selection, &params, &four));
    assert_true(selection.threshold == 2);
    assert_int_equal(selection.total, 2);
    sara_selection_free(ctx, &selection);
    assert_refused(ctx, SARA_ERROR_USAGE,
                   "threshold 1 selects nothing: the smallest magnitude is 1, that of 2 entries; a "
                   "larger threshold or a budget of at least 2 selects them",
                   sara_select(ctx, &selection, &params, &one));
    one.value = 2;
    assert_ok(ctx, sara_select(ctx, &selection, &params, &one));
    assert_int_equal(selection.total, 2);
    sara_selection_free(ctx, &selection);
    sara_params_free(ctx, &params);
    sara_context_free(ctx);
}

static void useless_budgets_are_refused(void **state)
{
    static const float values[] = {0.25f, -0.5f};
    const test_tensor tensors[] = {{"a", 2, 0, values}};
    static const sara_budget bad[] = {
        {SARA_BUDGET_THRESHOLD, 0},   {SARA_BUDGET_THRESHOLD, -1},
        {SARA_BUDGET_THRESHOLD, NAN}, {SARA_BUDGET_THRESHOLD, INFINITY},
        {SARA_BUDGET_FRACTION, 0},    {SARA_BUDGET_FRACTION, 1.5},
        {SARA_BUDGET_FRACTION, NAN},  {SARA_BUDGET_COUNT, 0},
        {SARA_BUDGET_COUNT, 2.5},     {SARA_BUDGET_COUNT, NAN},
        {SARA_BUDGET_COUNT, INFINITY},
    };
    (void)state;
    sara_context *ctx = test_context();
    sara_params params = test_params(ctx, tensors, 1);
    sara_selection selection;
    for (size_t i = 0; i < COUNT(bad); i++)
        assert_refused(ctx, SARA_ERROR_USAGE, "expected",
                       sara_select(ctx, &selection, &params, &bad[i]));
    sara_budget tiny = threshold(1e-60), fraction = {SARA_BUDGET_FRACTION, 0.1};
    assert_refused(ctx, SARA_ERROR_USAGE, "smallest magnitude is 0.25",
                   sara_select(ctx, &selection, &params, &tiny));
    assert_refused(ctx, SARA_ERROR_USAGE, "threshold 0.25 selects nothing",
                   sara_select(ctx, &selection, &params, &fraction));
    sara_budget huge = threshold(1e60);
    assert_ok(ctx, sara_select(ctx, &selection, &params, &huge));
    assert_int_equal(selection.total, 2);
    sara_selection_free(ctx, &selection);
    sara_params_free(ctx, &params);
    sara_context_free(ctx);
}

static void damaged_weights_are_named(void **state)
{
    static const float good[] = {1, 2}, bad[] = {0.5f, NAN, 1}, worse[] = {-INFINITY};
    const test_tensor first[] = {{"a", 2, 0, good}, {"mid.weight", 3, 0, bad}};
    const test_tensor second[] = {{"a", 2, 0, good}, {"out.bias", 1, 0, worse}};
    (void)state;
    sara_context *ctx = test_context();
    const sara_budget budgets[] = {threshold(1), {SARA_BUDGET_FRACTION, 0.4}};
    for (size_t i = 0; i < COUNT(budgets); i++) {
        sara_selection selection;
        sara_params params = test_params(ctx, first, 2);
        assert_refused(ctx, SARA_ERROR_INPUT, "mid.weight: entry 1 is NaN",
                       sara_select(ctx, &selection, &params, &budgets[i]));
        sara_params_free(ctx, &params);
        params = test_params(ctx, second, 2);
        assert_refused(ctx, SARA_ERROR_INPUT, "out.bias: entry 0 is minus infinity",
                       sara_select(ctx, &selection, &params, &budgets[i]));
        sara_params_free(ctx, &params);
    }
    sara_context_free(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(budgets_are_parsed),
        cmocka_unit_test(bad_budgets_are_refused),
        cmocka_unit_test(learning_rate_is_the_formula),
        cmocka_unit_test(selection_is_strict_in_float32),
        cmocka_unit_test(counts_resolve_as_in_the_reference),
        cmocka_unit_test(fractions_round_half_to_even),
        cmocka_unit_test(all_entries_give_infinity),
        cmocka_unit_test(ties_are_left_out),
        cmocka_unit_test(useless_budgets_are_refused),
        cmocka_unit_test(damaged_weights_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* What makes one set of parameters another. */
#include "sparse/support_sparse.h"

#include <math.h>
#include <stdlib.h>

static const test_tensor tensors[] = {
    {"a.bias", 9, 0, NULL}, {"a.weight", 70, 90, NULL}, {"b.weight", 20, 5, NULL}};
#define TENSORS 3
#define ENTRIES (9 + 70 * 90 + 20 * 5)

typedef struct fixture {
    sara_context *ctx;
    sara_params base, tuned;
    double changes[ENTRIES]; /* of all entries, one after the other */
} fixture;

/* Every third entry changes, by multiples of 1/64 up to 10/64, so that many are equal. */
static int setup(void **state)
{
    fixture *f = calloc(1, sizeof(*f));
    size_t at = 0;
    f->ctx = test_context();
    f->base = test_params(f->ctx, tensors, TENSORS);
    f->tuned = test_params(f->ctx, tensors, TENSORS);
    for (size_t p = 0; p < TENSORS; p++) {
        sara_param *base = &f->base.items[p], *tuned = &f->tuned.items[p];
        for (size_t i = 0; i < (size_t)sara_shape_count(&base->value.shape); i++, at++) {
            float value = roundf(sara_param_get(base, i) * 1024) / 1024 + 0.0f; /* no -0 */
            float change = at % 3 ? 0 : (float)(at % 7 + 4) / (at % 2 ? 64 : -64);
            sara_param_set(base, i, value);
            sara_param_set(tuned, i, value + change);
            f->changes[at] = (double)change;
        }
    }
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    fixture *f = *state;
    sara_params_free(f->ctx, &f->base);
    sara_params_free(f->ctx, &f->tuned);
    sara_context_free(f->ctx);
    free(f);
    return 0;
}

static void measures(void **state)
{
    fixture *f = *state;
    sara_difference_size size;
    double sum = 0;
    assert_ok(f->ctx, sara_difference_measure(f->ctx, &size, &f->base, &f->tuned));
    for (size_t i = 0; i < ENTRIES; i++)
        sum += f->changes[i] * f->changes[i];
    assert_int_equal(size.differing, (ENTRIES + 2) / 3);
    assert_close(fabs(size.sum2 / sum - 1), 1e-12, "sum");
    assert_true(size.largest == 10.0f / 64);
    sara_param *base = &f->base.items[1], *tuned = &f->tuned.items[1];
    sara_param_set(tuned, 5, sara_param_get(base, 5) - 11.0f / 64); /* a decrease counts as well */
    assert_ok(f->ctx, sara_difference_measure(f->ctx, &size, &f->base, &f->tuned));
    assert_true(size.largest == 11.0f / 64);
}

/* Which entries of all are kept; the others' squares make up what is left out. */
static bool *kept(fixture *f, sara_difference_rule rule)
{
    sara_difference d;
    bool *out = calloc(ENTRIES, 1);
    double left = 0;
    int64_t count = 0;
    size_t first = 0;
    assert_ok(f->ctx, sara_difference_new(f->ctx, &d, &f->base, &f->tuned, &rule));
    assert_int_equal(d.count, TENSORS);
    for (size_t p = 0; p < TENSORS; p++) {
        const sara_adapter_entry *entry = &d.entries[p];
        assert_string_equal(entry->name, tensors[p].name);
        for (size_t i = 0; i < entry->count; i++) {
            assert_true(i == 0 || entry->positions[i] > entry->positions[i - 1]);
            assert_true(entry->values[i] ==
                        sara_param_get(&f->tuned.items[p], entry->positions[i]));
            out[first + entry->positions[i]] = true;
            count++;
        }
        first += (size_t)sara_shape_count(&f->base.items[p].value.shape);
    }
    for (size_t i = 0; i < ENTRIES; i++)
        left += out[i] ? 0 : f->changes[i] * f->changes[i];
    assert_int_equal(d.kept, count);
    assert_close(fabs(d.left_out2 - left), 1e-12, "left out");
    sara_difference_free(f->ctx, &d);
    return out;
}

static void keeps_all(void **state)
{
    fixture *f = *state;
    bool *mask = kept(f, (sara_difference_rule){.tolerance = -1});
    for (size_t i = 0; i < ENTRIES; i++)
        assert_int_equal(mask[i], f->changes[i] != 0);
    free(mask);
}

/* Strictly above. */
static void keeps_above_a_tolerance(void **state)
{
    static const double tolerances[] = {0, 3.9 / 64, 7.0 / 64, 10.0 / 64};
    fixture *f = *state;
    for (size_t t = 0; t < 4; t++) {
        bool *mask = kept(f, (sara_difference_rule){.tolerance = tolerances[t]});
        for (size_t i = 0; i < ENTRIES; i++)
            assert_int_equal(mask[i], fabs(f->changes[i]) > tolerances[t]);
        free(mask);
    }
}

/* Exactly so many; of equal changes the first. */
static void keeps_the_largest(void **state)
{
    static const int64_t numbers[] = {1,           2,      300, 305, 1000, (ENTRIES + 2) / 3,
                                      ENTRIES - 1, ENTRIES};
    fixture *f = *state;
    for (size_t n = 0; n < sizeof(numbers) / sizeof(*numbers); n++) {
        bool *mask = kept(f, (sara_difference_rule){.tolerance = -1, .most = numbers[n]});
        int64_t count = 0, differing = (ENTRIES + 2) / 3;
        double smallest = 1;
        size_t last = 0;
        for (size_t i = 0; i < ENTRIES; i++) {
            count += mask[i];
            assert_true(!mask[i] || f->changes[i] != 0);
            smallest = mask[i] && fabs(f->changes[i]) < smallest ? fabs(f->changes[i]) : smallest;
        }
        assert_int_equal(count, numbers[n] < differing ? numbers[n] : differing);
        for (size_t i = 0; i < ENTRIES; i++) /* the last one that is kept of the smallest */
            last = mask[i] && fabs(f->changes[i]) == smallest ? i : last;
        for (size_t i = 0; i < ENTRIES; i++)
            assert_int_equal(mask[i], fabs(f->changes[i]) > smallest ||
                                          (fabs(f->changes[i]) == smallest && i <= last));
        free(mask);
    }
}

/* A change of sign of zero is one of bits. */
static void zeros_differ_by_sign(void **state)
{
    fixture *f = *state;
    sara_difference d;
    const sara_difference_rule rules[] = {{-1, 0}, {-1, ENTRIES - 1}, {0, 0}};
    for (size_t p = 0; p < TENSORS; p++)
        for (size_t i = 0; i < (size_t)sara_shape_count(&f->base.items[p].value.shape); i++) {
            sara_param_set(&f->base.items[p], i, 0);
            sara_param_set(&f->tuned.items[p], i, p == 1 && i == 77 ? -0.0f : 0.0f);
        }
    for (size_t r = 0; r < 3; r++) {
        assert_ok(f->ctx, sara_difference_new(f->ctx, &d, &f->base, &f->tuned, &rules[r]));
        assert_int_equal(d.kept, r < 2 ? 1 : 0);
        assert_int_equal(d.entries[1].count, d.kept);
        assert_true(d.kept == 0 ||
                    (d.entries[1].positions[0] == 77 && signbit(d.entries[1].values[0])));
        sara_difference_free(f->ctx, &d);
    }
}

static void refusals(void **state)
{
    static const test_tensor others[][TENSORS] = {
        {{"a.bias", 9, 0, NULL}, {"a.weight", 70, 91, NULL}, {"b.weight", 20, 5, NULL}},
        {{"a.bias", 9, 0, NULL}, {"a.weight", 70, 90, NULL}, {"c.weight", 20, 5, NULL}},
        {{"a.bias", 9, 0, NULL}, {"a.weight", 70, 90, NULL}, {NULL, 0, 0, NULL}}};
    static const char *const lines[] = {
        "a.weight: shape [70,90] in the base, [70,91] in the tuned model",
        "b.weight: only the base has it", "b.weight: only the base has it"};
    fixture *f = *state;
    sara_difference_size size;
    for (size_t i = 0; i < 3; i++) {
        sara_params params = test_params(f->ctx, others[i], i == 2 ? 2 : 3);
        assert_refused(f->ctx, SARA_ERROR_INPUT, lines[i],
                       sara_difference_measure(f->ctx, &size, &f->base, &params));
        if (i == 2)
            assert_refused(f->ctx, SARA_ERROR_INPUT, "b.weight: only the tuned model has it",
                           sara_difference_measure(f->ctx, &size, &params, &f->base));
        sara_params_free(f->ctx, &params);
    }
    sara_param_set(&f->tuned.items[1], 33, NAN);
    assert_refused(f->ctx, SARA_ERROR_INPUT, "a.weight: entry 33 is ",
                   sara_difference_measure(f->ctx, &size, &f->base, &f->tuned));
    sara_param_set(&f->base.items[1], 33, NAN); /* the same bits: nothing has changed */
    assert_ok(f->ctx, sara_difference_measure(f->ctx, &size, &f->base, &f->tuned));
}

static sara_status scenario(sara_context *ctx, void *user)
{
    const fixture *f = user;
    const sara_difference_rule rule = {-1, 100};
    sara_difference_size size;
    sara_difference d = {NULL, 0, 0, 0};
    sara_status status;
    TRY(sara_difference_measure(ctx, &size, &f->base, &f->tuned));
    TRY(sara_difference_new(ctx, &d, &f->base, &f->tuned, &rule));
done:
    sara_difference_free(ctx, &d);
    return status;
}

static void test_every_allocation(void **state)
{
    assert_true(test_fail_allocations(scenario, *state) > 6);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(measures),
        TEST(keeps_all),
        TEST(keeps_above_a_tolerance),
        TEST(keeps_the_largest),
        TEST(zeros_differ_by_sign),
        TEST(refusals),
        TEST(test_every_allocation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

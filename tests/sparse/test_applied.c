#include "sparse/support_sparse.h"

#include <math.h>

#define HASH "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
#define OTHER "ffeeddccbbaa99887766554433221100ffeeddccbbaa99887766554433221100"

static const test_tensor tensors[] = {{"a", 10, 0, NULL}, {"b", 4, 5, NULL}, {"c", 3, 0, NULL}};
static const sara_base base = {HASH, SARA_F32};
static sara_metadata base_metadata[] = {{"sara.base_sha256", HASH}};
static sara_metadata other_metadata[] = {{"sara.base_sha256", OTHER}};

static uint32_t a_positions[] = {0, 3, 9}, b_positions[] = {0, 7, 19}, a_more[] = {3, 4, 9};
static float a_values[] = {0.1f, -0.2f, 1e-8f}, b_values[] = {3.0f, 0.017f, -0.0f},
             a_more_values[] = {0.7f, -1e3f, 0.3f};

static sara_adapter_entry first_entries[] = {{"a", a_positions, a_values, 3},
                                             {"b", b_positions, b_values, 3}};
static sara_adapter_entry second_entries[] = {{"a", a_more, a_more_values, 3}};
static sara_adapter_entry third_entries[] = {{"a", a_positions, a_more_values, 3}};

static sara_adapter adapter_of(sara_adapter_entry *entries, size_t count)
{
    return (sara_adapter){
        .entries = entries, .count = count, .metadata = base_metadata, .metadata_count = 1};
}

typedef struct fixture {
    sara_context *ctx;
    sara_params params;
    sara_applied *applied;
    float *originals;
} fixture;

/* The parameters stay where they are: what is applied refers to them. */
static void set_up(fixture *f)
{
    size_t count;
    f->ctx = test_context();
    f->params = test_params(f->ctx, tensors, 3);
    f->originals = test_snapshot(f->ctx, &f->params, &count);
    assert_ok(f->ctx, sara_applied_new(f->ctx, &f->applied, &f->params, &base));
}

static void tear_down(fixture *f)
{
    sara_applied_free(f->applied);
    sara_free(f->ctx, f->originals);
    sara_params_free(f->ctx, &f->params);
    sara_context_free(f->ctx);
}

static float *values_of(fixture *f, size_t index)
{
    return f->params.items[index].value.data;
}

static void strength_one_assigns_the_values(void **state)
{
    (void)state;
    fixture f;
    set_up(&f);
    sara_adapter adapter = adapter_of(first_entries, 2);
    uint64_t version = f.params.items[1].version;
    assert_ok(f.ctx, sara_applied_add(f.applied, &adapter, 1, false));
    for (int i = 0; i < 3; i++) {
        assert_memory_equal(&values_of(&f, 0)[a_positions[i]], &a_values[i], sizeof(float));
        assert_memory_equal(&values_of(&f, 1)[b_positions[i]], &b_values[i], sizeof(float));
    }
    assert_true(f.params.items[1].version > version);
    assert_memory_equal(&values_of(&f, 0)[1], &f.originals[1], 2 * sizeof(float));
    version = f.params.items[1].version;
    assert_ok(f.ctx, sara_applied_remove(f.applied));
    test_assert_snapshot(&f.params, f.originals);
    assert_true(f.params.items[1].version > version);
    tear_down(&f);
}

static void strengths_scale_the_change(void **state)
{
    static const double strengths[] = {0.5, -1, 2, 0};
    (void)state;
    fixture f;
    set_up(&f);
    values_of(&f, 0)[0] = f.originals[0] = -0.0f; /* strength 0 keeps even the sign of zero */
    sara_adapter adapter = adapter_of(first_entries, 2);
    for (int k = 0; k < 4; k++) {
        assert_ok(f.ctx, sara_applied_add(f.applied, &adapter, strengths[k], false));
        for (int i = 0; i < 3; i++) {
            double p0 = f.originals[a_positions[i]];
            double expected = p0 + strengths[k] * ((double)a_values[i] - p0);
            assert_true(values_of(&f, 0)[a_positions[i]] == (float)expected);
        }
        if (strengths[k] == 0)
            test_assert_snapshot(&f.params, f.originals);
        assert_ok(f.ctx, sara_applied_remove(f.applied));
        test_assert_snapshot(&f.params, f.originals);
    }
    tear_down(&f);
}

/* What is too small to change a value leaves its bits, those of -0 too; so do changes that cancel
 * out. 16-bit weights round more of them away. */
static void nothing_changes_by_nothing(void **state)
{
    static const sara_dtype dtypes[] = {SARA_F32, SARA_F16, SARA_BF16};
    static uint32_t positions[] = {0, 1, 2, 3};
    static float values[] = {1, -1, 2, 0}, originals[] = {-0.0f, 0, 1, -0.0f};
    static sara_adapter_entry entries[] = {{"a", positions, values, 4}};
    (void)state;
    for (size_t d = 0; d < sizeof(dtypes) / sizeof(*dtypes); d++) {
        fixture f;
        set_up(&f);
        sara_param *param = &f.params.items[0];
        param->value.dtype = dtypes[d];
        for (size_t i = 0; i < 4; i++)
            sara_param_set(param, i, originals[i]);
        uint8_t before[4 * sizeof(float)];
        size_t bytes = 4 * sara_dtype_size(dtypes[d]);
        memcpy(before, param->value.data, bytes);
        sara_adapter adapter = adapter_of(entries, 1);
        assert_ok(f.ctx, sara_applied_add(f.applied, &adapter, 1e-300, false));
        assert_memory_equal(param->value.data, before, bytes);
        assert_ok(f.ctx, sara_applied_add(f.applied, &adapter, 1, false));
        assert_ok(f.ctx, sara_applied_add(f.applied, &adapter, -1, false));
        assert_memory_equal(param->value.data, before, bytes);
        assert_ok(f.ctx, sara_applied_remove(f.applied));
        assert_ok(f.ctx, sara_applied_add(f.applied, &adapter, dtypes[d] == SARA_F32 ? 1e-46 : 1e-9,
                                          false));
        float first = sara_param_get(param, 0);
        assert_true(dtypes[d] == SARA_BF16 ? first == sara_bf16_to_f32(sara_f32_to_bf16(1e-9f))
                                           : first == 0 && signbit(first));
        assert_ok(f.ctx, sara_applied_remove(f.applied));
        assert_ok(f.ctx, sara_applied_add(f.applied, &adapter, 1, false)); /* assigned as it is */
        assert_true(sara_param_get(param, 3) == 0 && !signbit(sara_param_get(param, 3)));
        param->value.dtype = SARA_F32;
        tear_down(&f);
    }
}

static const int orders[6][3] = {{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}};

/* Applies three adapters in every order; the result at the given place of "a". */
static float apply_in_all_orders(fixture *f, const sara_adapter *adapters, const double *strengths,
                                 uint32_t position)
{
    float *expected = NULL, result;
    size_t count;
    for (int o = 0; o < 6; o++) {
        for (int i = 0; i < 3; i++)
            assert_ok(f->ctx, sara_applied_add(f->applied, &adapters[orders[o][i]],
                                               strengths[orders[o][i]], false));
        if (expected)
            test_assert_snapshot(&f->params, expected);
        else
            expected = test_snapshot(f->ctx, &f->params, &count);
        assert_ok(f->ctx, sara_applied_remove(f->applied));
        test_assert_snapshot(&f->params, f->originals);
    }
    result = expected[position];
    sara_free(f->ctx, expected);
    return result;
}

static void order_does_not_matter(void **state)
{
    static const double strengths[] = {0.3, 0.9, 0.3};
    (void)state;
    fixture f;
    set_up(&f);
    sara_adapter adapters[] = {adapter_of(first_entries, 2), adapter_of(second_entries, 1),
                               adapter_of(third_entries, 1)};
    double got = (double)apply_in_all_orders(&f, adapters, strengths, 3), p0 = f.originals[3];
    double sum = 0.3 * (-0.2 - p0) + 0.9 * (0.7 - p0) + 0.3 * (-1e3 - p0);
    assert_close(fabs(got - (p0 + sum)), 1e-4, "overlap");
    tear_down(&f);
}

/* Values whose sum depends on the order even in double: only a fixed order gives equal bits. With
 * equal strengths it must come from the content, with equal content from the strengths. */
static void order_does_not_matter_where_sums_cancel(void **state)
{
    float huge[] = {1e20f}, minus[] = {-1e20f}, one[] = {1};
    sara_adapter_entry entries[] = {
        {"a", a_positions, huge, 1}, {"a", a_positions, minus, 1}, {"a", a_positions, one, 1}};
    static const double equal[] = {1, 1, 1}, different[] = {1e20, -1e20, 1};
    (void)state;
    fixture f;
    set_up(&f);
    sara_adapter adapters[] = {adapter_of(&entries[0], 1), adapter_of(&entries[1], 1),
                               adapter_of(&entries[2], 1)};
    apply_in_all_orders(&f, adapters, equal, 0);
    sara_adapter same[] = {adapters[2], adapters[2], adapters[2]};
    apply_in_all_orders(&f, same, different, 0);
    tear_down(&f);
}

/* Taking off the later ones gives the bits of the earlier alone, whatever the layers' own order. */
static void the_later_come_off(void **state)
{
    static const double strengths[] = {0.3, 0.9, -0.5};
    size_t count;
    (void)state;
    fixture f;
    set_up(&f);
    sara_adapter adapters[] = {adapter_of(first_entries, 2), adapter_of(second_entries, 1),
                               adapter_of(third_entries, 1)};
    for (int o = 0; o < 6; o++) {
        float *steps[3];
        for (int i = 0; i < 3; i++) {
            steps[i] = test_snapshot(f.ctx, &f.params, &count);
            assert_ok(f.ctx, sara_applied_add(f.applied, &adapters[orders[o][i]],
                                              strengths[orders[o][i]], false));
        }
        uint64_t version = f.params.items[0].version;
        assert_ok(f.ctx, sara_applied_truncate(f.applied, 3));
        assert_int_equal(sara_applied_count(f.applied), 3);
        assert_int_equal(f.params.items[0].version, version);
        for (int i = 2; i >= 0; i--) {
            version = f.params.items[0].version;
            assert_ok(f.ctx, sara_applied_truncate(f.applied, (size_t)i));
            assert_int_equal(sara_applied_count(f.applied), i);
            assert_true(f.params.items[0].version > version);
            test_assert_snapshot(&f.params, steps[i]);
            sara_free(f.ctx, steps[i]);
        }
        test_assert_snapshot(&f.params, f.originals);
    }
    tear_down(&f);
}

/* Where only one of several covers an entry, it is assigned as if alone. */
static void disjoint_entries_are_exact(void **state)
{
    (void)state;
    fixture f;
    set_up(&f);
    sara_adapter first = adapter_of(first_entries, 2), second = adapter_of(second_entries, 1);
    assert_ok(f.ctx, sara_applied_add(f.applied, &first, 1, false));
    assert_ok(f.ctx, sara_applied_add(f.applied, &second, 1, false));
    assert_true(values_of(&f, 0)[0] == 0.1f);
    assert_true(values_of(&f, 0)[4] == -1e3f);
    assert_ok(f.ctx, sara_applied_add(f.applied, &first, 0, false));
    assert_true(values_of(&f, 0)[0] == 0.1f);
    tear_down(&f);
}

typedef struct visits {
    const fixture *f;
    int count;
} visits;

static void on_entry(void *user, const sara_param *param, uint32_t position, float original,
                     float current)
{
    static const uint32_t positions[] = {0, 3, 4, 9, 0, 7, 19};
    visits *v = user;
    assert_int_equal(position, positions[v->count]);
    assert_string_equal(param->name, v->count < 4 ? "a" : "b");
    assert_true(original == v->f->originals[(v->count < 4 ? 0 : 10) + position]);
    assert_true(current == ((float *)param->value.data)[position]);
    v->count++;
}

static void visits_cover_the_union(void **state)
{
    (void)state;
    fixture f;
    set_up(&f);
    sara_adapter first = adapter_of(first_entries, 2), second = adapter_of(second_entries, 1);
    assert_ok(f.ctx, sara_applied_add(f.applied, &first, 0.5, false));
    assert_ok(f.ctx, sara_applied_add(f.applied, &second, 0.5, false));
    visits v = {&f, 0};
    assert_ok(f.ctx, sara_applied_visit(f.applied, on_entry, &v));
    assert_int_equal(v.count, 7);
    tear_down(&f);
}

static void unfit_adapters_are_refused(void **state)
{
    uint32_t beyond[] = {3}, same[] = {1, 1};
    float values[] = {1, 1}, nan[] = {NAN};
    sara_adapter_entry unknown[] = {{"a", a_positions, a_values, 3}, {"d", beyond, values, 1}};
    sara_adapter_entry outside[] = {{"a", a_positions, a_values, 3}, {"c", beyond, values, 1}};
    sara_adapter_entry twice[] = {{"c", same, values, 2}};
    sara_adapter_entry broken[] = {{"c", same, nan, 1}};
    sara_adapter_entry unsorted[] = {{"b", same, values, 1}, {"a", same, values, 1}};
    struct {
        sara_adapter adapter;
        const char *message;
    } bad[] = {
        {adapter_of(unknown, 2), "d: the model has no such tensor"},
        {adapter_of(outside, 2), "c: position 3, but the model's tensor of shape [3] has 3"},
        {adapter_of(twice, 1), "c: position 1 after 1"},
        {adapter_of(broken, 1), "c: value 0 is not finite"},
        {adapter_of(unsorted, 2), "a: entries are not in ascending order"},
    };
    (void)state;
    fixture f;
    set_up(&f);
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        assert_refused(f.ctx, SARA_ERROR_INPUT, bad[i].message,
                       sara_applied_add(f.applied, &bad[i].adapter, 1, false));
        test_assert_snapshot(&f.params, f.originals);
    }
    sara_adapter good = adapter_of(first_entries, 2);
    assert_refused(f.ctx, SARA_ERROR_USAGE, "strength nan",
                   sara_applied_add(f.applied, &good, NAN, false));
    assert_refused(f.ctx, SARA_ERROR_USAGE, "strength inf",
                   sara_applied_add(f.applied, &good, INFINITY, false));
    test_assert_snapshot(&f.params, f.originals);
    tear_down(&f);
}

static void another_base_needs_force(void **state)
{
    (void)state;
    fixture f;
    set_up(&f);
    sara_adapter adapter = adapter_of(first_entries, 2);
    adapter.metadata = other_metadata;
    assert_refused(f.ctx, SARA_ERROR_INPUT,
                   "the base ffeeddccbbaa, but the model is another, 001122334455, in fp32",
                   sara_applied_add(f.applied, &adapter, 1, false));
    test_assert_snapshot(&f.params, f.originals);
    assert_ok(f.ctx, sara_applied_add(f.applied, &adapter, 1, true));
    assert_true(values_of(&f, 0)[0] == 0.1f);
    sara_applied *none = NULL;
    assert_refused(f.ctx, SARA_ERROR_USAGE, "base hash \"12\"",
                   sara_applied_new(f.ctx, &none, &f.params, &(sara_base){"12", SARA_F32}));
    tear_down(&f);
}

/* The reason why is said where it is known. */
static void another_precision_is_named(void **state)
{
    static const sara_base half = {HASH, SARA_F16};
    static const struct {
        const char *base, *precision, *message;
    } cases[] = {
        {OTHER, "fp32",
         "made for a base in fp32 (ffeeddccbbaa), but the model is in fp16 "
         "(001122334455): in another precision even the same model is another base, "
         "with other smallest weights; use it in fp32, or force"},
        {OTHER, "bf16", "made for a base in bf16 (ffeeddccbbaa), but the model is in fp16 ("},
        {OTHER, "fp16", "the base ffeeddccbbaa, but the model is another, 001122334455; force"},
        {HASH, "fp32", NULL}, /* equal values are equal whatever is said of them */
        {HASH, "fp16", NULL},
    };
    (void)state;
    fixture f;
    set_up(&f);
    sara_applied_free(f.applied);
    assert_ok(f.ctx, sara_applied_new(f.ctx, &f.applied, &f.params, &half));
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        sara_metadata metadata[] = {{"sara.base_sha256", cases[i].base},
                                    {"sara.base_precision", cases[i].precision}};
        sara_adapter adapter = adapter_of(first_entries, 2);
        adapter.metadata = metadata;
        adapter.metadata_count = 2;
        if (cases[i].message)
            assert_refused(f.ctx, SARA_ERROR_INPUT, cases[i].message,
                           sara_applied_add(f.applied, &adapter, 1, false));
        assert_ok(f.ctx, sara_applied_add(f.applied, &adapter, 1, cases[i].message != NULL));
        assert_true(values_of(&f, 0)[0] == 0.1f);
        assert_ok(f.ctx, sara_applied_remove(f.applied));
    }
    tear_down(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(strength_one_assigns_the_values),
        cmocka_unit_test(strengths_scale_the_change),
        cmocka_unit_test(nothing_changes_by_nothing),
        cmocka_unit_test(order_does_not_matter),
        cmocka_unit_test(order_does_not_matter_where_sums_cancel),
        cmocka_unit_test(the_later_come_off),
        cmocka_unit_test(disjoint_entries_are_exact),
        cmocka_unit_test(visits_cover_the_union),
        cmocka_unit_test(unfit_adapters_are_refused),
        cmocka_unit_test(another_base_needs_force),
        cmocka_unit_test(another_precision_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Selections of parameters that are not in memory, more than are read at a time: what they are of
 * those that are. */
#include "sparse/support_sparse.h"

#include "sparse/masks.h"

#include <math.h>

#define PARAMS ((size_t)5)
#define ROWS   ((int64_t)2500)
#define COLS   ((int64_t)2000) /* 20 MB each: five are read in two pieces */

/* Of entry i of a parameter; parameters differ, and each has entries of equal magnitude. */
static float value_at(size_t param, size_t i)
{
    uint32_t bits = (uint32_t)(i * 2654435761u + param * 40503u);
    bits ^= bits >> 15;
    return ((float)(bits % 60013) - 30006.0f) * 1e-6f;
}

static sara_status make_values(const void *user, void *out, const sara_param *param)
{
    const sara_params *params = user;
    float *values = out;
    for (size_t i = 0; i < (size_t)(ROWS * COLS); i++)
        values[i] = value_at((size_t)(param - params->items), i);
    return SARA_OK;
}

typedef struct set {
    sara_params params;
    sara_param_source source;
} set;

static void set_open(sara_context *ctx, set *s, bool there)
{
    const sara_shape shape = sara_shape2(ROWS, COLS);
    assert_ok(ctx, sara_params_new(ctx, &s->params, PARAMS));
    s->source = (sara_param_source){make_values, &s->params};
    for (size_t i = 0; i < PARAMS; i++) {
        sara_param *param = &s->params.items[i];
        char *name = NULL;
        assert_ok(ctx, sara_strdup(ctx, &name, sara_name_of("p%zu", i).text));
        param->name = name;
        param->stored = param->value.dtype = SARA_F32;
        param->value.shape = shape;
        if (there) {
            assert_ok(ctx, sara_alloc(ctx, &param->value.data, (size_t)(ROWS * COLS), 4));
            assert_ok(ctx, make_values(&s->params, param->value.data, param));
        } else {
            param->source = &s->source;
        }
    }
}

static void assert_same(sara_context *ctx, sara_selection *a, sara_selection *b, const char *what)
{
    if (a->total < 1 || a->total != b->total)
        fail_msg("%s: %lld and %lld entries", what, (long long)a->total, (long long)b->total);
    assert_true(a->threshold == b->threshold || (isnan(a->threshold) && isnan(b->threshold)));
    for (size_t i = 0; i < PARAMS; i++) {
        assert_int_equal(a->items[i].count, b->items[i].count);
        assert_memory_equal(a->items[i].positions, b->items[i].positions,
                            a->items[i].count * sizeof(uint32_t));
    }
    sara_selection_free(ctx, a);
    sara_selection_free(ctx, b);
}

static void check_masks(sara_context *ctx, const set *there, const set *away)
{
    static const sara_mask_kind kinds[] = {SARA_MASK_SMALLEST, SARA_MASK_LARGEST, SARA_MASK_RANDOM};
    const sara_budget budget = {SARA_BUDGET_FRACTION, 0.058};
    for (size_t i = 0; i < sizeof(kinds) / sizeof(*kinds); i++) {
        const sara_mask_rule rule = {.kind = kinds[i], .seed = 3};
        sara_selection a, b;
        assert_ok(ctx, sara_select_masked(ctx, &a, &there->params, &budget, &rule));
        assert_ok(ctx, sara_select_masked(ctx, &b, &away->params, &budget, &rule));
        assert_same(ctx, &a, &b, "a mask");
    }
}

static void check_counts(sara_context *ctx, const set *there, const set *away)
{
    const size_t counts[PARAMS] = {1, 0, 70000, 12, 5};
    sara_base a, b;
    sara_selection first, second;
    assert_ok(ctx, sara_select_random(ctx, &first, &there->params, counts, 9));
    assert_ok(ctx, sara_select_random(ctx, &second, &away->params, counts, 9));
    assert_same(ctx, &first, &second, "random entries");
    assert_ok(ctx, sara_params_base(ctx, &a, &there->params));
    assert_ok(ctx, sara_params_base(ctx, &b, &away->params));
    assert_string_equal(a.sha256, b.sha256);
}

static void test_in_pieces(void **state)
{
    sara_context *ctx = test_context();
    sara_params part;
    set there, away;
    (void)state;
    set_open(ctx, &there, true);
    set_open(ctx, &away, false);
    assert_ok(ctx, sara_params_read_from(ctx, &part, &there.params, 0));
    assert_int_equal(part.count, PARAMS); /* that takes no copies */
    sara_params_read_from_end(ctx, &part, &there.params, 0);
    assert_ok(ctx, sara_params_read_from(ctx, &part, &away.params, 0));
    assert_in_range(part.count, 1, PARAMS - 1);
    sara_params_read_from_end(ctx, &part, &away.params, 0);
    check_masks(ctx, &there, &away);
    check_counts(ctx, &there, &away);
    for (size_t i = 0; i < PARAMS; i++)
        assert_null(away.params.items[i].value.data);
    sara_params_free(ctx, &there.params);
    sara_params_free(ctx, &away.params);
    sara_context_free(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_in_pieces)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Which entries the masks take: against NumPy on the golden U-Nets; equal ones; any threads. */
#include "sparse/support_sparse.h"

#include "sparse/masks.h"

#include <math.h>
#include <stdlib.h>

#define COUNT(array) (sizeof(array) / sizeof(*(array)))

static int by_name(const void *a, const void *b)
{
    return strcmp(((const sara_param *)a)->name, ((const sara_param *)b)->name);
}

/* The tensors of a file, ascending by name. */
static sara_params load_golden(sara_context *ctx, const char *kind)
{
    char path[512];
    sara_params params;
    snprintf(path, sizeof(path), SARA_TEST_GOLDEN "/unet_%s/diffusion_pytorch_model.safetensors",
             kind);
    sara_safetensors *file = test_open(ctx, path);
    assert_ok(ctx, sara_params_new(ctx, &params, sara_safetensors_count(file)));
    for (size_t i = 0; i < params.count; i++) {
        const sara_tensor_info *info = sara_safetensors_at(file, i);
        sara_param *param = &params.items[i];
        char *name = NULL;
        assert_ok(ctx, sara_strdup(ctx, &name, info->name));
        param->name = name;
        param->stored = SARA_F32;
        assert_ok(ctx, sara_safetensors_load(file, &param->value, name, SARA_F32, &info->shape));
    }
    qsort(params.items, params.count, sizeof(*params.items), by_name);
    sara_safetensors_close(file);
    return params;
}

static void assert_digest(sara_context *ctx, const sara_selection *s, const char *expected,
                          const char *what)
{
    sara_sha256 *hash = NULL;
    char sha256[65];
    assert_ok(ctx, sara_sha256_new(ctx, &hash));
    for (size_t i = 0; i < s->item_count; i++) {
        uint32_t count = (uint32_t)s->items[i].count;
        assert_ok(ctx, sara_sha256_add(hash, &count, sizeof(count)));
        assert_ok(ctx, sara_sha256_add(hash, s->items[i].positions,
                                       s->items[i].count * sizeof(uint32_t)));
    }
    assert_ok(ctx, sara_sha256_end(&hash, sha256));
    if (strcmp(sha256, expected) != 0)
        fail_msg("%s: other entries than recorded", what);
}

static void check_recorded(int threads)
{
    const sara_context_options options = {.threads = threads};
    sara_context *ctx;
    assert_int_equal(sara_context_new(&ctx, &options), SARA_OK);
    for (size_t i = 0; i < COUNT(recorded_masks); i++) {
        sara_params params = load_golden(ctx, recorded_masks[i].kind);
        const sara_budget budget = {SARA_BUDGET_THRESHOLD, recorded_masks[i].threshold};
        sara_mask_rule rule = {.seed = MASKS_SEED, .rank = MASKS_RANK};
        sara_selection selection;
        assert_ok(ctx, sara_mask_parse(ctx, &rule.kind, recorded_masks[i].mask));
        assert_ok(ctx, sara_select_masked(ctx, &selection, &params, &budget, &rule));
        assert_int_equal(selection.total, recorded_masks[i].total);
        assert_true(selection.threshold == budget.value);
        assert_digest(ctx, &selection, recorded_masks[i].sha256, recorded_masks[i].mask);
        sara_selection_free(ctx, &selection);
        sara_params_free(ctx, &params);
    }
    sara_context_free(ctx);
}

static void masks_take_what_numpy_takes(void **state)
{
    (void)state;
    check_recorded(1);
    check_recorded(3);
}

/* ---------------------------------------------------------------------------------- equal ones */

static void assert_positions(const sara_selected *item, const uint32_t *expected, size_t count)
{
    assert_int_equal(item->count, count);
    assert_memory_equal(item->positions, expected, count * sizeof(*expected));
}

static void equal_ones_are_the_first(void **state)
{
    static const float values[] = {1, -3, 0, 2, -2, 2, 0.5f, 2, -0.0f, 5};
    static const uint32_t first[] = {1, 3, 4}, second[] = {0}, both[] = {0, 4};
    const test_tensor tensors[] = {{"a", 6, 0, values}, {"b", 4, 0, values + 6}};
    const sara_budget five = {SARA_BUDGET_THRESHOLD, 1.5};
    (void)state;
    sara_context *ctx = test_context();
    sara_params params = test_params(ctx, tensors, 2);
    sara_selection s;
    /* 1, 0, 0.5, -0 lie below 1.5, so that four are taken: 5, 3 and of the 2s the first two */
    const sara_mask_rule largest = {.kind = SARA_MASK_LARGEST};
    assert_ok(ctx, sara_select_masked(ctx, &s, &params, &five, &largest));
    assert_positions(&s.items[0], first, 3);
    assert_positions(&s.items[1], (const uint32_t[]){3}, 1);
    sara_selection_free(ctx, &s);
    static const float scores[] = {-7, 1, 1, 0, 7, 1, 2, 0, 1, -1};
    assert_ok(ctx, sara_select_scored(ctx, &s, &params, scores, 3));
    assert_positions(&s.items[0], both, 2);
    assert_positions(&s.items[1], second, 1);
    assert_true(isnan(s.threshold));
    sara_selection_free(ctx, &s);
    assert_ok(ctx, sara_select_scored(ctx, &s, &params, scores, 10));
    assert_int_equal(s.total, 10);
    assert_int_equal(s.items[0].count, 6);
    sara_selection_free(ctx, &s);
    sara_params_free(ctx, &params);
    sara_context_free(ctx);
}

static void scores_must_be_finite(void **state)
{
    const test_tensor tensors[] = {{"a", 6, 0, NULL}, {"b", 4, 0, NULL}};
    float scores[10] = {0, 1, 2, 3, 4, 5, 6, 7, NAN, 9};
    (void)state;
    sara_context *ctx = test_context();
    sara_params params = test_params(ctx, tensors, 2);
    sara_selection s;
    assert_refused(ctx, SARA_ERROR_DIVERGED, "b: what entry 2 is ranked by is nan",
                   sara_select_scored(ctx, &s, &params, scores, 3));
    sara_mask_kind kind;
    assert_refused(ctx, SARA_ERROR_USAGE, "--mask top: expected smallest, largest, random, gradie",
                   sara_mask_parse(ctx, &kind, "top"));
    sara_params_free(ctx, &params);
    sara_context_free(ctx);
}

/* So many of each parameter, and the same ones as over all where that is what is asked for. */
static void random_counts(void **state)
{
    const test_tensor tensors[] = {{"a", 90, 50, NULL}, {"b", 40, 0, NULL}, {"c", 70, 70, NULL}};
    const size_t counts[] = {300, 0, 4900};
    (void)state;
    sara_context *ctx = test_context();
    sara_params params = test_params(ctx, tensors, 3);
    sara_selection s, again;
    assert_ok(ctx, sara_select_random(ctx, &s, &params, counts, 5));
    assert_ok(ctx, sara_select_random(ctx, &again, &params, counts, 6));
    assert_int_equal(s.total, 5200);
    size_t same = 0, low = 0;
    for (size_t i = 0; i < 3; i++)
        assert_int_equal(s.items[i].count, counts[i]);
    for (size_t i = 0, k = 0; i < 300; i++) {
        assert_true(i == 0 || s.items[0].positions[i] > s.items[0].positions[i - 1]);
        low += s.items[0].positions[i] < 2250;
        while (k < 300 && again.items[0].positions[k] < s.items[0].positions[i])
            k++;
        same += k < 300 && again.items[0].positions[k] == s.items[0].positions[i];
    }
    assert_in_range(low, 110, 190);
    assert_in_range(same, 1, 60); /* 20 by chance */
    for (uint32_t i = 0; i < 4900; i++)
        assert_int_equal(s.items[2].positions[i], i);
    sara_selection_free(ctx, &s);
    sara_selection_free(ctx, &again);
    sara_params_free(ctx, &params);
    sara_context_free(ctx);
}

/* A budget of more than matrices have takes all of those. */
static void lift_takes_matrices_alone(void **state)
{
    const test_tensor tensors[] = {{"a", 9, 5, NULL}, {"b", 40, 0, NULL}, {"c", 7, 11, NULL}};
    const sara_budget all = {SARA_BUDGET_FRACTION, 1}, some = {SARA_BUDGET_COUNT, 61};
    const sara_mask_rule rule = {.kind = SARA_MASK_LIFT, .rank = 100};
    (void)state;
    sara_context *ctx = test_context();
    sara_params params = test_params(ctx, tensors, 3);
    sara_selection s;
    assert_ok(ctx, sara_select_masked(ctx, &s, &params, &all, &rule));
    assert_int_equal(s.total, 45 + 77);
    assert_int_equal(s.items[1].count, 0);
    sara_selection_free(ctx, &s);
    assert_ok(ctx, sara_select_masked(ctx, &s, &params, &some, &rule));
    assert_int_equal(s.items[0].count, 22); /* 61 * 45 / 122 = 22.5 */
    assert_int_equal(s.items[2].count, 39);
    sara_selection_free(ctx, &s);
    sara_params_free(ctx, &params);
    sara_context_free(ctx);
}

/* ---------------------------------------------------------------------------------- allocation */

static sara_status select_each(sara_context *ctx, void *user)
{
    static const sara_mask_kind kinds[] = {SARA_MASK_LARGEST, SARA_MASK_GRADIENT, SARA_MASK_LIFT};
    const size_t counts[] = {3, 4};
    const sara_params *params = user;
    const sara_budget budget = {SARA_BUDGET_COUNT, 20};
    float scores[100];
    sara_selection s;
    sara_status status = SARA_OK;
    for (size_t i = 0; i < COUNT(scores); i++)
        scores[i] = (float)i;
    for (size_t i = 0; i < COUNT(kinds); i++) {
        const sara_mask_rule rule = {.kind = kinds[i], .rank = 2, .scores = scores};
        TRY(sara_select_masked(ctx, &s, params, &budget, &rule));
        sara_selection_free(ctx, &s);
    }
    TRY(sara_select_random(ctx, &s, params, counts, 1));
    sara_selection_free(ctx, &s);
done:
    return status;
}

static void every_allocation_may_fail(void **state)
{
    const test_tensor tensors[] = {{"a", 9, 5, NULL}, {"b", 40, 0, NULL}};
    (void)state;
    sara_context *ctx = test_context();
    sara_params params = test_params(ctx, tensors, 2);
    assert_true(test_fail_allocations(select_each, &params) > 30);
    sara_params_free(ctx, &params);
    sara_context_free(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(masks_take_what_numpy_takes), cmocka_unit_test(equal_ones_are_the_first),
        cmocka_unit_test(scores_must_be_finite),       cmocka_unit_test(random_counts),
        cmocka_unit_test(lift_takes_matrices_alone),   cmocka_unit_test(every_allocation_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

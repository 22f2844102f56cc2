/* One arena for all that is trained: at positions and whole, float32 and 16-bit. */
#include "sparse/support_sparse.h"

static const test_tensor tensors[] = {
    {"a.weight", 5, 7, NULL}, {"b.weight", 6, 9, NULL}, {"c.bias", 11, 0, NULL}};

static void narrow(sara_context *ctx, sara_param *param)
{
    sara_tensor *value = &param->value, halves;
    assert_ok(ctx, sara_tensor_new(ctx, &halves, SARA_BF16, &value->shape));
    sara_convert_from_f32(halves.data, SARA_BF16, value->data,
                          (size_t)sara_shape_count(&value->shape));
    sara_tensor_free(ctx, value);
    *value = halves;
}

/* a at three positions, b (16-bit) at two, c whole. */
static sara_trainables some_trainables(sara_context *ctx, sara_params *params)
{
    static const uint32_t at[] = {0, 8, 34, 5, 53};
    sara_trainables trainables;
    sara_trainable *items = NULL;
    uint32_t *positions = NULL;
    narrow(ctx, &params->items[1]);
    assert_ok(ctx, sara_alloc_zero(ctx, &items, 3, sizeof(*items)));
    assert_ok(ctx, sara_alloc(ctx, &positions, 5, sizeof(*positions)));
    memcpy(positions, at, sizeof(at));
    items[0] = (sara_trainable){.param = &params->items[0], .positions = positions, .count = 3};
    items[1] = (sara_trainable){.param = &params->items[1], .positions = positions + 3, .count = 2};
    items[2] = (sara_trainable){.param = &params->items[2], .count = 11};
    assert_ok(ctx, sara_trainables_init(&trainables, ctx, items, 3, positions));
    return trainables;
}

static void all_lies_in_one_arena(void **state)
{
    (void)state;
    sara_context *ctx = test_context();
    sara_params params = test_params(ctx, tensors, 3);
    sara_trainables t = some_trainables(ctx, &params);
    assert_int_equal(sara_trainables_total(&t), 16);
    assert_int_equal(t.entries, 16 + 11); /* c begins at a cache line */
    assert_ptr_equal(t.moment1, t.gradients + t.entries);
    assert_ptr_equal(t.moment2, t.moment1 + t.entries);
    assert_ptr_equal(t.items[1].gradient, t.gradients + 3);
    assert_ptr_equal(t.items[2].gradient, t.gradients + 16);
    assert_ptr_equal(t.items[2].moment2, t.moment2 + 16);
    assert_int_equal(sara_trainables_bytes(&t), 3 * 27 * 4 + 5 * 4 + 2 * 4);
    for (size_t i = 0; i < 3 * t.entries; i++)
        assert_true(t.gradients[i] == 0);
    assert_null(t.items[0].masters);
    for (size_t k = 0; k < 2; k++)
        assert_true(t.items[1].masters[k] ==
                    sara_param_get(&params.items[1], t.items[1].positions[k]));
    assert_int_equal(params.items[0].want, SARA_GRAD_SAMPLED);
    assert_ptr_equal(params.items[0].positions, t.items[0].positions);
    assert_int_equal(params.items[2].want, SARA_GRAD_DENSE);
    assert_null(params.items[2].positions);
    assert_ptr_equal(params.items[2].grad, t.items[2].gradient);
    sara_trainables_free(&t);
    for (size_t i = 0; i < 3; i++)
        assert_int_equal(params.items[i].want, SARA_GRAD_NONE);
    sara_params_free(ctx, &params);
    sara_context_free(ctx);
}

/* What is kept closes up, of the whole parameter too, which is then one at positions. */
static void what_is_kept_closes_up(void **state)
{
    static const uint32_t chosen[] = {2, 1, 3, 10}, positions[] = {34, 53, 3, 10};
    static const size_t counts[] = {1, 1, 2};
    static const float gradients[] = {3, 5, 9, 16};
    (void)state;
    sara_context *ctx = test_context();
    sara_params params = test_params(ctx, tensors, 3);
    sara_trainables t = some_trainables(ctx, &params);
    sara_trainables_rest before;
    uint32_t *kept = NULL;
    float next = 1;
    for (size_t i = 0; i < 3; i++)
        for (size_t k = 0; k < t.items[i].count; k++) {
            t.items[i].gradient[k] = next++;
            t.items[i].moment1[k] = t.items[i].moment2[k] = 7;
        }
    float master = t.items[1].masters[1] = 0.25f, old = t.items[1].masters[0];
    assert_ok(ctx, sara_alloc(ctx, &kept, 4, sizeof(*kept)));
    memcpy(kept, chosen, sizeof(chosen));
    assert_ok(ctx, sara_trainables_keep(&t, kept, counts, &before));
    assert_int_equal(t.entries, 4);
    assert_memory_equal(t.positions, positions, sizeof(positions));
    assert_memory_equal(t.gradients, gradients, sizeof(gradients));
    for (size_t k = 0; k < 8; k++)
        assert_true(t.moment1[k] == 0);
    assert_true(t.items[1].masters[0] == master && t.items[1].count == 1);
    assert_true(before.masters[0] == old && before.masters[1] == master);
    assert_int_equal(before.positions[2], 34);
    assert_int_equal(params.items[2].want, SARA_GRAD_SAMPLED);
    assert_ptr_equal(params.items[2].positions, t.items[2].positions);
    assert_int_equal(params.items[2].selected, 2);
    sara_free(ctx, before.masters);
    sara_free(ctx, before.positions);
    sara_trainables_free(&t);
    sara_params_free(ctx, &params);
    sara_context_free(ctx);
}

/* The same step whether an entry is trained alone or with all others, whatever the arena. */
static void whole_parameters_are_updated_as_selected_ones(void **state)
{
    static const sara_optimizer_options options = {0.9, 0.999, 1e-8, 1e-2, 0};
    (void)state;
    sara_context *ctx = test_context();
    sara_params params[2] = {test_params(ctx, tensors, 3), test_params(ctx, tensors, 3)};
    sara_optimizer *optimizers[2];
    for (int whole = 0; whole < 2; whole++) {
        sara_trainables t;
        sara_trainable *items = NULL;
        uint32_t *positions = NULL;
        assert_ok(ctx, sara_alloc_zero(ctx, &items, 1, sizeof(*items)));
        assert_ok(ctx, sara_alloc(ctx, &positions, 35, sizeof(*positions)));
        for (uint32_t k = 0; k < 35; k++)
            positions[k] = k;
        items[0] = (sara_trainable){.param = params[whole].items, .count = 35};
        items[0].positions = whole ? NULL : positions;
        assert_ok(ctx, sara_trainables_init(&t, ctx, items, 1, positions));
        assert_ok(ctx, sara_optimizer_new(ctx, &optimizers[whole], &t, &options));
    }
    for (int step = 0; step < 3; step++)
        for (int whole = 0; whole < 2; whole++) {
            sara_step_report report;
            for (int k = 0; k < 35; k++)
                params[whole].items[0].grad[k] = (float)((k * 7 + step) % 11) - 5;
            assert_ok(ctx, sara_optimizer_step(optimizers[whole], &report, 1e-2, 1, true, NULL));
            assert_int_equal(report.active, 35);
            assert_false(report.skipped || report.reselected);
        }
    assert_memory_equal(params[0].items[0].value.data, params[1].items[0].value.data, 35 * 4);
    for (int whole = 0; whole < 2; whole++) {
        sara_optimizer_free(optimizers[whole]);
        sara_params_free(ctx, &params[whole]);
    }
    sara_context_free(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_lies_in_one_arena),
        cmocka_unit_test(what_is_kept_closes_up),
        cmocka_unit_test(whole_parameters_are_updated_as_selected_ones),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

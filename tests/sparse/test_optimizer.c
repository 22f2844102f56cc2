#include "sparse/support_sparse.h"

#include <math.h>

#define THRESHOLD 0.01

static const test_options usual = {{0.9, 0.999, 1e-8, 1e-2, 1.0}, {THRESHOLD, 0, -1, 42}};

static const test_tensor some_tensors[] = {
    {"a.weight", 70, 90, NULL}, {"b.weight", 100, 66, NULL}, {"c.bias", 40, 0, NULL}};

static void unselected_entries_never_change(void **state)
{
    (void)state;
    sara_context *ctx = test_context();
    sara_params params = test_params(ctx, some_tensors, 3);
    size_t count, at = 0, changed = 0;
    float *before = test_snapshot(ctx, &params, &count);
    test_training training = test_train(ctx, &params, &usual);
    sara_step_report report;
    uint64_t version = params.items[0].version;
    for (uint32_t step = 0; step < 3; step++) {
        test_add_gradients(&params, step);
        assert_ok(ctx, test_step(&training, &report, 1e-3, 1, NULL, true));
    }
    assert_true(params.items[0].version > version);
    for (size_t t = 0; t < params.count; t++) {
        const float *values = params.items[t].value.data;
        for (int64_t i = 0; i < sara_shape_count(&params.items[t].value.shape); i++, at++) {
            bool selected = fabsf(before[at]) < (float)THRESHOLD;
            assert_true((memcmp(&values[i], &before[at], sizeof(float)) != 0) == selected);
            changed += selected;
        }
    }
    assert_int_equal(changed, report.active);
    sara_free(ctx, before);
    test_train_free(&training);
    sara_params_free(ctx, &params);
    sara_context_free(ctx);
}

/* Rounds the matrices to bf16; `stay` leaves them floats. */
static void round_matrices(sara_context *ctx, sara_params *params, bool stay)
{
    for (size_t t = 0; t < params->count; t++) {
        sara_tensor *value = &params->items[t].value, narrow;
        size_t count = (size_t)sara_shape_count(&value->shape);
        if (value->shape.rank < 2)
            continue;
        assert_ok(ctx, sara_tensor_new(ctx, &narrow, SARA_BF16, &value->shape));
        sara_convert_from_f32(narrow.data, SARA_BF16, value->data, count);
        if (stay)
            sara_convert_to_f32(value->data, narrow.data, SARA_BF16, count);
        sara_tensor_free(ctx, stay ? &narrow : value);
        if (!stay)
            *value = narrow;
    }
}

/* Masters are those of a run on floats, bit for bit; the weights are they, rounded, where an entry
 * is selected, and what they were elsewhere. */
static void bf16_weights_have_float_masters(void **state)
{
    (void)state;
    sara_context *ctx = test_context();
    sara_params narrow = test_params(ctx, some_tensors, 3);
    sara_params wide = test_params(ctx, some_tensors, 3);
    sara_step_report report;
    size_t apart = 0;
    round_matrices(ctx, &narrow, false);
    round_matrices(ctx, &wide, true);
    test_training a = test_train(ctx, &narrow, &usual);
    test_training b = test_train(ctx, &wide, &usual);
    for (uint32_t step = 0; step < 3; step++) {
        test_add_gradients(&narrow, step);
        test_add_gradients(&wide, step);
        assert_ok(ctx, test_step(&a, &report, 1e-3, 1, NULL, true));
        assert_ok(ctx, test_step(&b, &report, 1e-3, 1, NULL, true));
    }
    assert_int_equal(a.optimizer->trainables.count, 3);
    for (size_t t = 0; t < 3; t++) {
        const sara_trainable *item = &a.optimizer->trainables.items[t];
        const float *floats = wide.items[t].value.data;
        bool matrix = wide.items[t].value.shape.rank > 1;
        for (size_t k = 0; k < item->count; k++) {
            float master = *test_value_at(item, k);
            assert_memory_equal(&master, &floats[item->positions[k]], sizeof(master));
            apart += master != sara_param_get(item->param, item->positions[k]);
        }
        for (int64_t i = 0; i < sara_shape_count(&wide.items[t].value.shape); i++)
            assert_true(sara_param_get(&narrow.items[t], (size_t)i) ==
                        (matrix ? sara_bf16_to_f32(sara_f32_to_bf16(floats[i])) : floats[i]));
    }
    assert_true(apart > 1000);
    test_train_free(&a);
    test_train_free(&b);
    sara_params_free(ctx, &narrow);
    sara_params_free(ctx, &wide);
    sara_context_free(ctx);
}

static void parameters_are_asked_for_what_is_trained(void **state)
{
    static const float large[] = {1, -1};
    const test_tensor tensors[] = {{"a", 70, 90, NULL}, {"b", 2, 0, large}};
    (void)state;
    sara_context *ctx = test_context();
    sara_params params = test_params(ctx, tensors, 2);
    params.items[1].want = SARA_GRAD_DENSE;
    test_training training = test_train(ctx, &params, &usual);
    assert_int_equal(training.optimizer->trainables.count, 1);
    const sara_trainable *item = training.optimizer->trainables.items;
    assert_ptr_equal(item->param, &params.items[0]);
    assert_int_equal(params.items[0].want, SARA_GRAD_SAMPLED);
    assert_int_equal(params.items[0].selected, item->count);
    assert_ptr_equal(params.items[0].grad, item->gradient);
    assert_int_equal(params.items[1].want, SARA_GRAD_NONE);
    test_train_free(&training);
    assert_int_equal(params.items[0].want, SARA_GRAD_NONE);
    assert_null(params.items[0].positions);
    assert_null(params.items[0].grad);
    sara_params_free(ctx, &params);
    sara_context_free(ctx);
}

static void reselection_keeps_what_is_below(void **state)
{
    static const float values[] = {0.001f, 5, 0.009f, -0.002f, -0.0099f, 0.005f};
    const test_tensor tensors[] = {{"a", 6, 0, values}};
    (void)state;
    sara_context *ctx = test_context();
    sara_params params = test_params(ctx, tensors, 1);
    test_training training = test_train(ctx, &params, &usual);
    const sara_trainable *item = training.optimizer->trainables.items;
    assert_int_equal(item->count, 5);
    test_set_value(item, 1, 0.02f);             /* crossed */
    test_set_value(item, 3, -(float)THRESHOLD); /* a tie is not below */
    for (size_t i = 0; i < 5; i++) {
        item->gradient[i] = (float)i + 1;
        item->moment1[i] = item->moment2[i] = 1;
    }
    assert_false(sara_adaptation_has_reselected(training.adaptation));
    assert_ok(ctx, sara_adaptation_reselect(training.adaptation));
    const uint32_t active[] = {0, 2, 4}, positions[] = {0, 3, 5}, all[] = {0, 2, 3, 4, 5};
    const float gradients[] = {1, 3, 5}, zeros[3] = {0};
    uint32_t found[3];
    assert_int_equal(item->count, 3);
    assert_true(sara_adaptation_has_reselected(training.adaptation));
    sara_adaptation_active(training.adaptation, found, 0);
    assert_memory_equal(found, active, sizeof(active));
    const sara_mask mask = sara_adaptation_mask(training.adaptation, 0);
    assert_int_equal(mask.count, 5);
    assert_memory_equal(mask.positions, all, sizeof(all));
    assert_int_equal(params.items[0].selected, 3);
    assert_memory_equal(params.items[0].positions, positions, sizeof(positions));
    assert_memory_equal(item->gradient, gradients, sizeof(gradients));
    assert_memory_equal(item->moment1, zeros, sizeof(zeros));
    assert_memory_equal(item->moment2, zeros, sizeof(zeros));
    /* and once more, from the smaller set, to nothing */
    for (size_t i = 0; i < 3; i++)
        test_set_value(item, i, 1);
    assert_ok(ctx, sara_adaptation_reselect(training.adaptation));
    assert_int_equal(item->count, 0);
    assert_int_equal(sara_adaptation_mask(training.adaptation, 0).count, 5);
    assert_int_equal(params.items[0].want, SARA_GRAD_NONE);
    sara_step_report report;
    assert_ok(ctx, test_step(&training, &report, 1e-3, 1, NULL, true));
    assert_int_equal(report.active, 0);
    assert_true(report.grad_norm == 0);
    test_train_free(&training);
    sara_params_free(ctx, &params);
    sara_context_free(ctx);
}

/* Everything that a step may change. */
typedef struct state_copy {
    float *values, *moment1, *moment2; /* float32 parameters hold the masters */
    size_t active;
    int64_t steps, adam_steps;
} state_copy;

static float *copy_floats(sara_context *ctx, const float *from, size_t count)
{
    float *copy = NULL;
    assert_ok(ctx, sara_alloc(ctx, &copy, count, sizeof(*copy)));
    memcpy(copy, from, count * sizeof(*copy));
    return copy;
}

static state_copy copy_state(sara_context *ctx, const sara_params *params, const sara_optimizer *o)
{
    size_t count;
    const sara_trainable *item = o->trainables.items;
    return (state_copy){test_snapshot(ctx, params, &count),
                        copy_floats(ctx, item->moment1, item->count),
                        copy_floats(ctx, item->moment2, item->count),
                        item->count,
                        o->steps,
                        o->adam_steps};
}

static void assert_state(const state_copy *copy, const sara_params *params, const sara_optimizer *o)
{
    const sara_trainable *item = o->trainables.items;
    test_assert_snapshot(params, copy->values);
    assert_int_equal(item->count, copy->active);
    assert_null(item->masters);
    assert_memory_equal(item->moment1, copy->moment1, item->count * sizeof(float));
    assert_memory_equal(item->moment2, copy->moment2, item->count * sizeof(float));
    assert_int_equal(o->steps, copy->steps);
    assert_int_equal(o->adam_steps, copy->adam_steps);
}

static void free_state(sara_context *ctx, state_copy *copy)
{
    sara_free(ctx, copy->values);
    sara_free(ctx, copy->moment1);
    sara_free(ctx, copy->moment2);
}

/* Also where a reselection is due, which must not happen in a skipped step. */
static void steps_that_are_not_finite_change_nothing(void **state)
{
    test_options options = usual;
    (void)state;
    sara_context *ctx = test_context();
    options.adaptation.progressive_iter = 2;
    options.adaptation.lambda_rank = 1e-3;
    sara_params params = test_params(ctx, some_tensors, 3);
    test_training training = test_train(ctx, &params, &options);
    sara_step_report report;
    for (uint32_t step = 0; step < 2; step++) {
        test_add_gradients(&params, step);
        assert_ok(ctx, test_step(&training, &report, 5e-3, 1, NULL, true));
    }
    state_copy copy = copy_state(ctx, &params, training.optimizer);
    for (int kind = 0; kind < 4; kind++) {
        test_add_gradients(&params, 2);
        if (kind > 0)
            params.items[kind - 1].grad[7] = kind == 1 ? NAN : kind == 2 ? INFINITY : -INFINITY;
        assert_ok(ctx, test_step(&training, &report, 5e-3, 1, NULL, kind > 0));
        assert_true(report.skipped);
        assert_false(report.reselected);
        assert_state(&copy, &params, training.optimizer);
        for (size_t t = 0; t < params.count; t++)
            for (size_t i = 0; i < params.items[t].selected; i++)
                assert_true(params.items[t].grad[i] == 0);
    }
    test_add_gradients(&params, 2);
    assert_ok(ctx, test_step(&training, &report, 5e-3, 1, NULL, true));
    assert_false(report.skipped);
    assert_true(report.reselected);
    assert_true(report.active < (int64_t)(copy.active + params.items[1].selected + 40));
    assert_int_equal(training.optimizer->adam_steps, 1);
    free_state(ctx, &copy);
    test_train_free(&training);
    sara_params_free(ctx, &params);
    sara_context_free(ctx);
}

/* Finite gradients beside a low-rank term that is not: of a matrix with an infinite entry. */
static void low_rank_terms_that_are_not_finite_change_nothing(void **state)
{
    test_options options = usual;
    sara_step_report report;
    (void)state;
    sara_context *ctx = test_context();
    options.adaptation.lambda_rank = 1e-3;
    sara_params params = test_params(ctx, some_tensors, 3);
    test_training training = test_train(ctx, &params, &options);
    test_add_gradients(&params, 0);
    assert_ok(ctx, test_step(&training, &report, 5e-3, 1, "b.weight", true));
    test_set_value(&training.optimizer->trainables.items[1], 3, INFINITY);
    state_copy copy = copy_state(ctx, &params, training.optimizer);
    test_add_gradients(&params, 1);
    assert_ok(ctx, test_step(&training, &report, 5e-3, 1, "b.weight", true));
    assert_true(isfinite(report.grad_norm));
    assert_true(report.skipped);
    assert_state(&copy, &params, training.optimizer);
    for (size_t t = 0; t < params.count; t++)
        for (size_t i = 0; i < params.items[t].selected; i++)
            assert_true(params.items[t].grad[i] == 0);
    free_state(ctx, &copy);
    test_train_free(&training);
    sara_params_free(ctx, &params);
    sara_context_free(ctx);
}

/* With zero task gradients the term alone pulls the nuclear norm down. */
static void low_rank_term_has_its_effect(void **state)
{
    test_options options = usual;
    sara_step_report first, report;
    (void)state;
    sara_context *ctx = test_context();
    options.optimizer.weight_decay = 0;
    options.adaptation.lambda_rank = 1;
    sara_params params = test_params(ctx, some_tensors, 3);
    test_training training = test_train(ctx, &params, &options);
    assert_ok(ctx, test_step(&training, &first, 1e-4, 1, "b.weight", true));
    assert_string_equal(first.term_name, "b.weight");
    assert_true(first.grad_norm == 0);
    assert_ok(ctx, test_step(&training, &report, 1e-4, 1, "b.weight", true));
    assert_true(report.term_loss < 0.99 * first.term_loss && report.term_loss > 0);
    test_train_free(&training);
    sara_params_free(ctx, &params);
    sara_context_free(ctx);
}

/* Drawn among the matrices large enough with enough entries, equally for equal seeds. */
static void low_rank_matrices_are_drawn(void **state)
{
    static const test_tensor tensors[] = {
        {"a.weight", 70, 90, NULL}, {"b.weight", 64, 200, NULL}, {"c.weight", 65, 65, NULL},
        {"d.bias", 9000, 0, NULL},  {"few.weight", 65, 65, NULL}};
    test_options options = usual;
    char drawn[2][41] = {{0}, {0}};
    (void)state;
    sara_context *ctx = test_context();
    options.adaptation.lambda_rank = 1e-4;
    for (int run = 0; run < 2; run++) {
        sara_params params = test_params(ctx, tensors, 5);
        float *few = params.items[4].value.data;
        for (int i = 0; i < 65 * 65; i++)
            few[i] = i < 100 ? 0.001f : 1.0f; /* 100 entries are not more than 100 */
        test_training training = test_train(ctx, &params, &options);
        for (int step = 0; step < 40; step++) {
            sara_step_report report;
            assert_ok(ctx, test_step(&training, &report, 1e-5, 1, NULL, true));
            drawn[run][step] = report.term_name[0];
            assert_true(report.term_loss > 0);
        }
        test_train_free(&training);
        sara_params_free(ctx, &params);
    }
    assert_string_equal(drawn[0], drawn[1]);
    assert_int_equal(strspn(drawn[0], "ac"), 40);
    assert_non_null(strchr(drawn[0], 'a'));
    assert_non_null(strchr(drawn[0], 'c'));
    sara_context_free(ctx);
}

static void wrong_low_term_names_are_refused(void **state)
{
    test_options options = usual;
    sara_step_report report;
    (void)state;
    sara_context *ctx = test_context();
    options.adaptation.lambda_rank = 1e-4;
    sara_params params = test_params(ctx, some_tensors, 3);
    test_training training = test_train(ctx, &params, &options);
    assert_refused(ctx, SARA_ERROR_INPUT, "z.weight: no such parameter",
                   test_step(&training, &report, 1e-3, 1, "z.weight", true));
    assert_refused(ctx, SARA_ERROR_INPUT, "c.bias: shape [40]",
                   test_step(&training, &report, 1e-3, 1, "c.bias", true));
    assert_int_equal(training.optimizer->steps, 0);
    assert_ok(ctx, test_step(&training, &report, 1e-3, 1, "", true));
    assert_string_equal(report.term_name, "");
    assert_true(report.term_loss == 0);
    test_train_free(&training);
    sara_params_free(ctx, &params);
    sara_context_free(ctx);
}

static void bad_options_are_refused(void **state)
{
    static const struct {
        sara_optimizer_options options;
        const char *message;
    } bad[] = {
        {{1, 0.999, 1e-8, 0, 1}, "adam_beta1: 1,"},
        {{0.9, NAN, 1e-8, 0, 1}, "adam_beta2: nan"},
        {{0.9, 0.999, 0, 0, 1}, "adam_epsilon: 0"},
        {{0.9, 0.999, 1e-8, -1, 1}, "adam_weight_decay: -1"},
        {{0.9, 0.999, 1e-8, 0, -1}, "max_grad_norm: -1"},
    };
    const sara_adaptation_options rank = {THRESHOLD, INFINITY, -1, 0}, iter = {THRESHOLD, 0, -2, 0};
    (void)state;
    sara_context *ctx = test_context();
    sara_params params = test_params(ctx, some_tensors, 3);
    test_training training = test_train(ctx, &params, &usual);
    sara_trainables *trainables = &training.optimizer->trainables;
    sara_optimizer *optimizer = NULL;
    sara_adaptation *adaptation = NULL;
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        assert_refused(ctx, SARA_ERROR_USAGE, bad[i].message,
                       sara_optimizer_new(ctx, &optimizer, trainables, &bad[i].options));
        assert_null(optimizer);
        assert_int_equal(trainables->count, 3); /* still the caller's */
    }
    assert_refused(ctx, SARA_ERROR_USAGE, "lambda_rank: inf",
                   sara_adaptation_new(ctx, &adaptation, training.optimizer, &rank));
    assert_refused(ctx, SARA_ERROR_USAGE, "progressive_iter: -2",
                   sara_adaptation_new(ctx, &adaptation, training.optimizer, &iter));
    assert_null(adaptation);
    sara_step_report report;
    assert_refused(ctx, SARA_ERROR_USAGE, "learning rate nan",
                   test_step(&training, &report, NAN, 1, NULL, true));
    assert_refused(ctx, SARA_ERROR_USAGE, "learning rate -1",
                   test_step(&training, &report, -1, 1, NULL, true));
    assert_refused(ctx, SARA_ERROR_USAGE, "learning rate inf",
                   test_step(&training, &report, (double)INFINITY, 1, NULL, true));
    assert_refused(ctx, SARA_ERROR_USAGE, "gradient scale 0",
                   test_step(&training, &report, 1, 0, NULL, true));
    assert_refused(ctx, SARA_ERROR_INPUT, "3 Adam steps of 2",
                   sara_optimizer_restore(training.optimizer, 2, 3));
    test_train_free(&training);
    sara_params_free(ctx, &params);
    sara_context_free(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(unselected_entries_never_change),
        cmocka_unit_test(bf16_weights_have_float_masters),
        cmocka_unit_test(parameters_are_asked_for_what_is_trained),
        cmocka_unit_test(reselection_keeps_what_is_below),
        cmocka_unit_test(steps_that_are_not_finite_change_nothing),
        cmocka_unit_test(low_rank_terms_that_are_not_finite_change_nothing),
        cmocka_unit_test(low_rank_term_has_its_effect),
        cmocka_unit_test(low_rank_matrices_are_drawn),
        cmocka_unit_test(wrong_low_term_names_are_refused),
        cmocka_unit_test(bad_options_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

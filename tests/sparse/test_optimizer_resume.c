/* Runs cut and resumed, and runs with another number of threads, end in the same bits. */
#include "sparse/support_sparse.h"

#define THRESHOLD 0.01

static const test_options usual = {{0.9, 0.999, 1e-8, 1e-2, 1.0}, {THRESHOLD, 0, -1, 42}};

static const test_tensor some_tensors[] = {
    {"a.weight", 70, 90, NULL}, {"b.weight", 100, 66, NULL}, {"c.bias", 40, 0, NULL}};

static void train(sara_context *ctx, sara_params *params, test_training *training, uint32_t from,
                  uint32_t to)
{
    for (uint32_t step = from; step < to; step++) {
        sara_step_report report;
        test_add_gradients(params, step);
        assert_ok(ctx, test_step(training, &report, 3e-3, 0.5, NULL, true));
    }
}

/* The masters of the first mask, those that are trained no longer too. */
static void copy_masters(const sara_adaptation *from, const test_training *to, size_t index,
                         const sara_param *param)
{
    const sara_mask old = sara_adaptation_mask(from, index);
    const sara_trainable *item = &to->optimizer->trainables.items[index];
    assert_int_equal(item->count, old.count);
    for (size_t k = 0; k < old.count; k++)
        test_set_value(item, k, sara_param_get(param, old.positions[k]));
    item->param->version++;
}

static void copy_active(sara_context *ctx, const test_training *from, const test_training *to)
{
    const sara_trainables *t = &from->optimizer->trainables;
    size_t counts[3], total = (size_t)sara_trainables_total(t), next = 0;
    uint32_t *kept = NULL;
    assert_ok(ctx, sara_alloc(ctx, &kept, total, sizeof(*kept)));
    for (size_t i = 0; i < t->count; next += counts[i++]) {
        counts[i] = t->items[i].count;
        sara_adaptation_active(from->adaptation, kept + next, i);
    }
    assert_ok(ctx, sara_adaptation_keep(to->adaptation, kept, counts));
}

/* What a checkpoint holds, given to a new optimiser on the base weights. */
static test_training resume(sara_context *ctx, sara_params *params, const test_training *from,
                            const test_options *options)
{
    test_training training = test_train(ctx, params, options);
    const sara_trainables *old = &from->optimizer->trainables;
    const sara_trainables *t = &training.optimizer->trainables;
    for (size_t i = 0; i < t->count; i++)
        copy_masters(from->adaptation, &training, i, old->items[i].param);
    if (sara_adaptation_has_reselected(from->adaptation))
        copy_active(ctx, from, &training);
    for (size_t i = 0; i < t->count; i++) {
        assert_int_equal(t->items[i].count, old->items[i].count);
        memcpy(t->items[i].moment1, old->items[i].moment1, old->items[i].count * sizeof(float));
        memcpy(t->items[i].moment2, old->items[i].moment2, old->items[i].count * sizeof(float));
    }
    assert_ok(ctx, sara_optimizer_restore(training.optimizer, from->optimizer->steps,
                                          from->optimizer->adam_steps));
    return training;
}

static void resumed_runs_are_equal(void **state)
{
    test_options options = usual;
    (void)state;
    sara_context *ctx = test_context();
    options.adaptation.lambda_rank = 1e-2;
    options.adaptation.progressive_iter = 4;
    sara_params whole = test_params(ctx, some_tensors, 3);
    test_training straight = test_train(ctx, &whole, &options);
    train(ctx, &whole, &straight, 0, 9);
    size_t count;
    float *expected = test_snapshot(ctx, &whole, &count);
    for (uint32_t cut = 1; cut < 9; cut++) {
        sara_params params = test_params(ctx, some_tensors, 3);
        sara_params again = test_params(ctx, some_tensors, 3);
        test_training first = test_train(ctx, &params, &options);
        train(ctx, &params, &first, 0, cut);
        test_training second = resume(ctx, &again, &first, &options);
        train(ctx, &again, &second, cut, 9);
        test_assert_snapshot(&again, expected);
        test_train_free(&first);
        test_train_free(&second);
        sara_params_free(ctx, &params);
        sara_params_free(ctx, &again);
    }
    sara_free(ctx, expected);
    test_train_free(&straight);
    sara_params_free(ctx, &whole);
    sara_context_free(ctx);
}

/* Of the first item; the others keep nothing. */
static void refuse_active(sara_context *ctx, const test_training *training, const uint32_t *active,
                          size_t count, const char *message)
{
    const size_t counts[3] = {count, 0, 0};
    uint32_t *kept = NULL;
    assert_ok(ctx, sara_alloc(ctx, &kept, count, sizeof(*kept)));
    memcpy(kept, active, count * sizeof(*kept));
    assert_refused(ctx, SARA_ERROR_INPUT, message,
                   sara_adaptation_keep(training->adaptation, kept, counts));
    sara_free(ctx, kept); /* still the caller's */
}

static void bad_active_sets_are_refused(void **state)
{
    const uint32_t twice[] = {1, 1}, beyond[] = {0, 1000000};
    uint32_t first_beyond;
    (void)state;
    sara_context *ctx = test_context();
    sara_params params = test_params(ctx, some_tensors, 3);
    test_training training = test_train(ctx, &params, &usual);
    refuse_active(ctx, &training, twice, 2, "a.weight: active entry 1 is 1,");
    refuse_active(ctx, &training, beyond, 2, "a.weight: active entry 1 is 1000000,");
    first_beyond = (uint32_t)training.optimizer->trainables.items[0].count;
    refuse_active(ctx, &training, &first_beyond, 1, "a.weight: active entry 0 is ");
    assert_false(sara_adaptation_has_reselected(training.adaptation));
    test_train_free(&training);
    sara_params_free(ctx, &params);
    sara_context_free(ctx);
}

/* One and two threads give the same bits but for the low-rank term's products. */
static void threads_do_not_matter(void **state)
{
    float *results[2];
    size_t count;
    (void)state;
    sara_context *ctx = test_context();
    for (int i = 0; i < 2; i++) {
        sara_context *run = NULL;
        sara_context_options threads = {.threads = i + 1};
        assert_ok(run, sara_context_new(&run, &threads));
        sara_params params = test_params(run, some_tensors, 3);
        test_training training = test_train(run, &params, &usual);
        train(run, &params, &training, 0, 4);
        results[i] = test_snapshot(ctx, &params, &count);
        test_train_free(&training);
        sara_params_free(run, &params);
        sara_context_free(run);
    }
    assert_memory_equal(results[0], results[1], count * sizeof(float));
    sara_free(ctx, results[0]);
    sara_free(ctx, results[1]);
    sara_context_free(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(resumed_runs_are_equal),
        cmocka_unit_test(bad_active_sets_are_refused),
        cmocka_unit_test(threads_do_not_matter),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

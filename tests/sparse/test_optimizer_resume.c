/* Runs cut and resumed, and runs with another number of threads, end in the same bits. */
#include "sparse/support_sparse.h"

#define THRESHOLD 0.01

static const sara_optimizer_options usual = {0.9, 0.999, 1e-8, 1e-2, 1.0, 0, -1, 42};

static const test_tensor some_tensors[] = {
    {"a.weight", 70, 90, NULL}, {"b.weight", 100, 66, NULL}, {"c.bias", 40, 0, NULL}};

static void train(sara_context *ctx, sara_params *params, sara_optimizer *optimizer, uint32_t from,
                  uint32_t to)
{
    for (uint32_t step = from; step < to; step++) {
        sara_step_report report;
        test_add_gradients(params, step);
        assert_ok(ctx, sara_optimizer_step(optimizer, &report, 3e-3, 0.5, NULL, true));
    }
}

/* What a checkpoint holds, given to a new optimiser on the base weights. */
static sara_optimizer *resume(sara_context *ctx, sara_params *params, sara_optimizer *from,
                              const sara_optimizer_options *options)
{
    sara_optimizer *optimizer = test_optimizer(ctx, params, THRESHOLD, options);
    for (size_t i = 0; i < sara_optimizer_count(optimizer); i++) {
        const sara_optimizer_item *old = sara_optimizer_at(from, i);
        sara_optimizer_item *item = sara_optimizer_at(optimizer, i);
        if (old->active)
            assert_ok(ctx, sara_optimizer_set_active(optimizer, i, old->active, old->active_count));
        assert_int_equal(item->all_count, old->all_count);
        for (size_t k = 0; k < old->all_count; k++)
            sara_optimizer_set_master(item, k, sara_optimizer_master(old, k));
        memcpy(item->moment1, old->moment1, old->active_count * sizeof(float));
        memcpy(item->moment2, old->moment2, old->active_count * sizeof(float));
    }
    uint64_t version = params->items[0].version; /* a device may keep weights by it */
    assert_ok(ctx, sara_optimizer_restore(optimizer, sara_optimizer_steps(from),
                                          sara_optimizer_adam_steps(from)));
    assert_true(params->items[0].version > version);
    return optimizer;
}

static void resumed_runs_are_equal(void **state)
{
    sara_optimizer_options options = usual;
    (void)state;
    sara_context *ctx = test_context();
    options.lambda_rank = 1e-2;
    options.progressive_iter = 4;
    sara_params whole = test_params(ctx, some_tensors, 3);
    sara_optimizer *straight = test_optimizer(ctx, &whole, THRESHOLD, &options);
    train(ctx, &whole, straight, 0, 9);
    size_t count;
    float *expected = test_snapshot(ctx, &whole, &count);
    for (uint32_t cut = 1; cut < 9; cut++) {
        sara_params params = test_params(ctx, some_tensors, 3);
        sara_params again = test_params(ctx, some_tensors, 3);
        sara_optimizer *first = test_optimizer(ctx, &params, THRESHOLD, &options);
        train(ctx, &params, first, 0, cut);
        sara_optimizer *second = resume(ctx, &again, first, &options);
        train(ctx, &again, second, cut, 9);
        test_assert_snapshot(&again, expected);
        sara_optimizer_free(first);
        sara_optimizer_free(second);
        sara_params_free(ctx, &params);
        sara_params_free(ctx, &again);
    }
    sara_free(ctx, expected);
    sara_optimizer_free(straight);
    sara_params_free(ctx, &whole);
    sara_context_free(ctx);
}

static void bad_active_sets_are_refused(void **state)
{
    const uint32_t twice[] = {1, 1}, beyond[] = {0, 1000000};
    uint32_t first_beyond;
    (void)state;
    sara_context *ctx = test_context();
    sara_params params = test_params(ctx, some_tensors, 3);
    sara_optimizer *optimizer = test_optimizer(ctx, &params, THRESHOLD, &usual);
    assert_refused(ctx, SARA_ERROR_INPUT, "a.weight: active entry 1 is 1,",
                   sara_optimizer_set_active(optimizer, 0, twice, 2));
    assert_refused(ctx, SARA_ERROR_INPUT, "a.weight: active entry 1 is 1000000,",
                   sara_optimizer_set_active(optimizer, 0, beyond, 2));
    first_beyond = (uint32_t)sara_optimizer_at(optimizer, 0)->all_count;
    assert_refused(ctx, SARA_ERROR_INPUT, "a.weight: active entry 0 is ",
                   sara_optimizer_set_active(optimizer, 0, &first_beyond, 1));
    assert_null(sara_optimizer_at(optimizer, 0)->active);
    sara_optimizer_free(optimizer);
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
        sara_optimizer *optimizer = test_optimizer(run, &params, THRESHOLD, &usual);
        train(run, &params, optimizer, 0, 4);
        results[i] = test_snapshot(ctx, &params, &count);
        sara_optimizer_free(optimizer);
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

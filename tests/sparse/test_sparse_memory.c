/* Select, train, reselect, save, load, apply: the n-th allocation fails, for every n. */
#include "sparse/support_sparse.h"

#include <stdio.h>

static const test_tensor tensors[] = {
    {"a.weight", 70, 72, NULL}, {"b.bias", 30, 0, NULL}, {"c.weight", 5, 9, NULL}};

static void new_gradients(sara_params *params)
{
    for (size_t p = 0; p < params->count; p++)
        for (size_t i = 0; i < params->items[p].selected; i++)
            params->items[p].grad[i] = (float)(i % 5) - 2;
}

static sara_status train(sara_context *ctx, test_training *training, sara_params *params)
{
    sara_status status;
    const sara_optimizer_options options = {0.9, 0.999, 1e-8, 1e-2, 1};
    const sara_budget budget = {SARA_BUDGET_FRACTION, 0.3};
    sara_selection selection = {0};
    sara_trainables trainables = {.ctx = ctx};
    TRY(sara_select(ctx, &selection, params, &budget));
    const sara_adaptation_options adaptation = {selection.threshold, 1e-3, 1, 42};
    TRY(sara_trainables_select(ctx, &trainables, &selection));
    TRY(sara_optimizer_new(ctx, &training->optimizer, &trainables, &options));
    TRY(sara_adaptation_new(ctx, &training->adaptation, training->optimizer, &adaptation));
    for (int step = 0; step < 2; step++) {
        sara_step_report report;
        new_gradients(params);
        TRY(test_step(training, &report, 1e-3, 1, NULL, true));
    }
done:
    sara_trainables_free(&trainables);
    sara_selection_free(ctx, &selection);
    return status;
}

static sara_status save(sara_adaptation *adaptation, const char *base, const char *path)
{
    const sara_metadata metadata[] = {{"sara.target", "unet"}, {"sara.base_sha256", base}};
    return sara_adaptation_save(adaptation, path, metadata, 2, SARA_BF16);
}

static sara_status apply(sara_context *ctx, sara_params *params, const sara_base *base,
                         const char *path)
{
    sara_status status;
    sara_adapter adapter = {0};
    sara_applied *applied = NULL;
    TRY(sara_applied_new(ctx, &applied, params, base));
    TRY(sara_adapter_load(ctx, &adapter, path));
    TRY(sara_applied_add(applied, &adapter, 0.5, false));
    TRY(sara_applied_add(applied, &adapter, 0.25, false));
done:
    sara_adapter_free(&adapter);
    sara_applied_free(applied);
    return status;
}

/* user: { parameters of another context, path }; their values are put back at the end. */
typedef struct plan {
    sara_params *params;
    const float *values;
    const char *path;
} plan;

static void put_back(const plan *p)
{
    const float *values = p->values;
    for (size_t i = 0; i < p->params->count; i++) {
        size_t count = (size_t)sara_shape_count(&p->params->items[i].value.shape);
        memcpy(p->params->items[i].value.data, values, count * sizeof(*values));
        values += count;
    }
}

static sara_status everything(sara_context *ctx, void *user)
{
    sara_status status;
    const plan *p = user;
    test_training training = {NULL, NULL};
    sara_base base;
    put_back(p);
    TRY(sara_params_base(ctx, &base, p->params));
    TRY(train(ctx, &training, p->params));
    TRY(save(training.adaptation, base.sha256, p->path));
    put_back(p);
    TRY(apply(ctx, p->params, &base, p->path));
done:
    test_train_free(&training);
    return status;
}

static void every_allocation_may_fail(void **state)
{
    char path[256];
    size_t count;
    (void)state;
    sara_context *ctx = test_context();
    char *folder = test_folder();
    snprintf(path, sizeof(path), "%s/adapter.safetensors", folder);
    sara_params params = test_params(ctx, tensors, 3);
    float *values = test_snapshot(ctx, &params, &count);
    plan p = {&params, values, path};
    assert_true(test_fail_allocations(everything, &p) > 60);
    sara_free(ctx, values);
    sara_params_free(ctx, &params);
    test_folder_remove(folder);
    sara_context_free(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_allocation_may_fail)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#include "sparse/support_sparse.h"

#include <stdlib.h>

static void fill(sara_context *ctx, sara_param *param, const test_tensor *tensor, size_t index)
{
    char *name = NULL;
    sara_shape shape = tensor->cols > 0 ? sara_shape2(tensor->rows, tensor->cols)
                                        : sara_shape1(tensor->rows);
    size_t count = (size_t)sara_shape_count(&shape);
    assert_ok(ctx, sara_strdup(ctx, &name, tensor->name));
    param->name = name;
    param->stored = SARA_F32;
    assert_ok(ctx, sara_tensor_new(ctx, &param->value, SARA_F32, &shape));
    float *values = param->value.data;
    if (tensor->values) {
        memcpy(values, tensor->values, count * sizeof(*values));
        return;
    }
    sara_draw_normal(values, count, 1, SARA_DRAW_TEST, index);
    for (size_t i = 0; i < count; i++)
        values[i] *= 0.02f;
}

sara_params test_params(sara_context *ctx, const test_tensor *tensors, size_t count)
{
    sara_params params;
    assert_ok(ctx, sara_params_new(ctx, &params, count));
    for (size_t i = 0; i < count; i++)
        fill(ctx, &params.items[i], &tensors[i], i);
    return params;
}

float *test_snapshot(sara_context *ctx, const sara_params *params, size_t *count)
{
    float *copy = NULL;
    size_t at = 0;
    *count = (size_t)sara_params_entries(params);
    assert_ok(ctx, sara_alloc(ctx, &copy, *count, sizeof(*copy)));
    for (size_t i = 0; i < params->count; i++) {
        size_t entries = (size_t)sara_shape_count(&params->items[i].value.shape);
        memcpy(copy + at, params->items[i].value.data, entries * sizeof(*copy));
        at += entries;
    }
    return copy;
}

void test_assert_snapshot(const sara_params *params, const float *snapshot)
{
    for (size_t i = 0; i < params->count; i++) {
        size_t entries = (size_t)sara_shape_count(&params->items[i].value.shape);
        assert_memory_equal(params->items[i].value.data, snapshot, entries * sizeof(*snapshot));
        snapshot += entries;
    }
}

/* make_reference.py's noise() */
static float noise(uint32_t tensor, uint32_t step, uint32_t micro, uint32_t entry)
{
    uint32_t x = entry * 2654435761u + (tensor * 131 + step * 17 + micro) * 40503u;
    for (int i = 0; i < 2; i++) {
        x ^= x >> 16;
        x *= 0x45D9F3Bu;
    }
    x ^= x >> 16;
    return (float)(x >> 9) / 4194304.0f - 1.0f;
}

void test_add_gradients(sara_params *params, uint32_t step)
{
    float scale = step % 3 == 0 ? 0x1p-6f : 0x1p-10f;
    for (uint32_t t = 0; t < params->count; t++) {
        sara_param *param = &params->items[t];
        for (uint32_t micro = 0; micro < TEST_MICRO_BATCHES; micro++)
            for (size_t i = 0; i < param->selected; i++)
                param->grad[i] += noise(t, step, micro, param->positions[i]) * scale;
    }
}

test_training test_train(sara_context *ctx, sara_params *params, const test_options *options)
{
    sara_budget budget = {SARA_BUDGET_THRESHOLD, options->adaptation.threshold};
    sara_selection selection;
    sara_trainables trainables;
    test_training training;
    assert_ok(ctx, sara_select(ctx, &selection, params, &budget));
    assert_ok(ctx, sara_trainables_select(ctx, &trainables, &selection));
    assert_null(selection.items);
    assert_ok(ctx, sara_optimizer_new(ctx, &training.optimizer, &trainables, &options->optimizer));
    assert_null(trainables.items);
    assert_ok(ctx, sara_adaptation_new(ctx, &training.adaptation, training.optimizer,
                                       &options->adaptation));
    return training;
}

void test_train_free(test_training *training)
{
    sara_adaptation_free(training->adaptation);
    sara_optimizer_free(training->optimizer);
}

sara_status test_step(test_training *training, sara_step_report *report, double learning_rate,
                      double grad_scale, const char *matrix, bool loss_finite)
{
    const sara_step_hooks hooks = sara_adaptation_hooks(training->adaptation, matrix);
    return sara_optimizer_step(training->optimizer, report, learning_rate, grad_scale, loss_finite,
                               &hooks);
}

typedef struct failing {
    long left; /* allocations until one fails */
    bool failed;
    long alive;
} failing;

static void *allocate(void *user, size_t size)
{
    failing *f = user;
    void *memory = f->left-- > 0 ? malloc(size) : NULL;
    f->failed |= !memory;
    f->alive += memory != NULL;
    return memory;
}

static void release(void *user, void *memory)
{
    ((failing *)user)->alive -= memory != NULL;
    free(memory);
}

int test_fail_allocations(test_scenario scenario, void *user)
{
    failing f;
    sara_allocator allocator = {allocate, release, &f};
    sara_context_options options = {.allocator = &allocator, .threads = 2};
    for (int n = 0;; n++) {
        sara_context *ctx = NULL;
        f = (failing){.left = n + 1};
        assert_ok(ctx, sara_context_new(&ctx, &options));
        sara_status status = scenario(ctx, user);
        if (f.failed != (status == SARA_ERROR_MEMORY) || (!f.failed && status != SARA_OK))
            fail_msg("allocation %d: status %d: %s", n, status, sara_context_error(ctx));
        sara_context_free(ctx);
        assert_int_equal(f.alive, 0);
        if (!f.failed)
            return n;
    }
}

float *test_value_at(const sara_trainable *item, size_t index)
{
    float *values = item->param->value.data;
    return item->masters ? &item->masters[index] : &values[sara_trainable_position(item, index)];
}

void test_set_value(const sara_trainable *item, size_t index, float value)
{
    *test_value_at(item, index) = value;
    if (item->masters)
        sara_param_set(item->param, sara_trainable_position(item, index), value);
}

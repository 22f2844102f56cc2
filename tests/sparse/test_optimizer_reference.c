/* Twelve steps against the method's definition in PyTorch, recorded by make_reference.py. */
#include "sparse/support_sparse.h"

#include <math.h>
#include <stdio.h>

#define DATA SARA_TEST_GOLDEN "/../sparse/data"
#define THRESHOLD 0.01

static const test_tensor reference_tensors[] = {
    {"conv.bias", 8, 0, NULL},      {"conv.weight", 8, 54, NULL}, {"narrow.weight", 64, 80, NULL},
    {"norm.weight", 80, 0, NULL},   {"to_q.bias", 80, 0, NULL},   {"to_q.weight", 80, 72, NULL},
    {"to_v.weight", 66, 90, NULL},
};
#define TENSORS 7
#define STEPS 12

static sara_params load_params(sara_context *ctx, const sara_safetensors *file, const char *prefix)
{
    sara_params params = test_params(ctx, reference_tensors, TENSORS);
    for (size_t i = 0; i < params.count; i++) {
        char name[64];
        size_t count;
        snprintf(name, sizeof(name), "%s.%s", prefix, params.items[i].name);
        float *values = test_load_f32(ctx, file, name, &count);
        assert_int_equal(count, sara_shape_count(&params.items[i].value.shape));
        memcpy(params.items[i].value.data, values, count * sizeof(*values));
        sara_free(ctx, values);
    }
    return params;
}

typedef struct recorded {
    sara_safetensors *file;
    const char *run;
    double norms[STEPS], ranks[STEPS], scales[STEPS];
    int64_t active[STEPS];
} recorded;

static void load_series(recorded *r, const char *key, void *out)
{
    char name[64];
    snprintf(name, sizeof(name), "%s.%s", r->run, key);
    const sara_tensor_info *info = sara_safetensors_find(r->file, name);
    assert_non_null(info);
    assert_int_equal(info->size, STEPS * 8);
    assert_int_equal(sara_safetensors_read(r->file, out, info), SARA_OK);
}

static recorded load_recorded(sara_context *ctx, const char *run)
{
    recorded r = {.file = test_open(ctx, DATA "/optimizer.safetensors"), .run = run};
    load_series(&r, "norms", r.norms);
    load_series(&r, "ranks", r.ranks);
    load_series(&r, "scales", r.scales);
    load_series(&r, "active", r.active);
    return r;
}

/* Relative L2 error of what the steps changed. */
static double change_error(const sara_params *start, const sara_params *got,
                           const sara_params *expected)
{
    double error = 0, norm = 0;
    for (size_t t = 0; t < got->count; t++) {
        const float *s = start->items[t].value.data, *g = got->items[t].value.data,
                    *e = expected->items[t].value.data;
        for (int64_t i = 0; i < sara_shape_count(&got->items[t].value.shape); i++) {
            error += pow((double)g[i] - (double)e[i], 2);
            norm += pow((double)e[i] - (double)s[i], 2);
        }
    }
    return sqrt(error / norm);
}

static void run_reference(const char *run, double learning_rate,
                          const test_options *options)
{
    static const char *const rank_names[] = {"to_q.weight", "to_v.weight", "", "to_v.weight"};
    sara_context *ctx = test_context();
    recorded r = load_recorded(ctx, run);
    sara_params start = load_params(ctx, r.file, "start");
    sara_params params = load_params(ctx, r.file, "start");
    sara_params end = load_params(ctx, r.file, run);
    test_training training = test_train(ctx, &params, options);
    for (uint32_t step = 0; step < STEPS; step++) {
        sara_step_report report;
        test_add_gradients(&params, step);
        assert_ok(ctx, test_step(&training, &report, learning_rate * r.scales[step],
                                 1.0 / TEST_MICRO_BATCHES, rank_names[step % 4], true));
        assert_close(fabs(report.grad_norm / r.norms[step] - 1), 1e-6, "gradient norm");
        assert_close(fabs(report.term_loss - r.ranks[step]), 1e-4 * r.ranks[step], "rank loss");
        assert_int_equal(report.active, r.active[step]);
        assert_int_equal(report.reselected, (int64_t)step == options->adaptation.progressive_iter);
        assert_false(report.skipped);
    }
    assert_int_equal(training.optimizer->steps, STEPS);
    assert_close(change_error(&start, &params, &end), 1e-5, run);
    test_train_free(&training);
    sara_params_free(ctx, &start);
    sara_params_free(ctx, &params);
    sara_params_free(ctx, &end);
    sara_safetensors_close(r.file);
    sara_context_free(ctx);
}

static void reference_with_all_parts(void **state)
{
    const test_options options = {{0.9, 0.999, 1e-8, 1e-2, 0.25}, {THRESHOLD, 0.02, 5, 42}};
    (void)state;
    run_reference("clipped", 8e-4, &options);
}

static void reference_without_clipping(void **state)
{
    const test_options options = {{0.8, 0.95, 1e-6, 0.1, 0}, {THRESHOLD, 0, -1, 42}};
    (void)state;
    run_reference("free", 3e-4, &options);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reference_with_all_parts),
        cmocka_unit_test(reference_without_clipping),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

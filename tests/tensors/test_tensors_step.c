/* AdamW and the low-rank term on another program's tensors: by hand, and bit for bit the
 * trainer's. */
#include "tensors/support_tensors.h"

#include <math.h>
#include <stdlib.h>

/* ------------------------------------------------------------------------------------- by hand */

/* Three entries of one tensor over two steps, computed in double. */
static void a_step_is_the_formula(void **state)
{
    enum { N = 3 };
    const sara_adamw_options first = {2e-3, 0.8, 0.95, 1e-6, 0.1, 0.25, 0.5, 1};
    const float gradient[N] = {8, -2, 0}, rank[N] = {0, 0.5f, -3};
    const uint32_t positions[N] = {0, 2, 5};
    float tensor[6] = {1, 10, -1, 20, 30, 0.5f}, values[N] = {1, -1, 0.5f};
    float moment1[N] = {0}, moment2[N] = {0};
    double p[N] = {1, -1, 0.5}, m1[N] = {0}, m2[N] = {0};
    const sara_tensor_entries item = {
        test_view("w", "F32", tensor, 6), positions, N, values, moment1, moment2, gradient, rank,
        NULL};
    (void)state;
    sara_context *ctx = test_context();
    for (int t = 1; t <= 2; t++) {
        sara_adamw_options options = first;
        options.step = t;
        assert_ok(ctx, sara_tensors_adamw(ctx, &item, 1, &options));
        for (size_t i = 0; i < N; i++) {
            double g = (double)gradient[i] * 0.25 * 0.5 + (double)rank[i];
            m1[i] = 0.8 * m1[i] + 0.2 * g;
            m2[i] = 0.95 * m2[i] + 0.05 * g * g;
            p[i] = p[i] * (1 - 2e-3 * 0.1) -
                   2e-3 / (1 - pow(0.8, t)) * m1[i] / (sqrt(m2[i]) / sqrt(1 - pow(0.95, t)) + 1e-6);
            assert_close(fabs((double)values[i] - p[i]), 2e-7, "value");
            assert_close(fabs((double)moment1[i] - m1[i]), 1e-6 * fabs(m1[i]), "first moment");
            assert_close(fabs((double)moment2[i] - m2[i]), 1e-6 * m2[i], "second moment");
            assert_true(tensor[positions[i]] == values[i]);
        }
    }
    assert_true(tensor[1] == 10 && tensor[3] == 20 && tensor[4] == 30);
    sara_context_free(ctx);
}

static void no_gradient_is_a_zero_one(void **state)
{
    const uint32_t position = 0;
    float values[2] = {1, 1}, moments[4] = {0.5f, 0.25f, 0.5f, 0.25f}, zero = 0, tensors[2] = {0};
    const sara_adamw_options options = {1e-2, 0.9, 0.99, 1e-8, 0.5, 1, 1, 3};
    const sara_tensor_entries items[] = {{test_view("a", "F32", &tensors[0], 1), &position, 1,
                                          &values[0], &moments[0], &moments[1], NULL, NULL, NULL},
                                         {test_view("b", "F32", &tensors[1], 1), &position, 1,
                                          &values[1], &moments[2], &moments[3], &zero, &zero,
                                          NULL}};
    (void)state;
    sara_context *ctx = test_context();
    assert_ok(ctx, sara_tensors_adamw(ctx, items, 2, &options));
    assert_true(values[0] < 1 && values[0] == values[1]);
    assert_memory_equal(moments, moments + 2, 2 * sizeof(*moments));
    assert_true(moments[0] < 0.5f && moments[1] < 0.25f);
    sara_context_free(ctx);
}

/* Updates too small for the tensor's dtype add up in the master. */
static void masters_keep_what_rounding_loses(void **state)
{
    static const char *const dtypes[] = {"F16", "BF16"};
    (void)state;
    sara_context *ctx = test_context();
    for (size_t k = 0; k < 2; k++) {
        const uint32_t position = 0;
        const float gradient = 1;
        float value = 1, moment1 = 0, moment2 = 0;
        uint16_t tensor = dtypes[k][0] == 'B' ? sara_f32_to_bf16(1) : sara_f32_to_f16(1);
        const uint16_t start = tensor;
        const sara_tensor_entries item = {test_view("w", dtypes[k], &tensor, 1),
                                          &position,
                                          1,
                                          &value,
                                          &moment1,
                                          &moment2,
                                          &gradient,
                                          NULL,
                                          NULL};
        sara_adamw_options options = {1e-4, 0.9, 0.999, 1e-8, 0, 1, 1, 0};
        for (options.step = 1; options.step <= 60; options.step++) {
            assert_ok(ctx, sara_tensors_adamw(ctx, &item, 1, &options));
            if (options.step == 1)
                assert_int_equal(tensor, start);
        }
        assert_close(fabs((double)value - (1 - 60e-4)), 1e-5, "master");
        assert_close(fabs((double)test_value(dtypes[k], &tensor, 0) - (double)value), 0x1p-9,
                     dtypes[k]);
        assert_int_not_equal(tensor, start);
    }
    sara_context_free(ctx);
}

/* ------------------------------------------------------------------------------ low-rank term */

static void nuclear_norms_of_known_matrices(void **state)
{
    enum { N = 90, COLS = 70 };
    uint32_t positions[COLS];
    float values[COLS], subgradient[COLS];
    double value = -1, sum = 0;
    (void)state;
    sara_context *ctx = test_context();
    for (uint32_t i = 0; i < COLS;
         i++) { /* one entry to a row and column: its own singular value */
        positions[i] = (i + 3) * COLS + i;
        values[i] = (i % 2 ? -1.0f : 1.0f) * (0.5f + (float)i / COLS);
        sum += fabs((double)values[i]);
    }
    assert_ok(
        ctx, sara_tensors_nuclear_norm(ctx, &value, subgradient, N, COLS, positions, values, COLS));
    assert_close(fabs(value / sum - 1), 1e-4, "nuclear norm");
    for (size_t i = 0; i < COLS; i++)
        assert_close(fabs((double)subgradient[i] - (i % 2 ? -1 : 1)), 1e-2, "subgradient");
    for (uint32_t i = 0; i < COLS; i++) { /* one row: rank one, the norm is the row's length */
        positions[i] = 5 * COLS + i;
        values[i] = 0.25f;
    }
    assert_ok(
        ctx, sara_tensors_nuclear_norm(ctx, &value, subgradient, N, COLS, positions, values, COLS));
    assert_close(fabs(value / (0.25 * sqrt(COLS)) - 1), 1e-4, "rank one");
    for (size_t i = 0; i < COLS; i++)
        assert_close(fabs((double)subgradient[i] * sqrt(COLS) - 1), 1e-2, "rank one");
    memset(values, 0, sizeof(values));
    assert_ok(
        ctx, sara_tensors_nuclear_norm(ctx, &value, subgradient, N, COLS, positions, values, COLS));
    assert_true(value == 0);
    for (size_t i = 0; i < COLS; i++)
        assert_true(isfinite(subgradient[i]) && fabsf(subgradient[i]) <= 1.01f);
    value = -1;
    assert_ok(ctx, sara_tensors_nuclear_norm(ctx, &value, NULL, N, COLS, NULL, NULL, 0));
    assert_true(value == 0);
    sara_context_free(ctx);
}

static void every_candidate_is_drawn(void **state)
{
    bool drawn[7] = {false}, differs = false;
    (void)state;
    for (uint64_t step = 0; step < 200; step++) {
        size_t which = sara_tensors_draw(7, 42, step);
        assert_true(which < 7);
        assert_int_equal(which, sara_tensors_draw(7, 42, step));
        differs |= which != sara_tensors_draw(7, 43, step);
        drawn[which] = true;
        assert_int_equal(sara_tensors_draw(1, 42, step), 0);
    }
    assert_true(differs);
    for (size_t i = 0; i < 7; i++)
        assert_true(drawn[i]);
}

/* ------------------------------------------------------------------------- the trainer's steps */

#define TENSORS 4
#define SIDE    72
#define ENTRIES ((size_t)SIDE * 80)
#define STEPS   6

/* The same tensors as parameters of the trainer's optimiser; their memory is [TENSORS][ENTRIES]. */
typedef struct pair {
    const char *dtype;
    sara_tensor_view views[TENSORS];
    sara_params params;
    sara_tensor_entries items[TENSORS];
    float *gradients[TENSORS];
} pair;

static void pair_new(sara_context *ctx, pair *p, const char *dtype)
{
    static const char *const names[TENSORS] = {"a.weight", "b.weight", "c.bias", "d.weight"};
    sara_dtype type = dtype[0] == 'B' ? SARA_BF16 : SARA_F32;
    sara_shape matrix = sara_shape2(SIDE, 80), vector = sara_shape1((int64_t)ENTRIES);
    memset(p, 0, sizeof(*p));
    p->dtype = dtype;
    assert_ok(ctx, sara_params_new(ctx, &p->params, TENSORS));
    for (size_t t = 0; t < TENSORS; t++) {
        char *name = NULL;
        void *values = test_values(dtype, ENTRIES, 10 + t, 0.02f);
        p->views[t] = test_view(names[t], dtype, values, ENTRIES);
        assert_ok(ctx, sara_strdup(ctx, &name, names[t]));
        p->params.items[t].name = name;
        p->params.items[t].stored = type;
        assert_ok(
            ctx, sara_tensor_new(ctx, &p->params.items[t].value, type, t == 2 ? &vector : &matrix));
        memcpy(p->params.items[t].value.data, values, ENTRIES * (type == SARA_F32 ? 4 : 2));
    }
}

/* What the trainer has beside the parameters. */
typedef struct training {
    sara_optimizer *optimizer;
    sara_adaptation *adaptation;
} training;

static training pair_select(sara_context *ctx, pair *p, const sara_optimizer_options *options,
                            const sara_adaptation_options *adaptation)
{
    const double threshold = adaptation->threshold;
    const sara_budget budget = {SARA_BUDGET_THRESHOLD, threshold};
    sara_selection theirs;
    sara_trainables trainables;
    training result;
    sara_tensor_selection *selection = NULL;
    double resolved;
    assert_ok(ctx, sara_select(ctx, &theirs, &p->params, &budget));
    assert_ok(ctx, sara_tensors_select(ctx, &selection, &resolved, p->views, TENSORS,
                                       SARA_BUDGET_THRESHOLD, threshold));
    for (size_t t = 0; t < TENSORS; t++) {
        size_t n;
        const uint32_t *positions = sara_tensors_positions(selection, t, &n);
        assert_int_equal(n, theirs.items[t].count);
        assert_true(n > 100);
        assert_memory_equal(positions, theirs.items[t].positions, n * sizeof(*positions));
        uint32_t *copy = test_memory(n, sizeof(*copy));
        memcpy(copy, positions, n * sizeof(*copy));
        p->gradients[t] = test_memory(n, sizeof(float));
        p->items[t] = (sara_tensor_entries){p->views[t],
                                            copy,
                                            n,
                                            test_memory(n, sizeof(float)),
                                            test_memory(n, sizeof(float)),
                                            test_memory(n, sizeof(float)),
                                            p->gradients[t],
                                            NULL,
                                            NULL};
        for (size_t i = 0; i < n; i++)
            p->items[t].values[i] = test_value(p->dtype, p->views[t].data, copy[i]);
    }
    sara_tensors_selection_free(ctx, selection);
    assert_ok(ctx, sara_trainables_select(ctx, &trainables, &theirs));
    assert_ok(ctx, sara_optimizer_new(ctx, &result.optimizer, &trainables, options));
    assert_ok(ctx, sara_adaptation_new(ctx, &result.adaptation, result.optimizer, adaptation));
    return result;
}

/* Two micro-batches' gradients to both. */
static void pair_gather(sara_context *ctx, pair *p, uint64_t step)
{
    for (size_t t = 0; t < TENSORS; t++) {
        for (uint64_t micro = 0; micro < 2; micro++) {
            float *dense = test_values("F32", ENTRIES, 100 + step * 16 + t * 2 + micro, 0.05f);
            const sara_tensor_gathering item = {
                .dense = test_view(p->views[t].name, "F32", dense, ENTRIES),
                .positions = p->items[t].positions,
                .count = p->items[t].count,
                .gradient = p->gradients[t],
                .adds = (int64_t)micro};
            assert_ok(ctx, sara_tensors_gather(ctx, &item, 1));
            free(dense);
        }
        memcpy(p->params.items[t].grad, p->gradients[t], p->items[t].count * sizeof(float));
    }
}

/* One step in pieces; the report tells what the trainer's optimiser did. */
static void pair_step(sara_context *ctx, pair *p, const sara_optimizer_options *o,
                      const sara_adaptation_options *adaptation, int64_t step,
                      const sara_step_report *report)
{
    static const size_t matrices[] = {0, 1, 3};
    double norm = report->grad_norm, value;
    size_t draw = sara_tensors_draw(3, adaptation->seed, (uint64_t)step);
    sara_tensor_entries *drawn = &p->items[matrices[draw]];
    float *rank = test_memory(drawn->count, sizeof(*rank));
    assert_string_equal(drawn->tensor.name, report->term_name);
    assert_ok(ctx, sara_tensors_nuclear_norm(ctx, &value, rank, SIDE, 80, drawn->positions,
                                             drawn->values, drawn->count));
    assert_true(value * adaptation->lambda_rank == report->term_loss);
    for (size_t i = 0; i < drawn->count; i++)
        rank[i] = (float)(adaptation->lambda_rank * (double)rank[i]);
    drawn->rank = rank;
    const sara_adamw_options options = {1e-3,
                                        o->beta1,
                                        o->beta2,
                                        o->epsilon,
                                        o->weight_decay,
                                        0.5,
                                        o->max_grad_norm / (norm + 1e-6),
                                        step + 1};
    assert_ok(ctx, sara_tensors_adamw(ctx, p->items, TENSORS, &options));
    drawn->rank = NULL;
    free(rank);
}

static void pair_free(sara_context *ctx, pair *p)
{
    for (size_t t = 0; t < TENSORS; t++) {
        free(p->views[t].data);
        free((void *)(uintptr_t)p->items[t].positions);
        free(p->items[t].values);
        free(p->items[t].moment1);
        free(p->items[t].moment2);
        free(p->gradients[t]);
    }
    sara_params_free(ctx, &p->params);
}

static void steps_are_the_trainers_bit_for_bit(void **state)
{
    static const char *const dtypes[] = {"F32", "BF16"};
    const sara_optimizer_options options = {0.9, 0.999, 1e-8, 1e-2, 0.5};
    const sara_adaptation_options adaptation = {5e-3, 2e-3, -1, 7};
    (void)state;
    sara_context *ctx = test_context();
    for (size_t k = 0; k < 2; k++) {
        pair p;
        size_t bytes = ENTRIES * (k == 0 ? 4 : 2);
        pair_new(ctx, &p, dtypes[k]);
        training trained = pair_select(ctx, &p, &options, &adaptation);
        for (int64_t step = 0; step < STEPS; step++) {
            sara_step_report report;
            pair_gather(ctx, &p, (uint64_t)step);
            const sara_step_hooks hooks = sara_adaptation_hooks(trained.adaptation, NULL);
            assert_ok(ctx,
                      sara_optimizer_step(trained.optimizer, &report, 1e-3, 0.5, true, &hooks));
            pair_step(ctx, &p, &options, &adaptation, step, &report);
            for (size_t t = 0; t < TENSORS; t++)
                assert_memory_equal(p.views[t].data, p.params.items[t].value.data, bytes);
        }
        sara_adaptation_free(trained.adaptation);
        sara_optimizer_free(trained.optimizer);
        pair_free(ctx, &p);
    }
    sara_context_free(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_step_is_the_formula),
        cmocka_unit_test(no_gradient_is_a_zero_one),
        cmocka_unit_test(masters_keep_what_rounding_loses),
        cmocka_unit_test(nuclear_norms_of_known_matrices),
        cmocka_unit_test(every_candidate_is_drawn),
        cmocka_unit_test(steps_are_the_trainers_bit_for_bit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

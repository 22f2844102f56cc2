/* The plan of memory is what a run takes: of the allocator, and of its tape. */
#include "support_train.h"

#include "support/memory.h"
#include "nn/bf16.h"
#include "train/memory.h"

#include <math.h>
#include <stdlib.h>

static void check_part(const char *what, size_t planned, size_t measured, double tolerance)
{
    double error = fabs((double)planned - (double)measured);
    if (!(error <= tolerance * (double)measured) || measured == 0)
        fail_msg("%s: planned %zu bytes, taken %zu", what, planned, measured);
}

/* A plan against what a trainer takes: of the allocator for weights and optimiser, of its tape for
 * the activations of a step. What is not planned is named beside its tolerance. */
static sara_memory_plan check_kept(test_run *run, test_taken *memory, const char *name)
{
    const sara_allocator allocator = test_taken_functions(memory);
    const sara_context_options options = {.allocator = &allocator, .threads = 1};
    sara_model_options unet = {.unet_only = true, .weight_dtype = run->options.weight_dtype};
    sara_context *ctx = NULL;
    sara_model *model = NULL;
    sara_memory_plan plan;
    sara_step_report report;
    double loss, lr;
    assert_ok(ctx, sara_context_new(&ctx, &options));
    size_t before = memory->now;
    assert_ok(ctx, sara_model_load(ctx, &model, run->options.unet_only, &unet));
    size_t weights = memory->now - before;
    sara_model_free(model);
    trainer t = {.ctx = ctx};
    test_run_output(run, name);
    assert_ok(ctx, sara_trainer_open(&t, &run->options));
    const sara_method *method = t.method;
    sara_optimizer_free(t.optimizer);
    sara_method_close(&t);
    assert_ok(ctx, sara_method_start(&t, method));
    before = memory->now;
    assert_ok(ctx, sara_trainer_make_optimizer(&t));
    size_t optimizer = memory->now - before;
    const sara_memory_setting setting = {.levels = t.checkpoint_levels, .share = 1};
    assert_ok(ctx, sara_memory_make_plan(&t, &plan, &setting));
    assert_ok(ctx, sara_trainer_step(&t, &loss, &report, &lr));
    check_part("activations", plan.activations, sara_tape_reached(t.tape), 0.2); /* oneDNN's own */
    check_part("weights", plan.weights, weights, 0.1);                           /* names */
    check_part("optimizer", plan.optimizer, optimizer, 0.1);
    assert_int_equal(plan.peak, t.planned_bytes);
    sara_trainer_close(&t);
    sara_context_free(ctx);
    return plan;
}

/* What the plan says is what a run takes. */
static void test_plan_is_kept(void **state)
{
    static const char *const flags[][2] = {{"lambda_rank", "0"},
                                           {"gradient_checkpointing", "true"},
                                           {"weight_dtype", "bf16"},
                                           {"trainable", "100%"}};
    test_run *run = *state;
    run->options.learning_rate = 1e-5;
    run->options.progressive_iter = 0; /* which would take memory later */
    for (int i = 0; i < 4; i++) {
        const sara_train_options before = run->options;
        test_taken memory = {0};
        assert_ok(run->ctx,
                  sara_train_options_set(run->ctx, &run->options, flags[i][0], flags[i][1]));
        check_kept(run, &memory, test_text(run, "kept-%d", i));
        run->options = before;
    }
}

/* Of full fine-tuning: a gradient and two moments for each weight, and masters of 16-bit ones. */
static void test_full_is_kept(void **state)
{
    static const char *const dtypes[] = {"fp32", "bf16"};
    static const double shares[] = {12.0 / 4, 16.0 / 2}; /* biases are never 16-bit */
    test_run *run = *state;
    run->options.method = "full";
    for (int i = 0; i < 2; i++) {
        test_taken memory = {0};
        run->options.weight_dtype = dtypes[i];
        sara_memory_plan plan = check_kept(run, &memory, dtypes[i]);
        double share = (double)plan.optimizer / (double)plan.weights;
        assert_close(fabs(share / shares[i] - 1), 0.02, dtypes[i]);
    }
}

/* Of parameters beside the weights: a value, a gradient and two moments for each entry, whatever
 * the weights are. */
static void check_beside(test_run *run, const char *method)
{
    static const char *const dtypes[] = {"fp32", "bf16"};
    run->options.method = method;
    for (int i = 0; i < 2; i++) {
        test_taken memory = {0};
        run->options.weight_dtype = dtypes[i];
        check_kept(run, &memory, test_text(run, "%s-%s", method, dtypes[i]));
    }
}

static void test_adaptformer_is_kept(void **state)
{
    check_beside(*state, "adaptformer");
}

static void test_lora_is_kept(void **state)
{
    test_run *run = *state;
    check_beside(run, "lora");
    run->options.lora_targets = "all";
    run->options.rank = 16;
    check_beside(run, "dora");
}

static size_t sum_of(const sara_memory_plan *plan)
{
    return plan->weights + plan->optimizer + plan->activations + plan->other;
}

typedef struct two_steps {
    size_t planned, taken, offloaded;
} two_steps;

/* What is planned of two steps, and the most that is taken of the allocator in them; and what would
 * be planned if the weights stayed on the disk. */
static two_steps plan_and_step(test_run *run, const char *name)
{
    test_taken memory = {0};
    const sara_allocator allocator = test_taken_functions(&memory);
    const sara_context_options options = {.allocator = &allocator, .threads = 1};
    sara_context *ctx = NULL;
    sara_memory_plan plan, offloaded;
    sara_step_report report;
    double loss, lr;
    assert_ok(ctx, sara_context_new(&ctx, &options));
    trainer t = {.ctx = ctx};
    test_run_output(run, name);
    assert_ok(ctx, sara_trainer_open(&t, &run->options));
    sara_memory_setting setting = {.levels = t.checkpoint_levels, .share = 1};
    assert_ok(ctx, sara_memory_make_plan(&t, &plan, &setting));
    setting.offload = true;
    assert_ok(ctx, sara_memory_make_plan(&t, &offloaded, &setting));
    memory.peak = memory.now;
    assert_ok(ctx, sara_trainer_step(&t, &loss, &report, &lr));
    assert_ok(ctx, sara_trainer_step(&t, &loss, &report, &lr));
    sara_trainer_close(&t);
    sara_context_free(ctx);
    return (two_steps){sum_of(&plan), memory.peak, sum_of(&offloaded)};
}

/* Weights that stay on the disk make a run smaller by what is planned: what a plan leaves out, as
 * names, is the same with and without. */
static void test_offloaded_is_kept(void **state)
{
    static const char *const cases[][3] = {{"sara", "fp32", "no"},
                                           {"sara", "bf16", "no"},
                                           {"shira", "bf16", "no"},
                                           {"lora", "fp32", "no"},
                                           {"lora", "bf16", "bf16"}};
    test_run *run = *state;
    test_run_use_images(run, 2);
    run->options.train_batch_size = 1;
    run->options.gradient_checkpointing = true;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        run->options.method = cases[i][0];
        run->options.progressive_iter = i < 2 ? 0 : -1;
        run->options.weight_dtype = cases[i][1];
        run->options.mixed_precision = cases[i][2];
        if (strcmp(cases[i][2], "bf16") == 0 && sara_bf16_lacks())
            continue;
        run->options.disk_offload = false;
        const two_steps there = plan_and_step(run, test_text(run, "there-%zu", i));
        run->options.disk_offload = true;
        const two_steps away = plan_and_step(run, test_text(run, "away-%zu", i));
        assert_true(away.planned < there.planned);
        assert_int_equal(there.offloaded, away.planned);
        check_part(cases[i][0], away.planned, there.planned - (there.taken - away.taken), 0.05);
    }
}

/* LT-SFT's second phase, where its entries at positions need more than all did. */
static void test_ltsft_is_kept(void **state)
{
    static const char *const shares[] = {"5%", "100%"};
    test_run *run = *state;
    test_run_use_images(run, 2);
    run->options.method = "ltsft";
    run->options.ltsft_steps = 1;
    run->options.max_train_steps = 2;
    for (int i = 0; i < 2; i++) {
        const sara_memory_setting setting = {.share = 1};
        trainer t = {.ctx = run->ctx};
        sara_memory_plan plan;
        sara_step_report report;
        double loss, lr;
        run->options.trainable = shares[i];
        test_run_output(run, shares[i]);
        assert_ok(run->ctx, sara_trainer_open(&t, &run->options));
        assert_ok(run->ctx, sara_memory_make_plan(&t, &plan, &setting));
        assert_int_equal(plan.peak, t.planned_bytes);
        assert_ok(run->ctx, sara_trainer_step(&t, &loss, &report, &lr));
        assert_ok(run->ctx, sara_trainer_step(&t, &loss, &report, &lr));
        size_t second = sara_tape_reached(t.tape);
        size_t optimizer = sara_trainables_bytes(&t.optimizer->trainables);
        check_part("second phase", plan.later, optimizer + second, 0.05);
        double share = (double)plan.later / (double)(plan.optimizer + plan.activations);
        assert_true(i == 0 ? share < 0.5 : share > 0.95);
        assert_true(plan.peak >= plan.later + plan.weights + plan.other);
        sara_trainer_close(&t);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST_CASE(test_plan_is_kept),        TEST_CASE(test_full_is_kept),
        TEST_CASE(test_adaptformer_is_kept), TEST_CASE(test_lora_is_kept),
        TEST_CASE(test_ltsft_is_kept),       TEST_CASE(test_offloaded_is_kept),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

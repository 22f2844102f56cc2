/* --track_drift: the shares in the log are those that the result's weights show, counted here from
 * the base and the base with the result applied. */
#include "support_train.h"

#include "train/trainer.h"

#include <math.h>
#include <stdlib.h>

#define STEPS 4
#define EVERY "2"

static void set(test_run *run, const char *name, const char *value)
{
    assert_ok(run->ctx, sara_train_options_set(run->ctx, &run->options, name, value));
}

typedef struct shares {
    double small_still_small, large_now_small;
} shares;

static sara_model *load_denoiser(test_run *run, const char *path)
{
    const sara_model_options options = {.size = sizeof(options),
                                        .weight_dtype = run->options.weight_dtype};
    sara_model *model = NULL;
    assert_ok(run->ctx, sara_model_load_denoiser(run->ctx, &model, path, &options));
    return model;
}

/* By (float)threshold; 0: as the budget has it. */
static float threshold_of(test_run *run, const sara_model *base, double threshold,
                          const char *budget)
{
    sara_budget parsed;
    if (threshold > 0)
        return (float)threshold;
    assert_ok(run->ctx, sara_budget_parse(run->ctx, &parsed, budget));
    assert_ok(run->ctx,
              sara_budget_resolve(run->ctx, &threshold, &base->denoiser->params, &parsed));
    return (float)threshold;
}

static shares count_shares(const sara_model *base, const sara_model *now, float threshold)
{
    const sara_params *before = &base->denoiser->params, *after = &now->denoiser->params;
    int64_t all[2] = {0, 0}, small[2] = {0, 0};
    for (size_t i = 0; i < before->count; i++) {
        size_t entries = (size_t)sara_shape_count(&before->items[i].value.shape);
        for (size_t k = 0; k < entries; k++) {
            bool was = fabsf(sara_param_get(&before->items[i], k)) < threshold;
            all[was]++;
            small[was] += fabsf(sara_param_get(&after->items[i], k)) < threshold;
        }
    }
    return (shares){(double)small[1] / (double)all[1], (double)small[0] / (double)all[0]};
}

/* What the log says of the last step; it says it of every second one. */
static shares logged(test_run *run)
{
    size_t size;
    int tracked = 0;
    const char *text = test_run_read(run, "log.jsonl", &size);
    for (const char *at = text; (at = strstr(at, "\"small_still_small\":")); at++)
        tracked++;
    assert_int_equal(tracked, STEPS / 2);
    const char *last = strstr(text, test_text(run, "{\"step\":%d,", STEPS));
    assert_non_null(last);
    const char *still = strstr(last, "\"small_still_small\":");
    const char *became = strstr(last, "\"large_now_small\":");
    assert_true(still && became);
    return (shares){strtod(strchr(still, ':') + 1, NULL), strtod(strchr(became, ':') + 1, NULL)};
}

/* result: an adapter, or the folder of a denoiser. */
static void compare(test_run *run, const char *result, double threshold, const char *budget)
{
    const char *path = test_text(run, "%s/%s", run->output, result);
    bool whole = strcmp(result, "unet") == 0;
    sara_model *base = load_denoiser(run, run->options.unet_only);
    sara_model *now = load_denoiser(run, whole ? path : run->options.unet_only);
    if (!whole)
        assert_ok(run->ctx, sara_model_apply(run->ctx, now, path, 1, false));
    shares expected = count_shares(base, now, threshold_of(run, base, threshold, budget));
    shares got = logged(run);
    assert_true(got.small_still_small == expected.small_still_small);
    assert_true(got.large_now_small == expected.large_now_small);
    assert_true(got.small_still_small < 1 && got.large_now_small >= 0);
    sara_model_free(now);
    sara_model_free(base);
}

static void train_tracked(test_run *run, const char *method)
{
    run->options.method = method;
    run->options.learning_rate = 0.01;
    run->options.max_train_steps = STEPS;
    set(run, "track_drift", EVERY);
    assert_ok(run->ctx, test_run_train(run));
}

/* ------------------------------------------------------------------------------------- methods */

static void test_sara(void **state)
{
    test_run *run = *state;
    run->options.threshold = 0.02;
    train_tracked(run, "sara");
    assert_non_null(strstr(run->log, "entries are small at first, |p| < 0.02"));
    compare(run, "adapter.safetensors", 0.02, NULL);
}

static void test_budget(void **state)
{
    test_run *run = *state;
    set(run, "trainable", "10%");
    set(run, "mask", "random");
    train_tracked(run, "sara");
    compare(run, "adapter.safetensors", 0, "10%");
}

static void test_narrow(void **state)
{
    static const char *const types[] = {"bf16", "fp16"};
    test_run *run = *state;
    for (size_t i = 0; i < 2; i++) {
        run->options.weight_dtype = types[i];
        test_run_output(run, types[i]);
        train_tracked(run, "sara");
        compare(run, "adapter.safetensors", 0, "5.8%");
    }
}

static void test_full(void **state)
{
    train_tracked(*state, "full");
    compare(*state, "unet", 0, "5.8%");
}

static void test_other_selections(void **state)
{
    test_run *run = *state;
    train_tracked(run, "shira");
    compare(run, "adapter.safetensors", 0, "5.8%");
    test_run_output(run, "ltsft");
    set(run, "trainable", "20%"); /* is no threshold of this method's */
    train_tracked(run, "ltsft");
    compare(run, "adapter.safetensors", 0, "5.8%");
}

/* The branch's change, with convolutions, is part of the weight. */
static void test_branches(void **state)
{
    test_run *run = *state;
    set(run, "lora_targets", "all");
    train_tracked(run, "lora");
    compare(run, "lora.safetensors", 0, "5.8%");
    test_run_output(run, "dora");
    train_tracked(run, "dora");
    compare(run, "lora.safetensors", 0, "5.8%");
}

static void test_refused(void **state)
{
    test_run *run = *state;
    run->options.method = "adaptformer";
    set(run, "track_drift", "1");
    assert_refused(run->ctx, SARA_ERROR_USAGE,
                   "--track_drift 1: goes with --method sara, full, lora, dora, ltsft or shira; "
                   "AdaptFormer changes no weight",
                   test_run_train(run));
}

/* ---------------------------------------------------------------------------- what it leaves be */

/* Cut and resumed, on a device of its own memory too, the log has the same numbers; and the result
 * is that of a run without. */
static void test_resumed(void **state)
{
    static const char *const methods[] = {"sara", "dora"};
    static const char *const results[] = {"adapter.safetensors", "lora.safetensors"};
    test_run *run = *state;
    for (size_t i = 0; i < 2; i++) {
        size_t size, size_cut, size_without;
        run->options.resume_from_checkpoint = NULL;
        test_run_output(run, test_text(run, "%s-whole", methods[i]));
        train_tracked(run, methods[i]);
        const char *lines = test_run_lines(run), *result = test_run_read(run, results[i], &size);
        test_run_output(run, test_text(run, "%s-cut", methods[i]));
        run->interrupt_at = 3;
        run->options.device = "cpu-apart";
        assert_refused(run->ctx, SARA_INTERRUPTED, "and saved", test_run_train(run));
        run->interrupt_at = -1;
        run->options.resume_from_checkpoint = "latest";
        assert_ok(run->ctx, test_run_train(run));
        run->options.device = NULL;
        assert_string_equal(test_run_lines(run), lines);
        const char *cut = test_run_read(run, results[i], &size_cut);
        run->options.resume_from_checkpoint = NULL;
        run->options.track_drift = 0;
        test_run_output(run, test_text(run, "%s-without", methods[i]));
        assert_ok(run->ctx, test_run_train(run));
        const char *without = test_run_read(run, results[i], &size_without);
        assert_true(size_cut == size && size_without == size);
        assert_memory_equal(cut, result, size);
        assert_memory_equal(without, result, size);
    }
}

/* The plan of memory has a bit for each entry, of each parameter in whole words. */
static void test_plan(void **state)
{
    test_run *run = *state;
    size_t words = 0, planned[2];
    for (int i = 0; i < 2; i++) {
        trainer t = {.ctx = run->ctx};
        run->options.track_drift = i;
        test_run_output(run, test_text(run, "plan-%d", i));
        assert_ok(run->ctx, sara_trainer_open(&t, &run->options));
        const sara_params *params = &t.model->denoiser->params;
        planned[i] = t.planned_bytes;
        for (size_t k = 0; i == 0 && k < params->count; k++)
            words += ((size_t)sara_shape_count(&params->items[k].value.shape) + 63) / 64;
        sara_trainer_close(&t);
    }
    assert_int_equal(planned[1] - planned[0], 8 * words);
}

/* From an adapter on, what was small is the base's matter, not the adapter's. */
static void test_from_adapter(void **state)
{
    test_run *run = *state;
    run->options.threshold = 0.02;
    train_tracked(run, "sara");
    const char *adapter = test_text(run, "%s/adapter.safetensors", run->output);
    run->options.threshold = 0;
    run->options.adapter = adapter;
    test_run_output(run, "further");
    train_tracked(run, "sara");
    compare(run, "adapter.safetensors", 0.02, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST_CASE(test_sara),    TEST_CASE(test_budget),           TEST_CASE(test_narrow),
        TEST_CASE(test_full),    TEST_CASE(test_other_selections), TEST_CASE(test_branches),
        TEST_CASE(test_refused), TEST_CASE(test_resumed),          TEST_CASE(test_from_adapter),
        TEST_CASE(test_plan)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* --method shira and ltsft: against PEFT and PyTorch, cut and resumed, refused. */
#include "support_recorded.h"

#include <math.h>

/* ------------------------------------------------------------------------------------- PyTorch */

/* The same entries, and how far their values are from the recorded ones beside their change. */
static void check_adapter(test_run *run, const sara_safetensors *file)
{
    sara_safetensors *base = test_open(
        run->ctx, test_text(run, "%s/diffusion_pytorch_model.safetensors", run->options.unet_only));
    sara_adapter adapter;
    double error = 0, change = 0;
    size_t recorded = sara_safetensors_count(file), entries, count;
    test_run_adapter(run, &adapter);
    assert_int_equal(2 * adapter.count, recorded - 2); /* losses and norms */
    for (size_t i = 0; i < adapter.count; i++) {
        const sara_adapter_entry *entry = &adapter.entries[i];
        sara_tensor index = {0};
        sara_shape any = sara_shape1(-1);
        float *before = test_load_f32(run->ctx, base, entry->name, &entries);
        float *after =
            test_load_f32(run->ctx, file, test_text(run, "after.%s", entry->name), &count);
        assert_ok(run->ctx,
                  sara_safetensors_load(file, &index, test_text(run, "index.%s", entry->name),
                                        SARA_I32, &any));
        assert_int_equal(entry->count, count);
        assert_memory_equal(entry->positions, index.data, count * sizeof(uint32_t));
        for (size_t k = 0; k < count; k++) {
            error += pow((double)entry->values[k] - (double)after[k], 2);
            change += pow((double)after[k] - (double)before[entry->positions[k]], 2);
        }
        sara_tensor_free(run->ctx, &index);
        sara_free(run->ctx, before);
        sara_free(run->ctx, after);
    }
    assert_true(change > 0);
    assert_close(sqrt(error / change), 2e-3, "values after the last step");
    print_message("relative error of the change %.2g\n", sqrt(error / change));
    sara_adapter_free(&adapter);
    sara_safetensors_close(base);
}

static void check_recorded(test_run *run, const char *method)
{
    static const char *const kinds[] = {"sd1", "sd2"};
    for (size_t i = 0; i < 2; i++) {
        sara_safetensors *file = test_recorded_open(run, method, kinds[i]);
        run->options.method = method;
        test_run_output(run, kinds[i]);
        assert_ok(run->ctx, test_run_train(run));
        test_recorded_losses(run, file);
        check_adapter(run, file);
        sara_safetensors_close(file);
    }
}

/* As it was recorded, of the attention alone. */
static void test_shira(void **state)
{
    test_run *run = *state;
    run->options.lora_targets = "attention";
    check_recorded(run, "shira");
}

static void test_ltsft(void **state)
{
    check_recorded(*state, "ltsft");
}

/* ------------------------------------------------------------------------------------- results */

static void test_shira_result(void **state)
{
    test_run *run = *state;
    sara_train_result result;
    sara_adapter adapter;
    run->options.method = "shira";
    run->options.max_train_steps = 1;
    test_run_forget_log(run);
    assert_ok(run->ctx, sara_train(run->ctx, &result, &run->options));
    assert_string_equal(result.result, "adapter.safetensors");
    assert_true(isnan(result.threshold) && result.learning_rate == 1e-4);
    assert_non_null(strstr(run->log, "as many as rank 4 has; targets linear; learning rate"));
    assert_non_null(strstr(run->log, "learning rate 0.0001 (of SHiRA)"));
    test_run_adapter(run, &adapter);
    int64_t rank4 = result.selected;
    assert_string_equal(sara_adapter_metadata(&adapter, "sara.method"), "shira");
    assert_string_equal(sara_adapter_metadata(&adapter, "sara.rank"), "4");
    assert_string_equal(sara_adapter_metadata(&adapter, "sara.lora_targets"), "linear");
    assert_null(sara_adapter_metadata(&adapter, "sara.threshold"));
    assert_null(sara_adapter_metadata(&adapter, "sara.lambda_rank"));
    assert_null(strstr(test_run_lines(run), "rank_loss"));
    sara_adapter_free(&adapter);
    /* The size of about rank 8, and more than the layers have. */
    test_run_output(run, "sized");
    run->options.trainable = test_text(run, "%lld", (long long)(2 * rank4 + rank4 / 10));
    assert_ok(run->ctx, sara_train(run->ctx, &result, &run->options));
    assert_int_equal(result.selected, 2 * rank4);
    test_run_output(run, "all");
    run->options.trainable = "100%";
    assert_ok(run->ctx, sara_train(run->ctx, &result, &run->options));
    assert_true(result.selected > 5 * rank4 && result.selected < result.parameters);
    assert_non_null(strstr(run->log, "%), all that there are; targets linear; learning rate"));
    test_run_output(run, "attention");
    run->options.trainable = NULL;
    run->options.lora_targets = "attention";
    assert_ok(run->ctx, sara_train(run->ctx, &result, &run->options));
    assert_true(result.selected < rank4);
    test_run_output(run, "convolutions");
    run->options.lora_targets = "all";
    assert_refused(run->ctx, SARA_ERROR_USAGE, "--lora_targets all: SHiRA has no convolutions",
                   test_run_train(run));
}

static void test_ltsft_result(void **state)
{
    test_run *run = *state;
    sara_train_result result;
    sara_adapter adapter;
    run->options.method = "ltsft";
    run->options.max_train_steps = 3;
    test_run_forget_log(run);
    assert_ok(run->ctx, sara_train(run->ctx, &result, &run->options));
    assert_int_equal(result.selected, 54647); /* 5.8 % of 942196 */
    assert_true(isnan(result.threshold) && result.learning_rate == 1e-4);
    assert_non_null(strstr(run->log, "1 of the first phase, 2 of the second"));
    assert_non_null(strstr(run->log, "those that move most while all are trained for 1 step; "
                                     "learning rate 0.0001 (of LT-SFT)"));
    test_run_adapter(run, &adapter);
    assert_string_equal(sara_adapter_metadata(&adapter, "sara.method"), "ltsft");
    assert_string_equal(sara_adapter_metadata(&adapter, "sara.ltsft_steps"), "1");
    assert_string_equal(sara_adapter_metadata(&adapter, "sara.selected"), "54647");
    assert_null(sara_adapter_metadata(&adapter, "sara.trainable"));
    sara_adapter_free(&adapter);
}

/* ------------------------------------------------------------------------------------- resumed */

static void check_resumed(test_run *run, int64_t steps)
{
    run->options.max_train_steps = steps;
    run->options.resume_from_checkpoint = NULL;
    test_run_output(run, "whole");
    assert_ok(run->ctx, test_run_train(run));
    const char *sha256 = test_run_sha256(run), *lines = test_run_lines(run);
    test_run_output(run, "cut");
    for (int64_t step = 1; step < steps; step++) {
        run->interrupt_at = step;
        assert_refused(run->ctx, SARA_INTERRUPTED, "and saved", test_run_train(run));
        run->options.resume_from_checkpoint = "latest";
    }
    run->interrupt_at = -1;
    assert_ok(run->ctx, test_run_train(run));
    assert_string_equal(test_run_sha256(run), sha256);
    assert_string_equal(test_run_lines(run), lines);
    assert_ok(run->ctx, sara_directory_remove(run->ctx, test_text(run, "%s/whole", run->folder)));
    assert_ok(run->ctx, sara_directory_remove(run->ctx, run->output));
}

static void test_shira_resumed(void **state)
{
    test_run *run = *state;
    run->options.method = "shira";
    check_resumed(run, 3);
}

/* Both phases and what lies between; also of weights that are rounded. */
static void test_ltsft_resumed(void **state)
{
    test_run *run = *state;
    run->options.method = "ltsft";
    check_resumed(run, 5);
    run->options.weight_dtype = "bf16";
    run->options.ltsft_steps = 2;
    check_resumed(run, 4);
}

/* A first step of the second phase that is not finite: the checkpoint after it is of that phase. */
static void test_ltsft_skipped(void **state)
{
    static const int order[] = {0, 1, -3, 3, 4, 5};
    test_run *run = *state;
    run->options.method = "ltsft";
    run->options.ltsft_steps = 2;
    run->options.replay = test_run_replay(run, "six.safetensors", order, 6, false);
    check_resumed(run, 4);
    run->options.max_train_steps = 4;
    run->options.resume_from_checkpoint = NULL;
    test_run_output(run, "whole");
    assert_ok(run->ctx, test_run_train(run));
    const char *sha256 = test_run_sha256(run), *lines = test_run_lines(run);
    test_run_output(run, "cut");
    run->interrupt_on = "the step is skipped";
    assert_refused(run->ctx, SARA_INTERRUPTED, "after step 2 of 4", test_run_train(run));
    assert_true(test_run_has(run, "checkpoint-2/adapter.safetensors"));
    run->interrupt_on = NULL;
    run->options.resume_from_checkpoint = "latest";
    assert_ok(run->ctx, test_run_train(run));
    assert_string_equal(test_run_sha256(run), sha256);
    assert_string_equal(test_run_lines(run), lines);
}

/* A longer run is longer in its second phase. */
static void test_ltsft_longer(void **state)
{
    test_run *run = *state;
    run->options.method = "ltsft";
    run->options.max_train_steps = 4;
    run->options.lr_scheduler = "constant";
    assert_ok(run->ctx, test_run_train(run));
    run->options.resume_from_checkpoint = "latest";
    run->options.max_train_steps = 5;
    assert_ok(run->ctx, test_run_train(run));
    const char *sha256 = test_run_sha256(run);
    test_run_output(run, "at-once");
    run->options.resume_from_checkpoint = NULL;
    run->options.ltsft_steps = 2;
    assert_ok(run->ctx, test_run_train(run));
    assert_string_equal(test_run_sha256(run), sha256);
}

/* Whether a checkpoint is of the second phase its manifest says, whatever else lies there. */
static void test_ltsft_stray_file(void **state)
{
    test_run *run = *state;
    run->options.method = "ltsft";
    run->options.max_train_steps = 4;
    assert_ok(run->ctx, test_run_train(run));
    const char *sha256 = test_run_sha256(run);
    const char *stray = test_text(run, "%s/adapter.safetensors", run->output);
    test_run_output(run, "cut");
    run->interrupt_at = 1;
    assert_refused(run->ctx, SARA_INTERRUPTED, "and saved", test_run_train(run));
    run->interrupt_at = -1;
    test_run_copy(run, "cut/checkpoint-1/adapter.safetensors", stray);
    run->options.resume_from_checkpoint = "latest";
    assert_ok(run->ctx, test_run_train(run));
    assert_string_equal(test_run_sha256(run), sha256);
}

/* --------------------------------------------------------------------------------- PEFT's files */

static sara_model *load_with(test_run *run, const char *adapter)
{
    sara_model *model = NULL;
    const sara_model_options options = {.unet_only = true};
    assert_ok(run->ctx, sara_model_load(run->ctx, &model, run->options.unet_only, &options));
    if (adapter)
        assert_ok(run->ctx, sara_model_apply(run->ctx, model, adapter, 1, false));
    return model;
}

/* The same on top of itself changes each entry twice as much. */
static void check_twice(test_run *run, const sara_model *base, sara_model *once, const char *folder)
{
    sara_model *twice = load_with(run, folder);
    assert_ok(run->ctx, sara_model_apply(run->ctx, twice, folder, 1, false));
    for (size_t p = 0; p < base->denoiser->params.count; p++) {
        const sara_param *b = &base->denoiser->params.items[p];
        const sara_param *o = &once->denoiser->params.items[p];
        const sara_param *t = &twice->denoiser->params.items[p];
        size_t count = (size_t)sara_shape_count(&b->value.shape);
        for (size_t i = 0; i < count; i++) {
            double change = (double)sara_param_get(o, i) - (double)sara_param_get(b, i);
            double now = (double)sara_param_get(t, i) - (double)sara_param_get(b, i);
            assert_close(fabs(now - 2 * change), 1e-5, b->name);
        }
    }
    sara_model_free(twice);
}

/* A folder that PEFT wrote adds its values at its rows and columns, of the base, whatever is on the
 * model already. */
static void test_shira_of_peft(void **state)
{
    const char *folder = SARA_TEST_GOLDEN "/shira_peft";
    test_run *run = *state;
    sara_safetensors *file =
        test_open(run->ctx, SARA_TEST_GOLDEN "/shira_peft/adapter_model.safetensors");
    sara_model *base = load_with(run, NULL), *model = load_with(run, folder);
    const sara_params *params = &model->denoiser->params;
    size_t changed = 0, expected = 0;
    for (size_t p = 0; p < params->count; p++) {
        const sara_param *now = &params->items[p], *was = &base->denoiser->params.items[p];
        size_t entries = (size_t)sara_shape_count(&now->value.shape), count;
        const char *layer = test_text(run, "base_model.model.%.*s",
                                      (int)(strrchr(now->name, '.') - now->name), now->name);
        const char *name = test_text(run, "%s.shira_indices", layer);
        for (size_t i = 0; i < entries; i++)
            changed += sara_param_get(now, i) != sara_param_get(was, i);
        if (!sara_safetensors_find(file, name) || now->value.shape.rank != 2)
            continue;
        float *weights =
            test_load_f32(run->ctx, file, test_text(run, "%s.shira_weight", layer), &count);
        const sara_shape pairs = sara_shape2(2, (int64_t)count);
        sara_tensor indices = {0};
        assert_ok(run->ctx, sara_safetensors_load(file, &indices, name, SARA_I32, &pairs));
        const int32_t *at = indices.data;
        for (size_t i = 0; i < count; i++) {
            size_t place = (size_t)at[i] * (size_t)now->value.shape.dims[1] + (size_t)at[count + i];
            assert_true(sara_param_get(now, place) == sara_param_get(was, place) + weights[i]);
        }
        expected += count;
        sara_tensor_free(run->ctx, &indices);
        sara_free(run->ctx, weights);
    }
    assert_true(expected > 100);
    assert_int_equal(changed, expected);
    check_twice(run, base, model, folder);
    sara_model_free(base);
    sara_model_free(model);
    sara_safetensors_close(file);
}

static void test_shira_export(void **state)
{
    test_run *run = *state;
    sara_export_options options;
    sara_export_options_init(&options);
    options.format = "shira";
    run->options.method = "shira";
    run->options.max_train_steps = 3;
    assert_ok(run->ctx, test_run_train(run));
    const char *adapter = test_text(run, "%s/adapter.safetensors", run->output);
    const char *folder = test_text(run, "%s/peft", run->folder);
    sara_model *model = load_with(run, adapter);
    assert_ok(run->ctx, sara_model_export(run->ctx, NULL, model, folder, &options));
    sara_model *other = load_with(run, folder);
    for (size_t p = 0; p < model->denoiser->params.count; p++) {
        const sara_param *a = &model->denoiser->params.items[p];
        const sara_param *b = &other->denoiser->params.items[p];
        size_t count = (size_t)sara_shape_count(&a->value.shape);
        for (size_t i = 0; i < count; i++) /* the sum of base and change rounds */
            assert_close(fabs((double)sara_param_get(a, i) - (double)sara_param_get(b, i)), 1e-9,
                         a->name);
    }
    sara_model_free(other);
    sara_model_free(model);
    sara_safetensors *file =
        test_open(run->ctx, test_text(run, "%s/adapter_model.safetensors", folder));
    const sara_tensor_info *info = sara_safetensors_at(file, 0);
    assert_non_null(strstr(info->name, ".attn1.to_k.shira_indices"));
    assert_int_equal(info->shape.dims[1], 256); /* 4 (32 + 32) */
    sara_safetensors_close(file);
    /* Of another method, by name. */
    run->options.method = "sara";
    test_run_output(run, "plain");
    assert_ok(run->ctx, test_run_train(run));
    model = load_with(run, test_text(run, "%s/adapter.safetensors", run->output));
    assert_refused(
        run->ctx, SARA_ERROR_USAGE, "format shira: adapter was not trained with --method shira",
        sara_model_export(run->ctx, NULL, model, test_text(run, "%s/none", run->folder), &options));
    sara_model_free(model);
}

/* ------------------------------------------------------------------------------------- refused */

static void test_refused(void **state)
{
    test_run *run = *state;
    sara_train_options *o = &run->options;
    const sara_train_options good = *o;
#define REFUSED(given, text)                                                                       \
    do {                                                                                           \
        given;                                                                                     \
        assert_refused(run->ctx, SARA_ERROR_USAGE, (text), test_run_train(run));                   \
        *o = good;                                                                                 \
    } while (0)
    REFUSED((o->method = "ltsft", o->ltsft_steps = 10),
            "the first phase has 10 steps (--ltsft_steps), and 10 in all leave none");
    REFUSED((o->method = "ltsft", o->max_train_steps = 1),
            "the first phase has 1 step, and 1 in all leave none");
    REFUSED((o->method = "ltsft", o->threshold = 0.1), "--threshold 0.1: goes with --method sara");
    REFUSED((o->method = "ltsft", o->trainable = "2M"),
            "--trainable 2M: the model has 942196 entries");
    REFUSED((o->method = "shira", o->mask = "largest"), "--mask largest: goes with --method sara");
    REFUSED((o->method = "shira", o->rank = 3, o->trainable = "5%"), "--rank 3 and --trainable 5%");
    REFUSED((o->method = "full", o->adapter = "x"), "--adapter x: goes with --method sara");
    REFUSED((o->trainable = "20M"), "--learning_rate is missing: all entries are selected");
    REFUSED((o->ltsft_steps = 3), "--ltsft_steps 3: goes with --method ltsft; SaRA has none");
#undef REFUSED
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST_CASE(test_shira),
        TEST_CASE(test_ltsft),
        TEST_CASE(test_shira_result),
        TEST_CASE(test_ltsft_result),
        TEST_CASE(test_shira_resumed),
        TEST_CASE(test_ltsft_resumed),
        TEST_CASE(test_shira_of_peft),
        TEST_CASE(test_shira_export),
        TEST_CASE(test_ltsft_skipped),
        TEST_CASE(test_ltsft_longer),
        TEST_TINY(test_ltsft_stray_file),
        TEST_CASE(test_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Ten SaRA steps on recorded micro-batches against the method's definition in PyTorch. */
#include "support_train.h"

#include <math.h>

static const sara_safetensors *open_replay(test_run *run, sara_safetensors **file)
{
    *file = test_open(run->ctx, run->options.replay);
    return *file;
}

/* The settings that the golden file was made with, taken from its metadata. */
static void take_replay(test_run *run, const char *denoiser, const char *path)
{
    static const char *const names[] = {"threshold",         "learning_rate",  "lambda_rank",
                                        "lr_scheduler",      "max_grad_norm",  "progressive_iter",
                                        "adam_weight_decay", "prediction_type"};
    sara_safetensors *file;
    run->options.unet_only = denoiser;
    run->options.replay = path;
    open_replay(run, &file);
    for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
        const char *value = sara_safetensors_metadata(file, names[i]);
        assert_non_null(value);
        assert_ok(run->ctx, sara_train_options_set(run->ctx, &run->options, names[i],
                                                   test_text(run, "%s", value)));
    }
    sara_safetensors_close(file);
}

static void take_settings(test_run *run, const char *kind)
{
    take_replay(run, test_text(run, "%s/unet_%s", SARA_TEST_GOLDEN, kind),
                test_text(run, "%s/train_%s.safetensors", SARA_TEST_GOLDEN, kind));
}

/* Of a folder of the families' golden files. */
static void take_family(test_run *run, const char *folder, const char *denoiser)
{
    take_replay(
        run, test_text(run, "%s", test_family(test_text(run, "%s/%s", folder, denoiser)).text),
        test_text(run, "%s", test_family(test_text(run, "%s/train.safetensors", folder)).text));
}

static void check_column(test_run *run, const sara_safetensors *file, const char *field,
                         const char *golden, size_t steps, double tolerance)
{
    double values[TEST_REPLAY_STEPS + 1];
    size_t count;
    float *expected = test_load_f32(run->ctx, file, golden, &count);
    assert_int_equal(count, TEST_REPLAY_STEPS);
    assert_int_equal(test_run_column(run, values, TEST_REPLAY_STEPS + 1, field), steps);
    for (size_t i = 0; i < steps; i++)
        assert_close(fabs(values[i] - (double)expected[i]) / (double)expected[i], tolerance, field);
    sara_free(run->ctx, expected);
}

/* ------------------------------------------------------------------------------------- adapter */

typedef struct change {
    double error, change; /* sums of squares */
    int64_t selected;
} change;

static const sara_adapter_entry *find_entry(const sara_adapter *adapter, const char *name)
{
    for (size_t i = 0; i < adapter->count; i++)
        if (strcmp(adapter->entries[i].name, name) == 0)
            return &adapter->entries[i];
    return NULL;
}

/* One parameter: the same positions, and how far the values are from the golden ones. */
static void compare_entry(test_run *run, change *sum, const sara_safetensors *file,
                          const sara_adapter *adapter, const sara_param *param)
{
    const char *index_name = test_text(run, "index.%s", param->name);
    const sara_tensor_info *info = sara_safetensors_find(file, index_name);
    const sara_adapter_entry *entry = find_entry(adapter, param->name);
    const float *start = param->value.data;
    size_t count = 0;
    sara_tensor index = {0};
    sara_shape any = sara_shape1(-1);
    assert_non_null(info);
    if (sara_shape_count(&info->shape) == 0) {
        assert_null(entry);
        return;
    }
    float *after = test_load_f32(run->ctx, file, test_text(run, "after.%s", param->name), &count);
    assert_ok(run->ctx, sara_safetensors_load(file, &index, index_name, SARA_I32, &any));
    assert_non_null(entry);
    assert_int_equal(entry->count, count);
    assert_memory_equal(entry->positions, index.data, count * sizeof(uint32_t));
    for (size_t i = 0; i < count; i++) {
        double error = (double)entry->values[i] - (double)after[i];
        double whole = (double)after[i] - (double)start[entry->positions[i]];
        sum->error += error * error;
        sum->change += whole * whole;
    }
    sum->selected += (int64_t)count;
    sara_tensor_free(run->ctx, &index);
    sara_free(run->ctx, after);
}

static sara_model *load_base(test_run *run)
{
    sara_model *model = NULL;
    const sara_model_options options = {.unet_only = true,
                                        .weight_dtype = run->options.weight_dtype};
    assert_ok(run->ctx, sara_model_load(run->ctx, &model, run->options.unet_only, &options));
    return model;
}

static void compare_adapter(test_run *run, const sara_safetensors *file)
{
    sara_model *model = load_base(run);
    const sara_params *params = &model->denoiser->params;
    sara_adapter adapter = {0};
    change sum = {0};
    assert_ok(run->ctx, sara_adapter_load(run->ctx, &adapter,
                                          test_text(run, "%s/adapter.safetensors", run->output)));
    for (size_t i = 0; i < params->count; i++)
        compare_entry(run, &sum, file, &adapter, &params->items[i]);
    assert_string_equal(test_text(run, "%lld", (long long)sum.selected),
                        sara_safetensors_metadata(file, "selected"));
    assert_string_equal(sara_adapter_metadata(&adapter, "sara.selected"),
                        sara_safetensors_metadata(file, "selected"));
    assert_close(sqrt(sum.error / sum.change), 2e-3, "values after the last step");
    print_message("relative error of the change %.2g\n", sqrt(sum.error / sum.change));
    sara_adapter_free(&adapter);
    sara_model_free(model);
}

/* Applied to the base, the adapter changes exactly the entries below the threshold: so many or
 * more. */
static void check_unselected(test_run *run, int64_t least)
{
    sara_model *model = load_base(run), *base = load_base(run);
    const sara_params *now = &model->denoiser->params, *before = &base->denoiser->params;
    float threshold = (float)run->options.threshold;
    int64_t changed = 0;
    assert_ok(run->ctx,
              sara_model_apply(run->ctx, model,
                               test_text(run, "%s/adapter.safetensors", run->output), 1, false));
    for (size_t p = 0; p < now->count; p++) {
        size_t count = (size_t)sara_shape_count(&now->items[p].value.shape);
        for (size_t i = 0; i < count; i++) {
            float a = sara_param_get(&now->items[p], i), b = sara_param_get(&before->items[p], i);
            changed += memcmp(&a, &b, sizeof(a)) != 0;
            if (!(fabsf(b) < threshold))
                assert_memory_equal(&a, &b, sizeof(a));
        }
    }
    assert_true(changed > least);
    sara_model_free(model);
    sara_model_free(base);
}

/* Of what was taken. */
static void run_replay(test_run *run, size_t steps)
{
    sara_safetensors *file;
    if (steps < TEST_REPLAY_STEPS)
        run->options.max_train_steps = (int64_t)steps;
    assert_ok(run->ctx, test_run_train(run));
    open_replay(run, &file);
    check_column(run, file, "loss", "losses", steps, 1e-5);
    check_column(run, file, "grad_norm", "grad_norms", steps, 1e-4);
    if (run->options.lambda_rank > 0)
        check_column(run, file, "rank_loss", "rank_losses", steps, 1e-4);
    if (steps == TEST_REPLAY_STEPS)
        compare_adapter(run, file);
    sara_safetensors_close(file);
}

static void replay(test_run *run, const char *kind, size_t steps)
{
    take_settings(run, kind);
    run_replay(run, steps);
}

static void test_sd1(void **state)
{
    replay(*state, "sd1", TEST_REPLAY_STEPS);
    check_unselected(*state, 50000);
    assert_int_equal(test_run_events(*state, "reselect"), 1);
}

static void test_sd2(void **state)
{
    replay(*state, "sd2", TEST_REPLAY_STEPS);
}

/* With pooled text and time ids. */
static void test_sdxl(void **state)
{
    test_run *run = *state;
    take_family(run, "sdxl", "unet");
    run_replay(run, TEST_REPLAY_STEPS);
    check_unselected(run, 25000);
    const char *sha256 = test_run_sha256(run);
    run->options.gradient_checkpointing_levels = 1;
    test_run_output(run, "levels");
    assert_ok(run->ctx, test_run_train(run));
    assert_string_equal(test_run_sha256(run), sha256);
}

/* A flow, whose noise levels are recorded, and a transformer with norms of queries and keys and a
 * second attention. */
static void test_sd35_medium(void **state)
{
    test_run *run = *state;
    take_replay(run, SARA_TEST_GOLDEN "/families/sd35_medium/transformer",
                SARA_TEST_GOLDEN "/families/sd35_medium/train.safetensors");
    run_replay(run, TEST_REPLAY_STEPS);
    check_unselected(run, 4500);
    assert_int_equal(test_run_events(run, "reselect"), 1);
    const char *sha256 = test_run_sha256(run);
    run->options.gradient_checkpointing = true;
    test_run_output(run, "again");
    assert_ok(run->ctx, test_run_train(run));
    assert_string_equal(test_run_sha256(run), sha256);
}

/* Another of them, whose larger transformer is in the whole set alone, with the low-rank term. */
static void test_sd3(void **state)
{
    test_run *run = *state;
    if (!test_families_whole())
        return;
    take_family(run, "sd3", "transformer");
    run_replay(run, TEST_REPLAY_STEPS);
    check_unselected(run, 15000);
}

static void test_checkpointing(void **state)
{
    test_run *run = *state;
    run->options.gradient_checkpointing = true;
    replay(run, "sd1", TEST_REPLAY_STEPS);
}

/* ------------------------------------------------------------------------- weights of 16 bits */

/* Masters are float32: so are the adapter's values, and few of them are 16-bit numbers by
 * chance. */
static void check_masters(test_run *run, const sara_adapter *adapter, sara_dtype dtype)
{
    const char *path = test_text(run, "%s/adapter.safetensors", run->output);
    sara_safetensors *file = test_open(run->ctx, path);
    size_t values = 0, narrow = 0;
    for (size_t i = 0; i < adapter->count; i++) {
        const sara_adapter_entry *entry = &adapter->entries[i];
        const char *name = test_text(run, "%s.values", entry->name);
        assert_int_equal(sara_safetensors_find(file, name)->dtype, SARA_F32);
        for (size_t j = 0; j < entry->count; j++) {
            uint16_t half;
            float value;
            sara_convert_from_f32(&half, dtype, &entry->values[j], 1);
            sara_convert_to_f32(&value, &half, dtype, 1);
            narrow += value == entry->values[j];
        }
        values += entry->count;
    }
    assert_true(values > 50000 && narrow < values / 100);
    sara_safetensors_close(file);
}

/* Adds up how far two runs' changes of one tensor differ, where both trained an entry. */
static void compare_changes(change *sum, const sara_adapter_entry *narrow,
                            const sara_adapter_entry *wide, const sara_param *narrow_base,
                            const sara_param *wide_base)
{
    size_t i = 0, j = 0;
    while (i < narrow->count && j < wide->count) {
        uint32_t a = narrow->positions[i], b = wide->positions[j];
        if (a == b) {
            double ours = (double)narrow->values[i] - (double)sara_param_get(narrow_base, a);
            double theirs = (double)wide->values[j] - (double)sara_param_get(wide_base, a);
            sum->error += (ours - theirs) * (ours - theirs);
            sum->change += theirs * theirs;
            sum->selected++;
        }
        i += a <= b;
        j += b <= a;
    }
}

/* Rounding moves gradients by about the unit roundoff. Adam's steps have the same size for every
 * gradient, so that those of entries whose gradient is no larger than that may go anywhere: a share
 * of the entries like the roundoff, and of the change like its root. */
static void check_near(const sara_adapter *narrow, const sara_model *narrow_base,
                       const sara_adapter *wide, const sara_model *wide_base, double roundoff)
{
    change sum = {0};
    for (size_t i = 0; i < wide->count; i++) {
        const char *name = wide->entries[i].name;
        const sara_adapter_entry *entry = find_entry(narrow, name);
        if (entry)
            compare_changes(&sum, entry, &wide->entries[i],
                            sara_params_find(&narrow_base->denoiser->params, name),
                            sara_params_find(&wide_base->denoiser->params, name));
    }
    assert_true(sum.selected > 50000);
    assert_close(sqrt(sum.error / sum.change), 2 * sqrt(roundoff), "change on rounded weights");
    print_message("relative difference of the change %.2g\n", sqrt(sum.error / sum.change));
}

static void test_16_bits(void **state)
{
    static const struct {
        const char *name;
        sara_dtype dtype;
        double roundoff;
    } cases[] = {{"bf16", SARA_BF16, 0x1p-9}, {"fp16", SARA_F16, 0x1p-12}};
    test_run *run = *state;
    sara_adapter wide, narrow;
    take_settings(run, "sd1");
    assert_ok(run->ctx, test_run_train(run));
    test_run_adapter(run, &wide);
    sara_model *wide_base = load_base(run);
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        run->options.weight_dtype = cases[i].name;
        test_run_output(run, cases[i].name);
        assert_ok(run->ctx, test_run_train(run));
        check_unselected(run, 50000);
        test_run_adapter(run, &narrow);
        assert_string_equal(sara_adapter_metadata(&narrow, "sara.weight_dtype"), cases[i].name);
        check_masters(run, &narrow, cases[i].dtype);
        sara_model *narrow_base = load_base(run);
        check_near(&narrow, narrow_base, &wide, wide_base, cases[i].roundoff);
        sara_adapter_free(&narrow);
        sara_model_free(narrow_base);
    }
    sara_adapter_free(&wide);
    sara_model_free(wide_base);
}

/* What "auto" stands for is what counts: on an F32 file, the same run. */
static void test_auto(void **state)
{
    test_run *run = *state;
    run->options.max_train_steps = 2;
    assert_ok(run->ctx, test_run_train(run));
    const char *sha256 = test_run_sha256(run);
    run->options.weight_dtype = "auto";
    test_run_output(run, "auto");
    assert_ok(run->ctx, test_run_train(run));
    assert_string_equal(test_run_sha256(run), sha256);
}

/* The first steps are the same; a cosine over 4 steps leaves the golden run's after the first. */
static void test_fewer_steps(void **state)
{
    test_run *run = *state;
    double losses[TEST_REPLAY_STEPS], rates[TEST_REPLAY_STEPS];
    sara_train_result result;
    take_settings(run, "sd1");
    run->options.max_train_steps = 4;
    assert_ok(run->ctx, sara_train(run->ctx, &result, &run->options));
    assert_int_equal(result.steps, 4);
    assert_int_equal(result.skipped, 0);
    assert_int_equal(result.selected, 56532);
    assert_int_equal(test_run_column(run, losses, TEST_REPLAY_STEPS, "loss"), 4);
    assert_int_equal(test_run_column(run, rates, TEST_REPLAY_STEPS, "lr"), 4);
    assert_close(fabs(rates[1] - 2e-3 * (0.5 + 0.5 * sqrt(0.5))), 1e-12, "second rate");
    double mean = (losses[0] + losses[1] + losses[2] + losses[3]) / 4;
    assert_close(fabs(result.first_loss - mean), 1e-12, "first loss");
    assert_close(fabs(result.last_loss - mean), 1e-12, "last loss");
    run->options.lr_scheduler = "constant";
    test_run_output(run, "constant");
    replay(run, "sd1", 1);
}

static void test_too_few_batches(void **state)
{
    test_run *run = *state;
    take_settings(run, "sd1");
    run->options.max_train_steps = 11;
    assert_refused(run->ctx, SARA_ERROR_INPUT, "holds 10 micro-batches, too few for 11 steps",
                   test_run_train(run));
    run->options.max_train_steps = 0;
    run->options.gradient_accumulation_steps = 11;
    assert_refused(run->ctx, SARA_ERROR_INPUT, "too few for 1 steps of 11", test_run_train(run));
    run->options.max_train_steps = INT64_C(1) << 53;
    run->options.gradient_accumulation_steps = 65536;
    assert_refused(run->ctx, SARA_ERROR_INPUT, "too few", test_run_train(run));
    assert_false(test_run_has(run, "adapter.safetensors"));
}

/* A learning rate that changes nothing leaves the losses of the untrained model. */
static void test_accumulated_loss(void **state)
{
    test_run *run = *state;
    double single[TEST_REPLAY_STEPS], twice[TEST_REPLAY_STEPS];
    run->options.learning_rate = 1e-30;
    run->options.lambda_rank = 0;
    assert_ok(run->ctx, test_run_train(run));
    assert_int_equal(test_run_column(run, single, TEST_REPLAY_STEPS, "loss"), 10);
    test_run_output(run, "twice");
    run->options.gradient_accumulation_steps = 2;
    assert_ok(run->ctx, test_run_train(run));
    assert_int_equal(test_run_column(run, twice, TEST_REPLAY_STEPS, "loss"), 5);
    for (int i = 0; i < 5; i++)
        assert_close(fabs(twice[i] - (single[2 * i] + single[2 * i + 1]) / 2), 1e-9, "loss");
}

/* Two equal micro-batches have the mean gradient of one. */
static void test_accumulated_gradient(void **state)
{
    static const int twice[] = {0, 0, 1, 1, 2, 2, 3, 3};
    test_run *run = *state;
    double single[4], doubled[4];
    take_settings(run, "sd1");
    run->options.max_train_steps = 4;
    assert_ok(run->ctx, test_run_train(run));
    assert_int_equal(test_run_column(run, single, 4, "grad_norm"), 4);
    test_run_output(run, "twice");
    run->options.replay = test_run_replay(run, "twice.safetensors", twice, 8, true);
    run->options.gradient_accumulation_steps = 2;
    assert_ok(run->ctx, test_run_train(run));
    assert_int_equal(test_run_column(run, doubled, 4, "grad_norm"), 4);
    for (int i = 0; i < 4; i++)
        assert_close(fabs(doubled[i] - single[i]) / single[i], 1e-6, "gradient norm");
}

/* Everything can be trained; then only the learning rate's formula has no answer. */
static void test_everything(void **state)
{
    test_run *run = *state;
    sara_train_result result;
    run->options.trainable = "100%";
    run->options.max_train_steps = 2;
    assert_refused(run->ctx, SARA_ERROR_USAGE, "--learning_rate is missing", test_run_train(run));
    run->options.learning_rate = 1e-4;
    assert_ok(run->ctx, sara_train(run->ctx, &result, &run->options));
    assert_int_equal(result.selected, result.parameters);
    assert_true(isinf(result.threshold));
    run->options.resume_from_checkpoint = "latest";
    assert_ok(run->ctx, test_run_train(run));
}

/* A budget that selects nothing names it. */
static void test_nothing(void **state)
{
    test_run *run = *state;
    run->options.threshold = 1e-25;
    assert_refused(run->ctx, SARA_ERROR_USAGE, "threshold", test_run_train(run));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST_CASE(test_sd1),
        TEST_CASE(test_sd2),
        TEST_CASE(test_sdxl),
        TEST_CASE(test_sd35_medium),
        TEST_CASE(test_sd3),
        TEST_CASE(test_checkpointing),
        TEST_CASE(test_16_bits),
        TEST_CASE(test_auto),
        TEST_CASE(test_fewer_steps),
        TEST_CASE(test_too_few_batches),
        TEST_CASE(test_accumulated_loss),
        TEST_CASE(test_accumulated_gradient),
        TEST_CASE(test_everything),
        TEST_CASE(test_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

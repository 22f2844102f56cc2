/* Runs that start from an adapter: its entries, from its values on. */
#include "support_train.h"

#include <math.h>
#include <stdio.h>

static void set(test_run *run, const char *name, const char *value)
{
    assert_ok(run->ctx, sara_train_options_set(run->ctx, &run->options, name, value));
}

/* Trains in another folder; the path of the adapter. */
static const char *train_in(test_run *run, const char *name)
{
    test_run_output(run, name);
    assert_ok(run->ctx, test_run_train(run));
    return test_text(run, "%s/adapter.safetensors", run->output);
}

/* The run starts from the adapter, with its entries instead of a budget. */
static void start_from(test_run *run, const char *adapter)
{
    run->options.adapter = adapter;
    run->options.trainable = NULL;
    run->options.threshold = 0;
}

static void load(test_run *run, sara_adapter *out, const char *path)
{
    assert_ok(run->ctx, sara_adapter_load(run->ctx, out, path));
}

static void assert_same_entries(test_run *run, const char *path, const char *other)
{
    sara_adapter a, b;
    load(run, &a, path);
    load(run, &b, other);
    test_adapters_equal(&a, &b);
    sara_adapter_free(&a);
    sara_adapter_free(&b);
}

/* At strength 0 it is the base again: the run of ten recorded steps that is compared with PyTorch's
 * in test_replay.c, its reselection by the adapter's threshold and the rate that follows from
 * it. */
static void test_strength_zero(void **state)
{
    test_run *run = *state;
    const char *plain = train_in(run, "plain"), *lines = test_run_lines(run);
    start_from(run, test_text(run, "%s:0", plain));
    set(run, "progressive_iter", "5");
    assert_same_entries(run, train_in(run, "zero"), plain);
    assert_string_equal(test_run_lines(run), lines);
    assert_int_equal(test_run_events(run, "reselect"), 1);
    run->options.progressive_iter = -1; /* none unless it is asked for */
    train_in(run, "none");
    assert_int_equal(test_run_events(run, "reselect"), 0);
}

/* The base with the adapter at a strength, as a model of its own. */
static const char *merged(test_run *run, const char *adapter, double strength)
{
    const sara_model_options options = {.unet_only = true};
    const char *path = test_text(run, "%s/merged-%g", run->folder, strength);
    sara_model *model = NULL;
    assert_ok(run->ctx, sara_model_load(run->ctx, &model, run->options.unet_only, &options));
    assert_ok(run->ctx, sara_model_apply(run->ctx, model, adapter, strength, false));
    assert_ok(run->ctx, sara_model_save(run->ctx, NULL, model, path, NULL));
    sara_model_free(model);
    return path;
}

/* An adapter of all entries: training on from it is training all entries of the merged model. */
static void test_as_on_merged(void **state)
{
    static const double strengths[] = {1, 0.5, -0.25};
    test_run *run = *state;
    const char *base = run->options.unet_only;
    set(run, "learning_rate", "1e-3");
    set(run, "progressive_iter", "0");
    run->options.trainable = "100%";
    const char *all = train_in(run, "all");
    for (size_t i = 0; i < 3; i++) {
        run->options.unet_only = merged(run, all, strengths[i]);
        run->options.adapter = NULL;
        run->options.trainable = "100%";
        const char *expected = train_in(run, test_text(run, "expected-%zu", i));
        const char *lines = test_run_lines(run);
        run->options.unet_only = base;
        start_from(run, test_text(run, "%s:%g", all, strengths[i]));
        assert_same_entries(run, train_in(run, test_text(run, "from-%zu", i)), expected);
        assert_string_equal(test_run_lines(run), lines);
    }
}

static double first_loss(test_run *run)
{
    double loss;
    assert_int_equal(test_run_column(run, &loss, 1, "loss"), 1);
    return loss;
}

/* Steps that change nothing give the adapter back, whatever the weights are in memory; these are
 * its values, rounded: the first loss is the merged model's. */
static void test_values(void **state)
{
    static const char *const dtypes[] = {"fp32", "bf16", "fp16"};
    test_run *run = *state;
    const char *base = run->options.unet_only, *plain = train_in(run, "plain");
    const char *model = merged(run, plain, 1);
    set(run, "learning_rate", "1e-25");
    run->options.max_train_steps = 1;
    for (size_t i = 0; i < 3; i++) {
        run->options.weight_dtype = dtypes[i];
        run->options.unet_only = model;
        run->options.adapter = NULL;
        train_in(run, test_text(run, "merged-%s", dtypes[i]));
        const double loss = first_loss(run);
        run->options.unet_only = base;
        train_in(run, test_text(run, "base-%s", dtypes[i]));
        assert_true(first_loss(run) != loss); /* it tells them apart */
        start_from(run, plain);
        assert_same_entries(run, train_in(run, dtypes[i]), plain);
        assert_true(first_loss(run) == loss);
    }
}

static void test_one_value(void **state)
{
    (void)state;
    const float zero = sara_adapter_value(-0.0f, 1.0f, 0);
    assert_true(zero == 0 && signbit(zero));
    assert_true(sara_adapter_value(2.0f, 3.0f, 0.5) == 2.5f);
    assert_true(sara_adapter_value(2.0f, 3.0f, -1) == 1.0f);
    assert_true(sara_adapter_value(1.0f, 0.1f, 1) == 0.1f);
    const float kept = sara_adapter_value(-0.0f, 1e-30f, 1e-30); /* comes to nothing */
    assert_true(kept == 0 && signbit(kept));
}

/* The result is of the same base and says what it started from, without a path. */
static void test_metadata(void **state)
{
    test_run *run = *state;
    sara_adapter before, after;
    char sha256[65];
    const char *plain = train_in(run, "plain");
    start_from(run, test_text(run, "%s:0.5", plain));
    const char *path = train_in(run, "from");
    load(run, &before, plain);
    load(run, &after, path);
    assert_ok(run->ctx, sara_sha256_file(run->ctx, sha256, plain));
    assert_string_equal(sara_adapter_metadata(&after, "sara.adapter_sha256"), sha256);
    assert_string_equal(sara_adapter_metadata(&after, "sara.adapter_strength"), "0.5");
    static const char *const same[] = {"sara.base_sha256", "sara.threshold", "sara.learning_rate",
                                       "sara.selected"};
    for (size_t i = 0; i < 4; i++)
        assert_string_equal(sara_adapter_metadata(&after, same[i]),
                            sara_adapter_metadata(&before, same[i]));
    assert_null(sara_adapter_metadata(&before, "sara.adapter_sha256"));
    for (size_t i = 0; i < after.metadata_count; i++)
        assert_null(strstr(after.metadata[i].value, run->folder));
    sara_adapter_free(&before);
    sara_adapter_free(&after);
    assert_non_null(strstr(run->log, "those of the adapter, from strength 0.5 on"));
}

/* Interrupted, it goes on with the file gone; another file, strength or kind of run is refused. */
static void test_resumed(void **state)
{
    test_run *run = *state;
    const char *plain = train_in(run, "plain"), *other = test_text(run, "%s/other", run->folder);
    run->options.max_train_steps = 9;
    const char *foreign = train_in(run, "foreign");
    run->options.max_train_steps = 0;
    start_from(run, test_text(run, "%s:0.5", plain));
    set(run, "progressive_iter", "6");
    train_in(run, "whole");
    const char *sha256 = test_run_sha256(run);
    test_run_output(run, "stopped");
    run->interrupt_at = 4;
    assert_refused(run->ctx, SARA_INTERRUPTED, "after step 4", test_run_train(run));
    run->interrupt_at = -1;
    run->options.resume_from_checkpoint = "latest";
    run->options.adapter = plain;
    assert_refused(run->ctx, SARA_ERROR_USAGE, "at strength 0.5, now it is 1", test_run_train(run));
    run->options.adapter = test_text(run, "%s:0.5", foreign);
    assert_refused(run->ctx, SARA_ERROR_USAGE, "began with the adapter of SHA-256",
                   test_run_train(run));
    run->options.adapter = NULL;
    run->options.trainable = "1%";
    assert_refused(run->ctx, SARA_ERROR_USAGE, "leave --trainable out", test_run_train(run));
    start_from(run, test_text(run, "%s:0.5", plain));
    assert_int_equal(rename(plain, other), 0);
    run->interrupt_at = 7;
    assert_refused(run->ctx, SARA_INTERRUPTED, "after step 7", test_run_train(run));
    run->interrupt_at = -1;
    run->options.adapter = NULL; /* or without it */
    assert_ok(run->ctx, test_run_train(run));
    assert_string_equal(test_run_sha256(run), sha256);
    test_run_output(run, "foreign");
    run->options.adapter = other;
    run->options.progressive_iter = -1;
    assert_refused(run->ctx, SARA_ERROR_USAGE, "the run began without an adapter",
                   test_run_train(run));
}

/* A copy of the adapter with other metadata; NULL: without the key. */
static const char *with_metadata(test_run *run, const char *path, const char *key,
                                 const char *value)
{
    const char *copy = test_text(run, "%s/%s.safetensors", run->folder, key);
    sara_adapter adapter;
    size_t kept = 0;
    load(run, &adapter, path);
    for (size_t i = 0; i < adapter.metadata_count; i++) {
        sara_metadata item = adapter.metadata[i];
        if (strcmp(item.key, "sara.format") == 0 || (strcmp(item.key, key) == 0 && !value))
            continue;
        if (strcmp(item.key, key) == 0)
            item.value = value;
        adapter.metadata[kept++] = item;
    }
    assert_ok(run->ctx, sara_adapter_save(run->ctx, copy, adapter.entries, adapter.count,
                                          adapter.metadata, kept, SARA_F32));
    sara_adapter_free(&adapter);
    return copy;
}

static void test_without_threshold(void **state)
{
    test_run *run = *state;
    sara_adapter result;
    const char *plain = train_in(run, "plain");
    start_from(run, with_metadata(run, plain, "sara.threshold", NULL));
    test_run_output(run, "from");
    assert_refused(run->ctx, SARA_ERROR_USAGE, "--learning_rate is missing: the adapter was not",
                   test_run_train(run));
    set(run, "learning_rate", "1e-4");
    set(run, "progressive_iter", "3");
    assert_refused(run->ctx, SARA_ERROR_USAGE, "--progressive_iter 3: the adapter was not",
                   test_run_train(run));
    set(run, "progressive_iter", "0");
    load(run, &result, train_in(run, "from"));
    assert_null(sara_adapter_metadata(&result, "sara.threshold"));
    sara_adapter_free(&result);
}

static void test_refused(void **state)
{
    test_run *run = *state;
    const char *plain = train_in(run, "plain"), *zeros = test_text(run, "%064d", 0);
    test_run_output(run, "from");
    run->options.adapter = plain;
    run->options.trainable = "1%";
    assert_refused(run->ctx, SARA_ERROR_USAGE, "leave --trainable out", test_run_train(run));
    run->options.trainable = NULL;
    run->options.threshold = 1e-3;
    assert_refused(run->ctx, SARA_ERROR_USAGE, "leave --threshold out", test_run_train(run));
    start_from(run, with_metadata(run, plain, "sara.base_sha256", zeros));
    assert_refused(run->ctx, SARA_ERROR_INPUT, "sara.base_sha256.safetensors", test_run_train(run));
    start_from(run, with_metadata(run, plain, "sara.target", "text"));
    assert_refused(run->ctx, SARA_ERROR_INPUT, "sara.target is text", test_run_train(run));
    start_from(run, with_metadata(run, plain, "sara.threshold", "few"));
    assert_refused(run->ctx, SARA_ERROR_INPUT, "sara.threshold is \"few\"", test_run_train(run));
    start_from(run, test_text(run, "%s:101", plain));
    assert_refused(run->ctx, SARA_ERROR_USAGE, "strength 101, expected -100 to 100",
                   test_run_train(run));
    start_from(run, run->options.replay);
    assert_refused(run->ctx, SARA_ERROR_INPUT, "no sara adapter", test_run_train(run));
    start_from(run, test_text(run, "%s/none.safetensors:0.5", run->folder));
    assert_refused(run->ctx, SARA_ERROR_IO, "none.safetensors: ", test_run_train(run));
    assert_false(sara_path_exists(run->output));
}

/* ------------------------------------------------------------------------ of the other methods */

static const char *trained(test_run *run, const char *method)
{
    run->options.method = method;
    test_run_output(run, method);
    assert_ok(run->ctx, test_run_train(run));
    return test_text(run, "%s/adapter.safetensors", run->output);
}

/* Steps that change nothing give the file back. */
static void check_same(test_run *run, const char *method, const char *first)
{
    sara_adapter before, after;
    run->options.adapter = first;
    run->options.learning_rate = 1e-25;
    test_run_output(run, test_text(run, "%s-same", method));
    assert_ok(run->ctx, test_run_train(run));
    assert_non_null(strstr(run->log, "those of the adapter, from strength 1 on"));
    assert_int_equal(test_run_events(run, "reselect"), 0);
    assert_ok(run->ctx, sara_adapter_load(run->ctx, &before, first));
    test_run_adapter(run, &after);
    test_adapters_equal(&before, &after);
    assert_null(sara_adapter_metadata(&after, "sara.rank"));
    assert_null(sara_adapter_metadata(&after, "sara.ltsft_steps"));
    sara_adapter_free(&before);
    sara_adapter_free(&after);
    run->options.learning_rate = 0;
}

/* From a method's own file on; cut, and resumed without it. */
static void check_from_own(test_run *run, const char *method)
{
    run->options.adapter = NULL;
    run->options.resume_from_checkpoint = NULL;
    const char *first = trained(run, method), *moved = test_text(run, "%s.moved", first);
    check_same(run, method, first);
    test_run_output(run, test_text(run, "%s-whole", method));
    assert_ok(run->ctx, test_run_train(run));
    const char *sha256 = test_run_sha256(run);
    test_run_output(run, test_text(run, "%s-cut", method));
    run->interrupt_at = 1;
    assert_refused(run->ctx, SARA_INTERRUPTED, "and saved", test_run_train(run));
    run->interrupt_at = -1;
    run->options.resume_from_checkpoint = "latest";
    run->options.adapter = NULL;
    assert_int_equal(rename(first, moved), 0);
    run->options.trainable = "2%";
    assert_refused(run->ctx, SARA_ERROR_USAGE, "leave --trainable out", test_run_train(run));
    run->options.trainable = NULL;
    assert_ok(run->ctx, test_run_train(run));
    assert_string_equal(test_run_sha256(run), sha256);
}

static void test_from_own(void **state)
{
    test_run *run = *state;
    run->options.max_train_steps = 2;
    run->options.trainable = NULL;
    run->options.lr_scheduler = "constant";
    check_from_own(run, "shira");
    check_from_own(run, "ltsft");
}

/* A file of another method is refused by its name. */
static void test_from_others(void **state)
{
    static const char *const golden[][2] = {{"lora_sd1", "LoRA"},
                                            {"adaptformer_sd1", "adaptformer"}};
    static const char *const methods[] = {"sara", "shira", "ltsft", "lora", "adaptformer"};
    const char *files[5];
    test_run *run = *state;
    run->options.max_train_steps = 2;
    for (size_t i = 0; i < 3; i++)
        files[i] = trained(run, methods[i]);
    for (size_t i = 0; i < 2; i++)
        files[3 + i] = test_text(run, "%s/%s_start.safetensors", SARA_TEST_GOLDEN, golden[i][0]);
    run->options.trainable = NULL;
    test_run_output(run, "from");
    for (size_t i = 0; i < 5; i++)
        for (size_t k = 0; k < 5; k++) {
            const char *maker = k < 3 ? methods[k] : golden[k - 3][1];
            run->options.method = methods[i];
            run->options.adapter = files[k];
            if (i != k)
                assert_refused(run->ctx, SARA_ERROR_INPUT,
                               test_text(run, "holds an adapter of %s; --method %s goes on from",
                                         maker, methods[i]),
                               test_run_train(run));
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST_CASE(test_strength_zero),     TEST_TINY(test_as_on_merged), TEST_TINY(test_values),
        cmocka_unit_test(test_one_value),  TEST_TINY(test_metadata),     TEST_TINY(test_resumed),
        TEST_TINY(test_without_threshold), TEST_TINY(test_refused),      TEST_TINY(test_from_own),
        TEST_TINY(test_from_others),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

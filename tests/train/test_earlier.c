/* Checkpoints of the version of golden/checkpoint_v1, whose manifests lack what came later. */
#include "support_train.h"

#include <math.h>

#define FIXTURE SARA_TEST_GOLDEN "/checkpoint_v1"

static void set(test_run *run, const char *name, const char *value)
{
    assert_ok(run->ctx, sara_train_options_set(run->ctx, &run->options, name, value));
}

static void take_options_of_fixture(test_run *run)
{
    set(run, "trainable", "500");
    set(run, "learning_rate", "1e-5");
    set(run, "lambda_rank", "0");
    set(run, "lr_scheduler", "constant");
}

static const char *train_to(test_run *run, int64_t steps)
{
    run->options.max_train_steps = steps;
    assert_ok(run->ctx, test_run_train(run));
    run->options.resume_from_checkpoint = "latest";
    return test_run_sha256(run);
}

/* The uninterrupted run of this machine, with the reselection where four steps have it. */
static const char *train_whole(test_run *run)
{
    take_options_of_fixture(run);
    test_run_output(run, "whole");
    run->options.progressive_iter = 2;
    const char *sha256 = train_to(run, 8);
    run->options.progressive_iter = -1;
    run->options.resume_from_checkpoint = NULL;
    return sha256;
}

static const char *continue_fixture(test_run *run, const char *output)
{
    static const char *const files[] = {"adapter.safetensors", "state.safetensors",
                                        "manifest.json"};
    test_run_output(run, output);
    for (size_t i = 0; i < 3; i++)
        test_run_copy(run, test_text(run, "%s/checkpoint-4/%s", output, files[i]),
                      test_text(run, FIXTURE "/%s", files[i]));
    run->options.resume_from_checkpoint = "latest";
    const char *sha256 = train_to(run, 8);
    assert_non_null(strstr(run->log, "after step 2 was done and is not done again"));
    return sha256;
}

/* The same positions, and how far the values are apart relative to their change. */
static void assert_near(test_run *run, const sara_adapter *a, const sara_adapter *b)
{
    const sara_model_options options = {.unet_only = true};
    double error = 0, change = 0;
    sara_model *base = NULL;
    assert_ok(run->ctx, sara_model_load(run->ctx, &base, run->options.unet_only, &options));
    assert_int_equal(a->count, b->count);
    for (size_t i = 0; i < a->count; i++) {
        const sara_adapter_entry *x = &a->entries[i], *y = &b->entries[i];
        const sara_param *param = sara_params_find(&base->denoiser->params, x->name);
        assert_string_equal(x->name, y->name);
        assert_int_equal(x->count, y->count);
        assert_memory_equal(x->positions, y->positions, x->count * sizeof(*x->positions));
        for (size_t k = 0; k < x->count; k++) {
            error += pow((double)x->values[k] - (double)y->values[k], 2);
            change += pow((double)y->values[k] - (double)sara_param_get(param, x->positions[k]), 2);
        }
    }
    print_message("relative error of the change %.2g\n", sqrt(error / change));
    assert_close(sqrt(error / change), 2e-3, "values after the last step");
    sara_model_free(base);
}

/* Its values came from another instruction set, perhaps: they are near those of this machine by the
 * bound that holds for all of them. */
static void test_fixture(void **state)
{
    test_run *run = *state;
    sara_adapter now, then;
    train_whole(run);
    test_run_adapter(run, &now);
    const char *sha256 = continue_fixture(run, "then");
    test_run_adapter(run, &then);
    assert_near(run, &then, &now);
    assert_string_equal(continue_fixture(run, "again"), sha256);
    sara_adapter_free(&now);
    sara_adapter_free(&then);
}

/* --------------------------------------------------------------------- today's in its form */

static json_t *load_object(test_run *run, const char *path)
{
    json_t *object = NULL;
    assert_ok(run->ctx, sara_json_load(run->ctx, &object, path, false));
    return object;
}

static void hash_again(test_run *run, json_t *manifest)
{
    char sha256[65];
    sara_sha256 *hash = NULL;
    assert_int_equal(json_object_del(manifest, "sha256"), 0);
    char *text = json_dumps(manifest, JSON_COMPACT | JSON_SORT_KEYS | JSON_REAL_PRECISION(17));
    assert_non_null(text);
    assert_ok(run->ctx, sara_sha256_new(run->ctx, &hash));
    assert_ok(run->ctx, sara_sha256_add(hash, text, strlen(text)));
    assert_ok(run->ctx, sara_sha256_end(&hash, sha256));
    assert_int_equal(json_object_set_new(manifest, "sha256", json_string(sha256)), 0);
    free(text);
}

/* Takes out of the run's manifest what the earlier version did not keep; the key is among it. */
static void make_earlier(test_run *run, const char *checkpoint, const char *newer_key)
{
    const char *folder = test_text(run, "%s/%s", run->output, checkpoint), *key;
    json_t *manifest = load_object(run, test_text(run, "%s/manifest.json", folder));
    json_t *fixture = load_object(run, FIXTURE "/manifest.json"), *value;
    json_t *kept = json_object_get(manifest, "run"), *earlier = json_object(), *was;
    assert_non_null(json_object_get(kept, newer_key));
    json_object_foreach(json_object_get(fixture, "run"), key, was)
    {
        value = json_object_get(kept, key);
        assert_non_null(value);
        assert_int_equal(json_object_set(earlier, key, value), 0);
    }
    assert_null(json_object_get(earlier, newer_key));
    assert_int_equal(json_object_set_new(manifest, "run", earlier), 0);
    hash_again(run, manifest);
    assert_ok(run->ctx, sara_json_save(run->ctx, folder, "manifest.json", manifest, 0));
    json_decref(manifest);
    json_decref(fixture);
}

/* Consumes the value. within NULL: the manifest itself. */
static void put(test_run *run, const char *checkpoint, const char *within, const char *key,
                json_t *value)
{
    const char *folder = test_text(run, "%s/%s", run->output, checkpoint);
    json_t *manifest = load_object(run, test_text(run, "%s/manifest.json", folder));
    json_t *object = within ? json_object_get(manifest, within) : manifest;
    assert_int_equal(json_object_set_new(object, key, value), 0);
    hash_again(run, manifest);
    assert_ok(run->ctx, sara_json_save(run->ctx, folder, "manifest.json", manifest, 0));
    json_decref(manifest);
}

/* A version that had not these options. */
static void take_out(test_run *run, const char *checkpoint, const char *const *keys, size_t count)
{
    const char *folder = test_text(run, "%s/%s", run->output, checkpoint);
    json_t *manifest = load_object(run, test_text(run, "%s/manifest.json", folder));
    for (size_t i = 0; i < count; i++)
        assert_int_equal(json_object_del(json_object_get(manifest, "run"), keys[i]), 0);
    hash_again(run, manifest);
    assert_ok(run->ctx, sara_json_save(run->ctx, folder, "manifest.json", manifest, 0));
    json_decref(manifest);
}

/* A key that is not among what the run was given, but came of it, is not known to differ. */
static void test_lacking(void **state)
{
    static const char *const keys[] = {"lr_power",        "adam_beta2",      "random_flip",
                                       "instance_prompt", "prediction_type", "learning_rate"};
    test_run *run = *state;
    const char *sha256 = train_whole(run);
    test_run_output(run, "then");
    train_to(run, 4);
    take_out(run, "checkpoint-4", keys, sizeof(keys) / sizeof(*keys));
    run->options.max_train_steps = 8;
    run->options.lr_power = 2;
    assert_refused(run->ctx, SARA_ERROR_USAGE, "the run has lr_power = 1.0, now it is 2.0",
                   test_run_train(run));
    run->options.lr_power = 1;
    run->options.adam_beta2 = 0.99;
    assert_refused(run->ctx, SARA_ERROR_USAGE, "the run has adam_beta2 = 0.999, now it is 0.99;",
                   test_run_train(run));
    run->options.adam_beta2 = 0.999;
    assert_string_equal(train_to(run, 8), sha256);
}

/* What a newer program wrote is not damaged: no older checkpoint is taken in its place. */
static void test_newer(void **state)
{
    test_run *run = *state;
    take_options_of_fixture(run);
    run->options.checkpointing_steps = 2;
    test_run_output(run, "newer");
    train_to(run, 4);
    run->options.max_train_steps = 8;
    put(run, "checkpoint-4", "run", "method", json_string("later"));
    assert_refused(run->ctx, SARA_ERROR_USAGE,
                   "checkpoint-4: of the method later, which this program does not know",
                   test_run_train(run));
    put(run, "checkpoint-4", NULL, "version", json_integer(2));
    assert_refused(run->ctx, SARA_ERROR_USAGE,
                   "manifest.json: version 2, this program reads version 1", test_run_train(run));
    put(run, "checkpoint-4", NULL, "version", json_integer(1));
    put(run, "checkpoint-4", NULL, "run", json_array());
    assert_ok(run->ctx, test_run_train(run));
    assert_non_null(strstr(run->log, "manifest.json: run: expected an object"));
}

static void test_replay(void **state)
{
    test_run *run = *state;
    const char *sha256 = train_whole(run);
    test_run_output(run, "then");
    train_to(run, 4);
    make_earlier(run, "checkpoint-4", "progressive_iter_auto");
    assert_string_equal(train_to(run, 8), sha256);
    assert_non_null(strstr(run->log, "after step 2 was done and is not done again"));
}

static void test_images(void **state)
{
    test_run *run = *state;
    test_run_take_images(run, 3);
    run->options.random_flip = true;
    test_run_output(run, "whole");
    const char *sha256 = train_to(run, 4), *lines = test_run_lines(run);
    run->options.resume_from_checkpoint = NULL;
    test_run_output(run, "then");
    run->interrupt_at = 2;
    assert_refused(run->ctx, SARA_INTERRUPTED, "after step 2 of 4", test_run_train(run));
    run->interrupt_at = -1;
    make_earlier(run, "checkpoint-2", "vae_sha256");
    run->options.resume_from_checkpoint = "latest";
    assert_string_equal(train_to(run, 4), sha256);
    assert_string_equal(test_run_lines(run), lines);
    assert_non_null(strstr(run->log, "resuming after step 2 of 4"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST_CASE(test_fixture), TEST_CASE(test_lacking), TEST_CASE(test_newer),
        TEST_CASE(test_replay),  TEST_CASE(test_images),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

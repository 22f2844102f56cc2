/* Damaged checkpoints, and resuming as another run than the one that was saved. */
#include "support_train.h"

/* A run stopped after step 6 with the checkpoints 2, 4 and 6. */
static void stop_at_six(test_run *run, const char *output)
{
    test_run_output(run, output);
    run->options.resume_from_checkpoint = NULL;
    run->options.checkpointing_steps = 2;
    run->interrupt_at = 6;
    assert_refused(run->ctx, SARA_INTERRUPTED, "after step 6", test_run_train(run));
    run->interrupt_at = -1;
    run->options.resume_from_checkpoint = "latest";
}

static void resume_after_four(test_run *run, const char *sha256, const char *reason)
{
    assert_ok(run->ctx, test_run_train(run));
    assert_non_null(strstr(run->log, "checkpoint-6: damaged ("));
    assert_non_null(strstr(run->log, reason));
    assert_non_null(strstr(run->log, "taking the one before"));
    assert_non_null(strstr(run->log, "resuming after step 4 of 10"));
    assert_string_equal(test_run_sha256(run), sha256);
}

static void test_flipped_bit(void **state)
{
    static const char *const files[] = {"state.safetensors", "adapter.safetensors"};
    test_run *run = *state;
    run->options.checkpoints_total_limit = 0;
    test_run_output(run, "whole");
    assert_ok(run->ctx, test_run_train(run));
    const char *sha256 = test_run_sha256(run);
    for (size_t i = 0; i < 2; i++) {
        stop_at_six(run, files[i]);
        const char *name = test_text(run, "checkpoint-6/%s", files[i]);
        test_run_flip_bit(run, name);
        run->options.resume_from_checkpoint = "checkpoint-6";
        assert_refused(run->ctx, SARA_ERROR_INPUT, name, test_run_train(run));
        run->options.resume_from_checkpoint = "latest";
        resume_after_four(run, sha256, name);
        run->options.resume_from_checkpoint = "checkpoint-6"; /* written anew on the way */
        assert_ok(run->ctx, test_run_train(run));
    }
}

/* Whether another byte leaves the values as they are: the last digit of a number may. */
static bool has_same_values(const char *a, const char *b)
{
    json_t *first = json_loads(a, 0, NULL), *second = json_loads(b, 0, NULL);
    bool same = first && second && json_equal(first, second);
    json_decref(first);
    json_decref(second);
    return same;
}

/* Each byte of the manifest counts: text that no longer parses, another number, another hash. */
static void test_manifest(void **state)
{
    test_run *run = *state;
    size_t size;
    test_run_output(run, "whole");
    assert_ok(run->ctx, test_run_train(run));
    const char *sha256 = test_run_sha256(run);
    stop_at_six(run, "run");
    const char *name = "checkpoint-6/manifest.json";
    const char *text = test_run_read(run, name, &size);
    for (size_t i = 0; i < size; i += 37) {
        char *damaged = (char *)(uintptr_t)test_text(run, "%s", text);
        damaged[i] ^= 1;
        if (has_same_values(text, damaged))
            continue;
        test_run_write(run, name, damaged, size);
        run->options.resume_from_checkpoint = "checkpoint-6";
        test_assert_status(run->ctx, test_run_train(run), SARA_ERROR_INPUT, damaged, __FILE__,
                           __LINE__);
    }
    run->options.resume_from_checkpoint = "latest";
    test_run_write(run, name, "{", 1);
    resume_after_four(run, sha256, "manifest.json");
}

static void test_changed_counter(void **state)
{
    test_run *run = *state;
    size_t size;
    stop_at_six(run, "run");
    const char *name = "checkpoint-6/manifest.json";
    const char *text = test_run_read(run, name, &size);
    char *place = strstr(text, "\"micro_batches\": 6");
    assert_non_null(place);
    place[strlen("\"micro_batches\": ")] = '5';
    test_run_write(run, name, text, size);
    run->options.resume_from_checkpoint = "checkpoint-6";
    assert_refused(run->ctx, SARA_ERROR_INPUT, "manifest.json: SHA-256", test_run_train(run));
    place = strstr(text, "\"version\": 1");
    assert_non_null(place);
    for (char version = '0'; version <= '2'; version += 2) {
        place[strlen("\"version\": ")] = version;
        test_run_write(run, name, text, size);
        assert_refused(run->ctx, version > '1' ? SARA_ERROR_USAGE : SARA_ERROR_INPUT,
                       test_text(run, "version %c, this program reads version 1", version),
                       test_run_train(run));
    }
}

static void test_missing_file(void **state)
{
    test_run *run = *state;
    test_run_output(run, "whole");
    assert_ok(run->ctx, test_run_train(run));
    const char *sha256 = test_run_sha256(run);
    stop_at_six(run, "run");
    assert_int_equal(remove(test_text(run, "%s/checkpoint-6/state.safetensors", run->output)), 0);
    resume_after_four(run, sha256, "state.safetensors");
}

static void test_all_damaged(void **state)
{
    test_run *run = *state;
    stop_at_six(run, "run");
    for (int step = 2; step <= 6; step += 2)
        test_run_flip_bit(run, test_text(run, "checkpoint-%d/state.safetensors", step));
    assert_refused(run->ctx, SARA_ERROR_INPUT, "all of its 3 checkpoints are damaged",
                   test_run_train(run));
    assert_non_null(strstr(run->log, "checkpoint-2: damaged"));
    assert_true(test_run_has(run, "checkpoint-6"));
}

/* ------------------------------------------------------------------------------- another run */

static void test_changed_options(void **state)
{
    static const char *const changes[][2] = {{"learning_rate", "1e-4"},
                                             {"lambda_rank", "0.1"},
                                             {"trainable", "3%"},
                                             {"seed", "43"},
                                             {"progressive_iter", "3"},
                                             {"lr_scheduler", "linear"},
                                             {"adam_beta1", "0.8"},
                                             {"max_grad_norm", "0.5"},
                                             {"lr_warmup_steps", "2"},
                                             {"prediction_type", "v_prediction"}};
    test_run *run = *state;
    stop_at_six(run, "run");
    const sara_train_options saved = run->options;
    for (size_t i = 0; i < sizeof(changes) / sizeof(*changes); i++) {
        const char *name = changes[i][0];
        assert_ok(run->ctx, sara_train_options_set(run->ctx, &run->options, name, changes[i][1]));
        if (strcmp(name, "trainable") == 0)
            name = "threshold";
        assert_refused(run->ctx, SARA_ERROR_USAGE, test_text(run, "the run has %s = ", name),
                       test_run_train(run));
        run->options = saved;
    }
    assert_ok(run->ctx, test_run_train(run)); /* none of that did any harm */
}

/* What the weights are in memory, not how that was asked for; another threshold follows. */
static void test_changed_weight_dtype(void **state)
{
    test_run *run = *state;
    run->options.weight_dtype = "bfloat16";
    stop_at_six(run, "run");
    run->options.weight_dtype = "fp32";
    assert_refused(
        run->ctx, SARA_ERROR_USAGE,
        "the run has weight_dtype = \"bf16\", now it is \"fp32\"; a resumed run keeps its",
        test_run_train(run));
    run->options.weight_dtype = "auto"; /* the file is F32 */
    assert_refused(run->ctx, SARA_ERROR_USAGE, "\"bf16\", now it is \"fp32\"", test_run_train(run));
    run->options.weight_dtype = "bf16";
    assert_ok(run->ctx, test_run_train(run));
}

/* What does not decide the result may change. */
static void test_free_options(void **state)
{
    test_run *run = *state;
    stop_at_six(run, "run");
    run->options.checkpointing_steps = 3;
    run->options.checkpoints_total_limit = 1;
    assert_ok(run->ctx, test_run_train(run));
}

static void test_changed_data(void **state)
{
    static const int order[10] = {0, 1, 2, 3, 4, 5, 6, 7, 9, 8};
    test_run *run = *state;
    stop_at_six(run, "run");
    run->options.replay = test_run_replay(run, "other.safetensors", order, 10, true);
    assert_refused(run->ctx, SARA_ERROR_USAGE, "the run has data_sha256 = ", test_run_train(run));
}

/* The base with one trained value changed, from which another threshold follows. */
static void test_changed_base(void **state)
{
    test_run *run = *state;
    sara_model *model = NULL;
    const sara_model_options options = {.unet_only = true};
    stop_at_six(run, "run");
    assert_ok(run->ctx, sara_model_load(run->ctx, &model, run->options.unet_only, &options));
    float *value = sara_params_find(&model->denoiser->params, "conv_in.weight")->value.data;
    value[0] = value[0] > 0 ? value[0] + 1 : value[0] - 1;
    const char *changed = test_text(run, "%s/base", run->folder);
    assert_ok(run->ctx, sara_model_save(run->ctx, NULL, model, changed, NULL));
    run->options.unet_only = changed;
    assert_refused(run->ctx, SARA_ERROR_USAGE, "the run has base_sha256 = ", test_run_train(run));
    sara_model_free(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST_TINY(test_flipped_bit),          TEST_TINY(test_manifest),
        TEST_TINY(test_changed_counter),      TEST_TINY(test_missing_file),
        TEST_TINY(test_all_damaged),          TEST_CASE(test_changed_options),
        TEST_TINY(test_changed_weight_dtype), TEST_TINY(test_free_options),
        TEST_TINY(test_changed_data),         TEST_TINY(test_changed_base),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

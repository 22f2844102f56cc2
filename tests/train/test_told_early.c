/* What is wrong is told before the first image is encoded, and leaves no folder behind. */
#include "support_train.h"

#include <sys/stat.h>
#include <unistd.h>

static void use_images(test_run *run)
{
    test_run_use_images(run, 2);
    run->options.train_batch_size = 1;
    run->options.max_train_steps = 1;
    run->options.resolution = 32;
}

static void refused_early(test_run *run, sara_status status, const char *words)
{
    run->encoded = 0;
    assert_refused(run->ctx, status, words, test_run_train(run));
    assert_int_equal(run->encoded, 0);
}

static void test_another_batch_size(void **state)
{
    test_run *run = *state;
    use_images(run);
    assert_ok(run->ctx, test_run_train(run));
    assert_int_equal(run->encoded, 2); /* it is seen at all */
    size_t size, again;
    const char *log = test_run_read(run, "log.jsonl", &size);
    run->options.resume_from_checkpoint = "latest";
    run->options.train_batch_size = 2;
    run->options.pretrained_model_name_or_path = "nowhere"; /* not read either */
    refused_early(run, SARA_ERROR_USAGE, "checkpoint-1: the run has train_batch_size = 1, now");
    use_images(run);
    run->options.resume_from_checkpoint = "checkpoint-77";
    refused_early(run, SARA_ERROR_IO, "checkpoint-77/manifest.json");
    run->options.resume_from_checkpoint = "latest";
    run->options.learning_rate = 1e-4; /* known with the model alone */
    refused_early(run, SARA_ERROR_USAGE, "the run has learning_rate = ");
    run->options.learning_rate = 0;
    test_run_flip_bit(run, "checkpoint-1/state.safetensors");
    refused_early(run, SARA_ERROR_INPUT, "all of its 1 checkpoints are damaged");
    assert_memory_equal(test_run_read(run, "log.jsonl", &again), log, size);
    assert_int_equal(again, size);
}

static void test_budgets(void **state)
{
    test_run *run = *state;
    use_images(run);
    run->options.trainable = "0.00000001%";
    refused_early(run, SARA_ERROR_USAGE, "selects nothing");
    run->options.trainable = "100%";
    refused_early(run, SARA_ERROR_USAGE, "--learning_rate is missing");
    run->options.trainable = NULL;
    run->options.train_batch_size = 4096;
    run->options.resolution = 1024;
    refused_early(run, SARA_ERROR_MEMORY, "it fits with --train_batch_size ");
    assert_false(sara_path_exists(run->output));
}

/* Encoding alone may need more than the steps: one picture at a large resolution, few entries. */
static void test_encoder_too_large(void **state)
{
    test_run *run = *state;
    sara_context *ctx = NULL;
    sara_context_options limited = {.threads = 1, .memory_limit = (uint64_t)400 << 20};
    use_images(run);
    run->options.resolution = 1024;
    run->options.gradient_checkpointing = true;
    run->options.weight_dtype = "bf16";
    assert_ok(ctx, sara_context_new(&ctx, &limited));
    assert_refused(ctx, SARA_ERROR_MEMORY, " MiB are available; it fits with",
                   sara_train(ctx, NULL, &run->options));
    sara_context_free(ctx);
    assert_false(sara_path_exists(run->output));
}

/* The warning about captions needs no text encoder. */
static void test_long_captions(void **state)
{
    test_run *run = *state;
    char caption[400];
    use_images(run);
    for (size_t i = 0; i < sizeof(caption); i++)
        caption[i] = i % 2 ? ' ' : 'a';
    caption[sizeof(caption) - 1] = '\0';
    run->options.instance_prompt = caption;
    run->options.trainable = "0.00000001%";
    refused_early(run, SARA_ERROR_USAGE, "selects nothing");
    assert_non_null(strstr(run->log, "captions are cut at 32 tokens for CLIP: 1 of 1, "));
}

/* What stands where files of the run will be written, some of them only at its end. */
static void test_places(void **state)
{
    static const char *const names[] = {"report.html", "log.jsonl", "adapter.safetensors"};
    test_run *run = *state;
    use_images(run);
    for (size_t i = 0; i < 3; i++) {
        test_run_output(run, names[i]);
        const char *place = test_text(run, "%s/%s", run->output, names[i]);
        assert_ok(run->ctx, sara_directory_make(run->ctx, place));
        refused_early(run, SARA_ERROR_IO, place);
    }
    test_run_output(run, "samples");
    assert_ok(run->ctx, sara_directory_make(run->ctx, run->output));
    test_run_write(run, "samples", "x", 1);
    refused_early(run, SARA_ERROR_IO, "samples: is no folder, and pictures");
    test_run_output(run, "profile");
    run->options.profile = test_text(run, "%s/none/trace.json", run->folder);
    refused_early(run, SARA_ERROR_IO, "none/trace.json");
    assert_false(sara_path_exists(run->output));
}

/* Folders that were made for the run go again, those that were there stay. */
static void test_made_folders(void **state)
{
    test_run *run = *state;
    use_images(run);
    run->options.trainable = "0.00000001%";
    assert_int_equal(mkdir(test_text(run, "%s/a", run->folder), 0777), 0);
    test_run_output(run, "a/b//c/");
    refused_early(run, SARA_ERROR_USAGE, "selects nothing");
    assert_true(sara_path_exists(test_text(run, "%s/a", run->folder)));
    assert_false(sara_path_exists(test_text(run, "%s/a/b", run->folder)));
    test_run_output(run, "a");
    refused_early(run, SARA_ERROR_USAGE, "selects nothing");
    assert_true(sara_path_exists(run->output));
}

/* A prompt that could not be drawn at the first validation: 20 steps of 10. */
static void test_validation(void **state)
{
    static const char *const parts[] = {"unet", "vae", "text_encoder", "tokenizer",
                                        "model_index.json"};
    static const char few[] = "{\"_class_name\": \"DDIMScheduler\", \"num_train_timesteps\": 10}";
    test_run *run = *state;
    const char *base = test_text(run, "%s/base", run->folder);
    use_images(run);
    test_put(run->folder, "base/scheduler/scheduler_config.json", few, strlen(few));
    for (size_t i = 0; i < 5; i++)
        assert_int_equal(symlink(test_text(run, SARA_TEST_EMOJI "/base/%s", parts[i]),
                                 test_text(run, "%s/%s", base, parts[i])),
                         0);
    run->options.pretrained_model_name_or_path = base;
    run->options.validation_prompts[0] = "a cat";
    run->options.validation_prompt_count = 1;
    refused_early(run, SARA_ERROR_USAGE, "--validation_prompt: steps 20: expected 1 to 10");
}

/* A replay's matrix that is not trained, of a step far from the first. */
static void test_rank_names(void **state)
{
    static const int order[10] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9};
    test_run *run = *state;
    const char *path = test_run_replay(run, "names.safetensors", order, 10, true);
    char *data = NULL, *name = NULL;
    size_t size = 0;
    assert_ok(run->ctx, sara_file_read(run->ctx, &data, &size, path, 1 << 28));
    for (char *at = data; (at = memmem(at, size - (size_t)(at - data), ".weight\\\"", 9)); at++)
        name = at;
    assert_non_null(name);
    memcpy(name, ".wait__", 7);
    assert_ok(run->ctx, sara_file_write(run->ctx, path, data, size));
    sara_free(run->ctx, data);
    run->options.replay = path;
    assert_refused(run->ctx, SARA_ERROR_INPUT, "names.safetensors: low-rank term of ",
                   test_run_train(run));
    assert_false(test_run_has(run, "log.jsonl"));
}

/* Of seven images that cannot be used the first five are named. */
static void test_damaged_images(void **state)
{
    test_run *run = *state;
    const char *folder = test_text(run, "%s/damaged", run->folder);
    use_images(run);
    assert_ok(run->ctx, sara_directory_make(run->ctx, folder));
    for (char name = 'a'; name <= 'g'; name++)
        assert_ok(run->ctx, sara_file_write(run->ctx, test_text(run, "%s/%c.png", folder, name),
                                            "no image", 8));
    run->options.train_data_dir = folder;
    run->options.instance_prompt = "x";
    assert_refused(run->ctx, SARA_ERROR_INPUT,
                   test_text(run,
                             "a.png: unknown content, expected a PNG, JPEG or WebP image (and 6 "
                             "more images cannot be used: %s/b.png, %s/c.png, %s/d.png, %s/e.png, "
                             "...)",
                             folder, folder, folder, folder),
                   test_run_train(run));
}

/* A timestep beyond those that the scheduler has, in the last entry. */
static void test_timesteps(void **state)
{
    static const int64_t wrong[] = {1000, -1};
    test_run *run = *state;
    const char *path = test_text(run, "%s/other.safetensors", run->folder);
    sara_safetensors *file = test_open(run->ctx, run->options.replay);
    const sara_tensor_info *info = sara_safetensors_find(file, "timesteps");
    char *data = NULL;
    size_t size;
    assert_ok(run->ctx, sara_file_read(run->ctx, &data, &size, run->options.replay, 1 << 28));
    run->options.replay = path;
    for (size_t i = 0; i < 2; i++) {
        memcpy(data + info->offset + info->size - sizeof(*wrong), &wrong[i], sizeof(*wrong));
        assert_ok(run->ctx, sara_file_write(run->ctx, path, data, size));
        assert_refused(run->ctx, SARA_ERROR_INPUT,
                       test_text(run, "%s: timesteps[9] is %lld, expected 0 to 999", path,
                                 (long long)wrong[i]),
                       test_run_train(run));
    }
    sara_free(run->ctx, data);
    sara_safetensors_close(file);
}

static void test_space(void **state)
{
    test_run *run = *state;
    sara_run folder;
    assert_ok(run->ctx, sara_run_open(run->ctx, &folder, run->output));
    test_run_forget_log(run);
    assert_ok(run->ctx, sara_run_check_space(&folder, 1, 1));
    assert_string_equal(run->log, "");
    assert_ok(run->ctx, sara_run_check_space(&folder, 1, UINT64_MAX / 2));
    assert_non_null(strstr(run->log, "--checkpoints_total_limit keeps fewer"));
    assert_refused(run->ctx, SARA_ERROR_IO, "a checkpoint takes at least ",
                   sara_run_check_space(&folder, UINT64_MAX / 2, UINT64_MAX / 2));
    sara_run_close(&folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST_CASE(test_another_batch_size),
        TEST_CASE(test_budgets),
        TEST_CASE(test_encoder_too_large),
        TEST_CASE(test_long_captions),
        TEST_CASE(test_places),
        TEST_CASE(test_made_folders),
        TEST_CASE(test_validation),
        TEST_CASE(test_rank_names),
        TEST_TINY(test_timesteps),
        TEST_CASE(test_space),
        TEST_CASE(test_damaged_images),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

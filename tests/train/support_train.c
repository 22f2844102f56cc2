#include "support_train.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static void note(void *user, sara_log_level level, const char *line)
{
    test_run *run = user;
    char *longer = NULL;
    (void)level;
    if (asprintf(&longer, "%s%s\n", run->log ? run->log : "", line) < 0)
        fail_msg("out of memory");
    free(run->log);
    run->log = longer;
    if (run->interrupt_on && strstr(line, run->interrupt_on))
        sara_context_interrupt(run->ctx);
}

static void watch(void *user, const sara_progress *progress)
{
    test_run *run = user;
    run->encoded += strcmp(progress->phase, "cache") == 0;
    if (strcmp(progress->phase, "train") == 0 && progress->step == run->interrupt_at)
        sara_context_interrupt(run->ctx);
}

const char *test_text(test_run *run, const char *format, ...)
{
    const char *kept = NULL;
    char *text = NULL;
    va_list args;
    va_start(args, format);
    int length = vasprintf(&text, format, args);
    va_end(args);
    if (length < 0)
        fail_msg("out of memory");
    assert_ok(run->ctx, sara_arena_strdup(&run->strings, &kept, text));
    free(text);
    return kept;
}

void test_run_output(test_run *run, const char *name)
{
    run->output = (char *)(uintptr_t)test_text(run, "%s/%s", run->folder, name);
    run->options.output_dir = run->output;
}

int test_run_setup(void **state)
{
    test_run *run = calloc(1, sizeof(*run));
    assert_non_null(run);
    sara_context_options options = {.threads = 2, .log = note, .progress = watch, .user = run};
    run->folder = test_folder();
    run->interrupt_at = -1;
    assert_ok(run->ctx, sara_context_new(&run->ctx, &options));
    sara_arena_init(&run->strings, run->ctx);
    sara_train_options_init(&run->options);
    run->options.unet_only = SARA_TEST_GOLDEN "/unet_sd1";
    run->options.replay = SARA_TEST_GOLDEN "/train_sd1.safetensors";
    test_run_output(run, "run");
    *state = run;
    return 0;
}

static sara_tensor_source made_up(test_run *run, const char *name, sara_shape shape, uint64_t index)
{
    size_t count = (size_t)sara_shape_count(&shape);
    float *data = NULL;
    assert_ok(run->ctx, sara_arena_alloc(&run->strings, &data, count, sizeof(*data)));
    sara_draw_normal(data, count, 1, SARA_DRAW_TEST, index);
    return (sara_tensor_source){name, SARA_F32, shape, data};
}

int test_run_setup_tiny(void **state)
{
    static const int64_t timesteps[TEST_REPLAY_STEPS] = {3, 999, 500, 20, 0, 700, 101, 850, 42, 7};
    const sara_shape latents = {5, {TEST_REPLAY_STEPS, 1, 4, 4, 6}};
    test_run_setup(state);
    test_run *run = *state;
    const sara_tensor_source sources[] = {
        made_up(run, "latents", latents, 0),
        made_up(run, "noise", latents, 1),
        made_up(run, "encoder_hidden_states", sara_shape4(TEST_REPLAY_STEPS, 1, 3, 3), 2),
        {"timesteps", SARA_I64, sara_shape2(TEST_REPLAY_STEPS, 1), timesteps}};
    run->options.unet_only = SARA_TEST_GOLDEN "/variants/unet_tiny";
    run->options.replay = test_text(run, "%s/tiny.safetensors", run->folder);
    assert_ok(run->ctx, sara_safetensors_save(run->ctx, run->options.replay, sources, 4, NULL, 0));
    return 0;
}

int test_run_teardown(void **state)
{
    test_run *run = *state;
    sara_arena_free(&run->strings);
    sara_context_free(run->ctx);
    test_folder_remove(run->folder);
    free(run->log);
    free(run);
    return 0;
}

void test_run_forget_log(test_run *run)
{
    free(run->log);
    run->log = strdup("");
    assert_non_null(run->log);
}

sara_status test_run_train(test_run *run)
{
    test_run_forget_log(run);
    return sara_train(run->ctx, NULL, &run->options);
}

void test_run_interrupted(test_run *run)
{
    const int64_t steps = run->options.max_train_steps;
    const char *saved = test_text(run, "of %lld and saved", (long long)steps);
    test_run_output(run, "whole");
    assert_ok(run->ctx, test_run_train(run));
    const char *sha256 = test_run_sha256(run), *lines = test_run_lines(run);
    test_run_output(run, "interrupted");
    for (run->interrupt_at = 1; run->interrupt_at < steps; run->interrupt_at += 2) {
        assert_refused(run->ctx, SARA_INTERRUPTED, saved, test_run_train(run));
        run->options.resume_from_checkpoint = "latest";
    }
    run->interrupt_at = -1;
    assert_ok(run->ctx, test_run_train(run));
    assert_string_equal(test_run_sha256(run), sha256);
    assert_string_equal(test_run_lines(run), lines);
    run->options.resume_from_checkpoint = NULL;
}

/* --------------------------------------------------------------------------------------- files */

const char *test_run_read(test_run *run, const char *name, size_t *size)
{
    const char *path = test_text(run, "%s/%s", run->output, name);
    char *data = NULL, *kept = NULL;
    assert_ok(run->ctx, sara_file_read(run->ctx, &data, size, path, 1 << 28));
    assert_ok(run->ctx, sara_arena_alloc(&run->strings, &kept, *size + 1, 1));
    memcpy(kept, data, *size + 1);
    sara_free(run->ctx, data);
    return kept;
}

void test_run_write(test_run *run, const char *name, const char *data, size_t size)
{
    const char *path = test_text(run, "%s/%s", run->output, name);
    assert_ok(run->ctx, sara_file_write(run->ctx, path, data, size));
}

bool test_run_has(test_run *run, const char *name)
{
    return sara_path_exists(test_text(run, "%s/%s", run->output, name));
}

const char *test_run_sha256(test_run *run)
{
    char sha256[65];
    static const char *const results[] = {"unet/diffusion_pytorch_model.safetensors",
                                          "adaptformer.safetensors", "lora.safetensors",
                                          "adapter.safetensors"};
    size_t i = 0;
    while (i < 3 && !test_run_has(run, results[i]))
        i++;
    const char *path = test_text(run, "%s/%s", run->output, results[i]);
    assert_ok(run->ctx, sara_sha256_file(run->ctx, sha256, path));
    return test_text(run, "%s", sha256);
}

void test_run_flip_bit(test_run *run, const char *name)
{
    size_t size = 0;
    char *data = (char *)(uintptr_t)test_run_read(run, name, &size);
    data[size / 2] ^= 1;
    test_run_write(run, name, data, size);
}

/* ------------------------------------------------------------------------------------ log.jsonl */

const char *test_run_lines(test_run *run)
{
    size_t size = 0;
    char *text = (char *)(uintptr_t)test_run_read(run, "log.jsonl", &size);
    for (char *at = text; (at = strstr(at, "\"seconds\":"));) {
        at += strlen("\"seconds\":");
        size_t number = strcspn(at, ",}");
        memmove(at, at + number, strlen(at + number) + 1);
    }
    return text;
}

/* The next line of *text as an object, NULL at the end; a line that is no object fails. */
static json_t *next_line(const char **text)
{
    const char *end = strchr(*text, '\n');
    if (!end) {
        assert_string_equal(*text, "");
        return NULL;
    }
    json_t *line = json_loadb(*text, (size_t)(end - *text), 0, NULL);
    if (!json_is_object(line))
        fail_msg("log.jsonl: no object: %.*s", (int)(end - *text), *text);
    *text = end + 1;
    return line;
}

size_t test_run_column(test_run *run, double *out, size_t limit, const char *field)
{
    size_t size, count = 0;
    const char *text = test_run_read(run, "log.jsonl", &size);
    for (json_t *line; (line = next_line(&text)); json_decref(line)) {
        const json_t *step = json_object_get(line, "step");
        if (!step || count == limit)
            continue;
        assert_int_equal(json_integer_value(step), count + 1);
        const json_t *value = json_object_get(line, field);
        assert_true(json_is_number(value));
        out[count++] = json_number_value(value);
    }
    return count;
}

size_t test_run_events(test_run *run, const char *event)
{
    size_t size, count = 0;
    const char *text = test_run_read(run, "log.jsonl", &size);
    for (json_t *line; (line = next_line(&text)); json_decref(line)) {
        const char *name = json_string_value(json_object_get(line, "event"));
        count += name && strcmp(name, event) == 0;
    }
    return count;
}

/* --------------------------------------------------------------------------------------- replay */

static void reorder(test_run *run, sara_tensor_source *out, const sara_safetensors *file,
                    const char *name, const int *order, size_t count)
{
    const sara_tensor_info *info = sara_safetensors_find(file, name);
    char *all = NULL, *chosen = NULL;
    assert_non_null(info);
    size_t entry = (size_t)(info->size / (uint64_t)info->shape.dims[0]);
    assert_ok(run->ctx, sara_arena_alloc(&run->strings, &all, (size_t)info->size, 1));
    assert_ok(run->ctx, sara_arena_alloc(&run->strings, &chosen, count, entry));
    assert_ok(run->ctx, sara_safetensors_read(file, all, info));
    for (size_t i = 0; i < count; i++) {
        size_t from = (size_t)(order[i] < 0 ? -1 - order[i] : order[i]);
        memcpy(chosen + i * entry, all + from * entry, entry);
        if (order[i] < 0 && strcmp(name, "latents") == 0)
            *(float *)(void *)(chosen + i * entry) = NAN;
    }
    *out = (sara_tensor_source){name, info->dtype, info->shape, chosen};
    out->shape.dims[0] = (int64_t)count;
}

const char *test_run_replay(test_run *run, const char *name, const int *order, size_t count,
                            bool rank_names)
{
    static const char *const names[] = {"latents", "noise", "timesteps", "encoder_hidden_states"};
    const char *path = test_text(run, "%s/%s", run->folder, name);
    sara_safetensors *file = test_open(run->ctx, run->options.replay);
    sara_tensor_source sources[4];
    sara_metadata metadata = {"rank_names", sara_safetensors_metadata(file, "rank_names")};
    for (size_t i = 0; i < 4; i++)
        reorder(run, &sources[i], file, names[i], order, count);
    assert_ok(run->ctx, sara_safetensors_save(run->ctx, path, sources, 4, &metadata,
                                              rank_names && metadata.value));
    sara_safetensors_close(file);
    return path;
}

void test_run_adapter(test_run *run, sara_adapter *adapter)
{
    const char *path = test_text(run, "%s/adapter.safetensors", run->output);
    assert_ok(run->ctx, sara_adapter_load(run->ctx, adapter, path));
}

void test_adapters_equal(const sara_adapter *a, const sara_adapter *b)
{
    assert_int_equal(a->count, b->count);
    for (size_t i = 0; i < a->count; i++) {
        const sara_adapter_entry *x = &a->entries[i], *y = &b->entries[i];
        assert_string_equal(x->name, y->name);
        assert_int_equal(x->count, y->count);
        assert_memory_equal(x->positions, y->positions, x->count * sizeof(*x->positions));
        assert_memory_equal(x->values, y->values, x->count * sizeof(*x->values));
    }
}

/* --------------------------------------------------------------------------------------- images */

void test_run_copy(test_run *run, const char *name, const char *from)
{
    char *data = NULL;
    size_t size = 0;
    assert_ok(run->ctx, sara_file_read(run->ctx, &data, &size, from, 1 << 28));
    test_put(run->folder, name, data, size);
    sara_free(run->ctx, data);
}

void test_run_use_images(test_run *run, size_t count)
{
    char *text = NULL, *at;
    size_t size = 0;
    assert_ok(run->ctx, sara_file_read(run->ctx, &text, &size,
                                       SARA_TEST_EMOJI "/ink/metadata.jsonl", 1 << 20));
    at = text;
    for (size_t i = 0; i < count; i++) {
        const char *before = at;
        json_t *line = next_line(&(const char *){at});
        const char *name = json_string_value(json_object_get(line, "file_name"));
        test_run_copy(run, test_text(run, "images/%s", name),
                      test_text(run, SARA_TEST_EMOJI "/ink/%s", name));
        at = strchr(before, '\n') + 1;
        json_decref(line);
    }
    test_put(run->folder, "images/metadata.jsonl", text, (size_t)(at - text));
    sara_free(run->ctx, text);
    run->options.unet_only = run->options.replay = NULL;
    run->options.pretrained_model_name_or_path = SARA_TEST_EMOJI "/base";
    run->options.train_data_dir = test_text(run, "%s/images", run->folder);
}

void test_run_take_images(test_run *run, size_t count)
{
    test_run_use_images(run, count);
    run->options.trainable = "2%";
    run->options.train_batch_size = 1;
    run->options.gradient_accumulation_steps = 2;
    run->options.max_train_steps = 4;
    run->options.resolution = 32;
}

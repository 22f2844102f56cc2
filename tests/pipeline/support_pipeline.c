#include "support_pipeline.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static void note(void *user, sara_log_level level, const char *line)
{
    test_pipe *pipe = user;
    char *longer = NULL;
    (void)level;
    if (asprintf(&longer, "%s%s\n", pipe->log ? pipe->log : "", line) < 0)
        fail_msg("out of memory");
    free(pipe->log);
    pipe->log = longer;
}

static void watch(void *user, const sara_progress *progress)
{
    test_pipe *pipe = user;
    if (progress->step == pipe->interrupt_at)
        sara_context_interrupt(pipe->ctx);
}

int test_pipe_setup(void **state)
{
    test_pipe *pipe = calloc(1, sizeof(*pipe));
    assert_non_null(pipe);
    sara_context_options options = {.threads = 2, .log = note, .progress = watch, .user = pipe};
    pipe->folder = test_folder();
    pipe->interrupt_at = -1;
    assert_ok(pipe->ctx, sara_context_new(&pipe->ctx, &options));
    sara_arena_init(&pipe->strings, pipe->ctx);
    *state = pipe;
    return 0;
}

int test_pipe_teardown(void **state)
{
    test_pipe *pipe = *state;
    sara_arena_free(&pipe->strings);
    sara_context_free(pipe->ctx);
    test_folder_remove(pipe->folder);
    free(pipe->log);
    free(pipe);
    return 0;
}

const char *test_text(test_pipe *pipe, const char *format, ...)
{
    const char *kept = NULL;
    char *text = NULL;
    va_list args;
    va_start(args, format);
    int length = vasprintf(&text, format, args);
    va_end(args);
    if (length < 0)
        fail_msg("out of memory");
    assert_ok(pipe->ctx, sara_arena_strdup(&pipe->strings, &kept, text));
    free(text);
    return kept;
}

const char *test_path(test_pipe *pipe, const char *name)
{
    return test_text(pipe, "%s/%s", pipe->folder, name);
}

void test_write(test_pipe *pipe, const char *path, const char *text)
{
    assert_ok(pipe->ctx, sara_file_write(pipe->ctx, path, text, strlen(text)));
}

/* -------------------------------------------------------------------------------- model folders */

const char *test_linked_model(test_pipe *pipe, const char *name)
{
    static const char *const components[] = {"unet", "vae", "text_encoder", "tokenizer",
                                             "scheduler"};
    const char *folder = test_path(pipe, name);
    assert_ok(pipe->ctx, sara_directory_make(pipe->ctx, folder));
    for (size_t i = 0; i < sizeof(components) / sizeof(*components); i++)
        assert_int_equal(symlink(test_text(pipe, "%s/%s", TEST_BASE, components[i]),
                                 test_text(pipe, "%s/%s", folder, components[i])),
                         0);
    assert_ok(pipe->ctx, sara_file_copy(pipe->ctx, TEST_BASE "/model_index.json",
                                        test_text(pipe, "%s/model_index.json", folder)));
    return folder;
}

void test_relink(test_pipe *pipe, const char *folder, const char *component, const char *target)
{
    const char *path = test_text(pipe, "%s/%s", folder, component);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(symlink(target, path), 0);
}

sara_model *test_model_stored(test_pipe *pipe, const char *path, bool unet_only,
                              const char *weight_dtype)
{
    const sara_model_options options = {.unet_only = unet_only, .weight_dtype = weight_dtype};
    sara_model *model = NULL;
    assert_ok(pipe->ctx, sara_model_load(pipe->ctx, &model, path, &options));
    assert_ok(pipe->ctx, sara_model_need(model, SARA_STAGE_DENOISE));
    return model;
}

sara_model *test_model(test_pipe *pipe, const char *path, bool unet_only)
{
    return test_model_stored(pipe, path, unet_only, NULL);
}

/* ------------------------------------------------------------------------------------- adapters */

static void fill_entry(test_pipe *pipe, sara_adapter_entry *entry, const sara_param *param,
                       size_t first, size_t stride, float shift)
{
    size_t size = (size_t)sara_shape_count(&param->value.shape), used = 0;
    sara_param copy;
    assert_ok(pipe->ctx, sara_param_read(pipe->ctx, &copy, param));
    assert_ok(pipe->ctx,
              sara_arena_alloc(&pipe->strings, &entry->positions, size, sizeof(uint32_t)));
    assert_ok(pipe->ctx, sara_arena_alloc(&pipe->strings, &entry->values, size, sizeof(float)));
    for (size_t at = first; at < size; at += stride, used++) {
        entry->positions[used] = (uint32_t)at;
        entry->values[used] = sara_param_get(&copy, at) + shift;
    }
    sara_param_read_end(pipe->ctx, &copy, param);
    entry->name = param->name;
    entry->count = used;
}

const char *test_adapter(test_pipe *pipe, const char *name, sara_model *model, size_t stride,
                         float shift)
{
    const char *path = test_path(pipe, name), *base = NULL;
    const sara_params *params = &model->denoiser->params;
    sara_adapter_entry *entries = NULL;
    assert_ok(pipe->ctx, sara_model_base_sha256(pipe->ctx, &base, model));
    const sara_metadata metadata[] = {{"sara.base_sha256", base},
                                      {"sara.target", model->family->target}};
    assert_ok(pipe->ctx,
              sara_arena_alloc(&pipe->strings, &entries, params->count, sizeof(*entries)));
    for (size_t i = 0; i < params->count; i++)
        fill_entry(pipe, &entries[i], &params->items[i], i % stride, stride, shift);
    assert_ok(pipe->ctx,
              sara_adapter_save(pipe->ctx, path, entries, params->count, metadata, 2, SARA_F32));
    return path;
}

float *test_values(test_pipe *pipe, const sara_model *model, size_t *count)
{
    const sara_params *params = &model->denoiser->params;
    float *all = NULL;
    size_t used = 0;
    *count = (size_t)sara_params_entries(params);
    assert_ok(pipe->ctx, sara_arena_alloc(&pipe->strings, &all, *count, sizeof(*all)));
    for (size_t i = 0; i < params->count; i++) {
        const sara_param *param = &params->items[i];
        size_t size = (size_t)sara_shape_count(&param->value.shape);
        sara_param copy;
        assert_ok(pipe->ctx, sara_param_read(pipe->ctx, &copy, param));
        sara_convert_to_f32(all + used, copy.value.data, copy.value.dtype, size);
        sara_param_read_end(pipe->ctx, &copy, param);
        used += size;
    }
    return all;
}

void test_holds(test_pipe *pipe, const char *a, const char *b, size_t least)
{
    sara_safetensors *one = test_open(pipe->ctx, a), *two = test_open(pipe->ctx, b);
    size_t same = 0;
    for (size_t i = 0; i < sara_safetensors_count(two); i++) {
        const sara_tensor_info *info = sara_safetensors_at(two, i);
        const sara_tensor_info *other = sara_safetensors_find(one, info->name);
        void *x = NULL, *y = NULL;
        if (!other)
            continue;
        if (info->dtype != other->dtype || !sara_shape_equal(&info->shape, &other->shape))
            fail_msg("%s: another dtype or shape", info->name);
        assert_ok(pipe->ctx, sara_alloc(pipe->ctx, &x, info->size + 1, 1));
        assert_ok(pipe->ctx, sara_alloc(pipe->ctx, &y, info->size + 1, 1));
        assert_ok(pipe->ctx, sara_safetensors_read(one, x, other));
        assert_ok(pipe->ctx, sara_safetensors_read(two, y, info));
        if (memcmp(x, y, info->size) != 0)
            fail_msg("%s: other values", info->name);
        sara_free(pipe->ctx, x);
        sara_free(pipe->ctx, y);
        same++;
    }
    assert_true(same >= least);
    sara_safetensors_close(one);
    sara_safetensors_close(two);
}

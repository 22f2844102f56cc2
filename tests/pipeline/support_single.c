#include "support_single.h"

#include <stdlib.h>
#include <unistd.h>

sara_model *test_single_load(test_pipe *pipe, const char *path, const char *prediction_type,
                             const char *weight_dtype)
{
    const sara_model_options options = {.tokenizer = TEST_SINGLE_TOKENIZER,
                                        .prediction_type = prediction_type,
                                        .weight_dtype = weight_dtype};
    sara_model *model = NULL;
    assert_ok(pipe->ctx, sara_model_load(pipe->ctx, &model, path, &options));
    return model;
}

const char *test_single_save(test_pipe *pipe, const sara_model *model, const char *name,
                             const char *dtype)
{
    const char *path = test_path(pipe, name);
    assert_ok(pipe->ctx, sara_model_save(pipe->ctx, NULL, model, path, dtype));
    return path;
}

void test_single_same_base(test_pipe *pipe, sara_model *a, sara_model *b)
{
    const char *one, *two;
    assert_ok(pipe->ctx, sara_model_base_sha256(pipe->ctx, &one, a));
    assert_ok(pipe->ctx, sara_model_base_sha256(pipe->ctx, &two, b));
    assert_string_equal(one, two);
}

const char *test_single_open_clip(test_pipe *pipe)
{
    const char *folder = test_linked_model(pipe, "gelu");
    const char *text = test_text(pipe, "%s/text_encoder", folder);
    json_t *object = NULL;
    assert_int_equal(unlink(text), 0);
    assert_ok(pipe->ctx, sara_directory_make(pipe->ctx, text));
    assert_int_equal(symlink(TEST_BASE "/text_encoder/model.safetensors",
                             test_text(pipe, "%s/model.safetensors", text)),
                     0);
    assert_ok(pipe->ctx,
              sara_json_load(pipe->ctx, &object, TEST_BASE "/text_encoder/config.json", true));
    json_object_set_new(object, "hidden_act", json_string("gelu"));
    char *dump = json_dumps(object, 0);
    test_write(pipe, test_text(pipe, "%s/config.json", text), dump);
    free(dump);
    json_decref(object);
    return folder;
}

const char *test_single_variant(test_pipe *pipe, const char *name, const char *tensor,
                                const char *other, const sara_shape *shape)
{
    const char *path = test_path(pipe, name), *source = test_path(pipe, "source.safetensors");
    sara_safetensors *file = NULL;
    sara_tensor_source *sources = NULL;
    size_t used = 0;
    if (!sara_path_exists(source)) {
        sara_model *model = test_model(pipe, TEST_BASE, false);
        test_single_save(pipe, model, "source.safetensors", NULL);
        sara_model_free(model);
    }
    assert_ok(pipe->ctx, sara_safetensors_open(pipe->ctx, &file, source));
    size_t count = sara_safetensors_count(file);
    assert_ok(pipe->ctx, sara_arena_alloc(&pipe->strings, &sources, count, sizeof(*sources)));
    for (size_t i = 0; i < count; i++) {
        const sara_tensor_info *info = sara_safetensors_at(file, i);
        bool changed = tensor && strcmp(info->name, tensor) == 0;
        void *data = NULL;
        if (changed && !other)
            continue;
        assert_ok(pipe->ctx, sara_arena_alloc(&pipe->strings, &data, 9 * (size_t)info->size, 1));
        memset(data, 0, 9 * (size_t)info->size);
        assert_ok(pipe->ctx, sara_safetensors_read(file, data, info));
        sources[used++] =
            (sara_tensor_source){test_text(pipe, "%s", changed ? other : info->name), info->dtype,
                                 changed && shape ? *shape : info->shape, data};
    }
    assert_ok(pipe->ctx, sara_safetensors_save(pipe->ctx, path, sources, used, NULL, 0));
    sara_safetensors_close(file);
    return path;
}

void test_single_refuse(test_pipe *pipe, sara_status status, const char *error, const char *path,
                        const char *model_config)
{
    const sara_model_options options = {.tokenizer = TEST_SINGLE_TOKENIZER,
                                        .model_config = model_config};
    sara_model *model = NULL;
    assert_refused(pipe->ctx, status, error, sara_model_load(pipe->ctx, &model, path, &options));
    assert_null(model);
}

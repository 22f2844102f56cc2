#include "support_golden.h"

#include <unistd.h>

sara_safetensors *test_golden_open(test_pipe *pipe, json_t **metadata, const char *key)
{
    sara_safetensors *file = test_open(pipe->ctx, TEST_GOLDEN_MODEL "/expected.safetensors");
    *metadata = json_loads(sara_safetensors_metadata(file, key), 0, NULL);
    assert_non_null(*metadata);
    return file;
}

static void save_json(test_pipe *pipe, const char *folder, const char *name, json_t *value)
{
    assert_non_null(value);
    assert_ok(pipe->ctx, sara_json_save(pipe->ctx, folder, name, value, JSON_INDENT(1)));
    json_decref(value);
}

const char *test_golden_model(test_pipe *pipe, const char *name, const char *class_name,
                              const json_t *scheduler, const json_t *unet)
{
    static const char *const linked[] = {"vae", "text_encoder", "tokenizer"};
    static const char weights[] = "unet/diffusion_pytorch_model.safetensors";
    const char *folder = test_path(pipe, name);
    json_t *config = json_deep_copy(scheduler);
    json_object_set_new(config, "_class_name", json_string(class_name));
    save_json(pipe, test_text(pipe, "%s/scheduler", folder), "scheduler_config.json", config);
    save_json(pipe, folder, "model_index.json",
              json_pack("{s:s,s:[s,s]}", "_class_name", "StableDiffusionPipeline", "scheduler",
                        "diffusers", class_name));
    for (size_t i = 0; i < sizeof(linked) / sizeof(*linked); i++)
        assert_int_equal(symlink(test_text(pipe, "%s/%s", TEST_GOLDEN_MODEL, linked[i]),
                                 test_text(pipe, "%s/%s", folder, linked[i])),
                         0);
    json_t *own = json_load_file(TEST_GOLDEN_MODEL "/unet/config.json", 0, NULL);
    save_json(pipe, test_text(pipe, "%s/unet", folder), "config.json",
              unet ? json_deep_copy(unet) : json_incref(own));
    json_decref(own);
    assert_ok(pipe->ctx,
              sara_file_copy(pipe->ctx, test_text(pipe, "%s/%s", TEST_GOLDEN_MODEL, weights),
                             test_text(pipe, "%s/%s", folder, weights)));
    return folder;
}

const char *test_golden_case(test_pipe *pipe, const char *name, const json_t *row)
{
    return test_golden_model(pipe, name, json_string_value(json_object_get(row, "class")),
                             json_object_get(row, "config"), NULL);
}

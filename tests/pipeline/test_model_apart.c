/* On the device whose memory the host cannot touch, a model draws, takes adapters and is written as
 * on "cpu", to the bit. */
#include "support_pipeline.h"

enum { CPU, APART };

static sara_model *load(test_pipe *pipe, int device, const char *path, const char *weight_dtype)
{
    sara_model_options options;
    sara_model *model = NULL;
    sara_model_options_init(&options);
    options.unet_only = strcmp(path, TEST_TINY) == 0;
    options.weight_dtype = weight_dtype;
    options.device = device == APART ? "cpu-apart" : "cpu";
    assert_ok(pipe->ctx, sara_model_load(pipe->ctx, &model, path, &options));
    assert_string_equal(model->device->name, options.device);
    return model;
}

static void same_values(test_pipe *pipe, const sara_model *a, const sara_model *b)
{
    size_t counts[2];
    const float *values[] = {test_values(pipe, a, &counts[0]), test_values(pipe, b, &counts[1])};
    assert_true(counts[0] == counts[1] && counts[0] > 0);
    assert_memory_equal(values[0], values[1], counts[0] * sizeof(float));
}

static void put_on(test_pipe *pipe, sara_model *const models[2], const char *path, double strength)
{
    for (int i = 0; i < 2; i++)
        assert_ok(pipe->ctx, sara_model_apply(pipe->ctx, models[i], path, strength, false));
    same_values(pipe, models[CPU], models[APART]);
}

/* Two that overlap, in all dtypes; off again, and on. */
static void test_adapters(void **state)
{
    static const char *const dtypes[] = {"fp32", "fp16", "bf16"};
    test_pipe *pipe = *state;
    sara_model *plain = test_model(pipe, TEST_TINY, true);
    const char *a = test_adapter(pipe, "a.safetensors", plain, 3, 0.25f);
    const char *b = test_adapter(pipe, "b.safetensors", plain, 5, -0.125f);
    for (size_t i = 0; i < sizeof(dtypes) / sizeof(*dtypes); i++) {
        sara_model *models[] = {load(pipe, CPU, TEST_TINY, dtypes[i]),
                                load(pipe, APART, TEST_TINY, dtypes[i])};
        sara_model_report reports[2] = {0};
        same_values(pipe, models[CPU], models[APART]);
        put_on(pipe, models, a, 0.6);
        put_on(pipe, models, b, -0.3);
        for (int k = 0; k < 2; k++)
            assert_ok(pipe->ctx, sara_model_inspect(pipe->ctx, &reports[k], models[k]));
        assert_memory_equal(&reports[CPU], &reports[APART], sizeof(reports[CPU]));
        for (int k = 0; k < 2; k++)
            assert_ok(pipe->ctx, sara_model_remove(models[k]));
        same_values(pipe, models[CPU], models[APART]);
        put_on(pipe, models, b, 1);
        for (int k = 0; k < 2; k++)
            sara_model_free(models[k]);
    }
    sara_model_free(plain);
}

static const char *sha256_of(test_pipe *pipe, const char *path)
{
    char sha256[65];
    assert_ok(pipe->ctx, sara_sha256_file(pipe->ctx, sha256, path));
    return test_text(pipe, "%s", sha256);
}

/* The picture and its latents. */
static void draw(test_pipe *pipe, sara_image **image, const char **latents, sara_model *model,
                 const char *method)
{
    sara_generate_options o;
    int count;
    sara_generate_options_init(&o);
    o.prompt = "a (red:1.3) fox <lora:b:0.5>";
    o.negative_prompt = "[blue]";
    o.lora_model_dir = pipe->folder;
    o.width = o.height = 32;
    o.steps = 4; /* at least, for pndm */
    o.sampling_method = method;
    o.save_latents = test_path(pipe, "latents.safetensors");
    assert_ok(pipe->ctx, sara_generate(pipe->ctx, image, &count, model, &o));
    *latents = sha256_of(pipe, o.save_latents);
}

/* With an adapter on the model and another in the prompt, which comes off again. */
static void test_drawing(void **state)
{
    test_pipe *pipe = *state;
    sara_model *models[] = {load(pipe, CPU, TEST_BASE, NULL), load(pipe, APART, TEST_BASE, NULL)};
    const char *a = test_adapter(pipe, "a.safetensors", models[CPU], 11, 0.02f);
    test_adapter(pipe, "b.safetensors", models[CPU], 7, -0.03f);
    put_on(pipe, models, a, 0.8);
    for (const char *const *method = sara_sampling_methods(); *method; method++) {
        sara_image *images[2];
        const char *latents[2];
        if (strstr(*method, "low") || strcmp(*method, "heun") == 0) /* of other models */
            continue;
        for (int k = 0; k < 2; k++)
            draw(pipe, &images[k], &latents[k], models[k], *method);
        assert_string_equal(latents[CPU], latents[APART]);
        assert_memory_equal(images[CPU]->pixels, images[APART]->pixels, 32 * 32 * 3);
        for (int k = 0; k < 2; k++)
            sara_images_free(pipe->ctx, images[k], 1);
    }
    same_values(pipe, models[CPU], models[APART]);
    for (int k = 0; k < 2; k++)
        sara_model_free(models[k]);
}

#define UNET "diffusion_pytorch_model.safetensors"

/* Merged, exported, extracted; their hashes. */
static void write_all(test_pipe *pipe, const char *hashes[7], int device)
{
    static const char *const formats[] = {"comfyui", "lora", "peft"};
    const char *to = test_path(pipe, device == APART ? "apart" : "cpu");
    const char *folder = test_text(pipe, "%s/folder", to);
    const char *single = test_text(pipe, "%s/single.safetensors", to);
    const char *found = test_text(pipe, "%s/found.safetensors", to);
    sara_model *base = load(pipe, device, TEST_BASE, NULL);
    sara_model *model = load(pipe, device, TEST_BASE, NULL);
    sara_extract_options extract;
    sara_extract_options_init(&extract);
    assert_ok(pipe->ctx, sara_directory_make(pipe->ctx, to)); /* files tell their names */
    assert_ok(pipe->ctx,
              sara_model_apply(pipe->ctx, model, test_path(pipe, "a.safetensors"), 0.5, false));
    assert_ok(pipe->ctx, sara_model_save(pipe->ctx, NULL, model, folder, "bf16"));
    assert_ok(pipe->ctx, sara_model_save(pipe->ctx, NULL, model, single, "fp32"));
    assert_ok(pipe->ctx, sara_model_extract(pipe->ctx, NULL, base, model, found, &extract));
    hashes[0] = sha256_of(pipe, test_text(pipe, "%s/unet/" UNET, folder));
    hashes[1] = sha256_of(pipe, test_text(pipe, "%s/vae/" UNET, folder));
    hashes[2] = sha256_of(pipe, single);
    hashes[3] = sha256_of(pipe, found);
    for (int i = 0; i < 3; i++) {
        const char *path = test_text(pipe, "%s/%s%s", to, formats[i], i < 2 ? ".safetensors" : "");
        const sara_export_options options = {
            .format = formats[i], .rank = i ? 2 : 0, .date = 1700000000};
        assert_ok(pipe->ctx, sara_model_export(pipe->ctx, NULL, model, path, &options));
        hashes[4 + i] =
            sha256_of(pipe, i < 2 ? path : test_text(pipe, "%s/adapter_model.safetensors", path));
    }
    sara_model_free(model);
    sara_model_free(base);
}

static void test_files(void **state)
{
    test_pipe *pipe = *state;
    const char *hashes[2][7];
    sara_model *model = test_model(pipe, TEST_BASE, false);
    sara_adapter_report *reports[2];
    const char *path = test_adapter(pipe, "a.safetensors", model, 301, 0.25f);
    sara_model_free(model);
    for (int k = 0; k < 2; k++) {
        write_all(pipe, hashes[k], k);
        model = load(pipe, k, TEST_BASE, NULL);
        assert_ok(pipe->ctx, sara_adapter_inspect(pipe->ctx, &reports[k], path, model, false));
        sara_model_free(model);
    }
    for (int i = 0; i < 7; i++)
        if (strcmp(hashes[CPU][i], hashes[APART][i]) != 0)
            fail_msg("file %d differs", i);
    assert_true(reports[CPU]->change_norm == reports[APART]->change_norm);
    for (int k = 0; k < 2; k++)
        sara_adapter_report_free(pipe->ctx, reports[k]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST_CASE(test_adapters),
        TEST_CASE(test_drawing),
        TEST_CASE(test_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

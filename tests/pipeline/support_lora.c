#include "support_lora.h"

#include <stdlib.h>

#define RECORDED TEST_LORA "/expected.safetensors"

const char *test_lora_folder(test_pipe *pipe, const char *name, bool sd2)
{
    json_t *config = json_pack("{s:s,s:f,s:f,s:b,s:b,s:i}", "beta_schedule", "scaled_linear",
                               "beta_start", 0.00085, "beta_end", 0.012, "clip_sample", 0,
                               "set_alpha_to_one", 0, "steps_offset", 1);
    json_t *unet = sd2 ? json_load_file(TEST_LORA "/sd2/unet/config.json", 0, NULL) : NULL;
    const char *folder = test_golden_model(pipe, name, "DDIMScheduler", config, unet);
    if (sd2) {
        assert_ok(
            pipe->ctx,
            sara_file_copy(pipe->ctx, TEST_LORA "/sd2/unet/diffusion_pytorch_model.safetensors",
                           test_text(pipe, "%s/unet/diffusion_pytorch_model.safetensors", folder)));
        test_relink(pipe, folder, "text_encoder", TEST_LORA "/sd2/text_encoder");
    }
    json_decref(config);
    json_decref(unet);
    return folder;
}

sara_model *test_lora_model(test_pipe *pipe, bool sd2)
{
    return test_model(pipe, test_lora_folder(pipe, sd2 ? "sd2" : "sd1", sd2), false);
}

static const char *save_recorded_start(test_pipe *pipe, const sara_safetensors *expected)
{
    const char *path = test_path(pipe, "start.safetensors");
    const sara_shape any = sara_shape4(1, 4, -1, -1);
    sara_tensor start = {0};
    assert_ok(pipe->ctx, sara_safetensors_load(expected, &start, "start", SARA_F32, &any));
    const sara_tensor_source source = {"latents", SARA_F32, start.shape, start.data};
    assert_ok(pipe->ctx, sara_safetensors_save(pipe->ctx, path, &source, 1, NULL, 0));
    sara_tensor_free(pipe->ctx, &start);
    return path;
}

float *test_lora_draw(test_pipe *pipe, sara_model *model, const char *tags, size_t *size)
{
    sara_safetensors *expected = test_open(pipe->ctx, RECORDED);
    const char *to = test_path(pipe, "latents.safetensors");
    sara_generate_options options;
    sara_image *images = NULL;
    int count;
    sara_generate_options_init(&options);
    options.prompt =
        test_text(pipe, "%s%s", sara_safetensors_metadata(expected, "prompt"), tags ? tags : "");
    options.negative_prompt = sara_safetensors_metadata(expected, "negative_prompt");
    options.guidance_scale = atof(sara_safetensors_metadata(expected, "guidance_scale"));
    options.steps = atoi(sara_safetensors_metadata(expected, "steps"));
    options.lora_model_dir = tags ? TEST_LORA : NULL;
    options.init_latents = save_recorded_start(pipe, expected);
    options.save_latents = to;
    assert_ok(pipe->ctx, sara_generate(pipe->ctx, &images, &count, model, &options));
    sara_images_free(pipe->ctx, images, count);
    sara_safetensors_close(expected);
    sara_safetensors *file = test_open(pipe->ctx, to);
    float *latents = test_load_f32(pipe->ctx, file, "latents", size);
    sara_safetensors_close(file);
    return latents;
}

void test_lora_expect(test_pipe *pipe, sara_model *model, const char *tags, const char *name)
{
    sara_safetensors *expected = test_open(pipe->ctx, RECORDED);
    size_t size, want_size;
    float *latents = test_lora_draw(pipe, model, tags, &size);
    float *want = test_load_f32(pipe->ctx, expected, name, &want_size);
    assert_int_equal(size, want_size);
    assert_close(test_relative_l2(latents, want, size), 1e-4, name);
    sara_free(pipe->ctx, latents);
    sara_free(pipe->ctx, want);
    sara_safetensors_close(expected);
}

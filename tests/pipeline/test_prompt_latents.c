/* Latents of prompts with weights and of long ones, against what diffusers draws from the states
 * that stable-diffusion-webui makes of them (make_prompt_weights.py). */
#include "support_pipeline.h"

#include <stdlib.h>

#define LATENT_SIZE ((size_t)4 * 16 * 16)

typedef struct drawn {
    sara_model *model;
    sara_safetensors *file;
    json_t *prompts;
    float *latents;
} drawn;

static drawn open_drawn(test_pipe *pipe)
{
    const char *folder = test_linked_model(pipe, "model");
    size_t count;
    drawn d;
    test_relink(pipe, folder, "unet", SARA_TEST_GOLDEN "/prompt_unet");
    d.model = test_model(pipe, folder, false);
    d.file = test_open(pipe->ctx, SARA_TEST_GOLDEN "/prompt_latents.safetensors");
    d.prompts = json_loads(sara_safetensors_metadata(d.file, "prompts"), 0, NULL);
    d.latents = test_load_f32(pipe->ctx, d.file, "latents", &count);
    assert_int_equal(count, json_array_size(d.prompts) * LATENT_SIZE);
    float *start = test_load_f32(pipe->ctx, d.file, "start", &count);
    const sara_tensor_source source = {"latents", SARA_F32, sara_shape4(1, 4, 16, 16), start};
    assert_int_equal(count, LATENT_SIZE);
    assert_ok(pipe->ctx, sara_safetensors_save(pipe->ctx, test_path(pipe, "start.safetensors"),
                                               &source, 1, NULL, 0));
    sara_free(pipe->ctx, start);
    return d;
}

static void close_drawn(test_pipe *pipe, drawn *d)
{
    sara_free(pipe->ctx, d->latents);
    json_decref(d->prompts);
    sara_safetensors_close(d->file);
    sara_model_free(d->model);
}

/* The distance from what was recorded; change: what is asked for otherwise. */
static double distance(test_pipe *pipe, const drawn *d, size_t row,
                       void (*change)(sara_generate_options *))
{
    json_t *texts = json_array_get(d->prompts, row);
    const char *to = test_path(pipe, "latents.safetensors");
    sara_generate_options options;
    sara_image *images;
    size_t size;
    int count;
    sara_generate_options_init(&options);
    options.prompt = json_string_value(json_array_get(texts, 0));
    options.negative_prompt = json_string_value(json_array_get(texts, 1));
    options.steps = atoi(sara_safetensors_metadata(d->file, "steps"));
    options.guidance_scale = atof(sara_safetensors_metadata(d->file, "guidance_scale"));
    options.long_prompt = true;
    options.init_latents = test_path(pipe, "start.safetensors");
    options.save_latents = to;
    if (change)
        change(&options);
    assert_ok(pipe->ctx, sara_generate(pipe->ctx, &images, &count, d->model, &options));
    sara_images_free(pipe->ctx, images, count);
    sara_safetensors *file = test_open(pipe->ctx, to);
    float *latents = test_load_f32(pipe->ctx, file, "latents", &size);
    assert_int_equal(size, LATENT_SIZE);
    double error = test_relative_l2(latents, d->latents + row * size, size);
    sara_free(pipe->ctx, latents);
    sara_safetensors_close(file);
    return error;
}

static void test_latents(void **state)
{
    test_pipe *pipe = *state;
    drawn d = open_drawn(pipe);
    assert_int_equal(json_array_size(d.prompts), 4);
    for (size_t row = 0; row < 4; row++)
        assert_close(distance(pipe, &d, row, NULL), 5e-4, "latents");
    close_drawn(pipe, &d);
}

static void take_literally(sara_generate_options *options)
{
    options->no_prompt_weights = true;
}

static void cut(sara_generate_options *options)
{
    options->long_prompt = false;
}

/* What was recorded is far from what another reading of the prompts gives. */
static void test_other_latents(void **state)
{
    test_pipe *pipe = *state;
    drawn d = open_drawn(pipe);
    assert_true(distance(pipe, &d, 0, take_literally) > 2e-2);
    assert_true(distance(pipe, &d, 1, cut) > 2e-2);
    assert_true(distance(pipe, &d, 3, cut) > 2e-2);
    close_drawn(pipe, &d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {TEST_CASE(test_latents), TEST_CASE(test_other_latents)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

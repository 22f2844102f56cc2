/* What the options of generation do to the picture: seeds, guidance, methods, latents, prompts. */
#include "support_pipeline.h"

#include <stdlib.h>

#define SMALL_SIZE ((size_t)32 * 16 * 3)

/* Few steps of a small picture. */
static sara_generate_options small(void)
{
    sara_generate_options options;
    sara_generate_options_init(&options);
    options.prompt = "grinning face";
    options.steps = 2;
    options.width = 32;
    options.height = 16;
    return options;
}

/* Pixels of the image at index; the others must differ. Lives as long as the test. */
static const uint8_t *draw(test_pipe *pipe, sara_model *model, const sara_generate_options *options,
                           int index, int expected_count)
{
    sara_image *images = NULL;
    uint8_t *pixels = NULL;
    int count;
    assert_ok(pipe->ctx, sara_generate(pipe->ctx, &images, &count, model, options));
    assert_int_equal(count, expected_count);
    assert_int_equal(images[index].width, 32);
    assert_int_equal(images[index].height, 16);
    assert_ok(pipe->ctx, sara_arena_alloc(&pipe->strings, &pixels, SMALL_SIZE, 1));
    memcpy(pixels, images[index].pixels, SMALL_SIZE);
    for (int i = 0; i < count; i++)
        if (i != index)
            assert_memory_not_equal(images[i].pixels, pixels, SMALL_SIZE);
    sara_images_free(pipe->ctx, images, count);
    return pixels;
}

/* Image i of a batch is the image of seed + i, also where noise is drawn on the way. */
static void test_seeds(void **state)
{
    test_pipe *pipe = *state;
    sara_model *model = test_model(pipe, TEST_BASE, false);
    sara_generate_options options = small();
    options.sampling_method = "euler_a";
    options.batch_count = 3;
    const uint8_t *second = draw(pipe, model, &options, 1, 3);
    assert_memory_equal(draw(pipe, model, &options, 1, 3), second, SMALL_SIZE);
    options.batch_count = 1;
    options.seed = 43;
    assert_memory_equal(draw(pipe, model, &options, 0, 1), second, SMALL_SIZE);
    options.seed = 44;
    assert_memory_not_equal(draw(pipe, model, &options, 0, 1), second, SMALL_SIZE);
    sara_model_free(model);
}

static void test_guidance(void **state)
{
    test_pipe *pipe = *state;
    sara_model *model = test_model(pipe, TEST_BASE, false);
    sara_generate_options options = small();
    assert_true(options.guidance_scale == SARA_OF_MODEL);
    const uint8_t *guided = draw(pipe, model, &options, 0, 1);
    options.guidance_scale = 7.0; /* Stable Diffusion's */
    assert_memory_equal(draw(pipe, model, &options, 0, 1), guided, SMALL_SIZE);
    options.negative_prompt = "cat face";
    assert_memory_not_equal(draw(pipe, model, &options, 0, 1), guided, SMALL_SIZE);
    options.guidance_scale = 1;
    const uint8_t *plain = draw(pipe, model, &options, 0, 1);
    options.negative_prompt = NULL; /* without guidance it is not looked at */
    assert_memory_equal(draw(pipe, model, &options, 0, 1), plain, SMALL_SIZE);
    options.guidance_scale = 0;
    assert_memory_equal(draw(pipe, model, &options, 0, 1), plain, SMALL_SIZE);
    sara_model_free(model);
}

/* Above a scale of 1, as in diffusers, there is guidance: only then the negative prompt is encoded,
 * and told to be too long. */
static void test_guidance_is_off(void **state)
{
    static const double scales[] = {0, 1, 1.001};
    test_pipe *pipe = *state;
    sara_model *model = test_model(pipe, TEST_BASE, false);
    sara_generate_options options = small();
    char negative[512] = "";
    for (int i = 0; i < 60; i++)
        strcat(negative, "cat ");
    options.negative_prompt = negative;
    for (size_t i = 0; i < sizeof(scales) / sizeof(*scales); i++) {
        options.guidance_scale = scales[i];
        draw(pipe, model, &options, 0, 1);
        bool told = pipe->log && strstr(pipe->log, "the negative prompt is too long: ");
        assert_int_equal(told, scales[i] > 1);
    }
    sara_model_free(model);
}

/* Saved latents have the batch's shape and serve as start noise again. */
static void test_latents(void **state)
{
    test_pipe *pipe = *state;
    sara_model *model = test_model(pipe, TEST_BASE, false);
    sara_generate_options options = small();
    sara_image *images = NULL;
    size_t size;
    int count;
    options.batch_count = 2;
    options.save_latents = test_path(pipe, "final.safetensors");
    draw(pipe, model, &options, 0, 2);
    sara_safetensors *file = test_open(pipe->ctx, options.save_latents);
    sara_free(pipe->ctx, test_load_f32(pipe->ctx, file, "latents", &size));
    sara_safetensors_close(file);
    assert_int_equal(size, 2 * 4 * 8 * 4);
    options.width = options.height = 0;
    options.init_latents = options.save_latents;
    options.save_latents = NULL;
    options.batch_count = 1; /* the file's count rules */
    draw(pipe, model, &options, 1, 2);
    options.save_latents = test_path(pipe, "none/final.safetensors");
    assert_refused(pipe->ctx, SARA_ERROR_IO, "none/final.safetensors",
                   sara_generate(pipe->ctx, &images, &count, model, &options));
    assert_null(images);
    sara_model_free(model);
}

/* Every method draws, but for those that cannot go with the model. */
static void test_methods(void **state)
{
    test_pipe *pipe = *state;
    sara_model *model = test_model(pipe, TEST_BASE, false);
    const char *const *methods = sara_sampling_methods();
    const uint8_t *before = NULL;
    for (size_t i = 0; methods[i]; i++) {
        sara_generate_options options = small();
        sara_image *images = NULL;
        int count;
        options.sampling_method = methods[i];
        options.steps = 4; /* the fewest of PNDM with Runge-Kutta steps */
        if (sara_sampling_method_is_of_flows(methods[i])) {
            assert_refused(pipe->ctx, SARA_ERROR_USAGE, methods[i],
                           sara_generate(pipe->ctx, &images, &count, model, &options));
            continue;
        }
        const uint8_t *now = draw(pipe, model, &options, 0, 1);
        assert_true(!before || memcmp(before, now, SMALL_SIZE) != 0);
        before = now;
    }
    assert_non_null(before);
    sara_model_free(model);
}

static void test_prompts(void **state)
{
    test_pipe *pipe = *state;
    sara_model *model = test_model(pipe, TEST_BASE, false);
    sara_generate_options options = small();
    char prompt[1024] = "";
    for (int i = 0; i < 120; i++)
        strcat(prompt, "cat ");
    options.prompt = prompt;
    draw(pipe, model, &options, 0, 1);
    assert_non_null(pipe->log);
    assert_non_null(strstr(pipe->log, "the prompt is too long: "));
    options.prompt = "";
    draw(pipe, model, &options, 0, 1);
    sara_model_free(model);
}

/* The request ends one call and is then met. */
static void test_interrupted(void **state)
{
    test_pipe *pipe = *state;
    sara_model *model = test_model(pipe, TEST_BASE, false);
    sara_generate_options options = small();
    sara_image *images = NULL;
    int count;
    pipe->interrupt_at = 1;
    assert_refused(pipe->ctx, SARA_INTERRUPTED, "interrupted",
                   sara_generate(pipe->ctx, &images, &count, model, &options));
    assert_null(images);
    pipe->interrupt_at = -1;
    draw(pipe, model, &options, 0, 1);
    sara_model_free(model);
}

static void test_parameters_text(void **state)
{
    test_pipe *pipe = *state;
    sara_model *model = test_model(pipe, TEST_BASE, false);
    sara_generate_options options = small();
    const char *base;
    char *text = NULL;
    assert_ok(pipe->ctx, sara_model_base_sha256(pipe->ctx, &base, model));
    assert_ok(pipe->ctx, sara_generate_text(pipe->ctx, &text, model, &options, 32, 16, 2));
    assert_non_null(strstr(text, test_text(pipe,
                                           "grinning face\nSteps: 2, Sampler: dpm++2m Karras, "
                                           "CFG scale: 7, Seed: 44, Size: 32x16, Model hash: "
                                           "%.10s, Model: base, Version: ",
                                           base)));
    sara_free(pipe->ctx, text);
    options.negative_prompt = "a dog";
    options.sampling_method = "ddim";
    assert_ok(pipe->ctx, sara_generate_text(pipe->ctx, &text, model, &options, 32, 16, 0));
    assert_non_null(
        strstr(text, "grinning face\nNegative prompt: a dog\nSteps: 2, Sampler: ddim,"));
    sara_free(pipe->ctx, text);
    sara_model_free(model);
}

static void test_tokenize(void **state)
{
    test_pipe *pipe = *state;
    sara_model *model = test_model(pipe, TEST_BASE, false);
    int32_t *ids = NULL, *same = NULL;
    size_t count;
    assert_ok(pipe->ctx, sara_model_tokenize(pipe->ctx, &ids, &count, model, "Cat Face"));
    assert_ok(pipe->ctx, sara_model_tokenize(pipe->ctx, &same, &count, model, "cat  face"));
    assert_int_equal(count, model->parts[TEST_TEXT].network->info.text.max_positions);
    assert_memory_equal(ids, same, count * sizeof(*ids));
    sara_free(pipe->ctx, ids);
    sara_free(pipe->ctx, same);
    sara_model_free(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST_CASE(test_guidance_is_off), TEST_CASE(test_seeds),    TEST_CASE(test_guidance),
        TEST_CASE(test_latents),         TEST_CASE(test_methods),  TEST_CASE(test_prompts),
        TEST_CASE(test_interrupted),     TEST_CASE(test_tokenize), TEST_CASE(test_parameters_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

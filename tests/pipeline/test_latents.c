/* sara_generate against diffusers' StableDiffusionPipeline, which corrects old configs and draws
 * sizes that the U-Net does not halve evenly: tests/golden/pipeline. A VAE with a shift_factor:
 * tests/golden/shifted. */
#include "support_golden.h"

#include <math.h>
#include <stdlib.h>

#define SHIFTED SARA_TEST_GOLDEN "/shifted"

static void save_start(test_pipe *pipe, const char *path, const sara_safetensors *file,
                       const char *name)
{
    sara_tensor start = {0};
    const sara_shape any = sara_shape4(1, 4, -1, -1);
    assert_ok(pipe->ctx, sara_safetensors_load(file, &start, name, SARA_F32, &any));
    const sara_tensor_source source = {"latents", SARA_F32, start.shape, start.data};
    assert_ok(pipe->ctx, sara_safetensors_save(pipe->ctx, path, &source, 1, NULL, 0));
    sara_tensor_free(pipe->ctx, &start);
}

static void check_latents(test_pipe *pipe, const sara_safetensors *expected, const char *name,
                          const char *path)
{
    sara_safetensors *file = test_open(pipe->ctx, path);
    size_t size, want_size;
    float *latents = test_load_f32(pipe->ctx, file, "latents", &size);
    float *want =
        test_load_f32(pipe->ctx, expected, test_text(pipe, "%s.latents", name), &want_size);
    assert_int_equal(size, want_size);
    assert_close(test_relative_l2(latents, want, size), 5e-4, name);
    sara_free(pipe->ctx, latents);
    sara_free(pipe->ctx, want);
    sara_safetensors_close(file);
}

/* The picture, where the decoder's output is recorded. */
static void check_picture(test_pipe *pipe, const sara_safetensors *expected, const char *name,
                          const sara_image *image)
{
    const char *key = test_text(pipe, "%s.decoded", name);
    size_t size, plane = (size_t)image->width * (size_t)image->height;
    if (!sara_safetensors_find(expected, key))
        return;
    float *want = test_load_f32(pipe->ctx, expected, key, &size);
    assert_int_equal(size, 3 * plane);
    for (size_t i = 0; i < size; i++) {
        double level = 255 * (0.5 * (double)want[i] + 0.5);
        level = level < 0 ? 0 : level > 255 ? 255 : level;
        assert_close(fabs(image->pixels[i % plane * 3 + i / plane] - level), 1.0, name);
    }
    sara_free(pipe->ctx, want);
}

static void use_recorded(sara_generate_options *options, const sara_safetensors *expected)
{
    sara_generate_options_init(options);
    options->prompt = sara_safetensors_metadata(expected, "prompt");
    options->negative_prompt = sara_safetensors_metadata(expected, "negative_prompt");
    options->guidance_scale = atof(sara_safetensors_metadata(expected, "guidance_scale"));
    options->steps = atoi(sara_safetensors_metadata(expected, "steps"));
}

static void check_golden_case(test_pipe *pipe, const sara_safetensors *expected, const char *name,
                              const json_t *row)
{
    const char *folder = test_golden_case(pipe, name, row);
    const char *from = test_text(pipe, "%s.start.safetensors", folder);
    const char *to = test_text(pipe, "%s.latents.safetensors", folder);
    sara_model *model = test_model(pipe, folder, false);
    sara_generate_options options;
    sara_image *images = NULL;
    int count;
    save_start(pipe, from, expected, test_text(pipe, "%s.start", name));
    use_recorded(&options, expected);
    options.sampling_method = json_string_value(json_object_get(row, "method"));
    options.init_latents = from;
    options.save_latents = to;
    assert_ok(pipe->ctx, sara_generate(pipe->ctx, &images, &count, model, &options));
    check_latents(pipe, expected, name, to);
    check_picture(pipe, expected, name, &images[0]);
    sara_images_free(pipe->ctx, images, count);
    sara_model_free(model);
}

static void check_cases(test_pipe *pipe, bool sizes)
{
    json_t *cases, *row;
    const char *name;
    sara_safetensors *expected = test_golden_open(pipe, &cases, "cases");
    int seen = 0;
    json_object_foreach(cases, name, row)
    {
        if ((strncmp(name, "size_", 5) == 0) != sizes)
            continue;
        check_golden_case(pipe, expected, name, row);
        seen++;
    }
    assert_true(seen > 2);
    json_decref(cases);
    sara_safetensors_close(expected);
}

static void test_corrected(void **state)
{
    check_cases(*state, false);
}

/* Sides of 5, 7 and 9 are halved unevenly at every level; 1 not at all. */
static void test_sizes(void **state)
{
    check_cases(*state, true);
}

/* The last bits of a sum may tip a level that lies halfway; few do. */
static void check_levels(test_pipe *pipe, const sara_safetensors *expected, const sara_image *image)
{
    const sara_shape shape = {3, {image->height, image->width, 3}};
    sara_tensor want = {0};
    size_t off = 0, count = (size_t)sara_shape_count(&shape);
    assert_ok(pipe->ctx, sara_safetensors_load(expected, &want, "picture", SARA_U8, &shape));
    for (size_t i = 0; i < count; i++) {
        int difference = image->pixels[i] - ((const uint8_t *)want.data)[i];
        assert_true(abs(difference) <= 1);
        off += difference != 0;
    }
    assert_true(off <= count / 500);
    sara_tensor_free(pipe->ctx, &want);
}

/* What is decoded is latent / scaling_factor + shift_factor. */
static void test_shift(void **state)
{
    test_pipe *pipe = *state;
    sara_safetensors *expected = test_open(pipe->ctx, SHIFTED "/expected.safetensors");
    const sara_model_options with = {.vae = SHIFTED};
    const char *from = test_path(pipe, "start.safetensors");
    sara_generate_options options;
    sara_model *model = NULL;
    sara_image *images = NULL;
    int count;
    assert_ok(pipe->ctx, sara_model_load(pipe->ctx, &model, TEST_GOLDEN_MODEL, &with));
    save_start(pipe, from, expected, "start");
    use_recorded(&options, expected);
    options.init_latents = from;
    assert_ok(pipe->ctx, sara_generate(pipe->ctx, &images, &count, model, &options));
    check_levels(pipe, expected, &images[0]);
    sara_images_free(pipe->ctx, images, count);
    sara_model_free(model);
    sara_safetensors_close(expected);
}

/* (x / 2 + 0.5).clamp(0, 1), times 255 and rounded, halves to even: numpy_to_pil. */
static void test_levels(void **state)
{
    static const struct {
        double value;
        uint8_t level;
    } cases[] = {{2 * 100.6 / 255 - 1, 101}, {2 * 100.4 / 255 - 1, 100}, {0, 128}, {-2, 0},
                 {-1, 0},                    {1, 255},                   {2, 255}, {0.6, 204}};
    test_pipe *pipe = *state;
    const int width = sizeof(cases) / sizeof(*cases);
    float pixels[3 * sizeof(cases) / sizeof(*cases)];
    sara_image image;
    for (int c = 0; c < 3; c++) /* the second plane is the first backwards */
        for (int i = 0; i < width; i++)
            pixels[c * width + i] = (float)cases[c == 1 ? width - 1 - i : i].value;
    assert_ok(pipe->ctx, sara_floats_to_image(pipe->ctx, &image, pixels, width, 1));
    assert_true(image.width == width && image.height == 1);
    for (int i = 0; i < 3 * width; i++)
        assert_int_equal(image.pixels[i], cases[i % 3 == 1 ? width - 1 - i / 3 : i / 3].level);
    sara_image_clear(pipe->ctx, &image);
}

int main(void)
{
    const struct CMUnitTest tests[] = {TEST_CASE(test_corrected), TEST_CASE(test_sizes),
                                       TEST_CASE(test_shift), TEST_CASE(test_levels)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* sara_generate against diffusers' StableDiffusionPipeline, which corrects old configs and draws
 * sizes that the U-Net does not halve evenly: tests/golden/pipeline. */
#include "support_golden.h"

#include <math.h>
#include <stdlib.h>

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
    sara_generate_options_init(&options);
    options.prompt = sara_safetensors_metadata(expected, "prompt");
    options.negative_prompt = sara_safetensors_metadata(expected, "negative_prompt");
    options.guidance_scale = atof(sara_safetensors_metadata(expected, "guidance_scale"));
    options.steps = atoi(sara_safetensors_metadata(expected, "steps"));
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

int main(void)
{
    const struct CMUnitTest tests[] = {TEST_CASE(test_corrected), TEST_CASE(test_sizes)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

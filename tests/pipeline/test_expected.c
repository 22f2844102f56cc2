/* sara_generate against diffusers: the same start noise, the same latents and images. */
#include "support/support.h"

#include "pipeline/pipeline.h"

#include <math.h>
#include <stdlib.h>

#define BASE SARA_TEST_EMOJI "/base"

typedef struct expectation {
    sara_safetensors *file;
    json_t *prompts;
    float *start, *latents, *image;
    size_t latent_size, image_size; /* of one prompt */
    int rows;
} expectation;

static void open_expectation(sara_context *ctx, expectation *e, const char *name)
{
    char path[512];
    size_t count;
    snprintf(path, sizeof(path), SARA_TEST_EMOJI "/expected/%s.safetensors", name);
    e->file = test_open(ctx, path);
    e->prompts = json_loads(sara_safetensors_metadata(e->file, "prompts"), 0, NULL);
    e->rows = (int)json_array_size(e->prompts);
    assert_true(e->rows > 0);
    e->start = test_load_f32(ctx, e->file, "start", &count);
    e->latents = test_load_f32(ctx, e->file, "latents", &count);
    e->latent_size = count / (size_t)e->rows;
    e->image = test_load_f32(ctx, e->file, "image", &count);
    e->image_size = count / (size_t)e->rows;
}

static void close_expectation(sara_context *ctx, expectation *e)
{
    sara_safetensors_close(e->file);
    json_decref(e->prompts);
    sara_free(ctx, e->start);
    sara_free(ctx, e->latents);
    sara_free(ctx, e->image);
}

/* The scheduler that the expectation was made with, in place of the model's own. */
static void use_scheduler(sara_context *ctx, sara_model *model, const expectation *e)
{
    const char *text = sara_safetensors_metadata(e->file, "scheduler_config");
    json_t *config = NULL;
    assert_ok(ctx, sara_json_parse(ctx, &config, text, strlen(text), "expected", true));
    assert_ok(ctx, sara_scheduler_config_parse(ctx, &model->scheduler, config, "expected", NULL));
    json_decref(config);
}

static void save_latents(sara_context *ctx, const char *path, const float *data)
{
    sara_tensor_source source = {"latents", SARA_F32, sara_shape4(1, 4, 16, 16), data};
    assert_ok(ctx, sara_safetensors_save(ctx, path, &source, 1, NULL, 0));
}

static void check_image(const sara_image *image, const float *expected, size_t count)
{
    size_t plane = count / 3;
    double worst = 0;
    assert_int_equal(image->width * image->height, plane);
    for (size_t i = 0; i < plane; i++)
        for (size_t c = 0; c < 3; c++)
            worst = fmax(worst,
                         fabs(image->pixels[i * 3 + c] - 255.0 * (double)expected[c * plane + i]));
    assert_close(worst, 1.5, "image, levels of 255");
}

static void check_row(sara_context *ctx, sara_model *model, const expectation *e, int row,
                      const char *folder)
{
    sara_generate_options options;
    sara_image *images;
    int count;
    char from[512], to[512];
    size_t size;
    snprintf(from, sizeof(from), "%s/start.safetensors", folder);
    snprintf(to, sizeof(to), "%s/latents.safetensors", folder);
    save_latents(ctx, from, e->start + (size_t)row * e->latent_size);
    sara_generate_options_init(&options);
    options.prompt = json_string_value(json_array_get(e->prompts, (size_t)row));
    options.negative_prompt = sara_safetensors_metadata(e->file, "negative_prompt");
    options.guidance_scale = atof(sara_safetensors_metadata(e->file, "guidance_scale"));
    options.steps = atoi(sara_safetensors_metadata(e->file, "steps"));
    options.init_latents = from;
    options.save_latents = to;
    assert_ok(ctx, sara_generate(ctx, &images, &count, model, &options));
    assert_int_equal(count, 1);
    sara_safetensors *file = test_open(ctx, to);
    float *latents = test_load_f32(ctx, file, "latents", &size);
    assert_int_equal(size, e->latent_size);
    assert_close(test_relative_l2(latents, e->latents + (size_t)row * size, size), 5e-4, "latents");
    check_image(&images[0], e->image + (size_t)row * e->image_size, e->image_size);
    sara_free(ctx, latents);
    sara_safetensors_close(file);
    sara_images_free(ctx, images, count);
}

static void check_scheduler(const char *name)
{
    sara_context *ctx = test_context();
    char *folder = test_folder();
    sara_model *model;
    expectation e;
    assert_ok(ctx, sara_model_load(ctx, &model, BASE, NULL));
    open_expectation(ctx, &e, name);
    use_scheduler(ctx, model, &e);
    for (int row = 0; row < e.rows; row++)
        check_row(ctx, model, &e, row, folder);
    close_expectation(ctx, &e);
    sara_model_free(model);
    sara_context_free(ctx);
    test_folder_remove(folder);
}

static void test_ddim(void **state)
{
    (void)state;
    check_scheduler("ddim");
}

static void test_pndm(void **state)
{
    (void)state;
    check_scheduler("pndm");
}

static void test_euler(void **state)
{
    (void)state;
    check_scheduler("euler");
}

static void test_dpmpp2m_karras(void **state)
{
    (void)state;
    check_scheduler("dpmpp2m_karras");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ddim),
        cmocka_unit_test(test_pndm),
        cmocka_unit_test(test_euler),
        cmocka_unit_test(test_dpmpp2m_karras),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

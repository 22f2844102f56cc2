/* What sara_generate refuses, and with which line; nothing is made then. */
#include "support/support.h"

#include "pipeline/pipeline.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct fixture {
    sara_context *ctx;
    char *folder;
    sara_model *model;
    sara_generate_options options;
    char start[512];
} fixture;

static int setup(void **state)
{
    fixture *f = calloc(1, sizeof(*f));
    assert_non_null(f);
    f->ctx = test_context();
    f->folder = test_folder();
    assert_ok(f->ctx, sara_model_load(f->ctx, &f->model, SARA_TEST_EMOJI "/base", NULL));
    assert_ok(f->ctx, sara_model_need(f->model, SARA_STAGE_DENOISE));
    sara_generate_options_init(&f->options);
    f->options.prompt = "a cat";
    f->options.steps = 1;
    snprintf(f->start, sizeof(f->start), "%s/start.safetensors", f->folder);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    fixture *f = *state;
    sara_model_free(f->model);
    sara_context_free(f->ctx);
    test_folder_remove(f->folder);
    free(f);
    return 0;
}

static void refused(fixture *f, sara_status expected, const char *text,
                    const sara_generate_options *options)
{
    sara_image *images = NULL;
    int count = -1;
    assert_refused(f->ctx, expected, text,
                   sara_generate(f->ctx, &images, &count, f->model, options));
    assert_null(images);
    assert_int_equal(count, 0);
}

#define REFUSED(text, ...)                                                                         \
    do {                                                                                           \
        sara_generate_options o = f->options;                                                      \
        __VA_ARGS__;                                                                               \
        refused(f, SARA_ERROR_USAGE, text, &o);                                                    \
    } while (0)

static void test_options(void **state)
{
    fixture *f = *state;
    REFUSED("no prompt", o.prompt = NULL);
    REFUSED("steps 0: expected 1 to 1000", o.steps = 0);
    REFUSED("steps 1001: expected 1 to 1000", o.steps = 1001);
    REFUSED("batch_count 0", o.batch_count = 0);
    REFUSED("guidance_scale nan", o.guidance_scale = (double)NAN);
    REFUSED("guidance_scale inf", o.guidance_scale = (double)INFINITY);
    REFUSED("guidance_scale -1", o.guidance_scale = -1);
    REFUSED("33x", o.width = 33);
    REFUSED("-64", o.height = -64);
    REFUSED("x32768", o.height = 32768);
    REFUSED("nothing", o.sampling_method = "nothing");
    REFUSED("no Karras sigmas", o.sampling_method = "ddim", o.karras = true);
}

static void start_from(fixture *f, const char *name, sara_shape shape)
{
    size_t count = (size_t)sara_shape_count(&shape);
    float *data = calloc(count + 1, sizeof(*data));
    sara_tensor_source source = {name, SARA_F32, shape, data};
    assert_ok(f->ctx, sara_safetensors_save(f->ctx, f->start, &source, 1, NULL, 0));
    free(data);
    f->options.init_latents = f->start;
}

static void test_init_latents(void **state)
{
    fixture *f = *state;
    f->options.init_latents = f->start;
    refused(f, SARA_ERROR_IO, "start.safetensors", &f->options);
    start_from(f, "others", sara_shape4(1, 4, 16, 16));
    refused(f, SARA_ERROR_INPUT, "latents", &f->options);
    start_from(f, "latents", sara_shape4(1, 3, 16, 16));
    refused(f, SARA_ERROR_INPUT, "latents", &f->options);
    start_from(f, "latents", sara_shape3(4, 16, 16));
    refused(f, SARA_ERROR_INPUT, "latents", &f->options);
    start_from(f, "latents", sara_shape4(0, 4, 16, 16));
    refused(f, SARA_ERROR_INPUT, "empty or too large", &f->options);
    start_from(f, "latents", sara_shape4(1, 4, 1, 4097));
    refused(f, SARA_ERROR_USAGE, "16388x4: width and height must be 4 to 16384", &f->options);
    start_from(f, "latents", sara_shape4(2, 4, 16, 16));
    REFUSED("holds 2 latents, batch_count is 3", o.batch_count = 3);
    REFUSED("asked for 128x0", o.width = 128);
    start_from(f, "latents", sara_shape4(1, 4, 4, 8));
    REFUSED("latents are for 32x16, asked for 16x0", o.width = 16);
    REFUSED("latents are for 32x16, asked for 0x32", o.height = 32);
    f->options.width = 32;
    f->options.height = 16;
    assert_ok(f->ctx, sara_generate_check_model(f->ctx, f->model, &f->options));
}

/* What stands at an end of its range is taken. */
static void test_ends(void **state)
{
    fixture *f = *state;
    int count;
    f->options.steps = 1000;
    f->options.guidance_scale = 0;
    assert_ok(f->ctx, sara_generate_check_model(f->ctx, f->model, &f->options));
    assert_ok(f->ctx, sara_model_check_size(f->ctx, f->model, 16384, 4, "size"));
    assert_ok(f->ctx, sara_model_check_size(f->ctx, f->model, 4, 16384, "size"));
    assert_refused(f->ctx, SARA_ERROR_USAGE, "16388x4",
                   sara_model_check_size(f->ctx, f->model, 16388, 4, "size"));
    start_from(f, "latents", sara_shape4(SARA_MAX_START_LATENTS, 4, 1, 1));
    assert_ok(f->ctx, sara_generate_count(f->ctx, &count, &f->options));
    assert_int_equal(count, SARA_MAX_START_LATENTS);
    assert_ok(f->ctx, sara_generate_check_model(f->ctx, f->model, &f->options));
    start_from(f, "latents", sara_shape4(SARA_MAX_START_LATENTS + 1, 4, 1, 1));
    refused(f, SARA_ERROR_INPUT, "empty or too large", &f->options);
    f->options.batch_count = 3; /* the file's count rules, but that is no count */
    assert_ok(f->ctx, sara_generate_count(f->ctx, &count, &f->options));
    assert_int_equal(count, 3);
}

/* A sample that is not finite is no picture. */
static void test_not_finite(void **state)
{
    fixture *f = *state;
    float *bias = sara_params_find(&f->model->denoiser->params, "conv_out.bias")->value.data;
    bias[0] = NAN;
    refused(f, SARA_ERROR_INPUT, "not finite", &f->options);
}

static void test_bare_unet(void **state)
{
    fixture *f = *state;
    sara_model_free(f->model);
    assert_ok(f->ctx, sara_model_load(f->ctx, &f->model, SARA_TEST_GOLDEN "/variants/unet_tiny",
                                      &(sara_model_options){.unet_only = true}));
    refused(f, SARA_ERROR_USAGE, "a bare unet/ folder cannot generate", &f->options);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_options),
        TEST(test_init_latents),
        TEST(test_ends),
        TEST(test_not_finite),
        TEST(test_bare_unet),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

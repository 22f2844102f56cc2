/* SDXL told sizes, with a schedule that ends without signal, with a VAE for 16-bit arithmetic; and
 * files that are nearly of it. Expected latents are diffusers', by golden/make_sdxl_options.py. */
#include "support_pipeline.h"

#include <stdlib.h>
#include <unistd.h>

#define RECORDED SARA_TEST_GOLDEN "/sdxl_options"

static sara_generate_options recorded_options(test_pipe *pipe, const char *name)
{
    sara_safetensors *file =
        test_open(pipe->ctx, test_text(pipe, RECORDED "/%s.safetensors", name));
    const char *from = test_path(pipe, "start.safetensors");
    sara_generate_options options;
    size_t count;
    float *start = test_load_f32(pipe->ctx, file, "start", &count);
    const sara_tensor_source source = {"latents", SARA_F32, sara_shape4(1, 4, 8, 12), start};
    assert_ok(pipe->ctx, sara_safetensors_save(pipe->ctx, from, &source, 1, NULL, 0));
    sara_free(pipe->ctx, start);
    sara_safetensors_close(file);
    sara_generate_options_init(&options);
    options.prompt = "a red dragon";
    options.negative_prompt = "blurry";
    options.steps = 3;
    options.init_latents = from;
    options.save_latents = test_path(pipe, "end.safetensors");
    return options;
}

/* The picture; sara_images_free() */
static sara_image *draw_one(test_pipe *pipe, sara_model *model,
                            const sara_generate_options *options)
{
    sara_image *images;
    int count;
    assert_ok(pipe->ctx, sara_generate(pipe->ctx, &images, &count, model, options));
    assert_int_equal(count, 1);
    return images;
}

static double recorded_error(test_pipe *pipe, sara_model *model, const char *name,
                             const sara_generate_options *options)
{
    sara_images_free(pipe->ctx, draw_one(pipe, model, options), 1);
    sara_safetensors *file = test_open(pipe->ctx, options->save_latents);
    sara_safetensors *want =
        test_open(pipe->ctx, test_text(pipe, RECORDED "/%s.safetensors", name));
    size_t count;
    float *a = test_load_f32(pipe->ctx, file, "latents", &count);
    float *b = test_load_f32(pipe->ctx, want, "latents", &count);
    double error = test_relative_l2(a, b, count);
    sara_free(pipe->ctx, a);
    sara_free(pipe->ctx, b);
    sara_safetensors_close(file);
    sara_safetensors_close(want);
    return error;
}

static void set_pair(int *out, int a, int b)
{
    out[0] = a;
    out[1] = b;
}

static void test_sizes_told(void **state)
{
    test_pipe *pipe = *state;
    sara_model *model = test_model(pipe, test_family("sdxl").text, false);
    sara_generate_options o = recorded_options(pipe, "sizes");
    set_pair(o.original_size, 96, 64);
    set_pair(o.crops_coords_top_left, 8, 4);
    set_pair(o.target_size, 40, 56);
    assert_close(recorded_error(pipe, model, "sizes", &o), 1e-4, "sizes");
    set_pair(o.negative_original_size, 24, 20);
    set_pair(o.negative_crops_coords_top_left, 2, 6);
    set_pair(o.negative_target_size, 28, 36);
    assert_close(recorded_error(pipe, model, "negative_sizes", &o), 1e-4, "negative sizes");
    sara_model_free(model);
}

/* ------------------------------------------------------------------------------- single files */

static const char *whole_file(test_pipe *pipe)
{
    sara_model *model = test_model(pipe, test_family("sdxl").text, false);
    const char *path = test_path(pipe, "whole.safetensors");
    assert_ok(pipe->ctx, sara_model_save(pipe->ctx, NULL, model, path, NULL));
    sara_model_free(model);
    return path;
}

/* The file without what its metadata tells of the noise, and with tensors without content. */
static const char *marked_file(test_pipe *pipe, const char *from, const char *name,
                               const char *const markers[2])
{
    static const char *const configs[] = {"sara.config.unet", "sara.config.vae",
                                          "sara.config.text_encoder", "sara.config.text_encoder_2"};
    sara_safetensors *file = test_open(pipe->ctx, from);
    size_t count = sara_safetensors_count(file);
    const char *path = test_path(pipe, name);
    sara_tensor_source *tensors;
    sara_metadata metadata[4];
    assert_ok(pipe->ctx, sara_arena_alloc(&pipe->strings, &tensors, count + 2, sizeof(*tensors)));
    for (size_t i = 0; i < count; i++) {
        const sara_tensor_info *info = sara_safetensors_at(file, i);
        void *data = NULL;
        assert_ok(pipe->ctx, sara_arena_alloc(&pipe->strings, &data, info->size + 1, 1));
        assert_ok(pipe->ctx, sara_safetensors_read(file, data, info));
        tensors[i] = (sara_tensor_source){info->name, info->dtype, info->shape, data};
    }
    for (int i = 0; i < 2; i++)
        if (markers[i])
            tensors[count++] = (sara_tensor_source){markers[i], SARA_F32, sara_shape1(0), ""};
    for (size_t i = 0; i < 4; i++)
        metadata[i] = (sara_metadata){
            .key = configs[i],
            .value = (char *)(uintptr_t)sara_safetensors_metadata(file, configs[i])};
    assert_ok(pipe->ctx, sara_safetensors_save(pipe->ctx, path, tensors, count, metadata, 4));
    sara_safetensors_close(file);
    return path;
}

static sara_model *load_marked(test_pipe *pipe, const char *path, const char *prediction_type)
{
    const sara_model_options options = {.tokenizer =
                                            test_text(pipe, "%s", test_family("sdxl").text),
                                        .prediction_type = prediction_type};
    sara_model *model = NULL;
    assert_ok(pipe->ctx, sara_model_load(pipe->ctx, &model, path, &options));
    return model;
}

/* ComfyUI's marks: v_pred, and with it ztsnr. */
static void test_zero_snr(void **state)
{
    test_pipe *pipe = *state;
    const char *whole = whole_file(pipe);
    const char *both =
        marked_file(pipe, whole, "both.safetensors", (const char *const[]){"v_pred", "ztsnr"});
    const char *v =
        marked_file(pipe, whole, "v.safetensors", (const char *const[]){"v_pred", NULL});
    sara_model *model = load_marked(pipe, both, NULL);
    sara_generate_options o = recorded_options(pipe, "zero_snr");
    assert_close(recorded_error(pipe, model, "zero_snr", &o), 1e-4, "zero snr");
    const char *written = test_path(pipe, "written.safetensors");
    assert_ok(pipe->ctx, sara_model_save(pipe->ctx, NULL, model, written, NULL));
    sara_model_free(model);
    sara_safetensors *file = test_open(pipe->ctx, written);
    assert_non_null(sara_safetensors_find(file, "v_pred"));
    assert_non_null(sara_safetensors_find(file, "ztsnr"));
    sara_safetensors_close(file);
    model = load_marked(pipe, written, NULL);
    assert_close(recorded_error(pipe, model, "zero_snr", &o), 1e-4, "zero snr, written");
    sara_model_free(model);
    model = load_marked(pipe, v, NULL);
    assert_false(model->scheduler.rescale_betas_zero_snr);
    sara_model_free(model);
    model = load_marked(pipe, both, "epsilon");
    assert_false(model->scheduler.rescale_betas_zero_snr);
    sara_model_free(model);
}

static void test_other_noise(void **state)
{
    test_pipe *pipe = *state;
    const char *whole = whole_file(pipe);
    const char *names[] = {"edm_mean", "edm_vpred.sigma_max"};
    const char *kinds[] = {"(Playground v2.5); SD1.x", "(CosXL); SD1.x"};
    for (int i = 0; i < 2; i++) {
        const char *path = marked_file(pipe, whole, test_text(pipe, "%d.safetensors", i),
                                       (const char *const[]){names[i], NULL});
        sara_model *model = NULL;
        assert_refused(pipe->ctx, SARA_ERROR_INPUT, kinds[i],
                       sara_model_load(pipe->ctx, &model, path, NULL));
    }
}

/* ---------------------------------------------------------------------------------- another VAE */

/* Arithmetic is in float32 whatever force_upcast says, so that the picture is the same. */
static void test_vae_for_16_bits(void **state)
{
    test_pipe *pipe = *state;
    const char *source = test_text(pipe, "%s", test_family("sdxl/vae").text);
    const char *folder = test_path(pipe, "vae");
    const sara_model_options options = {.vae = folder};
    sara_generate_options o = recorded_options(pipe, "sizes");
    json_t *config = json_load_file(test_text(pipe, "%s/config.json", source), 0, NULL);
    sara_model *models[2] = {test_model(pipe, test_family("sdxl").text, false)};
    sara_image *images[2];
    assert_true(json_is_true(json_object_get(config, "force_upcast")));
    json_object_set_new(config, "force_upcast", json_false());
    char *text = json_dumps(config, 0);
    assert_ok(pipe->ctx, sara_directory_make(pipe->ctx, folder));
    test_write(pipe, test_text(pipe, "%s/config.json", folder), text);
    assert_int_equal(symlink(test_text(pipe, "%s/diffusion_pytorch_model.safetensors", source),
                             test_text(pipe, "%s/diffusion_pytorch_model.safetensors", folder)),
                     0);
    assert_ok(pipe->ctx,
              sara_model_load(pipe->ctx, &models[1], test_family("sdxl").text, &options));
    for (int i = 0; i < 2; i++) {
        o.save_latents = NULL;
        images[i] = draw_one(pipe, models[i], &o);
    }
    assert_memory_equal(images[0]->pixels, images[1]->pixels, 3 * 32 * 48);
    for (int i = 0; i < 2; i++) {
        sara_images_free(pipe->ctx, images[i], 1);
        sara_model_free(models[i]);
    }
    json_decref(config);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST_CASE(test_sizes_told),
        TEST_CASE(test_zero_snr),
        TEST_CASE(test_other_noise),
        TEST_CASE(test_vae_for_16_bits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

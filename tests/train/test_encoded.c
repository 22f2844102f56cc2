/* What training makes of images, against diffusers' moments and draws of a Philox of its own:
 * tests/golden/shifted, whose VAE has a shift_factor. */
#include "support_train.h"

#define GOLDEN   SARA_TEST_GOLDEN "/shifted"
#define SIDE     16
#define LATENT   ((size_t)4 * 4 * 4)
#define ELEMENTS 6 /* that are recorded */

typedef struct encoding {
    test_run *run;
    sara_safetensors *expected;
    sara_model *model;
    sara_batches *batches;
} encoding;

static encoding begin_encoding(test_run *run)
{
    const sara_model_options options = {.vae = GOLDEN};
    encoding e = {.run = run, .expected = test_open(run->ctx, GOLDEN "/expected.safetensors")};
    assert_ok(run->ctx,
              sara_model_load(run->ctx, &e.model, SARA_TEST_GOLDEN "/pipeline", &options));
    run->options.unet_only = run->options.replay = NULL;
    run->options.resolution = SIDE;
    run->options.train_batch_size = 1;
    run->options.instance_prompt = "a red barn";
    run->options.random_flip = true;
    return e;
}

static void end_encoding(encoding *e)
{
    sara_batches_free(e->batches);
    sara_model_free(e->model);
    sara_safetensors_close(e->expected);
}

static void load_integers(const encoding *e, int64_t *out, const char *name, int64_t count)
{
    sara_tensor tensor = {0};
    const sara_shape shape = sara_shape1(count);
    assert_ok(e->run->ctx, sara_safetensors_load(e->expected, &tensor, name, SARA_I64, &shape));
    memcpy(out, tensor.data, (size_t)count * sizeof(*out));
    sara_tensor_free(e->run->ctx, &tensor);
}

static void mirror(uint8_t *pixels, int width, int height)
{
    for (int y = 0; y < height; y++)
        for (int x = 0; x < width / 2; x++)
            for (int c = 0; c < 3; c++) {
                uint8_t *left = pixels + (y * width + x) * 3 + c;
                uint8_t *right = pixels + (y * width + width - 1 - x) * 3 + c;
                uint8_t kept = *left;
                *left = *right;
                *right = kept;
            }
}

/* A data set of this one recorded image. */
static void open_image(encoding *e, const char *name, bool mirrored)
{
    test_run *run = e->run;
    const char *folder = test_text(run, "%s/%s%d", run->folder, name, mirrored);
    sara_tensor tensor = {0};
    const sara_shape any = {3, {-1, -1, 3}};
    assert_ok(run->ctx, sara_safetensors_load(e->expected, &tensor,
                                              test_text(run, "image.%s", name), SARA_U8, &any));
    const sara_image image = {(int)tensor.shape.dims[1], (int)tensor.shape.dims[0], tensor.data};
    if (mirrored)
        mirror(image.pixels, image.width, image.height);
    assert_ok(run->ctx, sara_directory_make(run->ctx, folder));
    assert_ok(run->ctx,
              sara_image_save(run->ctx, &image, test_text(run, "%s/a.png", folder), NULL));
    sara_tensor_free(run->ctx, &tensor);
    sara_batches_free(e->batches);
    run->options.train_data_dir = folder;
    static const sara_objective objective = {.num_train_timesteps = 1000};
    assert_ok(run->ctx,
              sara_batches_open(run->ctx, &e->batches, e->model, &run->options, &objective));
    assert_ok(run->ctx, sara_batches_fill(e->batches, 0, INT64_MAX));
}

/* out [ELEMENTS][LATENT] */
static void take_latents(const encoding *e, float *out)
{
    sara_batch batch;
    for (int64_t i = 0; i < ELEMENTS; i++) {
        assert_ok(e->run->ctx, sara_batches_get(e->batches, &batch, i));
        assert_int_equal(sara_shape_count(&batch.latents.shape), LATENT);
        memcpy(out + (size_t)i * LATENT, batch.latents.data, LATENT * sizeof(*out));
    }
}

/* Flips, crops at the centre and drawn ones, the posterior's sample, shift and scale. */
static void test_latents(void **state)
{
    static const struct {
        const char *name;
        bool center_crop;
    } cases[] = {{"square", false},
                 {"wide", true},
                 {"high", true},
                 {"wide_drawn", false},
                 {"high_drawn", false}};
    encoding e = begin_encoding(*state);
    float latents[ELEMENTS * LATENT];
    size_t count;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        const char *name = cases[i].name;
        e.run->options.center_crop = cases[i].center_crop;
        open_image(&e, name, false);
        take_latents(&e, latents);
        float *want =
            test_load_f32(e.run->ctx, e.expected, test_text(e.run, "latents.%s", name), &count);
        assert_int_equal(count, ELEMENTS * LATENT);
        for (size_t j = 0; j < count; j += LATENT)
            assert_close(test_relative_l2(latents + j, want + j, LATENT), 1e-5, name);
        sara_free(e.run->ctx, want);
    }
    end_encoding(&e);
}

/* An element whose flip is drawn is its mirrored file, to the bit. */
static void test_flips(void **state)
{
    encoding e = begin_encoding(*state);
    float latents[ELEMENTS * LATENT], mirrored[ELEMENTS * LATENT];
    int64_t flips[ELEMENTS];
    load_integers(&e, flips, "flips", ELEMENTS);
    open_image(&e, "square", false);
    take_latents(&e, latents);
    e.run->options.random_flip = false;
    open_image(&e, "square", true);
    take_latents(&e, mirrored);
    for (int64_t i = 0; i < ELEMENTS; i++) {
        bool same = memcmp(latents + (size_t)i * LATENT, mirrored + (size_t)i * LATENT,
                           LATENT * sizeof(*latents)) == 0;
        assert_int_equal(same, flips[i]);
    }
    end_encoding(&e);
}

/* Elements of several micro-batches: their timesteps and noise. */
static void test_timesteps_and_noise(void **state)
{
    encoding e = begin_encoding(*state);
    sara_batch batch;
    int64_t timesteps[ELEMENTS];
    size_t count;
    load_integers(&e, timesteps, "timesteps", ELEMENTS);
    float *noise = test_load_f32(e.run->ctx, e.expected, "noise", &count);
    e.run->options.train_batch_size = 2;
    open_image(&e, "square", false);
    for (int64_t i = 0; i < ELEMENTS / 2; i++) {
        assert_ok(e.run->ctx, sara_batches_get(e.batches, &batch, i));
        for (int j = 0; j < 2; j++)
            assert_true(batch.timesteps[j] == (double)timesteps[2 * i + j]);
        assert_close(test_relative_l2(batch.noise, noise + (size_t)(2 * i) * LATENT, 2 * LATENT),
                     1e-6, "noise");
    }
    sara_free(e.run->ctx, noise);
    end_encoding(&e);
}

static size_t bytes_of(encoding *e, const char *name, bool mirrored, bool random_flip)
{
    e->run->options.random_flip = random_flip;
    open_image(e, name, mirrored);
    return sara_batches_source(e->batches)->bytes;
}

/* Of each image whose crop is not drawn mean and log-variance are kept, with flips those of two. */
static void test_kept_bytes(void **state)
{
    encoding e = begin_encoding(*state);
    size_t kept = 2 * LATENT * sizeof(float), none = bytes_of(&e, "wide_drawn", false, true);
    assert_int_equal(bytes_of(&e, "square", false, false), none + kept);
    assert_int_equal(bytes_of(&e, "square", true, true), none + 2 * kept);
    end_encoding(&e);
}

/* Each letter is a token; of sixteen two stand for the ends of a caption. */
static void test_cut_captions(void **state)
{
    static const char letters[] = "abcdefghijklmno";
    encoding e = begin_encoding(*state);
    for (int count = 14; count <= 15; count++) {
        e.run->options.instance_prompt = test_text(e.run, "%.*s", count, letters);
        test_run_forget_log(e.run);
        open_image(&e, "square", count == 14);
        bool told = strstr(e.run->log, "captions are cut at 16 tokens for CLIP: 1 of 1, the "
                                       "longest of 17; the first is that of ") != NULL;
        assert_int_equal(told, count == 15);
    }
    end_encoding(&e);
}

/* Without --resolution squares of the longer side that the U-Net has. */
static void test_own_resolution(void **state)
{
    encoding e = begin_encoding(*state);
    sara_denoiser_info *info = &e.model->denoiser->info.denoiser;
    e.run->options.resolution = 0;
    info->sample_width = 5;
    info->sample_height = 4;
    open_image(&e, "square", false);
    assert_int_equal(sara_batches_source(e.batches)->width, 5 * 4); /* the VAE's factor */
    info->sample_width = 4;
    info->sample_height = 6;
    open_image(&e, "square", true);
    assert_int_equal(sara_batches_source(e.batches)->width, 6 * 4);
    end_encoding(&e);
}

static void test_order_of_epochs(void **state)
{
    encoding e = begin_encoding(*state);
    int64_t order[15];
    load_integers(&e, order, "order", 15);
    for (uint64_t i = 0; i < 15; i++)
        assert_int_equal(sara_epoch_place(42, 5, i), order[i]);
    end_encoding(&e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {TEST_CASE(test_latents),
                                       TEST_CASE(test_flips),
                                       TEST_CASE(test_timesteps_and_noise),
                                       TEST_CASE(test_order_of_epochs),
                                       TEST_CASE(test_cut_captions),
                                       TEST_CASE(test_kept_bytes),
                                       TEST_CASE(test_own_resolution)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

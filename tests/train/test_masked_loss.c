/* Masks of the loss: their size against torch's, where they lie, and what is trained under them. */
#include "support_train.h"

#include "train/dataset_cache.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WIDE 16 /* of latents of pictures as they are */

/* A ramp of bytes as in make_masks.py, in red alone, at a place in a larger picture. */
static sara_image ramp(test_run *run, int width, int height, int left, int top)
{
    sara_image image = {.width = width + left + 2, .height = height + top + 1};
    const size_t bytes = 3 * (size_t)image.width * (size_t)image.height;
    assert_ok(run->ctx, sara_arena_alloc(&run->strings, &image.pixels, bytes, 1));
    memset(image.pixels, 77, bytes);
    for (int y = 0; y < height; y++)
        for (int x = 0; x < width; x++)
            image.pixels[3 * ((y + top) * image.width + x + left)] =
                (uint8_t)((y * width + x) * 37 % 256);
    return image;
}

static void test_area(void **state)
{
    static const int sizes[][4] = {{32, 32, 4, 4}, {48, 32, 6, 4}, {10, 7, 3, 2}, {9, 16, 9, 5}};
    test_run *run = *state;
    sara_safetensors *expected = test_open(run->ctx, SARA_TEST_GOLDEN "/masks.safetensors");
    for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
        const int *s = sizes[i];
        const sara_image image = ramp(run, s[0], s[1], 3, 2);
        const sara_fit fit = {s[0], s[1], image.width, image.height};
        float out[64], flipped[64];
        size_t count;
        const char *name = test_text(run, "mask.%dx%d.%dx%d", s[0], s[1], s[2], s[3]);
        float *want = test_load_f32(run->ctx, expected, name, &count);
        assert_int_equal(count, s[2] * s[3]);
        sara_dataset_mask_average(out, s[2], s[3], &image, &fit, &(sara_dataset_crop){3, 2, false});
        sara_dataset_mask_average(flipped, s[2], s[3], &image, &fit,
                                  &(sara_dataset_crop){3, 2, true});
        assert_close(test_relative_l2(out, want, count), 1e-6, name);
        for (int y = 0; y < s[3]; y++)
            for (int x = 0; x < s[2]; x++)
                assert_true(flipped[y * s[2] + x] == out[y * s[2] + s[2] - 1 - x]);
        sara_free(run->ctx, want);
    }
    sara_safetensors_close(expected);
}

/* ------------------------------------------------------------------------------- in training */

/* White to the left of `edge` in a picture of this size. */
static void put_mask(test_run *run, const char *name, int width, int height, int edge)
{
    sara_image image = {.width = width, .height = height};
    const size_t bytes = 3 * (size_t)width * (size_t)height;
    assert_ok(run->ctx, sara_arena_alloc(&run->strings, &image.pixels, bytes, 1));
    memset(image.pixels, 0, bytes);
    for (int i = 0; i < width * height; i++)
        image.pixels[3 * i] = i % width < edge ? 255 : 0;
    test_put(run->folder, name, "", 0);
    assert_ok(run->ctx,
              sara_image_save(run->ctx, &image, test_text(run, "%s/%s", run->folder, name), NULL));
}

/* Two pictures of the emoji's with masks; the edge of the first is that of the left half. */
static void use_masks(test_run *run, int first, int second)
{
    test_run_take_images(run, 2);
    put_mask(run, "masks/u1f301.png", 64, 64, first);
    put_mask(run, "masks/u1f303.png", 64, 64, second);
    run->options.masked_loss = true;
    run->options.conditioning_data_dir = test_text(run, "%s/masks", run->folder);
}

static void test_in_a_batch(void **state)
{
    static const sara_objective objective = {.num_train_timesteps = 1000};
    test_run *run = *state;
    sara_model *model = NULL;
    sara_batches *batches = NULL;
    sara_batch batch;
    bool seen[2] = {false, false};
    use_masks(run, 32, 64);
    run->options.train_batch_size = 2;
    run->options.resolution = 64;
    run->options.random_flip = true;
    assert_ok(run->ctx,
              sara_model_load(run->ctx, &model, run->options.pretrained_model_name_or_path, NULL));
    assert_ok(run->ctx, sara_batches_open(run->ctx, &batches, model, &run->options, &objective));
    assert_ok(run->ctx, sara_batches_fill(batches, 0, INT64_MAX));
    for (int64_t i = 0; i < 6; i++) {
        assert_ok(run->ctx, sara_batches_get(batches, &batch, i));
        const sara_shape shape = sara_shape4(2, 1, WIDE, WIDE);
        assert_true(sara_shape_equal(&batch.mask.shape, &shape));
        for (int n = 0; n < 2; n++) {
            const float *mask = (const float *)batch.mask.data + n * WIDE * WIDE;
            if (mask[0] + mask[WIDE - 1] == 2) /* the second picture's */
                continue;
            assert_true(mask[0] + mask[WIDE - 1] == 1);
            for (int x = 0; x < WIDE; x++)
                assert_true(mask[x] == mask[x < WIDE / 2 ? 0 : WIDE - 1]);
            seen[mask[0] == 1] = true; /* mirrored, or not */
        }
    }
    assert_true(seen[0] && seen[1]);
    sara_batches_free(batches);
    sara_model_free(model);
}

/* Without a place that counts nothing is learned, and the low-rank term is no matter. */
static void test_nothing_counts(void **state)
{
    test_run *run = *state;
    double losses[4];
    use_masks(run, 0, 0);
    run->options.lambda_rank = 0;
    assert_ok(run->ctx, test_run_train(run));
    assert_int_equal(test_run_column(run, losses, 4, "loss"), 4);
    for (int i = 0; i < 4; i++)
        assert_true(losses[i] == 0);
}

/* A mask that is white all over changes no bit; another does. Caches change nothing. */
static void test_results(void **state)
{
    test_run *run = *state;
    const char *lines[4];
    for (int i = 0; i < 4; i++) {
        use_masks(run, i == 1 ? 64 : 40, 64);
        run->options.masked_loss = i > 0;
        run->options.conditioning_data_dir = i ? run->options.conditioning_data_dir : NULL;
        run->options.cache_latents_to_disk = i == 3;
        test_run_output(run, test_text(run, "run-%d", i));
        assert_ok(run->ctx, test_run_train(run));
        double losses[4];
        test_run_column(run, losses, 4, "loss");
        lines[i] = test_text(run, "%.9g %.9g", losses[2], losses[3]);
    }
    assert_string_equal(lines[0], lines[1]);
    assert_string_not_equal(lines[0], lines[2]);
    assert_string_equal(lines[2], lines[3]);
}

static void test_refused(void **state)
{
    test_run *run = *state;
    use_masks(run, 32, 32);
    run->options.alpha_mask = true;
    assert_refused(run->ctx, SARA_ERROR_USAGE, "--alpha_mask and --conditioning_data_dir",
                   test_run_train(run));
    run->options.conditioning_data_dir = NULL;
    run->options.masked_loss = false;
    assert_refused(run->ctx, SARA_ERROR_USAGE, "--alpha_mask true: goes with --masked_loss",
                   test_run_train(run));
    run->options.masked_loss = true;
    run->options.alpha_mask = false;
    assert_refused(run->ctx, SARA_ERROR_USAGE, "--masked_loss: where are the masks?",
                   test_run_train(run));
    run->options.conditioning_data_dir = test_text(run, "%s/masks", run->folder);
    put_mask(run, "masks/u1f301.png", 64, 63, 10);
    assert_refused(run->ctx, SARA_ERROR_INPUT, "u1f301.png: a mask of 64x63, its image ",
                   test_run_train(run));
    assert_int_equal(remove(test_text(run, "%s/masks/u1f301.png", run->folder)), 0);
    assert_refused(run->ctx, SARA_ERROR_INPUT,
                   "u1f301.png: has no mask: expected u1f301.png (.jpg, .jpeg, .webp) in ",
                   test_run_train(run));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST_CASE(test_area),    TEST_CASE(test_in_a_batch), TEST_CASE(test_nothing_counts),
        TEST_CASE(test_results), TEST_CASE(test_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

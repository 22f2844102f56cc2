/* Training on image folders: epochs, caches and interruptions in the middle of an epoch. */
#include "support_train.h"

#include "train/dataset_cache.h"

#include <math.h>

/* Three images, two a step: step 1 ends in the middle of an epoch. */
static void test_mid_epoch(void **state)
{
    test_run *run = *state;
    test_run_take_images(run, 3);
    run->options.random_flip = true;
    test_run_interrupted(run);
}

/* An image twice as wide as high is cropped at random and encoded at each step. */
static void add_wide_image(test_run *run, const char *folder)
{
    static const char line[] = "{\"file_name\": \"wide.png\", \"text\": \"wide\"}\n";
    uint8_t pixels[40 * 80 * 3];
    const sara_image image = {80, 40, pixels};
    const char *metadata = test_text(run, "%s/metadata.jsonl", folder);
    char *text = NULL;
    size_t size;
    for (size_t i = 0; i < sizeof(pixels); i++)
        pixels[i] = (uint8_t)(i * 7 % 251);
    assert_ok(run->ctx,
              sara_image_save(run->ctx, &image, test_text(run, "%s/wide.png", folder), NULL));
    assert_ok(run->ctx, sara_file_read(run->ctx, &text, &size, metadata, 1 << 20));
    const char *longer = test_text(run, "%s%s", text, line);
    test_put(folder, "metadata.jsonl", longer, strlen(longer));
    sara_free(run->ctx, text);
}

static void test_random_crop(void **state)
{
    test_run *run = *state;
    test_run_take_images(run, 2);
    run->options.random_flip = true;
    add_wide_image(run, run->options.train_data_dir);
    test_run_interrupted(run);
    assert_non_null(strstr(run->log, "1 of 3 images are cropped at random"));
    const char *cropped = test_run_sha256(run);
    run->options.center_crop = true;
    test_run_output(run, "centre");
    assert_ok(run->ctx, test_run_train(run));
    assert_null(strstr(run->log, "cropped at random"));
    assert_string_not_equal(test_run_sha256(run), cropped);
}

/* The data are what is in the files, under their names and captions, wherever the folder lies. */
static void test_changed_images(void **state)
{
    static const char captions[] = "{\"file_name\": \"u1f301.png\", \"text\": \"another\"}\n";
    test_run *run = *state;
    test_run_take_images(run, 1);
    run->interrupt_at = 1;
    assert_refused(run->ctx, SARA_INTERRUPTED, "after step 1", test_run_train(run));
    run->options.resume_from_checkpoint = "latest";
    const char *moved = test_text(run, "%s/moved", run->folder);
    assert_int_equal(rename(run->options.train_data_dir, moved), 0);
    run->options.train_data_dir = moved;
    run->interrupt_at = 2;
    assert_refused(run->ctx, SARA_INTERRUPTED, "after step 2", test_run_train(run));
    run->interrupt_at = -1;
    test_put(moved, "metadata.jsonl", captions, strlen(captions));
    assert_refused(run->ctx, SARA_ERROR_USAGE, "the run has data_sha256", test_run_train(run));
    run->options.caption_prefix = "ink style, ";
    assert_refused(run->ctx, SARA_ERROR_USAGE, "the run has caption_prefix = null, now it is \"ink",
                   test_run_train(run));
}

/* Each epoch visits every image once, in another order. */
static void test_order(void **state)
{
    test_run *run = *state;
    sara_dataset_cache *cache = NULL;
    sara_model *model = NULL;
    sara_batch batch;
    int64_t orders[4][3];
    test_run_take_images(run, 3);
    run->options.train_batch_size = 3;
    assert_ok(run->ctx,
              sara_model_load(run->ctx, &model, run->options.pretrained_model_name_or_path, NULL));
    assert_ok(run->ctx, sara_dataset_cache_new(run->ctx, &cache, model, &run->options));
    assert_ok(run->ctx, sara_dataset_cache_fill(cache, 0, INT64_MAX));
    assert_int_equal(cache->source.items, 3);
    batch = sara_dataset_cache_shape(cache, SARA_DATASET_INSTANCE, 0);
    assert_int_equal(sara_shape_count(&batch.latents.shape), 3 * 4 * 8 * 8);
    assert_ok(run->ctx, sara_batch_alloc(run->ctx, &batch));
    const float *states = batch.condition[SARA_CONDITION_STATES].data;
    size_t state_size = (size_t)sara_shape_count(&batch.condition[SARA_CONDITION_STATES].shape) / 3;
    const float *first = NULL;
    for (int64_t epoch = 0; epoch < 4; epoch++) {
        int64_t seen = 0;
        assert_ok(run->ctx, sara_dataset_cache_get(cache, &batch, 0, SARA_DATASET_INSTANCE, epoch));
        if (!first) { /* the captions of the first epoch stand for the images */
            float *copy;
            assert_ok(run->ctx,
                      sara_arena_alloc(&run->strings, &copy, 3 * state_size, sizeof(*copy)));
            memcpy(copy, states, 3 * state_size * sizeof(*copy));
            first = copy;
        }
        for (size_t i = 0; i < 3; i++)
            for (int64_t image = 0; image < 3; image++)
                if (memcmp(states + i * state_size, first + (size_t)image * state_size,
                           state_size * sizeof(*states)) == 0) {
                    orders[epoch][i] = image;
                    seen |= INT64_C(1) << image;
                }
        assert_int_equal(seen, 7);
    }
    assert_true(memcmp(orders[0], orders[1], sizeof(orders[0])) ||
                memcmp(orders[0], orders[2], sizeof(orders[0])) ||
                memcmp(orders[0], orders[3], sizeof(orders[0])));
    sara_batch_clear(run->ctx, &batch);
    sara_dataset_cache_free(cache);
    sara_model_free(model);
}

/* Two images in folders N_name: the first three times an epoch, the second once. */
static void take_repeats(test_run *run)
{
    test_run_take_images(run, 2);
    test_run_copy(run, "repeats/3_foggy/a.png", SARA_TEST_EMOJI "/ink/u1f301.png");
    test_run_copy(run, "repeats/1_night/a.png", SARA_TEST_EMOJI "/ink/u1f303.png");
    run->options.train_data_dir = test_text(run, "%s/repeats", run->folder);
}

static void test_repeats_in_an_epoch(void **state)
{
    test_run *run = *state;
    sara_dataset_cache *cache = NULL;
    sara_model *model = NULL;
    sara_batch batch;
    sara_text_states first;
    int64_t count[2] = {0};
    take_repeats(run);
    run->options.train_batch_size = 1;
    assert_ok(run->ctx,
              sara_model_load(run->ctx, &model, run->options.pretrained_model_name_or_path, NULL));
    assert_ok(run->ctx, sara_dataset_cache_new(run->ctx, &cache, model, &run->options));
    assert_ok(run->ctx, sara_dataset_cache_fill(cache, 0, INT64_MAX));
    assert_int_equal(cache->source.items, 4);
    assert_int_equal(cache->source.images, 2);
    batch = sara_dataset_cache_shape(cache, SARA_DATASET_INSTANCE, 0);
    assert_ok(run->ctx, sara_batch_alloc(run->ctx, &batch));
    const float *states = batch.condition[SARA_CONDITION_STATES].data;
    size_t state_size = (size_t)sara_shape_count(&batch.condition[SARA_CONDITION_STATES].shape);
    assert_ok(run->ctx, sara_model_encode_text(run->ctx, &first, model, "foggy"));
    for (int64_t epoch = 0; epoch < 5; epoch++) {
        count[0] = count[1] = 0;
        for (int64_t i = 0; i < 4; i++) {
            assert_ok(run->ctx, sara_dataset_cache_get(cache, &batch, 0, SARA_DATASET_INSTANCE,
                                                       4 * epoch + i));
            count[memcmp(states, first.states, state_size * sizeof(*states)) != 0]++;
        }
        assert_int_equal(count[0], 3);
        assert_int_equal(count[1], 1);
    }
    sara_text_states_free(run->ctx, &first);
    sara_batch_clear(run->ctx, &batch);
    sara_dataset_cache_free(cache);
    sara_model_free(model);
}

static void test_repeats_resumed(void **state)
{
    test_run *run = *state;
    sara_train_result result;
    take_repeats(run);
    run->options.random_flip = true;
    test_run_interrupted(run);
    assert_non_null(strstr(run->log, "from 2 images, 4 with repeats"));
    test_run_output(run, "epochs");
    run->options.max_train_steps = 0;
    run->options.num_train_epochs = 3;
    assert_ok(run->ctx, sara_train(run->ctx, &result, &run->options));
    assert_int_equal(result.steps, 6); /* 3 x 4 elements, 2 a step */
    const char *folder = run->options.train_data_dir;
    assert_int_equal(
        rename(test_text(run, "%s/3_foggy", folder), test_text(run, "%s/2_foggy", folder)), 0);
    run->options.num_train_epochs = 0;
    run->options.max_train_steps = 6;
    run->options.resume_from_checkpoint = "latest";
    assert_refused(run->ctx, SARA_ERROR_USAGE, "the run has data_sha256", test_run_train(run));
}

static void test_epochs(void **state)
{
    test_run *run = *state;
    sara_train_result result;
    test_run_take_images(run, 3);
    run->options.max_train_steps = 0;
    run->options.num_train_epochs = 1;
    assert_ok(run->ctx, sara_train(run->ctx, &result, &run->options));
    assert_int_equal(result.steps, 2); /* 3 images, 2 a step */
}

/* What sara_generate draws with the run's adapter, seed and scale, and what its text is. */
static void check_validated(test_run *run, const char *name)
{
    const char *path = test_text(run, "%s/%s", run->output, name);
    sara_generate_options generate;
    sara_model *model = NULL;
    sara_image *images = NULL, picture = {0};
    char *text = NULL;
    int count;
    size_t size;
    assert_ok(run->ctx,
              sara_model_load(run->ctx, &model, run->options.pretrained_model_name_or_path, NULL));
    sara_generate_options_init(&generate);
    generate.prompt = run->options.validation_prompts[0];
    generate.seed = run->options.seed;
    generate.guidance_scale = run->options.validation_guidance_scale;
    assert_ok(run->ctx, sara_generate_text(run->ctx, &text, model, &generate, 64, 64, 0));
    assert_ok(run->ctx,
              sara_model_apply(run->ctx, model,
                               test_text(run, "%s/adapter.safetensors", run->output), 1, false));
    assert_ok(run->ctx, sara_generate(run->ctx, &images, &count, model, &generate));
    assert_ok(run->ctx, sara_image_read(run->ctx, &picture, path));
    assert_true(picture.width == 64 && picture.height == 64 && images[0].width == 64);
    assert_memory_equal(picture.pixels, images[0].pixels, (size_t)64 * 64 * 3);
    const char *file = test_run_read(run, name, &size);
    assert_non_null(memmem(file, size, text, strlen(text)));
    assert_non_null(strstr(text, "CFG scale: 2.5, Seed: 7, Size: 64x64"));
    sara_image_clear(run->ctx, &picture);
    sara_images_free(run->ctx, images, count);
    sara_free(run->ctx, text);
    sara_model_free(model);
}

/* A validation picture is drawn at the last step; an interruption in it loses nothing. */
static void test_validation(void **state)
{
    test_run *run = *state;
    size_t size;
    test_run_take_images(run, 1);
    run->options.max_train_steps = 2;
    run->options.validation_prompts[0] = "<b>a & \"cat\"</b>";
    run->options.validation_prompt_count = 1;
    run->options.validation_steps = 1;
    run->options.validation_guidance_scale = 2.5;
    run->options.seed = 7;
    assert_ok(run->ctx, test_run_train(run));
    assert_true(test_run_has(run, "samples/step-000001-0.png"));
    check_validated(run, "samples/step-000002-0.png");
    const char *report = test_run_read(run, "report.html", &size);
    assert_non_null(strstr(report, "alt=\"&lt;b&gt;a &amp; &quot;cat&quot;&lt;/b&gt;, step 2\" "
                                   "src=\"data:image/png;base64,"));
    assert_non_null(strstr(report, "Content-Security-Policy"));
    assert_null(strstr(report, "<script"));
}

/* The pixels of step 1's picture, after the same training. */
static const uint8_t *validated(test_run *run, const char *folder, bool no_prompt_weights,
                                bool long_prompt, size_t *size)
{
    sara_image image = {0};
    uint8_t *pixels = NULL;
    run->options.no_prompt_weights = no_prompt_weights;
    run->options.long_prompt = long_prompt;
    test_run_output(run, folder);
    assert_ok(run->ctx, test_run_train(run));
    assert_ok(run->ctx, sara_image_read(run->ctx, &image,
                                        test_text(run, "%s/samples/step-000001-0.png",
                                                  run->options.output_dir)));
    *size = (size_t)image.width * (size_t)image.height * 3;
    assert_ok(run->ctx, sara_arena_alloc(&run->strings, &pixels, *size, 1));
    memcpy(pixels, image.pixels, *size);
    sara_free(run->ctx, image.pixels);
    return pixels;
}

/* Validation prompts have weights and chunks as those of sara generate. */
static void test_validation_weights(void **state)
{
    test_run *run = *state;
    size_t size;
    test_run_take_images(run, 1);
    run->options.max_train_steps = 1;
    run->options.validation_prompts[0] = "(winking:1.6) face BREAK [dog]";
    run->options.validation_prompt_count = 1;
    const uint8_t *weighted = validated(run, "weighted", false, false, &size);
    assert_memory_not_equal(validated(run, "literal", true, false, &size), weighted, size);
    assert_memory_not_equal(validated(run, "chunks", false, true, &size), weighted, size);
    run->options.validation_prompts[0] = "(a:200)";
    assert_refused(run->ctx, SARA_ERROR_USAGE,
                   "--validation_prompt: prompt: \"a\": weight 200, expected -100 to 100",
                   test_run_train(run));
}

static void stop(void *user, const sara_progress *progress)
{
    if (strcmp(progress->phase, "generate") == 0 && progress->step == 3)
        sara_context_interrupt(*(sara_context **)user);
}

static void test_interrupted_validation(void **state)
{
    test_run *run = *state;
    sara_context *ctx = NULL;
    const sara_context_options options = {.threads = 1, .progress = stop, .user = &ctx};
    test_run_take_images(run, 1);
    run->options.max_train_steps = 2;
    run->options.validation_prompts[0] = "a cat";
    run->options.validation_prompt_count = 1;
    run->options.validation_steps = 1;
    assert_ok(ctx, sara_context_new(&ctx, &options));
    assert_refused(ctx, SARA_INTERRUPTED, "after step 1 of 2 and saved",
                   sara_train(ctx, NULL, &run->options));
    assert_true(test_run_has(run, "checkpoint-1"));
    sara_context_free(ctx);
    run->options.validation_prompt_count = 0;
    run->options.resume_from_checkpoint = "latest";
    assert_ok(run->ctx, test_run_train(run));
}

/* A strip whose long side would not fit in memory is refused with its name. */
static void test_strip(void **state)
{
    test_run *run = *state;
    uint8_t pixels[3 * 2000] = {0};
    const sara_image image = {1, 2000, pixels};
    test_run_take_images(run, 1);
    const char *path = test_text(run, "%s/u1f301.png", run->options.train_data_dir);
    assert_ok(run->ctx, sara_image_save(run->ctx, &image, path, NULL));
    assert_refused(run->ctx, SARA_ERROR_INPUT, "u1f301.png: 1x2000 is too long: 32x64000",
                   test_run_train(run));
}

static void test_bad_images(void **state)
{
    test_run *run = *state;
    test_run_take_images(run, 1);
    run->options.resolution = 30;
    assert_refused(run->ctx, SARA_ERROR_USAGE, "--resolution 30x30", test_run_train(run));
    run->options.resolution = 32;
    const char *path = test_text(run, "%s/u1f301.png", run->options.train_data_dir);
    assert_ok(run->ctx, sara_file_write(run->ctx, path, "no image", 8));
    assert_refused(run->ctx, SARA_ERROR_INPUT, "u1f301.png", test_run_train(run));
    assert_int_equal(remove(path), 0);
    assert_refused(run->ctx, SARA_ERROR_INPUT, "u1f301.png", test_run_train(run));
    run->options.train_data_dir = test_text(run, "%s/none", run->folder);
    assert_refused(run->ctx, SARA_ERROR_IO, "none", test_run_train(run));
    assert_false(test_run_has(run, "adapter.safetensors"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST_CASE(test_mid_epoch),
        TEST_CASE(test_random_crop),
        TEST_CASE(test_changed_images),
        TEST_CASE(test_order),
        TEST_CASE(test_repeats_in_an_epoch),
        TEST_CASE(test_repeats_resumed),
        TEST_CASE(test_epochs),
        TEST_CASE(test_validation),
        TEST_CASE(test_validation_weights),
        TEST_CASE(test_interrupted_validation),
        TEST_CASE(test_strip),
        TEST_CASE(test_bad_images),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Data sets as people have them: buckets, several folders, class images, captions that vary. */
#include "support_train.h"

#include "train/dataset_cache.h"

#include <math.h>

#define SIDE 32

/* ------------------------------------------------------------------------------------- material */

/* No two pictures of different numbers are alike. */
static void put_picture(test_run *run, const char *name, int width, int height, int number)
{
    const size_t bytes = 3 * (size_t)width * (size_t)height;
    sara_image image = {.width = width, .height = height};
    assert_ok(run->ctx, sara_arena_alloc(&run->strings, &image.pixels, bytes, 1));
    for (size_t i = 0; i < bytes; i++)
        image.pixels[i] = (uint8_t)(i * (size_t)(number + 3) % 251);
    test_put(run->folder, name, "", 0); /* and the folders that it lies in */
    assert_ok(run->ctx,
              sara_image_save(run->ctx, &image, test_text(run, "%s/%s", run->folder, name), NULL));
}

/* Pictures of three shapes with tags, and two of a class of other shapes. */
static void put_data(test_run *run)
{
    static const int sizes[][2] = {{32, 32}, {48, 32}, {48, 32}, {32, 64}, {70, 32}};
    for (int i = 0; i < 5; i++) {
        const char *tags = test_text(run, "{red|blue}, tag%d, third, fourth", i);
        put_picture(run, test_text(run, "own/%d.png", i), sizes[i][0], sizes[i][1], i);
        test_put(run->folder, test_text(run, "own/%d.txt", i), tags, strlen(tags));
    }
    put_picture(run, "reg/2_foggy/a.png", 32, 32, 8);
    put_picture(run, "reg/1_night/b.png", 64, 32, 9);
}

static const char everything[] = "[general]\n"
                                 "resolution = 32\n"
                                 "enable_bucket = true\n"
                                 "min_bucket_reso = 16\n"
                                 "max_bucket_reso = 64\n"
                                 "bucket_reso_steps = 16\n"
                                 "flip_aug = true\n"
                                 "batch_size = 2\n"
                                 "[[datasets]]\n"
                                 "[[datasets.subsets]]\n"
                                 "image_dir = '%s/own'\n"
                                 "num_repeats = 3\n"
                                 "shuffle_caption = true\n"
                                 "keep_tokens = 1\n"
                                 "enable_wildcard = true\n"
                                 "caption_dropout_rate = 0.2\n"
                                 "caption_tag_dropout_rate = 0.2\n"
                                 "random_crop = %s\n"
                                 "color_aug = %s\n"
                                 "[[datasets.subsets]]\n"
                                 "image_dir = '%s/reg/2_foggy'\n"
                                 "is_reg = true\n"
                                 "class_tokens = 'foggy'\n"
                                 "[[datasets.subsets]]\n"
                                 "image_dir = '%s/reg/1_night'\n"
                                 "is_reg = true\n"
                                 "class_tokens = 'night'\n";

/* A run over all of it; anew: crops and colours are drawn. */
static void use_everything(test_run *run, bool anew)
{
    const char *yes = anew ? "true" : "false";
    test_run_take_images(run, 1);
    put_data(run);
    const char *text = test_text(run, everything, run->folder, yes, yes, run->folder, run->folder);
    test_put(run->folder, "data.toml", text, strlen(text));
    run->options.train_data_dir = NULL;
    run->options.dataset_config = test_text(run, "%s/data.toml", run->folder);
}

typedef struct data_run {
    sara_model *model;
    sara_batches *batches;
} data_run;

static data_run open_data(test_run *run)
{
    static const sara_objective objective = {.num_train_timesteps = 1000};
    data_run d = {NULL, NULL};
    assert_ok(run->ctx, sara_model_load(run->ctx, &d.model,
                                        run->options.pretrained_model_name_or_path, NULL));
    assert_ok(run->ctx,
              sara_batches_open(run->ctx, &d.batches, d.model, &run->options, &objective));
    assert_ok(run->ctx, sara_batches_fill(d.batches, 0, INT64_MAX));
    return d;
}

static void close_data(data_run *d)
{
    sara_batches_free(d->batches);
    sara_model_free(d->model);
}

/* ------------------------------------------------------------------------------------- resuming */

static void test_resumed(void **state)
{
    test_run *run = *state;
    use_everything(run, true);
    run->options.max_train_steps = 6;
    test_run_interrupted(run);
}

/* A cache on the disk changes nothing, whether it is filled or found. */
static void test_cached(void **state)
{
    test_run *run = *state;
    use_everything(run, false);
    run->options.max_train_steps = 6;
    test_run_interrupted(run);
    const char *sha256 = test_run_sha256(run);
    run->options.cache_latents_to_disk = run->options.cache_text_encoder_outputs_to_disk = true;
    for (int again = 0; again < 2; again++) {
        test_run_output(run, again ? "found" : "filled");
        assert_ok(run->ctx, test_run_train(run));
        assert_string_equal(test_run_sha256(run), sha256);
    }
    assert_non_null(strstr(run->log, "latents: 14 latents found, 0 made"));
}

/* An image or its mask that changes after it was hashed: nothing is kept under the name of what it
 * was. */
static void test_changed_meanwhile(void **state)
{
    static const sara_objective objective = {.num_train_timesteps = 1000};
    test_run *run = *state;
    sara_model *model;
    test_run_take_images(run, 1);
    run->options.train_data_dir = test_text(run, "%s/own", run->folder);
    run->options.conditioning_data_dir = test_text(run, "%s/masks", run->folder);
    run->options.masked_loss = run->options.center_crop = true;
    run->options.instance_prompt = "thing";
    assert_ok(run->ctx,
              sara_model_load(run->ctx, &model, run->options.pretrained_model_name_or_path, NULL));
    for (int mask = 0; mask < 2; mask++) {
        sara_batches *batches;
        put_picture(run, "own/0.png", 48, 32, 0);
        put_picture(run, "masks/0.png", 48, 32, 1);
        assert_ok(run->ctx,
                  sara_batches_open(run->ctx, &batches, model, &run->options, &objective));
        put_picture(run, mask ? "masks/0.png" : "own/0.png", 48, 32, 2);
        assert_refused(run->ctx, SARA_ERROR_INPUT, "own/0.png: it or its mask was changed",
                       sara_batches_fill(batches, 0, 1));
        sara_batches_free(batches);
    }
    sara_model_free(model);
}

/* The settings are what the run is, the folders' places are not. */
static void test_identity(void **state)
{
    test_run *run = *state;
    use_everything(run, false);
    run->interrupt_at = 1;
    assert_refused(run->ctx, SARA_INTERRUPTED, "after step 1", test_run_train(run));
    run->interrupt_at = -1;
    run->options.resume_from_checkpoint = "latest";
    size_t size;
    char *text = NULL;
    assert_ok(run->ctx,
              sara_file_read(run->ctx, &text, &size, run->options.dataset_config, 1 << 16));
    char *at = strstr(text, "keep_tokens = 1");
    at[strlen("keep_tokens = ")] = '2';
    test_put(run->folder, "data.toml", text, size);
    assert_refused(run->ctx, SARA_ERROR_USAGE, "the run has data_sha256", test_run_train(run));
    at[strlen("keep_tokens = ")] = '1';
    test_put(run->folder, "data.toml", text, size);
    assert_ok(run->ctx, test_run_train(run));
    sara_free(run->ctx, text);
}

/* --------------------------------------------------------------------------------------- epochs */

/* Samples of the first micro-batches; those of the class weigh a half. */
static void count_samples(test_run *run, data_run *d, int64_t micro_batches, int64_t *instance,
                          int64_t *class)
{
    *instance = *class = 0;
    for (int64_t i = 0; i < micro_batches; i++) {
        sara_batch batch;
        assert_ok(run->ctx, sara_batches_get(d->batches, &batch, i));
        assert_null(batch.weights);
        assert_non_null(batch.also);
        assert_null(batch.also->also);
        *instance += batch.latents.shape.dims[0];
        *class += batch.also->latents.shape.dims[0];
        for (int64_t k = 0; k < batch.also->latents.shape.dims[0]; k++)
            assert_true(batch.also->weights[k] == 0.5f);
    }
}

/* Fifteen elements of three shapes, at most two a micro-batch: 9 + 3 + 3 make 5 + 2 + 2. */
static void test_epoch_of_buckets(void **state)
{
    test_run *run = *state;
    int64_t instance, class;
    use_everything(run, false);
    run->options.prior_loss_weight = 0.5;
    data_run d = open_data(run);
    const sara_source *source = sara_batches_source(d.batches);
    assert_int_equal(source->images, 5);
    assert_int_equal(source->class_images, 2);
    assert_int_equal(source->items, 15);
    assert_int_equal(source->order->micro_batches, 9);
    assert_true(source->texts_anew && !source->encodes_anew);
    count_samples(run, &d, 9, &instance, &class);
    assert_int_equal(instance, 15);
    assert_in_range(class, 9, 18);
    assert_non_null(
        strstr(run->log, "3 shapes with their numbers of images: 32x32 3, 48x16 1, 16x48 1"));
    close_data(&d);
}

/* --------------------------------------------------------------------------------- class images */

/* One shape: subject and class are one batch, in halves. */
static void use_prior(test_run *run)
{
    test_run_take_images(run, 1);
    put_data(run);
    for (int i = 0; i < 4; i++)
        put_picture(run, test_text(run, "subject/%d.png", i), SIDE, SIDE, i);
    run->options.train_data_dir = test_text(run, "%s/subject", run->folder);
    run->options.instance_prompt = "a cat";
    run->options.class_data_dir = test_text(run, "%s/reg/2_foggy", run->folder);
    run->options.class_prompt = "a dog";
    run->options.num_class_images = 1;
    run->options.with_prior_preservation = true;
    run->options.prior_loss_weight = 0.25;
    run->options.train_batch_size = 2;
}

/* The class's order is another seed's: with as many images of both other pairs meet. */
static void test_pairs(void **state)
{
    enum { COUNT = 4, EPOCHS = 8 };
    test_run *run = *state;
    sara_dataset_cache *cache = NULL;
    sara_model *model = NULL;
    int met[COUNT][COUNT] = {{0}}, pairs = 0;
    use_prior(run);
    for (int i = 0; i < COUNT; i++)
        put_picture(run, test_text(run, "class/%d.png", i), SIDE, SIDE, 20 + i);
    run->options.class_data_dir = test_text(run, "%s/class", run->folder);
    run->options.train_batch_size = 1;
    assert_ok(run->ctx,
              sara_model_load(run->ctx, &model, run->options.pretrained_model_name_or_path, NULL));
    assert_ok(run->ctx, sara_dataset_cache_new(run->ctx, &cache, model, &run->options));
    for (int64_t i = 0; i < COUNT * EPOCHS; i++) {
        sara_order_element a, b;
        size_t shape;
        sara_order_get(&cache->data.instance.order, &a, &shape, i);
        sara_order_get(&cache->data.class.order, &b, &shape, i);
        assert_int_equal(a.image, sara_epoch_place(run->options.seed, COUNT, (uint64_t)i));
        assert_int_equal(b.image, sara_epoch_place(run->options.seed + 1, COUNT, (uint64_t)i));
        pairs += met[a.image][b.image]++ == 0;
    }
    assert_true(pairs > 2 * COUNT);
    sara_dataset_cache_free(cache);
    sara_model_free(model);
}

static void test_one_batch(void **state)
{
    test_run *run = *state;
    sara_batch batch;
    sara_text_states cat = {0}, dog = {0};
    use_prior(run);
    data_run d = open_data(run);
    assert_ok(run->ctx, sara_model_encode_text(run->ctx, &cat, d.model, "a cat"));
    assert_ok(run->ctx, sara_model_encode_text(run->ctx, &dog, d.model, "a dog"));
    for (int64_t i = 0; i < 3; i++) {
        assert_ok(run->ctx, sara_batches_get(d.batches, &batch, i));
        assert_null(batch.also);
        assert_int_equal(batch.latents.shape.dims[0], 4);
        const sara_tensor *states = &batch.condition[SARA_CONDITION_STATES];
        const size_t size = (size_t)sara_shape_count(&states->shape) / 4;
        for (size_t k = 0; k < 4; k++) {
            const float *expected = k < 2 ? cat.states : dog.states;
            assert_memory_equal((const float *)states->data + k * size, expected,
                                size * sizeof(float));
            /* The mean over four of these is mean(instance) + 0.25 mean(class). */
            assert_true(batch.weights[k] == (k < 2 ? 2.0f : 0.5f));
        }
    }
    sara_text_states_free(run->ctx, &cat);
    sara_text_states_free(run->ctx, &dog);
    close_data(&d);
}

/* Without a weight the class adds nothing to the loss. */
static void test_weight_of_nothing(void **state)
{
    test_run *run = *state;
    double losses[2][4];
    use_prior(run);
    for (int i = 0; i < 2; i++) {
        run->options.prior_loss_weight = i ? 0.5 : 0;
        test_run_output(run, i ? "half" : "none");
        assert_ok(run->ctx, test_run_train(run));
        assert_int_equal(test_run_column(run, losses[i], 4, "loss"), 4);
    }
    assert_true(losses[1][0] > losses[0][0]);
    assert_non_null(strstr(run->log, "4 steps of 4 x 2 samples from 4 images and 1 class images"));
}

/* The states are those of the captions that samples have, one after the other. */
static void test_states_of_samples(void **state)
{
    test_run *run = *state;
    sara_dataset_cache *cache = NULL;
    sara_model *model = NULL;
    sara_order_element elements[2];
    size_t shape, different = 0;
    use_everything(run, false);
    assert_ok(run->ctx,
              sara_model_load(run->ctx, &model, run->options.pretrained_model_name_or_path, NULL));
    assert_ok(run->ctx, sara_dataset_cache_new(run->ctx, &cache, model, &run->options));
    assert_ok(run->ctx, sara_dataset_cache_fill(cache, 0, INT64_MAX));
    for (int64_t i = 0; i < 4; i++) {
        sara_batch batch = sara_dataset_cache_shape(cache, SARA_DATASET_INSTANCE, i);
        const size_t count = sara_order_get(&cache->data.instance.order, elements, &shape, i);
        assert_ok(run->ctx, sara_batch_alloc(run->ctx, &batch));
        assert_ok(run->ctx, sara_dataset_cache_get(cache, &batch, 0, SARA_DATASET_INSTANCE, i));
        const sara_tensor *states = &batch.condition[SARA_CONDITION_STATES];
        const size_t size = (size_t)sara_shape_count(&states->shape) / count;
        for (size_t k = 0; k < count; k++) {
            const size_t image = cache->data.instance.images[elements[k].image];
            const uint64_t number = sara_dataset_cache_number(cache, SARA_DATASET_INSTANCE, i) + k;
            sara_text_states text = {0};
            char *caption;
            assert_ok(run->ctx,
                      sara_data_caption(&cache->data, &caption, image, number, elements[k].epoch));
            assert_ok(run->ctx, sara_model_encode_text(run->ctx, &text, model, caption));
            assert_memory_equal((const float *)states->data + k * size, text.states,
                                size * sizeof(float));
            different += strcmp(caption, cache->data.images[image].caption) != 0;
            sara_text_states_free(run->ctx, &text);
            sara_free(run->ctx, caption);
        }
        sara_batch_clear(run->ctx, &batch);
    }
    assert_in_range(different, 3, 8);
    sara_dataset_cache_free(cache);
    sara_model_free(model);
}

/* The loss of a class in a shape of its own is added. */
static void test_loss_of_also(void **state)
{
    test_run *run = *state;
    double losses[2][4];
    use_everything(run, false);
    for (int i = 0; i < 2; i++) {
        run->options.prior_loss_weight = i;
        test_run_output(run, i ? "whole" : "none");
        assert_ok(run->ctx, test_run_train(run));
        assert_int_equal(test_run_column(run, losses[i], 4, "loss"), 4);
    }
    assert_true(losses[1][0] > 1.2 * losses[0][0]);
}

/* Where colours change, images are encoded at each step. */
static void test_colours(void **state)
{
    test_run *run = *state;
    test_run_take_images(run, 2);
    run->options.color_aug = true;
    data_run d = open_data(run);
    assert_true(sara_batches_source(d.batches)->encodes_anew);
    assert_non_null(strstr(run->log, "2 of 2 images change their colours"));
    close_data(&d);
}

/* ------------------------------------------------------------------------------------- refusals */

static void test_refused(void **state)
{
    static const struct {
        const char *name, *value, *message;
    } bad[] = {
        {"bucket_no_upscale", "true", "--bucket_no_upscale true: goes with --enable_bucket"},
        {"max_bucket_reso", "64", "--max_bucket_reso 64: goes with --enable_bucket"},
        {"class_prompt", "a dog", "--class_prompt a dog: goes with --class_data_dir"},
        {"with_prior_preservation", "true", "--class_data_dir is missing"},
        {"caption_separator", "", "--caption_separator: is empty"},
        {"dataset_config", "x.toml", "says what is trained on; leave --train_data_dir"},
        {"caption_dropout_rate", "1.5", "--caption_dropout_rate 1.5: expected"},
    };
    test_run *run = *state;
    test_run_take_images(run, 1);
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        const sara_train_options before = run->options;
        sara_status status =
            sara_train_options_set(run->ctx, &run->options, bad[i].name, bad[i].value);
        if (status == SARA_OK)
            status = test_run_train(run);
        assert_refused(run->ctx, SARA_ERROR_USAGE, bad[i].message, status);
        run->options = before;
    }
    run->options.color_aug = run->options.cache_latents_to_disk = true;
    assert_refused(run->ctx, SARA_ERROR_USAGE, "--color_aug: images are encoded at each step",
                   test_run_train(run));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST_CASE(test_resumed),           TEST_CASE(test_cached),
        TEST_CASE(test_changed_meanwhile), TEST_CASE(test_identity),
        TEST_CASE(test_epoch_of_buckets),  TEST_CASE(test_one_batch),
        TEST_CASE(test_weight_of_nothing), TEST_CASE(test_states_of_samples),
        TEST_CASE(test_loss_of_also),      TEST_CASE(test_colours),
        TEST_CASE(test_refused),           TEST_CASE(test_pairs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

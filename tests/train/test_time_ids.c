/* What a denoiser that asks for it is told of the pictures that it is trained on. */
#include "support_train.h"

#include "train/dataset_cache.h"

#define SIDE 32

typedef struct pictures {
    sara_model *model;
    sara_dataset_cache *cache;
    sara_batch batch; /* of train_batch_size */
} pictures;

static void open_pictures(test_run *run, pictures *p)
{
    assert_ok(run->ctx, sara_model_load(run->ctx, &p->model,
                                        run->options.pretrained_model_name_or_path, NULL));
    /* As if its denoiser were SDXL's: nothing of it is run here. */
    p->model->denoiser->info.denoiser.widths[SARA_CONDITION_TIME_IDS] = SARA_TIME_IDS;
    assert_ok(run->ctx, sara_dataset_cache_new(run->ctx, &p->cache, p->model, &run->options));
    assert_ok(run->ctx, sara_dataset_cache_fill(p->cache, 0, INT64_MAX));
    p->batch = sara_dataset_cache_shape(p->cache, SARA_DATASET_INSTANCE, 0);
    assert_ok(run->ctx, sara_batch_alloc(run->ctx, &p->batch));
}

static void close_pictures(test_run *run, pictures *p)
{
    sara_batch_clear(run->ctx, &p->batch);
    sara_dataset_cache_free(p->cache);
    sara_model_free(p->model);
}

static const float *get(test_run *run, pictures *p, int64_t element)
{
    assert_ok(run->ctx,
              sara_dataset_cache_get(p->cache, &p->batch, 0, SARA_DATASET_INSTANCE, element));
    return p->batch.condition[SARA_CONDITION_TIME_IDS].data;
}

/* A picture in a folder of its own, which is the data set from now on. */
static void use_picture(test_run *run, const char *folder, const sara_image *image)
{
    const char *place = test_text(run, "%s/%s", run->folder, folder);
    test_put(run->folder, test_text(run, "%s/a.txt", folder), "a", 1);
    assert_ok(run->ctx, sara_image_save(run->ctx, image, test_text(run, "%s/a.png", place), NULL));
    run->options.train_data_dir = place;
}

/* No two of its pixels are alike. */
static void use_ramp(test_run *run, const char *folder, int width, int height)
{
    sara_image image = {.width = width, .height = height};
    assert_ok(run->ctx,
              sara_arena_alloc(&run->strings, &image.pixels, 3, (size_t)width * (size_t)height));
    for (int i = 0; i < width * height; i++) {
        image.pixels[3 * i] = (uint8_t)(i % width * 255 / width);
        image.pixels[3 * i + 1] = (uint8_t)(i / width * 255 / height);
        image.pixels[3 * i + 2] = (uint8_t)(i * 7);
    }
    use_picture(run, folder, &image);
}

static void assert_ids(const float *ids, const float expected[SARA_TIME_IDS])
{
    for (int i = 0; i < SARA_TIME_IDS; i++)
        if (ids[i] != expected[i])
            fail_msg("time id %d is %g, expected %g", i, (double)ids[i], (double)expected[i]);
}

/* Recorded of torchvision's Resize(32) and CenterCrop(32), as train_text_to_image_sdxl.py calls
 * them: make_time_ids.py. */
typedef struct ids_case {
    int width, height;
    float expected[SARA_TIME_IDS];
} ids_case;

static void check_ids(test_run *run, const ids_case *cases, size_t count)
{
    run->options.train_batch_size = 1;
    run->options.center_crop = run->options.random_flip = true;
    for (size_t i = 0; i < count; i++) {
        pictures p = {0};
        use_ramp(run, test_text(run, "ramp-%zu", i), cases[i].width, cases[i].height);
        open_pictures(run, &p);
        for (int64_t element = 0; element < 8; element++) /* mirrored ones among them */
            assert_ids(get(run, &p, element), cases[i].expected);
        close_pictures(run, &p);
    }
}

static void test_cropped_in_the_middle(void **state)
{
    static const ids_case cases[] = {
        {64, 32, {32, 64, 0, 16, 32, 32}},    {32, 64, {64, 32, 16, 0, 32, 32}},
        {97, 61, {61, 97, 0, 9, 32, 32}},     {61, 97, {97, 61, 9, 0, 32, 32}},
        {200, 200, {200, 200, 0, 0, 32, 32}}, {40, 75, {75, 40, 14, 0, 32, 32}},
    };
    test_run *run = *state;
    test_run_take_images(run, 1);
    check_ids(run, cases, sizeof(cases) / sizeof(*cases));
}

/* --resolution 48,32, whose images are resized to cover it: make_time_ids.py. */
static void test_of_no_squares(void **state)
{
    static const ids_case cases[] = {
        {64, 32, {32, 64, 0, 8, 32, 48}},   {32, 64, {64, 32, 32, 0, 32, 48}},
        {100, 64, {64, 100, 0, 1, 32, 48}}, {200, 200, {200, 200, 8, 0, 32, 48}},
        {96, 64, {64, 96, 0, 0, 32, 48}},   {60, 32, {32, 60, 0, 6, 32, 48}},
    };
    test_run *run = *state;
    pictures p = {0};
    test_run_take_images(run, 1);
    assert_ok(run->ctx, sara_train_options_set(run->ctx, &run->options, "resolution", "48,32"));
    check_ids(run, cases, sizeof(cases) / sizeof(*cases));
    open_pictures(run, &p);
    const sara_shape *latents = &p.batch.latents.shape; /* 4 channels, pixels / 4 */
    assert_true(latents->dims[1] == 4 && latents->dims[2] == 8 && latents->dims[3] == 12);
    close_pictures(run, &p);
}

/* The part of the resized picture, mirrored or not, that ids tell of. */
static void use_part(test_run *run, const char *from, const float *ids, bool flip)
{
    sara_image whole = {0}, part = {.width = SIDE, .height = SIDE};
    const sara_bucket_options square = {.width = SIDE, .height = SIDE};
    const sara_buckets buckets = {.options = square};
    sara_data_image picture = {.path = from};
    assert_ok(run->ctx, sara_image_read(run->ctx, &whole, from));
    picture.width = whole.width;
    picture.height = whole.height;
    sara_image_clear(run->ctx, &whole);
    assert_ok(run->ctx, sara_buckets_fit(run->ctx, &picture.fit, &buckets, from, picture.width,
                                         picture.height));
    assert_ok(run->ctx, sara_data_image_load(run->ctx, &whole, &picture));
    assert_ok(run->ctx, sara_arena_alloc(&run->strings, &part.pixels, 3, SIDE * SIDE));
    for (int i = 0; i < SIDE * SIDE; i++) {
        int x = (int)ids[3] + i % SIDE, y = (int)ids[2] + i / SIDE;
        int column = flip ? whole.width - 1 - x : x;
        memcpy(part.pixels + 3 * i, whole.pixels + 3 * (y * whole.width + column), 3);
    }
    sara_image_clear(run->ctx, &whole);
    use_picture(run, "part", &part);
}

/* Where crops are drawn, the latents are those of the place that is told: of the picture as it is
 * or mirrored, one of the two. */
static void check_drawn(test_run *run, int64_t element, bool flipped[2], float places[2][2])
{
    sara_train_options *options = &run->options;
    const char *folder = options->train_data_dir;
    const char *path = test_text(run, "%s/a.png", folder);
    pictures p = {0};
    int found = 0;
    open_pictures(run, &p);
    const float *ids = get(run, &p, element);
    for (int axis = 0; axis < 2; axis++) {
        places[0][axis] = ids[2 + axis] < places[0][axis] ? ids[2 + axis] : places[0][axis];
        places[1][axis] = ids[2 + axis] > places[1][axis] ? ids[2 + axis] : places[1][axis];
    }
    for (int flip = 0; flip < 2; flip++) {
        pictures part = {0};
        use_part(run, path, ids, flip != 0);
        options->random_flip = false;
        open_pictures(run, &part);
        get(run, &part, element);
        bool same = memcmp(part.batch.latents.data, p.batch.latents.data,
                           sizeof(float) * (size_t)sara_shape_count(&p.batch.latents.shape)) == 0;
        found += same;
        flipped[flip] |= same;
        close_pictures(run, &part);
        options->random_flip = true;
    }
    assert_int_equal(found, 1);
    options->train_data_dir = folder;
    close_pictures(run, &p);
}

static void test_drawn_crops(void **state)
{
    test_run *run = *state;
    bool flipped[2] = {false, false};
    float places[2][2] = {{100, 100}, {-1, -1}}; /* least, most */
    test_run_take_images(run, 1);
    run->options.train_batch_size = 1;
    run->options.random_flip = true;
    use_ramp(run, "wide", 75, 40);
    for (int64_t element = 0; element < 5; element++)
        check_drawn(run, element, flipped, places);
    assert_true(flipped[0] && flipped[1]);
    assert_true(places[1][1] > places[0][1] && places[1][0] == 0);
    use_ramp(run, "high", 40, 75);
    check_drawn(run, 1, flipped, places);
    assert_true(places[1][0] > 0);
}

/* Of many: each sample is told of its own picture. */
static void test_in_a_batch(void **state)
{
    test_run *run = *state;
    pictures p = {0};
    bool seen[2] = {false, false};
    test_run_take_images(run, 1);
    run->options.train_batch_size = 1;
    use_ramp(run, "both", 64, 32);
    const char *folder = run->options.train_data_dir;
    use_ramp(run, "other", 48, 48);
    test_run_copy(run, "both/b.png", test_text(run, "%s/other/a.png", run->folder));
    test_put(folder, "b.txt", "b", 1);
    run->options.train_data_dir = folder;
    run->options.center_crop = true;
    run->options.train_batch_size = 2;
    open_pictures(run, &p);
    const float *ids = get(run, &p, 0);
    for (int i = 0; i < 2; i++) {
        static const float wide[] = {32, 64, 0, 16, 32, 32}, square[] = {48, 48, 0, 0, 32, 32};
        bool is_wide = ids[SARA_TIME_IDS * i] == 32;
        assert_ids(ids + SARA_TIME_IDS * i, is_wide ? wide : square);
        seen[is_wide] = true;
    }
    assert_true(seen[0] && seen[1]);
    close_pictures(run, &p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST_CASE(test_cropped_in_the_middle),
        TEST_CASE(test_of_no_squares),
        TEST_CASE(test_drawn_crops),
        TEST_CASE(test_in_a_batch),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

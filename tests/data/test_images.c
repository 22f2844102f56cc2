/* Images as they are resized, and the hash of what is trained on. */
#include "support_data.h"

#include "data/data_inner.h"

/* As a square of this resolution, of a file with the image's size. */
static sara_status load_at(data_test *test, sara_image *out, const char *path,
                           const sara_image *file, int resolution)
{
    const sara_bucket_options options = {.width = resolution, .height = resolution};
    sara_data_image image = {.path = path, .width = file->width, .height = file->height};
    sara_buckets buckets;
    sara_status status;
    TRY(sara_buckets_make(test->ctx, &buckets, &options));
    TRY(sara_buckets_fit(test->ctx, &image.fit, &buckets, path, image.width, image.height));
    TRY(sara_data_image_load(test->ctx, out, &image));
done:
    sara_buckets_free(test->ctx, &buckets);
    return status;
}

/* As torchvision's Resize: the longer side is int(resolution * long / short). 16384 is the most. */
static void test_loaded_sizes(void **state)
{
    static const struct {
        int width, height, resolution, new_width, new_height;
    } cases[] = {{10, 13, 16, 16, 20},   {13, 10, 16, 20, 16}, {30, 31, 15, 15, 15},
                 {7, 7, 16, 16, 16},     {16, 40, 16, 16, 40}, {1, 512, 32, 32, 16384},
                 {512, 1, 32, 16384, 32}};
    data_test *test = *state;
    const char *path = data_path(test, "a.png");
    uint8_t pixels[3 * 1024] = {0};
    sara_image loaded = {0};
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        const sara_image image = {cases[i].width, cases[i].height, pixels};
        assert_true(image.width * image.height <= 1024);
        assert_ok(test->ctx, sara_image_save(test->ctx, &image, path, NULL));
        assert_ok(test->ctx, load_at(test, &loaded, path, &image, cases[i].resolution));
        assert_int_equal(loaded.width, cases[i].new_width);
        assert_int_equal(loaded.height, cases[i].new_height);
        sara_image_clear(test->ctx, &loaded);
    }
    const sara_image strip = {1, 513, pixels};
    assert_ok(test->ctx, sara_image_save(test->ctx, &strip, path, NULL));
    assert_refused(test->ctx, SARA_ERROR_INPUT, "1x513 is too long: 32x16416 at resolution 32x32",
                   load_at(test, &loaded, path, &strip, 32));
}

/* By Python's hashlib: of each image the name, the caption and the content's digits, and how often
 * it is repeated where that is not once, each with a NUL behind it. */
static void test_data_sha256(void **state)
{
    static const char expected[] =
        "219ee862e42d655f5ce8ef4923a18af92aeb43289fdd585e471513bfe788695e";
    static const struct {
        const char *name, *caption, *content;
        int64_t repeats;
    } images[] = {{"a.png", "a cat", "one", 1}, {"b.png", "", "two", 2}, {"c.png", "x", "", 30}};
    data_test *test = *state;
    sara_data_image items[3];
    sara_subset subset = {0};
    const sara_data_config config = {.subsets = &subset, .subset_count = 1};
    sara_data data = {.ctx = test->ctx, .config = &config, .images = items, .count = 3};
    for (size_t i = 0; i < 3; i++) {
        const char *content = images[i].content;
        const char *path = data_path(test, images[i].name);
        assert_ok(test->ctx, sara_file_write(test->ctx, path, content, strlen(content)));
        items[i] = (sara_data_image){
            .path = path, .caption = images[i].caption, .repeats = images[i].repeats};
    }
    assert_ok(test->ctx, sara_data_hash(&data, false));
    assert_string_equal(data.sha256, expected);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        DATA_TEST(test_loaded_sizes),
        DATA_TEST(test_data_sha256),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

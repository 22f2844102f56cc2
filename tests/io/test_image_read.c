/* Every image fixture reads as Pillow reads it, or is refused with a line that says why. */
#include "support_images.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void test_pixels_equal_pillow(void **state)
{
    (void)state;
    sara_context *ctx = test_context();
    sara_safetensors *expected = test_images_open(ctx);
    int compared = 0;
    for (size_t i = 0; i < sara_safetensors_count(expected); i++) {
        const sara_tensor_info *info = sara_safetensors_at(expected, i);
        sara_image image = {0};
        if (strchr(info->name, '/'))
            continue;
        char *path = test_image_path(info->name);
        assert_ok(ctx, sara_image_read(ctx, &image, path));
        test_assert_pixels(ctx, &image, expected, info);
        sara_image_clear(ctx, &image);
        free(path);
        compared++;
    }
    assert_int_equal(compared, 91);
    sara_safetensors_close(expected);
    sara_context_free(ctx);
}

/* alpha.safetensors has those that are not opaque throughout: make_alpha.py. */
static void test_alpha_equals_pillow(void **state)
{
    (void)state;
    sara_context *ctx = test_context();
    sara_safetensors *images = test_images_open(ctx);
    sara_safetensors *alphas = test_open(ctx, IMAGE_DATA "/alpha.safetensors");
    size_t transparent = 0;
    for (size_t i = 0; i < sara_safetensors_count(images); i++) {
        const char *name = sara_safetensors_at(images, i)->name;
        sara_image image = {0};
        sara_tensor alpha = {0};
        if (strchr(name, '/'))
            continue;
        char *path = test_image_path(name);
        const sara_tensor_info *info = sara_safetensors_find(alphas, name);
        assert_ok(ctx, sara_image_read_alpha(ctx, &image, path));
        const sara_shape shape = sara_shape2(image.height, image.width);
        if (info)
            assert_ok(ctx, sara_safetensors_load(alphas, &alpha, name, SARA_U8, &shape));
        for (int p = 0; p < image.width * image.height; p++)
            for (int c = 0; c < 3; c++) {
                const int want = info ? ((const uint8_t *)alpha.data)[p] : 255;
                if (image.pixels[3 * p + c] != want)
                    fail_msg("%s: alpha %d, expected %d", name, image.pixels[3 * p + c], want);
            }
        transparent += info != NULL;
        sara_tensor_free(ctx, &alpha);
        sara_image_clear(ctx, &image);
        free(path);
    }
    assert_int_equal(transparent, sara_safetensors_count(alphas));
    assert_in_range(transparent, 8, 91);
    sara_safetensors_close(alphas);
    sara_safetensors_close(images);
    sara_context_free(ctx);
}

static void test_refused(void **state)
{
    static const struct {
        const char *name, *text;
    } files[] = {
        {"bad-grey16.png", "16-bit grey"},
        {"bad-huge.png", "size 65500x65500, the limit is 16384"},
        {"bad-most-pixels.png", "too short for its size 16000x8000"},
        {"bad-too-many-pixels.png", "size 16000x8001, the limit is 16384 a side and 128"},
        {"bad-longest.png", "too short for its size 16384x700"},
        {"bad-too-long.png", "size 16385x700, the limit is 16384 a side and 128"},
        {"bad-zero.png", "PNG, offset"},
        {"bad-short-for-size.png", "too short for its size 8000x8000"},
        {"bad-missing-rows.png", "PNG, offset"},
        {"bad-checksum.png", "CRC error"},
        {"bad-exif.png", "EXIF"},
        {"bad-exif-short.png", "EXIF"},
        {"bad-huge.jpg", "size 65500x65500, the limit is 16384"},
        {"bad-missing-rows.jpg", "JPEG, offset"},
        {"bad-no-end.jpg", "Premature end"},
        {"bad-scans.jpg", "100 scans"},
        {"bad-two-components.jpg", "2 components, expected 1, 3 or 4"},
        {"bad-animated.webp", "animated"},
        {"bad-huge.webp", "size 16384x16384, the limit is 16384 a side and 128 megapixels"},
        {"bad-cut.webp", "ends too early"},
    };
    (void)state;
    sara_context *ctx = test_context();
    for (size_t i = 0; i < sizeof(files) / sizeof(*files); i++) {
        sara_image image = {0};
        char *path = test_image_path(files[i].name);
        assert_refused(ctx, SARA_ERROR_INPUT, files[i].text, sara_image_read(ctx, &image, path));
        assert_non_null(strstr(sara_context_error(ctx), files[i].name));
        assert_null(image.pixels);
        free(path);
    }
    sara_context_free(ctx);
}

static void test_text_bomb_is_passed_over(void **state)
{
    (void)state;
    sara_context *ctx = test_context();
    sara_safetensors *expected = test_images_open(ctx);
    sara_image image = {0};
    char *path = test_image_path("bomb-text.png");
    assert_ok(ctx, sara_image_read(ctx, &image, path));
    test_assert_pixels(ctx, &image, expected, sara_safetensors_find(expected, "exif1.png"));
    sara_image_clear(ctx, &image);
    free(path);
    sara_safetensors_close(expected);
    sara_context_free(ctx);
}

static void test_content_decides(void **state)
{
    static const struct {
        const char *content, *text;
        size_t size;
    } files[] = {
        {"GIF89a", "GIF image, expected PNG, JPEG or WebP", 6},
        {"BM....", "BMP image", 6},
        {"II*\0", "TIFF image", 4},
        {"\0\0\0\x1c"
         "ftypavif",
         "AVIF image", 12},
        {"hello", "unknown content", 5},
        {"", "an empty file", 0},
        {"\x89PN", "unknown content", 3},
        {"\xff\xd8\xff", "JPEG, offset", 3},
        {"RIFF\4\0\0\0WEBP", "WebP of 12 bytes", 12},
    };
    (void)state;
    sara_context *ctx = test_context();
    char *folder = test_folder();
    for (size_t i = 0; i < sizeof(files) / sizeof(*files); i++) {
        sara_image image = {0};
        char *path = test_file(folder, "x.png", files[i].content, files[i].size);
        assert_refused(ctx, SARA_ERROR_INPUT, files[i].text, sara_image_read(ctx, &image, path));
        free(path);
    }
    test_folder_remove(folder);
    sara_context_free(ctx);
}

/* One byte more than 512 MiB, which the disk need not hold. */
static void test_file_too_large(void **state)
{
    (void)state;
    sara_context *ctx = test_context();
    char *folder = test_folder(), *path = test_file(folder, "x.png", "", 0);
    sara_image image = {0};
    assert_int_equal(truncate(path, ((off_t)512 << 20) + 1), 0);
    assert_refused(ctx, SARA_ERROR_INPUT, "536870913 bytes, expected at most 536870912",
                   sara_image_read(ctx, &image, path));
    free(path);
    test_folder_remove(folder);
    sara_context_free(ctx);
}

static void test_not_a_file(void **state)
{
    (void)state;
    sara_context *ctx = test_context();
    char *folder = test_folder();
    sara_image image = {0};
    assert_int_not_equal(sara_image_read(ctx, &image, folder), SARA_OK);
    assert_refused(ctx, SARA_ERROR_IO, "/nowhere.png",
                   sara_image_read(ctx, &image, "/nowhere.png"));
    test_folder_remove(folder);
    sara_context_free(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pixels_equal_pillow), cmocka_unit_test(test_refused),
        cmocka_unit_test(test_alpha_equals_pillow), cmocka_unit_test(test_text_bomb_is_passed_over),
        cmocka_unit_test(test_content_decides),     cmocka_unit_test(test_file_too_large),
        cmocka_unit_test(test_not_a_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

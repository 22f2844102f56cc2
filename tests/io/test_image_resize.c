/* Resizing equals Pillow's in every byte. */
#include "support_images.h"

#include <stdio.h>
#include <string.h>

/* The picture of make_images.py's formula(). */
static sara_image formula(sara_context *ctx, int width, int height)
{
    sara_image image = {.width = width, .height = height};
    assert_ok(ctx, sara_alloc(ctx, &image.pixels, (size_t)width * (size_t)height, 3));
    uint8_t *to = image.pixels;
    for (int y = 0; y < height; y++)
        for (int x = 0; x < width; x++)
            for (int c = 0; c < 3; c++)
                *to++ = (uint8_t)((x * 7 + y * 13 + c * 29 + x * y % 251) & 255);
    return image;
}

static sara_image source_of(sara_context *ctx, const sara_safetensors *file, const char *name)
{
    char source[64];
    if (strcmp(name, "formula") == 0)
        return formula(ctx, 1000, 700);
    snprintf(source, sizeof(source), "source/%s", name);
    return test_load_image(ctx, file, source);
}

static void test_equal_to_pillow(void **state)
{
    (void)state;
    sara_context *ctx = test_context();
    sara_safetensors *file = test_images_open(ctx);
    int compared = 0;
    for (size_t i = 0; i < sara_safetensors_count(file); i++) {
        const sara_tensor_info *info = sara_safetensors_at(file, i);
        char name[32];
        int width, height;
        sara_image result = {0};
        if (sscanf(info->name, "resize/%31[^/]/%dx%d", name, &width, &height) != 3)
            continue;
        sara_image source = source_of(ctx, file, name);
        assert_ok(ctx,
                  sara_image_resize(ctx, &result, &source, width, height, SARA_RESAMPLE_LANCZOS));
        test_assert_pixels(ctx, &result, file, info);
        sara_image_clear(ctx, &source);
        sara_image_clear(ctx, &result);
        compared++;
    }
    assert_int_equal(compared, 25);
    sara_safetensors_close(file);
    sara_context_free(ctx);
}

/* make_resample.py's, of the formula's pictures alone. */
static void test_other_filters(void **state)
{
    (void)state;
    static const char path[] = IMAGE_DATA "/resample.safetensors";
    sara_context *ctx = test_context();
    sara_safetensors *file = test_open(ctx, path);
    for (size_t i = 0; i < sara_safetensors_count(file); i++) {
        const sara_tensor_info *info = sara_safetensors_at(file, i);
        int filter, from[2], to[2];
        sara_image result = {0};
        assert_int_equal(
            sscanf(info->name, "%d/%dx%d/%dx%d", &filter, &from[0], &from[1], &to[0], &to[1]), 5);
        sara_image source = formula(ctx, from[0], from[1]);
        assert_ok(ctx,
                  sara_image_resize(ctx, &result, &source, to[0], to[1], (sara_resample)filter));
        test_assert_pixels(ctx, &result, file, info);
        sara_image_clear(ctx, &source);
        sara_image_clear(ctx, &result);
    }
    assert_int_equal(sara_safetensors_count(file), 20);
    sara_safetensors_close(file);
    sara_context_free(ctx);
}

static void test_sizes_are_checked(void **state)
{
    (void)state;
    sara_context *ctx = test_context();
    sara_image source = formula(ctx, 4, 4), result = {0};
    assert_refused(ctx, SARA_ERROR_USAGE, "size 0x4",
                   sara_image_resize(ctx, &result, &source, 0, 4, SARA_RESAMPLE_LANCZOS));
    assert_refused(ctx, SARA_ERROR_USAGE, "size 4x-1",
                   sara_image_resize(ctx, &result, &source, 4, -1, SARA_RESAMPLE_LANCZOS));
    assert_refused(ctx, SARA_ERROR_USAGE, "size 4x16385",
                   sara_image_resize(ctx, &result, &source, 4, 16385, SARA_RESAMPLE_LANCZOS));
    assert_refused(ctx, SARA_ERROR_USAGE, "size 16385x4",
                   sara_image_resize(ctx, &result, &source, 16385, 4, SARA_RESAMPLE_LANCZOS));
    assert_null(result.pixels);
    assert_ok(ctx, sara_image_resize(ctx, &result, &source, 16384, 1, SARA_RESAMPLE_LANCZOS));
    assert_true(result.width == 16384 && result.height == 1);
    sara_image_clear(ctx, &result);
    assert_ok(ctx, sara_image_resize(ctx, &result, &source, 1, 16384, SARA_RESAMPLE_LANCZOS));
    sara_image_clear(ctx, &result);
    sara_image_clear(ctx, &source);
    sara_context_free(ctx);
}

static void test_every_allocation_may_fail(void **state)
{
    (void)state;
    test_memory memory;
    test_memory_init(&memory);
    sara_context *ctx = test_memory_context(&memory);
    sara_image source = formula(ctx, 9, 8), result = {0};
    long alive = memory.alive;
    sara_status status = SARA_ERROR_MEMORY;
    for (long n = 0; status == SARA_ERROR_MEMORY; n++) {
        memory.made = 0;
        memory.fail_at = n;
        status = sara_image_resize(ctx, &result, &source, 5, 12, SARA_RESAMPLE_LANCZOS);
        if (status == SARA_ERROR_MEMORY) {
            assert_null(result.pixels);
            assert_int_equal(memory.alive, alive);
        }
    }
    memory.fail_at = -1;
    assert_ok(ctx, status);
    assert_true(memory.made > 8);
    sara_image_clear(ctx, &result);
    sara_image_clear(ctx, &source);
    sara_context_free(ctx);
    assert_int_equal(memory.alive, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_equal_to_pillow),
        cmocka_unit_test(test_other_filters),
        cmocka_unit_test(test_sizes_are_checked),
        cmocka_unit_test(test_every_allocation_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Writing PNG and grids. */
#include "support_images.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static sara_image filled(sara_context *ctx, int width, int height, uint8_t first)
{
    sara_image image = {.width = width, .height = height};
    size_t bytes = (size_t)width * (size_t)height * 3;
    assert_ok(ctx, sara_alloc(ctx, &image.pixels, bytes, 1));
    for (size_t i = 0; i < bytes; i++)
        image.pixels[i] = (uint8_t)(first + i * 7);
    return image;
}

static char *in_folder(const char *folder, const char *name)
{
    char *path = NULL;
    if (asprintf(&path, "%s/%s", folder, name) < 0)
        fail_msg("out of memory");
    return path;
}

/* The data of the first chunk of a type, *size bytes; NULL: there is none. */
static const char *find_chunk(const char *data, size_t size, const char *type, size_t *length)
{
    for (size_t at = 8; at + 12 <= size; at += *length + 12) {
        const unsigned char *p = (const unsigned char *)data + at;
        *length = (size_t)p[0] << 24 | (size_t)p[1] << 16 | (size_t)p[2] << 8 | p[3];
        if (memcmp(p + 4, type, 4) == 0)
            return data + at + 8;
    }
    return NULL;
}

/* Returns the file's size. */
static off_t read_back(sara_context *ctx, const sara_image *image)
{
    char *folder = test_folder();
    char *path = in_folder(folder, "a.png");
    sara_image back = {0};
    struct stat info;
    assert_ok(ctx, sara_image_save(ctx, image, path, NULL));
    assert_int_equal(stat(path, &info), 0);
    assert_ok(ctx, sara_image_read(ctx, &back, path));
    assert_int_equal(back.width, image->width);
    assert_int_equal(back.height, image->height);
    assert_memory_equal(back.pixels, image->pixels,
                        (size_t)image->width * (size_t)image->height * 3);
    sara_image_clear(ctx, &back);
    free(path);
    test_folder_remove(folder);
    return info.st_size;
}

static void test_read_back(void **state)
{
    (void)state;
    sara_context *ctx = test_context();
    sara_image image = filled(ctx, 31, 17, 3);
    read_back(ctx, &image);
    sara_image_clear(ctx, &image);
    sara_context_free(ctx);
}

/* Noise, which does not compress, and black, which does nearly as 1032 to 1. */
static void test_read_back_large(void **state)
{
    (void)state;
    sara_context *ctx = test_context();
    sara_image noise = filled(ctx, 800, 600, 0), black = filled(ctx, 3000, 3000, 0);
    for (uint32_t i = 0, x = 1; i < 800 * 600 * 3; i++, x = x * 1664525u + 1013904223u)
        noise.pixels[i] = (uint8_t)(x >> 24);
    memset(black.pixels, 0, (size_t)3000 * 3000 * 3);
    assert_true(read_back(ctx, &noise) > 1400000);
    assert_true(read_back(ctx, &black) < 3000 * 3000 * 3 / 1000);
    sara_image_clear(ctx, &noise);
    sara_image_clear(ctx, &black);
    sara_context_free(ctx);
}

static void check_text(const char *text, const char *type, const char *data, size_t size)
{
    sara_context *ctx = test_context();
    char *folder = test_folder();
    char *path = in_folder(folder, "a.png"), *file = NULL;
    sara_image image = filled(ctx, 4, 4, 0);
    size_t file_size = 0, length = 0;
    assert_ok(ctx, sara_image_save(ctx, &image, path, text));
    assert_ok(ctx, sara_file_read(ctx, &file, &file_size, path, 1 << 20));
    const char *chunk = find_chunk(file, file_size, type, &length);
    assert_non_null(chunk);
    assert_int_equal(length, size);
    assert_memory_equal(chunk, data, size);
    sara_free(ctx, file);
    sara_image_clear(ctx, &image);
    free(path);
    test_folder_remove(folder);
    sara_context_free(ctx);
}

static void test_text_chunks(void **state)
{
    (void)state;
    static const char plain[] = "parameters\0a cat\nSteps: 20";
    static const char latin[] = "parameters\0caf\xe9";
    static const char wide[] = "parameters\0\0\0\0\0caf\xc3\xa9 \xe2\x98\x83";
    check_text("a cat\nSteps: 20", "tEXt", plain, sizeof(plain) - 1);
    check_text("caf\xc3\xa9", "tEXt", latin, sizeof(latin) - 1);
    check_text("caf\xc3\xa9 \xe2\x98\x83", "iTXt", wide, sizeof(wide) - 1);
    check_text("\xc3\xbf", "tEXt", "parameters\0\xff", 12);             /* the last of Latin-1 */
    check_text("\xc4\x80", "iTXt", "parameters\0\0\0\0\0\xc4\x80", 17); /* what follows it */
}

static void test_refused(void **state)
{
    (void)state;
    sara_context *ctx = test_context();
    char *folder = test_folder();
    char *path = in_folder(folder, "a.png"), *nowhere = in_folder(folder, "no/a.png");
    sara_image image = filled(ctx, 4, 4, 0), empty = {0};
    assert_refused(ctx, SARA_ERROR_USAGE, "byte 2 is not UTF-8",
                   sara_image_save(ctx, &image, path, "ab\xff"));
    assert_refused(ctx, SARA_ERROR_USAGE, "image 0x0", sara_image_save(ctx, &empty, path, NULL));
    assert_int_not_equal(access(path, F_OK), 0);
    assert_refused(ctx, SARA_ERROR_IO, "no/a.png", sara_image_save(ctx, &image, nowhere, NULL));
    sara_image_clear(ctx, &image);
    free(path);
    free(nowhere);
    test_folder_remove(folder);
    sara_context_free(ctx);
}

static void test_equal_bytes(void **state)
{
    (void)state;
    sara_context *ctx = test_context();
    char *folder = test_folder();
    char *path = in_folder(folder, "a.png"), *other = in_folder(folder, "b.png");
    char first[65], second[65];
    sara_image image = filled(ctx, 40, 30, 9);
    assert_ok(ctx, sara_image_save(ctx, &image, path, "text"));
    assert_ok(ctx, sara_image_save(ctx, &image, other, "text"));
    assert_ok(ctx, sara_sha256_file(ctx, first, path));
    assert_ok(ctx, sara_sha256_file(ctx, second, other));
    assert_string_equal(first, second);
    sara_image_clear(ctx, &image);
    free(path);
    free(other);
    test_folder_remove(folder);
    sara_context_free(ctx);
}

static void test_every_allocation_may_fail(void **state)
{
    (void)state;
    test_memory memory;
    test_memory_init(&memory);
    sara_context *ctx = test_memory_context(&memory);
    char *folder = test_folder(), *path = in_folder(folder, "a.png");
    sara_image image = filled(ctx, 20, 20, 0), back = {0};
    long alive = memory.alive;
    sara_status status = SARA_ERROR_MEMORY;
    for (long n = 0; status == SARA_ERROR_MEMORY; n++) {
        memory.made = 0;
        memory.fail_at = n;
        status = sara_image_save(ctx, &image, path, "a \xe2\x98\x83");
        assert_int_equal(memory.alive, alive);
        memory.fail_at = -1;
        if (access(path, F_OK) == 0) { /* whole or not there at all */
            assert_ok(ctx, sara_image_read(ctx, &back, path));
            assert_memory_equal(back.pixels, image.pixels, 1200);
            sara_image_clear(ctx, &back);
            unlink(path);
        } else {
            assert_int_equal(status, SARA_ERROR_MEMORY);
        }
    }
    assert_ok(ctx, status);
    sara_image_clear(ctx, &image);
    free(path);
    test_folder_remove(folder);
    sara_context_free(ctx);
    assert_int_equal(memory.alive, 0);
}

static const uint8_t *pixel(const sara_image *image, int x, int y)
{
    return image->pixels + ((size_t)y * (size_t)image->width + (size_t)x) * 3;
}

static void test_grid(void **state)
{
    static const uint8_t white[3] = {255, 255, 255};
    const int gap = 2 * 3, width = 2 * 3 * 5 + gap, height = 2 * 3 * 4 + gap;
    (void)state;
    sara_context *ctx = test_context();
    sara_image cells[3], *grid = NULL;
    for (int i = 0; i < 3; i++)
        cells[i] = filled(ctx, 5, 4, (uint8_t)(i * 50));
    assert_ok(ctx, sara_image_grid(ctx, &grid, cells, 3, 2, 3));
    assert_int_equal(grid->width, width);
    assert_int_equal(grid->height, height);
    for (int y = 0; y < height; y++)
        for (int x = 0; x < width; x++) {
            int column = x / (15 + gap), row = y / (12 + gap), cell = row * 2 + column;
            int left = x - column * (15 + gap), top = y - row * (12 + gap);
            bool inside = left < 15 && top < 12 && cell < 3;
            assert_memory_equal(pixel(grid, x, y),
                                inside ? pixel(&cells[cell], left / 3, top / 3) : white, 3);
        }
    sara_images_free(ctx, grid, 1);
    for (int i = 0; i < 3; i++)
        sara_image_clear(ctx, &cells[i]);
    sara_context_free(ctx);
}

static void test_grid_narrower_than_columns(void **state)
{
    (void)state;
    sara_context *ctx = test_context();
    sara_image cell = filled(ctx, 5, 4, 1), *grid = NULL;
    assert_ok(ctx, sara_image_grid(ctx, &grid, &cell, 1, 8, 1));
    assert_int_equal(grid->width, 5);
    assert_int_equal(grid->height, 4);
    assert_memory_equal(grid->pixels, cell.pixels, 60);
    sara_images_free(ctx, grid, 1);
    sara_image_clear(ctx, &cell);
    sara_context_free(ctx);
}

static void test_grid_refused(void **state)
{
    (void)state;
    sara_context *ctx = test_context();
    sara_image cells[2] = {filled(ctx, 5, 4, 0), filled(ctx, 4, 5, 0)}, *grid = NULL;
    assert_refused(ctx, SARA_ERROR_USAGE, "image 1 is 4x5, expected 5x4",
                   sara_image_grid(ctx, &grid, cells, 2, 2, 1));
    assert_refused(ctx, SARA_ERROR_USAGE, "0 images", sara_image_grid(ctx, &grid, cells, 0, 2, 1));
    assert_refused(ctx, SARA_ERROR_USAGE, "0 columns", sara_image_grid(ctx, &grid, cells, 1, 0, 1));
    assert_refused(ctx, SARA_ERROR_USAGE, "65535",
                   sara_image_grid(ctx, &grid, cells, 1, 1, 2000000000));
    assert_null(grid);
    sara_image_clear(ctx, &cells[0]);
    sara_image_clear(ctx, &cells[1]);
    sara_context_free(ctx);
}

/* The gap beside the last cell counts. */
static void test_grid_of_the_largest(void **state)
{
    (void)state;
    sara_context *ctx = test_context();
    sara_image wide = filled(ctx, 65534, 1, 0), high = wide, *grid = NULL;
    assert_refused(ctx, SARA_ERROR_USAGE, "65535", sara_image_grid(ctx, &grid, &wide, 1, 1, 1));
    wide.width--;
    assert_ok(ctx, sara_image_grid(ctx, &grid, &wide, 1, 1, 1));
    assert_true(grid->width == 65533 && grid->height == 1);
    sara_images_free(ctx, grid, 1);
    high.width = 1;
    high.height = 65534;
    assert_refused(ctx, SARA_ERROR_USAGE, "65535", sara_image_grid(ctx, &grid, &high, 1, 1, 1));
    high.height--;
    assert_ok(ctx, sara_image_grid(ctx, &grid, &high, 1, 1, 1));
    sara_images_free(ctx, grid, 1);
    sara_image_clear(ctx, &wide);
    sara_context_free(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_read_back),    cmocka_unit_test(test_read_back_large),
        cmocka_unit_test(test_text_chunks),  cmocka_unit_test(test_refused),
        cmocka_unit_test(test_equal_bytes),  cmocka_unit_test(test_every_allocation_may_fail),
        cmocka_unit_test(test_grid),         cmocka_unit_test(test_grid_narrower_than_columns),
        cmocka_unit_test(test_grid_refused), cmocka_unit_test(test_grid_of_the_largest),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

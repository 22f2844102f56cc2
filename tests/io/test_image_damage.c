/* Fixtures cut at every byte and with flipped bits give an error or an image, never more harm; and
 * every allocation may fail. */
#include "support_images.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct fixture {
    const char *name;
    char *data;
    size_t size;
    char *copy; /* path of a copy that may be damaged */
    int file;   /* the copy, open for writing */
} fixture;

static void fixture_open(sara_context *ctx, fixture *out, const char *folder, const char *name)
{
    char *path = test_image_path(name);
    out->name = name;
    assert_ok(ctx, sara_file_read(ctx, &out->data, &out->size, path, 1 << 20));
    out->copy = test_file(folder, "image", out->data, out->size);
    out->file = open(out->copy, O_RDWR);
    assert_true(out->file >= 0);
    free(path);
}

static void fixture_close(sara_context *ctx, fixture *file)
{
    close(file->file);
    unlink(file->copy);
    free(file->copy);
    sara_free(ctx, file->data);
}

/* Reads the copy and, of an image, every byte. */
static sara_status read_copy(sara_context *ctx, const fixture *file)
{
    sara_image image = {0};
    sara_status status = sara_image_read(ctx, &image, file->copy);
    size_t bytes = (size_t)image.width * (size_t)image.height * 3;
    size_t sum = 0;
    if (status != SARA_OK) {
        assert_null(image.pixels);
        assert_true(strlen(sara_context_error(ctx)) > 0);
    }
    for (size_t i = 0; i < bytes; i++)
        sum += image.pixels[i];
    assert_true(sum <= bytes * 255);
    sara_image_clear(ctx, &image);
    return status;
}

static void cut(sara_context *ctx, const fixture *file)
{
    bool padded = strcmp(file->name, "after-end.jpg") == 0;
    for (size_t size = file->size; size-- > 0;) {
        assert_int_equal(ftruncate(file->file, (off_t)size), 0);
        sara_status status = read_copy(ctx, file);
        if (status != SARA_ERROR_INPUT && !(padded && status == SARA_OK && size + 24 >= file->size))
            fail_msg("%s cut to %zu of %zu bytes: status %d", file->name, size, file->size, status);
    }
}

static void flip(sara_context *ctx, const fixture *file)
{
    assert_int_equal(pwrite(file->file, file->data, file->size, 0), (ssize_t)file->size);
    for (size_t i = 0; i < file->size; i++) {
        char damaged = (char)(file->data[i] ^ (1 << (i * 5 % 8)));
        assert_int_equal(pwrite(file->file, &damaged, 1, (off_t)i), 1);
        sara_status status = read_copy(ctx, file);
        if (status != SARA_OK && status != SARA_ERROR_INPUT)
            fail_msg("%s, bit flipped in byte %zu: status %d: %s", file->name, i, status,
                     sara_context_error(ctx));
        assert_int_equal(pwrite(file->file, &file->data[i], 1, (off_t)i), 1);
    }
    assert_ok(ctx, read_copy(ctx, file));
}

static void for_each_fixture(sara_context *ctx, void (*visit)(sara_context *, const fixture *))
{
    char *folder = test_folder();
    sara_safetensors *expected = test_images_open(ctx);
    for (size_t i = 0; i < sara_safetensors_count(expected); i++) {
        const char *name = sara_safetensors_at(expected, i)->name;
        fixture file = {0};
        if (strchr(name, '/'))
            continue;
        fixture_open(ctx, &file, folder, name);
        visit(ctx, &file);
        fixture_close(ctx, &file);
    }
    sara_safetensors_close(expected);
    test_folder_remove(folder);
}

static void test_cut_at_every_byte(void **state)
{
    (void)state;
    sara_context *ctx = test_context();
    for_each_fixture(ctx, cut);
    sara_context_free(ctx);
}

static void test_flipped_bits(void **state)
{
    (void)state;
    sara_context *ctx = test_context();
    for_each_fixture(ctx, flip);
    sara_context_free(ctx);
}

static void test_every_allocation_may_fail(void **state)
{
    (void)state;
    test_memory memory;
    test_memory_init(&memory);
    sara_context *ctx = test_memory_context(&memory);
    sara_context *plain = test_context();
    sara_safetensors *expected = test_images_open(plain);
    for (size_t i = 0; i < sara_safetensors_count(expected); i++) {
        const char *name = sara_safetensors_at(expected, i)->name;
        if (strchr(name, '/'))
            continue;
        char *path = test_image_path(name);
        sara_status status = SARA_ERROR_MEMORY;
        sara_image image = {0};
        long alive = memory.alive;
        for (long n = 0; status == SARA_ERROR_MEMORY; n++) {
            memory.made = 0;
            memory.fail_at = n;
            status = sara_image_read(ctx, &image, path);
            if (status == SARA_ERROR_MEMORY)
                assert_int_equal(memory.alive, alive);
        }
        assert_ok(ctx, status);
        assert_true(memory.made >= 2);
        assert_true(memory.fail_at >= memory.made);
        sara_image_clear(ctx, &image);
        free(path);
    }
    sara_safetensors_close(expected);
    sara_context_free(plain);
    sara_context_free(ctx);
    assert_int_equal(memory.alive, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cut_at_every_byte),
        cmocka_unit_test(test_flipped_bits),
        cmocka_unit_test(test_every_allocation_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

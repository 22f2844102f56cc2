#include "support_images.h"

#include <stdio.h>
#include <stdlib.h>

sara_safetensors *test_images_open(sara_context *ctx)
{
    return test_open(ctx, IMAGE_DATA "/images.safetensors");
}

char *test_image_path(const char *name)
{
    char *path = NULL;
    if (asprintf(&path, "%s/images/%s", IMAGE_DATA, name) < 0)
        fail_msg("out of memory");
    return path;
}

sara_image test_load_image(sara_context *ctx, const sara_safetensors *file, const char *name)
{
    sara_image image = {0};
    const sara_tensor_info *info = sara_safetensors_find(file, name);
    if (!info)
        fail_msg("no tensor %s", name);
    assert_int_equal(info->shape.rank, 3);
    assert_int_equal(info->shape.dims[2], 3);
    image.height = (int)info->shape.dims[0];
    image.width = (int)info->shape.dims[1];
    assert_ok(ctx, sara_alloc(ctx, &image.pixels, info->size, 1));
    assert_ok(ctx, sara_safetensors_read(file, image.pixels, info));
    return image;
}

void test_assert_pixels(sara_context *ctx, const sara_image *image, const sara_safetensors *file,
                        const sara_tensor_info *info)
{
    sara_image expected = test_load_image(ctx, file, info->name);
    if (image->width != expected.width || image->height != expected.height)
        fail_msg("%s: %dx%d, expected %dx%d", info->name, image->width, image->height,
                 expected.width, expected.height);
    for (size_t i = 0; i < info->size; i++)
        if (image->pixels[i] != expected.pixels[i])
            fail_msg("%s: byte %zu of %zu is %d, expected %d", info->name, i, (size_t)info->size,
                     image->pixels[i], expected.pixels[i]);
    sara_image_clear(ctx, &expected);
}

static void *allocate(void *user, size_t size)
{
    test_memory *memory = user;
    void *block = memory->made++ == memory->fail_at ? NULL : malloc(size);
    memory->alive += block != NULL;
    return block;
}

static void release(void *user, void *block)
{
    test_memory *memory = user;
    memory->alive -= block != NULL;
    free(block);
}

void test_memory_init(test_memory *memory)
{
    *memory = (test_memory){.allocator = {allocate, release, memory}, .fail_at = -1};
}

sara_context *test_memory_context(test_memory *memory)
{
    sara_context *ctx = NULL;
    sara_context_options options = {.threads = 1, .allocator = &memory->allocator};
    assert_ok(ctx, sara_context_new(&ctx, &options));
    return ctx;
}

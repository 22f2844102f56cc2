/* The image fixtures of data/, made by make_images.py. */
#ifndef SARA_TEST_SUPPORT_IMAGES_H
#define SARA_TEST_SUPPORT_IMAGES_H

#include "support/support.h"

#define IMAGE_DATA SARA_TEST_GOLDEN "/../io/data"

/* images.safetensors */
sara_safetensors *test_images_open(sara_context *ctx);
char *test_image_path(const char *name); /* of a file in images/; free() */
/* The pixels are equal to those of a tensor [height, width, 3]. */
void test_assert_pixels(sara_context *ctx, const sara_image *image, const sara_safetensors *file,
                        const sara_tensor_info *info);
/* A tensor as an image; sara_image_clear(). */
sara_image test_load_image(sara_context *ctx, const sara_safetensors *file, const char *name);

/* An allocator that counts what is alive and fails at the allocation number `fail_at` (from 0). */
typedef struct test_memory {
    sara_allocator allocator;
    long made, alive, fail_at; /* fail_at -1: never */
} test_memory;
void test_memory_init(test_memory *memory);
sara_context *test_memory_context(test_memory *memory);

#endif

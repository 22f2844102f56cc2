/* Parts of a layer that are problems of their own, for kernels too slow for all of it: some
 * channels of all pixels, and some pixels with all their channels. Images are
 * [..][width][channels]. */
#ifndef SARA_TEST_SUPPORT_PARTS_H
#define SARA_TEST_SUPPORT_PARTS_H

#include "nn/support_nn.h"

typedef struct test_span {
    int64_t first, count;
} test_span;

typedef struct test_part {
    test_span rows, columns, channels;
    float *expected; /* NULL: not wanted, as the other part is all of the result */
} test_part;

/* Both parts, from the middle of each range; products: multiplications of one channel of a
 * pixel. */
void test_part_cut(test_part parts[2], int64_t h, int64_t w, int64_t channels, int64_t products);
/* Along one axis of a convolution, the places of the input that some of the output meet, and the
 * other way round. *pad, before the first place of all, becomes that of the part. */
test_span test_span_inputs(int *pad, test_span out, int64_t k, int stride, int64_t size);
test_span test_span_outputs(int *pad, test_span in, int64_t k, int stride, int64_t size);
/* Columns at .. at + count - 1 of a matrix [rows][width], and a part of an image; free(). */
float *test_columns(const float *from, int64_t rows, int64_t width, int64_t at, int64_t count);
float *test_part_crop(const float *image, int64_t width, int64_t channels, test_span rows,
                      test_span columns, test_span some);
/* The result must be what there was before (NULL: nothing) and the parts. */
void test_part_compare(const test_part parts[2], const float *result, const float *before,
                       int64_t width, int64_t channels, double tolerance, const char *what);

#endif

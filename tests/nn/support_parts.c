#include "nn/support_parts.h"

#include <stdlib.h>

#define PART ((int64_t)24 << 20) /* multiplications of a part */

float *test_columns(const float *from, int64_t rows, int64_t width, int64_t at, int64_t count)
{
    float *to = test_nn_zeros((size_t)(rows * count));
    for (int64_t r = 0; r < rows; r++)
        memcpy(to + r * count, from + r * width + at, (size_t)count * sizeof(*to));
    return to;
}

static int64_t clamp(int64_t value, int64_t low, int64_t high)
{
    return value < low ? low : value > high ? high : value;
}

static test_span middle(int64_t of, int64_t count)
{
    return (test_span){(of - count) / 2, count};
}

void test_part_cut(test_part parts[2], int64_t h, int64_t w, int64_t channels, int64_t products)
{
    int64_t some = clamp(PART / (h * w * products), 1, channels);
    int64_t columns = clamp(PART / (channels * products), 1, w);
    int64_t rows = clamp(PART / (columns * channels * products), 1, h);
    parts[0] = (test_part){{0, h}, {0, w}, middle(channels, some), NULL};
    parts[1] = (test_part){middle(h, rows), middle(w, columns), {0, channels}, NULL};
}

test_span test_span_inputs(int *pad, test_span out, int64_t k, int stride, int64_t size)
{
    int64_t first = out.first * stride - *pad, last = first + (out.count - 1) * stride + k;
    int64_t from = clamp(first, 0, size);
    *pad = (int)(from - first);
    return (test_span){from, clamp(last, 0, size) - from};
}

test_span test_span_outputs(int *pad, test_span in, int64_t k, int stride, int64_t size)
{
    int64_t first = in.first + *pad - k + 1, last = (in.first + in.count - 1 + *pad) / stride + 1;
    int64_t from = first > 0 ? (first + stride - 1) / stride : 0;
    *pad = (int)(in.first + *pad - from * stride);
    return (test_span){from, clamp(last, 0, size) - from};
}

float *test_part_crop(const float *image, int64_t width, int64_t channels, test_span rows,
                      test_span columns, test_span some)
{
    float *wide = test_columns(image + rows.first * width * channels, rows.count, width * channels,
                               columns.first * channels, columns.count * channels);
    float *to = test_columns(wide, rows.count * columns.count, channels, some.first, some.count);
    free(wide);
    return to;
}

void test_part_compare(const test_part parts[2], const float *result, const float *before,
                       int64_t width, int64_t channels, double tolerance, const char *what)
{
    for (int i = 0; i < 2 && parts[i].expected; i++) {
        const test_part *p = &parts[i];
        size_t count = (size_t)(p->rows.count * p->columns.count * p->channels.count);
        float *got = test_part_crop(result, width, channels, p->rows, p->columns, p->channels);
        float *expected = test_nn_copy(p->expected, count);
        if (before) {
            float *old = test_part_crop(before, width, channels, p->rows, p->columns, p->channels);
            for (size_t k = 0; k < count; k++)
                expected[k] += old[k];
            free(old);
        }
        assert_close(test_relative_l2(got, expected, count), tolerance, what);
        free(got);
        free(expected);
    }
}

/* Perceptual hashes: whether the lowest frequencies of an image are above their median, as
 * imagehash.phash has it (Zauner 2010, "Implementation and Benchmarking of Perceptual Image Hash
 * Functions"). */
#include "check/check.h"

#include <math.h>
#include <stdlib.h>

#define HASH_SIDE  8
#define HASH_WIDE  (4 * HASH_SIDE)
#define FLAT_RANGE 8 /* of 255: the frequencies of less are noise */

static const double hash_pi = 3.14159265358979323846;

/* PIL's convert("L"), in all three channels. */
static sara_status make_grey(sara_context *ctx, sara_image *out, const sara_image *image)
{
    const size_t count = (size_t)image->width * (size_t)image->height;
    sara_status status;
    *out = (sara_image){.width = image->width, .height = image->height};
    TRY(sara_alloc(ctx, &out->pixels, count, 3));
    for (size_t i = 0; i < count; i++) {
        const uint8_t *rgb = image->pixels + 3 * i;
        const uint32_t grey = (rgb[0] * 19595u + rgb[1] * 38470u + rgb[2] * 7471u + 0x8000u) >> 16;
        memset(out->pixels + 3 * i, (int)grey, 3);
    }
done:
    return status;
}

/* The lowest frequencies of one axis: out [HASH_SIDE] of in [HASH_WIDE], of which each is `step`
 * from the next (DCT-II). */
static void low_frequencies(double *out, const double *in, size_t step)
{
    for (int k = 0; k < HASH_SIDE; k++) {
        out[k] = 0;
        for (int n = 0; n < HASH_WIDE; n++)
            out[k] += in[(size_t)n * step] * cos(hash_pi * k * (2 * n + 1) / (2.0 * HASH_WIDE));
    }
}

static int compare_doubles(const void *a, const void *b)
{
    const double x = *(const double *)a, *y = b;
    return (x > *y) - (x < *y);
}

/* Row by row, the first bit the highest. */
static uint64_t bits_above_median(const double low[HASH_SIDE * HASH_SIDE])
{
    double sorted[HASH_SIDE * HASH_SIDE];
    const size_t count = HASH_SIDE * HASH_SIDE;
    uint64_t bits = 0;
    memcpy(sorted, low, sizeof(sorted));
    qsort(sorted, count, sizeof(*sorted), compare_doubles);
    const double median = (sorted[count / 2 - 1] + sorted[count / 2]) / 2;
    for (size_t i = 0; i < count; i++)
        bits = bits << 1 | (low[i] > median);
    return bits;
}

sara_status sara_perceptual_hash(sara_context *ctx, uint64_t *out, bool *is_hashed,
                                 const sara_image *image)
{
    double pixels[HASH_WIDE * HASH_WIDE], columns[HASH_WIDE * HASH_SIDE], across[HASH_SIDE];
    double low[HASH_SIDE * HASH_SIDE], least = 255, most = 0;
    sara_image grey = {0}, small = {0};
    sara_status status;
    *out = 0;
    TRY(make_grey(ctx, &grey, image));
    TRY(sara_image_resize(ctx, &small, &grey, HASH_WIDE, HASH_WIDE, SARA_RESAMPLE_LANCZOS));
    for (int i = 0; i < HASH_WIDE * HASH_WIDE; i++) {
        pixels[i] = small.pixels[3 * i];
        least = fmin(least, pixels[i]);
        most = fmax(most, pixels[i]);
    }
    *is_hashed = most - least > FLAT_RANGE;
    for (int x = 0; x < HASH_WIDE; x++) { /* down each column, then across what is left */
        low_frequencies(across, pixels + x, HASH_WIDE);
        for (int k = 0; k < HASH_SIDE; k++)
            columns[k * HASH_WIDE + x] = across[k];
    }
    for (int k = 0; k < HASH_SIDE; k++)
        low_frequencies(low + HASH_SIDE * k, columns + HASH_WIDE * k, 1);
    *out = bits_above_median(low);
done:
    sara_image_clear(ctx, &grey);
    sara_image_clear(ctx, &small);
    return status;
}

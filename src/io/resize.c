/* Resizing as PIL's Image.resize(size, resample) does it on 8-bit RGB: width and height one after
 * the other, each pass with weights of 22 fractional bits and rounded to bytes. Where an axis is
 * made smaller the filter is stretched by the factor. */
#include "io/image_codec.h"

#include <math.h>

#define WEIGHT_BITS 22

/* For each output position the first input position and the weights from there on. */
typedef struct sampling {
    int taps; /* weights per output position */
    int *first, *count;
    double *exact;    /* [size][taps] */
    int32_t *weights; /* the same, of WEIGHT_BITS */
} sampling;

static double sinc(double x)
{
    if (x == 0.0)
        return 1.0;
    x *= M_PI;
    return sin(x) / x;
}

static double lanczos(double x)
{
    return x >= -3.0 && x < 3.0 ? sinc(x) * sinc(x / 3.0) : 0.0;
}

static double triangle(double x)
{
    x = fabs(x);
    return x < 1.0 ? 1.0 - x : 0.0;
}

/* Keys' cubic convolution (1981) with a = -1/2. */
static double cubic(double x)
{
    const double a = -0.5;
    x = fabs(x);
    if (x < 1.0)
        return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
    return x < 2.0 ? (((x - 5) * x + 8) * x - 4) * a : 0.0;
}

typedef struct resize_filter {
    double (*weight)(double x);
    double support; /* beyond which it is 0 */
} resize_filter;

static const resize_filter filters[] = {
    [SARA_RESAMPLE_LANCZOS] = {lanczos, 3.0},
    [SARA_RESAMPLE_BILINEAR] = {triangle, 1.0},
    [SARA_RESAMPLE_BICUBIC] = {cubic, 2.0},
};

static int32_t to_fixed(double weight)
{
    double scaled = weight * (1 << WEIGHT_BITS);
    return (int32_t)(scaled < 0 ? scaled - 0.5 : scaled + 0.5);
}

static void sampling_free(sara_context *ctx, sampling *plan)
{
    sara_free(ctx, plan->first);
    sara_free(ctx, plan->count);
    sara_free(ctx, plan->exact);
    sara_free(ctx, plan->weights);
}

/* The filter around output position i, normalised to 1 over the input positions that exist. */
static void resize_fill(sampling *plan, const resize_filter *filter, int i, int from, double scale)
{
    double *weights = plan->exact + (size_t)i * (size_t)plan->taps;
    const double stretch = scale > 1.0 ? scale : 1.0, support = filter->support * stretch;
    const double center = (i + 0.5) * scale, inverse = 1.0 / stretch;
    double sum = 0;
    int first = (int)(center - support + 0.5), last = (int)(center + support + 0.5);
    first = first < 0 ? 0 : first;
    last = last > from ? from : last;
    for (int x = first; x < last; x++) {
        double weight = filter->weight((x - center + 0.5) * inverse);
        weights[x - first] = weight;
        sum += weight;
    }
    plan->first[i] = first;
    plan->count[i] = last - first;
    for (int x = 0; x < last - first; x++) {
        weights[x] = sum != 0.0 ? weights[x] / sum : weights[x];
        plan->weights[(size_t)i * (size_t)plan->taps + (size_t)x] = to_fixed(weights[x]);
    }
}

static sara_status sampling_new(sara_context *ctx, sampling *out, const resize_filter *filter,
                                int from, int to)
{
    sampling plan = {0};
    const double scale = (double)from / to;
    sara_status status = SARA_OK;

    plan.taps = (int)ceil(filter->support * (scale > 1.0 ? scale : 1.0)) * 2 + 1;
    TRY(sara_alloc(ctx, &plan.first, (size_t)to, sizeof(*plan.first)));
    TRY(sara_alloc(ctx, &plan.count, (size_t)to, sizeof(*plan.count)));
    TRY(sara_alloc(ctx, &plan.exact, (size_t)to * (size_t)plan.taps, sizeof(*plan.exact)));
    TRY(sara_alloc(ctx, &plan.weights, (size_t)to * (size_t)plan.taps, sizeof(*plan.weights)));
    for (int i = 0; i < to; i++)
        resize_fill(&plan, filter, i, from, scale);
    *out = plan;
    plan = (sampling){0};
done:
    sampling_free(ctx, &plan);
    return status;
}

static uint8_t to_byte(int64_t sum)
{
    sum >>= WEIGHT_BITS;
    return (uint8_t)(sum < 0 ? 0 : sum > 255 ? 255 : sum);
}

static const int32_t *weights_of(const sampling *plan, int i)
{
    return plan->weights + (size_t)i * (size_t)plan->taps;
}

static void resize_row(uint8_t *out, const uint8_t *in, const sampling *plan, int width)
{
    const int64_t half = (int64_t)1 << (WEIGHT_BITS - 1);
    for (int i = 0; i < width; i++, out += 3) {
        const int32_t *weights = weights_of(plan, i);
        const uint8_t *pixel = in + (size_t)plan->first[i] * 3;
        int64_t red = half, green = half, blue = half;
        for (int x = 0; x < plan->count[i]; x++, pixel += 3) {
            red += (int64_t)weights[x] * pixel[0];
            green += (int64_t)weights[x] * pixel[1];
            blue += (int64_t)weights[x] * pixel[2];
        }
        out[0] = to_byte(red);
        out[1] = to_byte(green);
        out[2] = to_byte(blue);
    }
}

/* One output row from `count` input rows of `bytes` bytes each; sums has `bytes` entries. */
static void combine_rows(uint8_t *out, const uint8_t *in, int64_t *sums, const int32_t *weights,
                         int count, size_t bytes)
{
    for (size_t x = 0; x < bytes; x++)
        sums[x] = (int64_t)1 << (WEIGHT_BITS - 1);
    for (int y = 0; y < count; y++, in += bytes)
        for (size_t x = 0; x < bytes; x++)
            sums[x] += (int64_t)weights[y] * in[x];
    for (size_t x = 0; x < bytes; x++)
        out[x] = to_byte(sums[x]);
}

static sara_status resize_width(sara_context *ctx, sara_image *out, const sara_image *in, int width,
                                const resize_filter *filter)
{
    sampling plan = {0};
    sara_status status = SARA_OK;

    TRY(sampling_new(ctx, &plan, filter, in->width, width));
    TRY(sara_image_allocate(ctx, out, width, in->height));
    for (int y = 0; y < in->height; y++)
        resize_row(out->pixels + (size_t)y * (size_t)width * 3,
                   in->pixels + (size_t)y * (size_t)in->width * 3, &plan, width);
done:
    sampling_free(ctx, &plan);
    return status;
}

static sara_status resize_height(sara_context *ctx, sara_image *out, const sara_image *in,
                                 int height, const resize_filter *filter)
{
    const size_t bytes = (size_t)in->width * 3;
    sampling plan = {0};
    int64_t *sums = NULL;
    sara_status status = SARA_OK;

    TRY(sampling_new(ctx, &plan, filter, in->height, height));
    TRY(sara_alloc(ctx, &sums, bytes, sizeof(*sums)));
    TRY(sara_image_allocate(ctx, out, in->width, height));
    for (int y = 0; y < height; y++)
        combine_rows(out->pixels + (size_t)y * bytes, in->pixels + (size_t)plan.first[y] * bytes,
                     sums, weights_of(&plan, y), plan.count[y], bytes);
done:
    sara_free(ctx, sums);
    sampling_free(ctx, &plan);
    return status;
}

/* Along the width where `across`, else along the height. */
static sara_status resize_axis(sara_context *ctx, sara_image *out, const sara_image *in, int width,
                               int height, const resize_filter *filter, bool across)
{
    sara_status status = SARA_OK;
    if (across && width != in->width)
        return resize_width(ctx, out, in, width, filter);
    if (!across && height != in->height)
        return resize_height(ctx, out, in, height, filter);
    TRY(sara_image_allocate(ctx, out, in->width, in->height));
    memcpy(out->pixels, in->pixels, (size_t)in->width * (size_t)in->height * 3);
done:
    return status;
}

/* Pillow from 13 on starts with the height where that shrinks by more than twice as many pixels as
 * the width; the order matters to the rounding in between. */
static bool starts_with_height(const sara_image *in, int width, int height)
{
    return height < in->height && in->height - (int64_t)height > 2 * ((int64_t)in->width - width);
}

static sara_status check_resized(sara_context *ctx, int width, int height)
{
    if (width > 0 && height > 0 && width <= SARA_IMAGE_MAX_SIDE && height <= SARA_IMAGE_MAX_SIDE)
        return SARA_OK;
    return sara_fail(ctx, SARA_ERROR_USAGE, "resize: size %dx%d, expected 1x1 to %dx%d", width,
                     height, SARA_IMAGE_MAX_SIDE, SARA_IMAGE_MAX_SIDE);
}

sara_status sara_image_resize(sara_context *ctx, sara_image *out, const sara_image *in, int width,
                              int height, sara_resample resample)
{
    const bool height_first = starts_with_height(in, width, height);
    sara_image first = {0}, result = {0};
    sara_status status;

    TRY(check_resized(ctx, width, height));
    TRY(resize_axis(ctx, &first, in, width, height, &filters[resample], !height_first));
    TRY(resize_axis(ctx, &result, &first, width, height, &filters[resample], height_first));
    *out = result;
    result = (sara_image){0};
done:
    sara_image_clear(ctx, &first);
    sara_image_clear(ctx, &result);
    return status;
}

/* ------------------------------------------------------------------------------------ floats */

/* *in [outer][from][inner] becomes [outer][to][inner]; sums are double, results float. */
static sara_status resize_floats(sara_context *ctx, float **in, size_t outer, int from, int to,
                                 size_t inner, const resize_filter *filter)
{
    sampling plan = {0};
    float *result = NULL;
    sara_status status;
    TRY(sampling_new(ctx, &plan, filter, from, to));
    TRY(sara_alloc(ctx, &result, outer * (size_t)to * inner, sizeof(*result)));
    for (size_t row = 0; row < outer * (size_t)to; row++) {
        const size_t i = row % (size_t)to, first = row / (size_t)to * (size_t)from;
        const float *source = *in + (first + (size_t)plan.first[i]) * inner;
        const double *weights = plan.exact + i * (size_t)plan.taps;
        for (size_t k = 0; k < inner; k++) {
            double sum = 0;
            for (int x = 0; x < plan.count[i]; x++)
                sum += (double)source[(size_t)x * inner + k] * weights[x];
            result[row * inner + k] = (float)sum;
        }
    }
    sara_free(ctx, *in);
    *in = result;
done:
    sampling_free(ctx, &plan);
    return status;
}

sara_status sara_image_resize_exact(sara_context *ctx, float **out, const sara_image *in, int width,
                                    int height, sara_resample resample)
{
    const bool height_first = starts_with_height(in, width, height);
    const resize_filter *filter = &filters[resample];
    const size_t from_row = (size_t)in->width * 3, row = (size_t)width * 3;
    float *values = NULL;
    sara_status status;
    *out = NULL;
    TRY(check_resized(ctx, width, height));
    TRY(sara_alloc(ctx, &values, (size_t)in->height * from_row, sizeof(*values)));
    for (size_t i = 0; i < (size_t)in->height * from_row; i++)
        values[i] = in->pixels[i];
    if (height_first)
        TRY(resize_floats(ctx, &values, 1, in->height, height, from_row, filter));
    TRY(resize_floats(ctx, &values, (size_t)(height_first ? height : in->height), in->width, width,
                      3, filter));
    if (!height_first)
        TRY(resize_floats(ctx, &values, 1, in->height, height, row, filter));
    *out = values;
    values = NULL;
done:
    sara_free(ctx, values);
    return status;
}

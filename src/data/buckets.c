/* Aspect buckets. */
#include "data/data.h"

#include <math.h>
#include <stdlib.h>

void sara_buckets_free(sara_context *ctx, sara_buckets *buckets)
{
    sara_free(ctx, buckets->sizes);
    *buckets = (sara_buckets){0};
}

static int compare_bucket_sizes(const void *a, const void *b)
{
    const sara_bucket_size *x = a, *y = b;
    return x->width != y->width ? (x->width > y->width) - (x->width < y->width)
                                : (x->height > y->height) - (x->height < y->height);
}

static void add_bucket(sara_buckets *buckets, int width, int height)
{
    buckets->sizes[buckets->count++] = (sara_bucket_size){width, height};
}

/* In order, each once. */
static void sort_buckets(sara_buckets *buckets)
{
    size_t kept = 0;
    qsort(buckets->sizes, buckets->count, sizeof(*buckets->sizes), compare_bucket_sizes);
    for (size_t i = 0; i < buckets->count; i++)
        if (i == 0 || compare_bucket_sizes(&buckets->sizes[i], &buckets->sizes[kept - 1]) != 0)
            buckets->sizes[kept++] = buckets->sizes[i];
    buckets->count = kept;
}

/* All sides from least to most, the other one as long as the resolution's area lets it be. */
static sara_status make_bucket_sizes(sara_context *ctx, sara_buckets *out)
{
    const sara_bucket_options *o = &out->options;
    const int64_t area = (int64_t)o->width * o->height;
    sara_status status;
    TRY(sara_alloc(ctx, &out->sizes, 1 + 2 * (size_t)((o->most - o->least) / o->steps + 1),
                   sizeof(*out->sizes)));
    const int square = (int)(sqrt((double)area) / o->steps) * o->steps;
    add_bucket(out, square, square);
    for (int width = o->least; width <= o->most; width += o->steps) {
        int64_t height = area / width / o->steps * o->steps;
        height = height < o->most ? height : o->most;
        if (height < o->least)
            continue;
        add_bucket(out, width, (int)height);
        add_bucket(out, (int)height, width);
    }
    sort_buckets(out);
done:
    return status;
}

/* least down and most up to multiples of steps, and what they must hold. */
static sara_status check_bucket_limits(sara_context *ctx, sara_bucket_options *o)
{
    const int shorter = o->width < o->height ? o->width : o->height;
    const int longer = o->width > o->height ? o->width : o->height;
    const int least = o->least / o->steps * o->steps;
    const int most = (o->most + o->steps - 1) / o->steps * o->steps;
    if (least != o->least)
        sara_log(ctx, SARA_LOG_WARNING,
                 "min_bucket_reso %d becomes %d, a multiple of bucket_reso_steps %d", o->least,
                 least, o->steps);
    if (most != o->most)
        sara_log(ctx, SARA_LOG_WARNING,
                 "max_bucket_reso %d becomes %d, a multiple of bucket_reso_steps %d", o->most, most,
                 o->steps);
    if (least < 1)
        return sara_fail(ctx, SARA_ERROR_USAGE,
                         "min_bucket_reso %d: expected at least bucket_reso_steps %d", o->least,
                         o->steps);
    if (least > shorter)
        return sara_fail(ctx, SARA_ERROR_USAGE,
                         "min_bucket_reso %d: is above the resolution's %d; give a smaller one",
                         least, shorter);
    if (most < longer)
        return sara_fail(ctx, SARA_ERROR_USAGE,
                         "max_bucket_reso %d: is below the resolution's %d; give a larger one",
                         most, longer);
    o->least = least;
    o->most = most;
    return SARA_OK;
}

sara_status sara_buckets_make(sara_context *ctx, sara_buckets *out,
                              const sara_bucket_options *options)
{
    sara_status status = SARA_OK;
    *out = (sara_buckets){.options = *options};
    if (!options->enabled) {
        TRY(sara_alloc(ctx, &out->sizes, 1, sizeof(*out->sizes)));
        add_bucket(out, options->width, options->height);
    } else if (!options->no_upscale) {
        TRY(check_bucket_limits(ctx, &out->options));
        TRY(make_bucket_sizes(ctx, out));
    }
done:
    return status;
}

/* ---------------------------------------------------------------------------------- of an image */

/* torchvision's Resize and a square crop, as diffusers' scripts: the shorter side is the
 * resolution's. */
static void fit_square(sara_fit *fit, int64_t resized[2], int side, int64_t width, int64_t height)
{
    fit->width = fit->height = side;
    resized[0] = width <= height ? side : side * width / height;
    resized[1] = width <= height ? side * height / width : side;
}

/* The size whose ratio is nearest, the image's own first. */
static sara_bucket_size choose_bucket(const sara_buckets *buckets, int width, int height)
{
    const double ratio = (double)width / height;
    size_t best = 0;
    double least = INFINITY;
    for (size_t i = 0; i < buckets->count; i++) {
        const sara_bucket_size *size = &buckets->sizes[i];
        const double error = fabs((double)size->width / size->height - ratio);
        if (size->width == width && size->height == height)
            return *size;
        if (error < least) {
            least = error;
            best = i;
        }
    }
    return buckets->sizes[best];
}

/* Covers the bucket with as little as possible beside it. */
static void fit_bucket(sara_fit *fit, int64_t resized[2], sara_bucket_size size, int width,
                       int height)
{
    const double ratio = (double)width / height;
    const double scale = ratio > (double)size.width / size.height ? (double)size.height / height
                                                                  : (double)size.width / width;
    fit->width = size.width;
    fit->height = size.height;
    resized[0] = (int64_t)(width * scale + 0.5);
    resized[1] = (int64_t)(height * scale + 0.5);
}

static int round_down_to(double x, int steps)
{
    const int whole = (int)(x + 0.5);
    return whole - whole % steps;
}

/* As large as the area allows, one side a multiple of steps: the one that changes the ratio
 * less. */
static void shrink_to_area(const sara_bucket_options *o, int *width, int *height)
{
    const double ratio = (double)*width / *height, area = (double)o->width * o->height;
    const double wide = sqrt(area * ratio), high = area / wide;
    const int by_width = round_down_to(wide, o->steps);
    const int by_height = round_down_to(high, o->steps);
    const int other_height = by_width ? round_down_to(by_width / ratio, o->steps) : 0;
    const int other_width = round_down_to(by_height * ratio, o->steps);
    const double error_by_width =
        other_height ? fabs((double)by_width / other_height - ratio) : INFINITY;
    const double error_by_height =
        by_height ? fabs((double)other_width / by_height - ratio) : INFINITY;
    if (error_by_width < error_by_height) {
        *width = by_width;
        *height = (int)(by_width / ratio + 0.5);
    } else {
        *width = (int)(by_height * ratio + 0.5);
        *height = by_height;
    }
}

static void fit_without_upscale(sara_fit *fit, int64_t resized[2], const sara_bucket_options *o,
                                int width, int height)
{
    if ((int64_t)width * height > (int64_t)o->width * o->height)
        shrink_to_area(o, &width, &height);
    fit->width = width - width % o->steps;
    fit->height = height - height % o->steps;
    resized[0] = width;
    resized[1] = height;
}

sara_status sara_buckets_fit(sara_context *ctx, sara_fit *out, const sara_buckets *buckets,
                             const char *path, int width, int height)
{
    const sara_bucket_options *o = &buckets->options;
    int64_t resized[2]; /* width, height */
    if (!o->enabled && o->width == o->height)
        fit_square(out, resized, o->width, width, height);
    else if (!o->no_upscale)
        fit_bucket(out, resized, choose_bucket(buckets, width, height), width, height);
    else
        fit_without_upscale(out, resized, o, width, height);
    if (out->width < 1 || out->height < 1)
        return sara_fail(ctx, SARA_ERROR_INPUT,
                         "%s: %dx%d is too small for a bucket in steps of %d where no image is "
                         "made larger: leave bucket_no_upscale out, or the image",
                         path, width, height, o->steps);
    if (resized[0] > SARA_LONGEST_SIDE || resized[1] > SARA_LONGEST_SIDE)
        return sara_fail(ctx, SARA_ERROR_INPUT,
                         "%s: %dx%d is too long: %lldx%lld at resolution %dx%d, at most %d a side",
                         path, width, height, (long long)resized[0], (long long)resized[1],
                         o->width, o->height, SARA_LONGEST_SIDE);
    out->resized_width = (int)resized[0];
    out->resized_height = (int)resized[1];
    return SARA_OK;
}

int sara_fit_center(int resized, int cropped)
{
    return (int)lrint((resized - cropped) / 2.0);
}

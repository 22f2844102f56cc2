/* The images of a data set: checked before anything is encoded, hashed, and resized. */
#include "data/data_inner.h"

#include "core/trace.h"

#include <math.h>
#include <stdio.h>

#define NAMED_AT_MOST  5
#define SILENT_SECONDS 1.0 /* a short check is no news */

/* `path`, the image itself or its mask, in the size that the image is resized to. */
static sara_status load_resized(sara_context *ctx, sara_image *out, const sara_data_image *image,
                                const char *path, bool alpha)
{
    const sara_fit *fit = &image->fit;
    sara_image read = {0};
    sara_status status;
    TRY(alpha ? sara_image_read_alpha(ctx, &read, path) : sara_image_read(ctx, &read, path));
    if (read.width != image->width || read.height != image->height)
        TRY(sara_fail(ctx, SARA_ERROR_INPUT, "%s: has %dx%d pixels now instead of %dx%d", path,
                      read.width, read.height, image->width, image->height));
    if (fit->resized_width == read.width && fit->resized_height == read.height) {
        *out = read;
        return SARA_OK;
    }
    TRY(sara_image_resize(ctx, out, &read, fit->resized_width, fit->resized_height,
                          SARA_RESAMPLE_LANCZOS));
done:
    sara_image_clear(ctx, &read);
    return status;
}

sara_status sara_data_image_load(sara_context *ctx, sara_image *out, const sara_data_image *image)
{
    return load_resized(ctx, out, image, image->path, false);
}

sara_status sara_data_mask_load(sara_context *ctx, sara_image *out, const sara_data_image *image)
{
    return load_resized(ctx, out, image, image->mask, image->mask == image->path);
}

/* ------------------------------------------------------------------------------------- checking */

/* A mask has its image's size. */
static sara_status check_mask_file(sara_context *ctx, const sara_data_image *image)
{
    sara_image mask = {0};
    sara_status status = SARA_OK;
    if (!image->mask || image->mask == image->path)
        return SARA_OK;
    TRY(sara_image_read(ctx, &mask, image->mask));
    if (mask.width != image->width || mask.height != image->height)
        status = sara_fail(ctx, SARA_ERROR_INPUT, "%s: a mask of %dx%d, its image %s has %dx%d",
                           image->mask, mask.width, mask.height, image->path, image->width,
                           image->height);
done:
    sara_image_clear(ctx, &mask);
    return status;
}

/* Decoded wholly: what passes here is what can be loaded later. */
static sara_status check_one_image(sara_data *data, const sara_buckets *buckets, size_t index,
                                   const sara_data_listener *listener)
{
    sara_data_image *image = &data->images[index];
    sara_image read = {0};
    sara_status status;
    TRY(sara_image_read(data->ctx, &read, image->path));
    image->width = read.width;
    image->height = read.height;
    TRY(sara_buckets_fit(data->ctx, &image->fit, &buckets[data->config->subsets[image->subset].set],
                         image->path, read.width, read.height));
    if (listener)
        TRY(listener->seen(listener->user, image, &read));
    sara_image_clear(data->ctx, &read);
    TRY(check_mask_file(data->ctx, image));
done:
    sara_image_clear(data->ctx, &read);
    return status;
}

static void report_check(sara_context *ctx, size_t done, size_t count, double started)
{
    double seconds = sara_clock() - started;
    if (seconds < SILENT_SECONDS)
        return;
    double rate = (double)done / seconds;
    const sara_progress progress = {
        "check", (int64_t)done, (int64_t)count, NAN, NAN, rate, (double)(count - done) / rate};
    sara_report_progress(ctx, &progress);
}

/* Images that cannot be used: the first one's error line, the others' names. */
typedef struct damaged_images {
    char *error, *names;
    size_t count;
} damaged_images;

static sara_status note_damaged(sara_context *ctx, damaged_images *damaged, const char *path)
{
    char *longer = NULL;
    sara_status status = SARA_OK;
    if (damaged->count++ == 0)
        return sara_strdup(ctx, &damaged->error, sara_context_error(ctx));
    if (damaged->count > NAMED_AT_MOST)
        return SARA_OK;
    TRY(sara_format(ctx, &longer, "%s%s%s", damaged->names ? damaged->names : "",
                    damaged->names ? ", " : "", path));
    sara_free(ctx, damaged->names);
    damaged->names = longer;
done:
    return status;
}

static sara_status refuse_damaged(sara_context *ctx, const damaged_images *damaged)
{
    if (damaged->count == 0)
        return SARA_OK;
    if (damaged->count == 1)
        return sara_fail(ctx, SARA_ERROR_INPUT, "%s", damaged->error);
    return sara_fail(ctx, SARA_ERROR_INPUT, "%s (and %zu more images cannot be used: %s%s)",
                     damaged->error, damaged->count - 1, damaged->names,
                     damaged->count > NAMED_AT_MOST ? ", ..." : "");
}

sara_status sara_data_hear(sara_context *ctx, const sara_data_listener *listener, const char *path,
                           sara_status status)
{
    if (!listener || (status != SARA_ERROR_INPUT && status != SARA_ERROR_IO))
        return status;
    listener->refused(listener->user, path, sara_context_error(ctx));
    return SARA_OK;
}

/* An image that cannot be used is kept for the error, or refused where that is listened to. */
static sara_status take_checked(sara_data *data, damaged_images *damaged, size_t index,
                                const sara_data_listener *listener, sara_status status)
{
    sara_data_image *image = &data->images[index];
    if (listener) {
        image->refused = image->refused || status != SARA_OK;
        return sara_data_hear(data->ctx, listener, image->path, status);
    }
    return status == SARA_ERROR_INPUT ? note_damaged(data->ctx, damaged, image->path) : status;
}

sara_status sara_data_check_images(sara_data *data, const sara_buckets *buckets,
                                   const sara_data_listener *listener)
{
    sara_context *ctx = data->ctx;
    damaged_images damaged = {0};
    double started = sara_clock();
    sara_status status = SARA_OK;
    for (size_t i = 0; i < data->count; i++) {
        if (sara_interrupted(ctx))
            TRY(sara_fail(ctx, SARA_INTERRUPTED, "interrupted before the first step"));
        TRY(take_checked(data, &damaged, i, listener, check_one_image(data, buckets, i, listener)));
        report_check(ctx, i + 1, data->count, started);
    }
    status = refuse_damaged(ctx, &damaged);
done:
    sara_free(ctx, damaged.error);
    sara_free(ctx, damaged.names);
    return status;
}

/* -------------------------------------------------------------------------------------- hashing */

static sara_status add_number(sara_sha256 *hash, int64_t value)
{
    char text[24];
    int length = snprintf(text, sizeof(text), "%lld", (long long)value);
    return sara_sha256_add(hash, text, (size_t)length + 1);
}

/* The file's hash; with a mask in a file of its own that of both. */
static sara_status hash_image_files(sara_context *ctx, sara_data_image *image)
{
    sara_sha256 *hash = NULL;
    char mask[65];
    sara_status status;
    TRY(sara_sha256_file(ctx, image->sha256, image->path));
    if (!image->mask || image->mask == image->path)
        return SARA_OK;
    TRY(sara_sha256_file(ctx, mask, image->mask));
    TRY(sara_sha256_new(ctx, &hash));
    TRY(sara_sha256_add(hash, image->sha256, sizeof(image->sha256)));
    TRY(sara_sha256_add(hash, mask, sizeof(mask)));
    TRY(sara_sha256_end(&hash, image->sha256));
done:
    sara_sha256_abort(&hash);
    return status;
}

sara_status sara_data_image_check(sara_context *ctx, const sara_data_image *image)
{
    sara_data_image now = *image;
    sara_status status;
    TRY(hash_image_files(ctx, &now));
    if (strcmp(now.sha256, image->sha256) != 0)
        status = sara_fail(ctx, SARA_ERROR_INPUT,
                           "%s: it or its mask was changed since the run began; start again",
                           image->path);
done:
    return status;
}

static sara_status hash_image(sara_data *data, sara_sha256 *hash, size_t index)
{
    sara_data_image *image = &data->images[index];
    const char *name = strrchr(image->path, '/');
    sara_status status;
    name = name ? name + 1 : image->path;
    TRY(hash_image_files(data->ctx, image));
    TRY(sara_sha256_add(hash, name, strlen(name) + 1));
    TRY(sara_sha256_add(hash, image->caption, strlen(image->caption) + 1));
    TRY(sara_sha256_add(hash, image->sha256, sizeof(image->sha256)));
    if (image->repeats != 1)
        TRY(add_number(hash, image->repeats));
    if (image->mask)
        TRY(sara_sha256_add(hash, "mask", 5));
done:
    return status;
}

sara_status sara_data_hash(sara_data *data, bool configured)
{
    sara_sha256 *hash = NULL;
    sara_status status;
    TRY(sara_sha256_new(data->ctx, &hash));
    if (configured)
        TRY(sara_data_hash_config(hash, data->config));
    for (size_t i = 0; i < data->count; i++) {
        if (data->images[i].refused)
            continue;
        if (data->config->subset_count > 1)
            TRY(add_number(hash, (int64_t)data->images[i].subset));
        TRY(hash_image(data, hash, i));
    }
    TRY(sara_sha256_end(&hash, data->sha256));
done:
    sara_sha256_abort(&hash);
    return status;
}

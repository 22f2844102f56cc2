/* The images of a data set: checked before anything is encoded, hashed, and resized. */
#include "train/train.h"

#include <math.h>
#include <stdio.h>

#define LONGEST_SIDE   16384
#define NAMED_AT_MOST  5
#define SILENT_SECONDS 1.0 /* a short check is no news */

/* The size at which the shorter side is `resolution`, as torchvision's Resize. */
static sara_status choose_image_size(sara_context *ctx, sara_image_sizes *out,
                                     const sara_image *image, const char *path, int resolution)
{
    int64_t w = image->width, h = image->height;
    int64_t new_width = w <= h ? resolution : resolution * w / h;
    int64_t new_height = w <= h ? resolution * h / w : resolution;
    if (new_width > LONGEST_SIDE || new_height > LONGEST_SIDE)
        return sara_fail(ctx, SARA_ERROR_INPUT,
                         "%s: %lldx%lld is too long: %lldx%lld at resolution %d, at most %d a side",
                         path, (long long)w, (long long)h, (long long)new_width,
                         (long long)new_height, resolution, LONGEST_SIDE);
    *out = (sara_image_sizes){image->width, image->height, (int)new_width, (int)new_height};
    return SARA_OK;
}

sara_status sara_dataset_image_load(sara_context *ctx, sara_image *out, const char *path,
                                    int resolution)
{
    sara_image image = {0};
    sara_image_sizes to;
    sara_status status;
    TRY(sara_image_read(ctx, &image, path));
    TRY(choose_image_size(ctx, &to, &image, path, resolution));
    if (to.resized_width == image.width && to.resized_height == image.height) {
        *out = image;
        return SARA_OK;
    }
    TRY(sara_image_resize(ctx, out, &image, to.resized_width, to.resized_height,
                          SARA_RESAMPLE_LANCZOS));
done:
    sara_image_clear(ctx, &image);
    return status;
}

void sara_dataset_image_crop(float *out, const sara_image *image, int side, int left, int top,
                             bool flip)
{
    size_t plane = (size_t)side * (size_t)side;
    for (int y = 0; y < side; y++)
        for (int x = 0; x < side; x++) {
            int from = flip ? side - 1 - x : x;
            const uint8_t *pixel =
                image->pixels +
                ((size_t)(top + y) * (size_t)image->width + (size_t)(left + from)) * 3;
            for (size_t c = 0; c < 3; c++)
                out[c * plane + (size_t)y * (size_t)side + (size_t)x] =
                    (float)pixel[c] / 255.0f * 2.0f - 1.0f;
        }
}

/* Decoded wholly: what passes here is what can be loaded later. */
static sara_status check_one_image(sara_context *ctx, sara_image_sizes *sizes, const char *path,
                                   int resolution)
{
    sara_image image = {0};
    sara_status status;
    TRY(sara_image_read(ctx, &image, path));
    TRY(choose_image_size(ctx, sizes, &image, path, resolution));
done:
    sara_image_clear(ctx, &image);
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

sara_status sara_dataset_check_images(sara_context *ctx, sara_image_sizes *sizes,
                                      const sara_dataset *dataset, int resolution)
{
    damaged_images damaged = {0};
    double started = sara_clock();
    sara_status status = SARA_OK;
    for (size_t i = 0; i < dataset->count; i++) {
        const char *path = dataset->items[i].path;
        if (sara_interrupted(ctx))
            TRY(sara_fail(ctx, SARA_INTERRUPTED, "interrupted before the first step"));
        status = check_one_image(ctx, &sizes[i], path, resolution);
        if (status == SARA_ERROR_INPUT)
            status = note_damaged(ctx, &damaged, path);
        TRY(status);
        report_check(ctx, i + 1, dataset->count, started);
    }
    status = refuse_damaged(ctx, &damaged);
done:
    sara_free(ctx, damaged.error);
    sara_free(ctx, damaged.names);
    return status;
}

sara_status sara_dataset_hash(sara_context *ctx, char out[65], char (*contents)[65],
                              const sara_dataset *dataset)
{
    sara_sha256 *hash = NULL;
    sara_status status;
    TRY(sara_sha256_new(ctx, &hash));
    for (size_t i = 0; i < dataset->count; i++) {
        const sara_dataset_item *item = &dataset->items[i];
        const char *name = strrchr(item->path, '/');
        char content[65];
        name = name ? name + 1 : item->path;
        TRY(sara_sha256_file(ctx, content, item->path));
        TRY(sara_sha256_add(hash, name, strlen(name) + 1));
        TRY(sara_sha256_add(hash, item->caption, strlen(item->caption) + 1));
        TRY(sara_sha256_add(hash, content, sizeof(content)));
        if (contents)
            memcpy(contents[i], content, sizeof(content));
        if (item->repeats != 1) {
            char repeats[24];
            int length = snprintf(repeats, sizeof(repeats), "%lld", (long long)item->repeats);
            TRY(sara_sha256_add(hash, repeats, (size_t)length + 1));
        }
    }
    TRY(sara_sha256_end(&hash, out));
done:
    sara_sha256_abort(&hash);
    return status;
}

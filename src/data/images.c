/* The images of a data set: checked before anything is encoded, hashed, and resized. */
#include "data/data_inner.h"

#include <stdio.h>

#define NAMED_AT_MOST 5

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

/* What threads check. */
typedef struct image_check {
    sara_data *data;
    const sara_buckets *buckets;
    const sara_data_listener *listener; /* NULL: none */
    /* [count] Of images that cannot be used, and what was logged first of one; else NULL */
    char **lines, **notes;
} image_check;

/* Decoded wholly: what passes here is what can be loaded later. */
static sara_status check_one_image(sara_context *own, const image_check *c, size_t index)
{
    sara_data_image *image = &c->data->images[index];
    const sara_subset *subset = &c->data->config->subsets[image->subset];
    sara_image read = {0};
    sara_status status;
    TRY(sara_image_read(own, &read, image->path));
    image->width = read.width;
    image->height = read.height;
    TRY(sara_buckets_fit(own, &image->fit, &c->buckets[subset->set], image->path, read.width,
                         read.height));
    if (c->listener)
        TRY(c->listener->seen(own, c->listener->user, image, &read));
    sara_image_clear(own, &read);
    TRY(check_mask_file(own, image));
done:
    sara_image_clear(own, &read);
    return status;
}

/* Of one that cannot be used the line is kept: others may be damaged, too. */
static sara_status check_image_of(sara_context *own, void *user, size_t index)
{
    const image_check *c = user;
    const sara_status status = check_one_image(own, c, index);
    const bool kept = status == SARA_ERROR_INPUT || (c->listener && status == SARA_ERROR_IO);
    return kept ? sara_strdup(own, &c->lines[index], sara_context_error(own)) : status;
}

/* What of a picture is odd and does no harm; without memory it is not told. */
static void note_odd_image(sara_context *own, void *user, size_t index, const char *line)
{
    const image_check *c = user;
    if (!c->notes[index] && sara_strdup(own, &c->notes[index], line) != SARA_OK)
        c->notes[index] = NULL;
}

/* The first one's line, with the names of some others. */
static sara_status refuse_damaged(const image_check *c)
{
    sara_buffer names = {.ctx = c->data->ctx};
    const char *first = NULL;
    size_t count = 0;
    sara_status status = SARA_OK;
    for (size_t i = 0; i < c->data->count; i++) {
        if (!c->lines[i])
            continue;
        if (count > 0 && count < NAMED_AT_MOST) {
            TRY(sara_buffer_put(&names, count > 1 ? ", " : ""));
            TRY(sara_buffer_put(&names, c->data->images[i].path));
        }
        first = count++ ? first : c->lines[i];
    }
    if (count == 1)
        status = sara_fail(c->data->ctx, SARA_ERROR_INPUT, "%s", first);
    else if (count > 1)
        status = sara_fail(c->data->ctx, SARA_ERROR_INPUT,
                           "%s (and %zu more images cannot be used: %s%s)", first, count - 1,
                           names.data, count > NAMED_AT_MOST ? ", ..." : "");
done:
    sara_buffer_free(&names);
    return status;
}

sara_status sara_data_hear(sara_context *ctx, const sara_data_listener *listener, const char *path,
                           sara_status status)
{
    if (!listener || (status != SARA_ERROR_INPUT && status != SARA_ERROR_IO))
        return status;
    listener->refused(listener->user, path, sara_context_error(ctx));
    return SARA_OK;
}

/* In the order of images, whichever thread was when done. */
static sara_status tell_checked(const image_check *c)
{
    const sara_data_listener *listener = c->listener;
    for (size_t i = 0; i < c->data->count; i++) {
        sara_data_image *image = &c->data->images[i];
        if (c->notes[i])
            sara_log(c->data->ctx, SARA_LOG_WARNING, "%s", c->notes[i]);
        if (!listener || !c->lines[i])
            continue;
        image->refused = true;
        listener->refused(listener->user, image->path, c->lines[i]);
    }
    return listener ? SARA_OK : refuse_damaged(c);
}

static void free_lines(const sara_data *data, char **lines)
{
    for (size_t i = 0; lines && i < data->count; i++)
        sara_free(data->ctx, lines[i]);
    sara_free(data->ctx, lines);
}

sara_status sara_data_check_images(sara_data *data, const sara_buckets *buckets,
                                   const sara_data_listener *listener)
{
    image_check c = {.data = data, .buckets = buckets, .listener = listener};
    const sara_crew crew = {.work = check_image_of,
                            .log = note_odd_image,
                            .user = &c,
                            .phase = "check",
                            .interrupted = listener ? "interrupted; nothing was written"
                                                    : "interrupted before the first step"};
    sara_status status;
    TRY(sara_alloc_zero(data->ctx, &c.lines, data->count, sizeof(*c.lines)));
    TRY(sara_alloc_zero(data->ctx, &c.notes, data->count, sizeof(*c.notes)));
    if (listener)
        TRY(listener->begun(listener->user, data));
    TRY(sara_crew_run(data->ctx, &crew, data->count));
    status = tell_checked(&c);
done:
    free_lines(data, c.lines);
    free_lines(data, c.notes);
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

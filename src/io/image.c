/* Reading an image: limits, recognition by content, and the memory of images. */
#include "io/image_codec.h"

#define MAX_FILE_SIZE ((size_t)512 << 20)

sara_status sara_image_check_size(const sara_image_source *source, uint64_t width, uint64_t height)
{
    if (width < 1 || height < 1)
        return sara_fail(source->ctx, SARA_ERROR_INPUT, "%s: size %llux%llu, expected at least 1x1",
                         source->path, (unsigned long long)width, (unsigned long long)height);
    if (width > SARA_IMAGE_MAX_SIDE || height > SARA_IMAGE_MAX_SIDE ||
        width * height > SARA_IMAGE_MAX_PIXELS)
        return sara_fail(source->ctx, SARA_ERROR_INPUT,
                         "%s: size %llux%llu, the limit is %d a side and %d megapixels",
                         source->path, (unsigned long long)width, (unsigned long long)height,
                         SARA_IMAGE_MAX_SIDE, SARA_IMAGE_MAX_PIXELS / 1000000);
    return SARA_OK;
}

sara_status sara_image_allocate(sara_context *ctx, sara_image *out, int width, int height)
{
    uint8_t *pixels = NULL;
    sara_status status = sara_alloc(ctx, &pixels, (size_t)width * (size_t)height, 3);
    if (status != SARA_OK)
        return status;
    *out = (sara_image){.width = width, .height = height, .pixels = pixels};
    return SARA_OK;
}

void sara_image_clear(sara_context *ctx, sara_image *image)
{
    if (!image)
        return;
    sara_free(ctx, image->pixels);
    *image = (sara_image){0};
}

void sara_images_free(sara_context *ctx, sara_image *images, int count)
{
    for (int i = 0; images && i < count; i++)
        sara_image_clear(ctx, &images[i]);
    sara_free(ctx, images);
}

static bool begins(const sara_image_source *source, size_t at, const char *magic, size_t size)
{
    return source->size >= at + size && memcmp(source->data + at, magic, size) == 0;
}

static sara_status image_refuse(const sara_image_source *source)
{
    static const struct {
        size_t at, size;
        const char *magic, *name;
    } known[] = {
        {0, 4, "GIF8", "GIF"},       {0, 2, "BM", "BMP"},           {0, 4, "II*\0", "TIFF"},
        {0, 4, "MM\0*", "TIFF"},     {4, 8, "ftypavif", "AVIF"},    {4, 7, "ftyphei", "HEIC"},
        {4, 7, "ftypmif", "HEIC"},   {0, 2, "\xff\x0a", "JPEG XL"}, {4, 4, "JXL ", "JPEG XL"},
        {4, 4, "jP  ", "JPEG 2000"}, {0, 4, "8BPS", "Photoshop"},
    };
    const char *name = NULL;
    for (size_t i = 0; i < sizeof(known) / sizeof(*known) && !name; i++)
        if (begins(source, known[i].at, known[i].magic, known[i].size))
            name = known[i].name;
    if (name)
        return sara_fail(source->ctx, SARA_ERROR_INPUT,
                         "%s: %s image, expected PNG, JPEG or WebP: convert it", source->path,
                         name);
    return sara_fail(source->ctx, SARA_ERROR_INPUT, "%s: %s, expected a PNG, JPEG or WebP image",
                     source->path, source->size ? "unknown content" : "an empty file");
}

static sara_status image_decode(const sara_image_source *source, sara_image *out, int *orientation)
{
    if (begins(source, 0, "\x89PNG\r\n\x1a\n", 8))
        return sara_image_decode_png(source, out, orientation);
    if (begins(source, 0, "\xff\xd8\xff", 3)) {
        const sara_status status = sara_image_decode_jpeg(source, out, orientation);
        if (status == SARA_OK && source->alpha)
            memset(out->pixels, 255, 3 * (size_t)out->width * (size_t)out->height);
        return status;
    }
    if (begins(source, 0, "RIFF", 4) && begins(source, 8, "WEBP", 4))
        return sara_image_decode_webp(source, out, orientation);
    return image_refuse(source);
}

void sara_image_take_alpha(sara_image *out, const uint8_t *rgba)
{
    const size_t count = (size_t)out->width * (size_t)out->height;
    for (size_t i = 0; i < count; i++)
        memset(out->pixels + 3 * i, rgba[4 * i + 3], 3);
}

static sara_status read_image_file(sara_context *ctx, sara_image *out, const char *path, bool alpha)
{
    sara_image_source source = {.ctx = ctx, .path = path, .alpha = alpha};
    sara_image image = {0};
    char *data = NULL;
    int orientation = 1;
    sara_status status = SARA_OK;

    TRY(sara_file_read(ctx, &data, &source.size, path, MAX_FILE_SIZE));
    source.data = (const uint8_t *)data;
    TRY(image_decode(&source, &image, &orientation));
    TRY(sara_image_orient(ctx, &image, orientation));
    *out = image;
    image = (sara_image){0};
done:
    sara_image_clear(ctx, &image);
    sara_free(ctx, data);
    return status;
}

sara_status sara_image_read(sara_context *ctx, sara_image *out, const char *path)
{
    return read_image_file(ctx, out, path, false);
}

sara_status sara_image_read_alpha(sara_context *ctx, sara_image *out, const char *path)
{
    return read_image_file(ctx, out, path, true);
}

/* Reading still WebP images, lossy and lossless. */
#include "io/image_codec.h"

#include <webp/decode.h>

static sara_status webp_fail(const sara_image_source *source, VP8StatusCode code)
{
    static const char *const why[] = {
        [VP8_STATUS_INVALID_PARAM] = "invalid parameter",
        [VP8_STATUS_BITSTREAM_ERROR] = "damaged data",
        [VP8_STATUS_UNSUPPORTED_FEATURE] = "unsupported feature",
        [VP8_STATUS_SUSPENDED] = "the file ends too early",
        [VP8_STATUS_USER_ABORT] = "stopped",
        [VP8_STATUS_NOT_ENOUGH_DATA] = "the file ends too early",
    };
    const char *text = (size_t)code < sizeof(why) / sizeof(*why) ? why[code] : NULL;
    if (code == VP8_STATUS_OUT_OF_MEMORY)
        return sara_fail(source->ctx, SARA_ERROR_MEMORY, "%s: out of memory", source->path);
    return sara_fail(source->ctx, SARA_ERROR_INPUT, "%s: WebP of %zu bytes: %s", source->path,
                     source->size, text ? text : "unknown error");
}

static uint32_t webp_read32(const uint8_t *p)
{
    return (uint32_t)p[3] << 24 | (uint32_t)p[2] << 16 | (uint32_t)p[1] << 8 | p[0];
}

/* EXIF and XMP are chunks of their own beside the image's. */
static sara_status webp_read_orientation(const sara_image_source *source, int *orientation)
{
    sara_image_metadata metadata = {0};
    size_t at = 12, end = (size_t)webp_read32(source->data + 4) + 8;
    if (end > source->size)
        return webp_fail(source, VP8_STATUS_NOT_ENOUGH_DATA);
    while (end > at && end - at >= 8) {
        const uint8_t *chunk = source->data + at;
        size_t size = webp_read32(chunk + 4);
        at += 8;
        if (size > end - at)
            return webp_fail(source, VP8_STATUS_NOT_ENOUGH_DATA);
        if (memcmp(chunk, "EXIF", 4) == 0 && !metadata.exif) {
            metadata.exif = chunk + 8;
            metadata.exif_size = size;
        } else if (memcmp(chunk, "XMP ", 4) == 0 && !metadata.xmp) {
            metadata.xmp = chunk + 8;
            metadata.xmp_size = size;
        }
        at += size;
        at += (size & 1) && at < end;
    }
    return sara_image_orientation(source, orientation, &metadata);
}

sara_status sara_image_decode_webp(const sara_image_source *source, sara_image *out,
                                   int *orientation)
{
    const size_t channels = source->alpha ? 4 : 3;
    WebPDecoderConfig config;
    VP8StatusCode code;
    uint8_t *rgba = NULL;
    sara_status status = SARA_OK;

    if (!WebPInitDecoderConfig(&config))
        return sara_fail(source->ctx, SARA_ERROR_DEVICE, "libwebp: another version than built for");
    code = WebPGetFeatures(source->data, source->size, &config.input);
    if (code != VP8_STATUS_OK)
        return webp_fail(source, code);
    if (config.input.has_animation)
        return sara_fail(source->ctx, SARA_ERROR_INPUT,
                         "%s: an animated WebP, expected a still image", source->path);
    TRY(sara_image_check_size(source, (uint64_t)config.input.width, (uint64_t)config.input.height));
    TRY(sara_image_allocate(source->ctx, out, config.input.width, config.input.height));
    if (source->alpha)
        TRY(sara_alloc(source->ctx, &rgba, (size_t)out->width * (size_t)out->height, channels));
    config.output.colorspace = source->alpha ? MODE_RGBA : MODE_RGB;
    config.output.is_external_memory = 1;
    config.output.u.RGBA.rgba = source->alpha ? rgba : out->pixels;
    config.output.u.RGBA.stride = out->width * (int)channels;
    config.output.u.RGBA.size = (size_t)out->width * (size_t)out->height * channels;
    code = WebPDecode(source->data, source->size, &config);
    WebPFreeDecBuffer(&config.output);
    if (code != VP8_STATUS_OK)
        TRY(webp_fail(source, code));
    if (source->alpha)
        sara_image_take_alpha(out, rgba);
    TRY(webp_read_orientation(source, orientation));
done:
    sara_free(source->ctx, rgba);
    return status;
}

/* What the image readers share; private to the io layer. */
#ifndef SARA_IMAGE_CODEC_H
#define SARA_IMAGE_CODEC_H

#include "io/io.h"

#define SARA_IMAGE_MAX_PIXELS 128000000

/* A whole image file in memory; the path is for errors. */
typedef struct sara_image_source {
    sara_context *ctx;
    const char *path;
    const uint8_t *data;
    size_t size;
    bool alpha; /* all three channels are to be the image's alpha */
} sara_image_source;

/* Checks a header's size against the limits; nothing of that size is allocated before. */
SARA_NODISCARD sara_status sara_image_check_size(const sara_image_source *source, uint64_t width,
                                                 uint64_t height);
/* Uninitialised pixels for a checked size. */
SARA_NODISCARD sara_status sara_image_allocate(sara_context *ctx, sara_image *out, int width,
                                               int height);

/* Each decodes to RGB as stored and gives the EXIF orientation (1: upright). *out is the caller's
 * to clear, also after an error. */
SARA_NODISCARD sara_status sara_image_decode_png(const sara_image_source *source, sara_image *out,
                                                 int *orientation);
SARA_NODISCARD sara_status sara_image_decode_jpeg(const sara_image_source *source, sara_image *out,
                                                  int *orientation);
SARA_NODISCARD sara_status sara_image_decode_webp(const sara_image_source *source, sara_image *out,
                                                  int *orientation);

/* Metadata that may hold an orientation; a NULL part is absent. XMP counts only where EXIF has
 * none, as in PIL. */
typedef struct sara_image_metadata {
    const uint8_t *exif, *xmp;
    size_t exif_size, xmp_size;
} sara_image_metadata;
SARA_NODISCARD sara_status sara_image_orientation(const sara_image_source *source, int *out,
                                                  const sara_image_metadata *metadata);
/* pixels = the alpha of as many of rgba [pixels][4], in all three channels. */
void sara_image_take_alpha(sara_image *out, const uint8_t *rgba);
/* Turns the image upright in place of the old one. */
SARA_NODISCARD sara_status sara_image_orient(sara_context *ctx, sara_image *image, int orientation);

#endif

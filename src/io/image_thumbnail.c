/* Small pictures for pages: JPEG by libjpeg-turbo. */
#include "io/image_codec.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>

#include <jpeglib.h>

#define THUMBNAIL_QUALITY 80

typedef struct thumbnail_job {
    struct jpeg_compress_struct jpeg;
    struct jpeg_error_mgr errors;
    jmp_buf leave;
    const sara_image *image;
    unsigned char *data;
    unsigned long size;
} thumbnail_job;

/* The one thing that can fail: memory. */
static void thumbnail_fail(j_common_ptr common)
{
    longjmp(((thumbnail_job *)common->client_data)->leave, 1);
}

/* Nothing of this frame is used after a longjmp but job, which does not change. */
static bool thumbnail_encode(thumbnail_job *job)
{
    struct jpeg_compress_struct *jpeg = &job->jpeg;
    if (setjmp(job->leave))
        return false;
    jpeg_create_compress(jpeg);
    jpeg_mem_dest(jpeg, &job->data, &job->size);
    jpeg->image_width = (JDIMENSION)job->image->width;
    jpeg->image_height = (JDIMENSION)job->image->height;
    jpeg->input_components = 3;
    jpeg->in_color_space = JCS_RGB;
    jpeg_set_defaults(jpeg);
    jpeg_set_quality(jpeg, THUMBNAIL_QUALITY, TRUE);
    jpeg_start_compress(jpeg, TRUE);
    while (jpeg->next_scanline < jpeg->image_height) {
        JSAMPROW row =
            job->image->pixels + (size_t)jpeg->next_scanline * (size_t)job->image->width * 3;
        jpeg_write_scanlines(jpeg, &row, 1);
    }
    jpeg_finish_compress(jpeg);
    return true;
}

/* The same picture, no side of it longer than side; NULL: it is small as it is. */
static sara_status shrink_image(sara_context *ctx, sara_image *out, const sara_image *image,
                                int side)
{
    const int longer = image->width > image->height ? image->width : image->height;
    const int width = (int)((int64_t)image->width * side / longer);
    const int height = (int)((int64_t)image->height * side / longer);
    if (longer <= side)
        return SARA_OK;
    return sara_image_resize(ctx, out, image, width > 0 ? width : 1, height > 0 ? height : 1,
                             SARA_RESAMPLE_BILINEAR);
}

sara_status sara_image_thumbnail(sara_context *ctx, char **out, size_t *size,
                                 const sara_image *image, int side)
{
    sara_image small = {0};
    thumbnail_job *job = NULL;
    sara_status status;
    *out = NULL;
    TRY(shrink_image(ctx, &small, image, side));
    TRY(sara_alloc_zero(ctx, &job, 1, sizeof(*job)));
    job->image = small.pixels ? &small : image;
    job->jpeg.err = jpeg_std_error(&job->errors);
    job->jpeg.client_data = job;
    job->errors.error_exit = thumbnail_fail;
    if (!thumbnail_encode(job))
        TRY(sara_fail(ctx, SARA_ERROR_MEMORY, "out of memory: a small picture"));
    *size = job->size;
    TRY(sara_alloc(ctx, out, job->size, 1));
    memcpy(*out, job->data, job->size);
done:
    if (job) {
        jpeg_destroy_compress(&job->jpeg);
        free(job->data);
    }
    sara_free(ctx, job);
    sara_image_clear(ctx, &small);
    return status;
}

/* Reading JPEG with libjpeg-turbo's defaults, which are PIL's: accurate integer DCT and fancy
 * upsampling. Four components are taken as Adobe's inverted CMYK, as PIL does. */
#include "io/image_codec.h"

#include <setjmp.h>
#include <stdio.h>

#include <jerror.h>
#include <jpeglib.h>

#define MAX_SCANS 100 /* each scan costs a pass over the whole image */

typedef struct jpeg_job {
    struct jpeg_decompress_struct jpeg;
    struct jpeg_error_mgr errors;
    struct jpeg_progress_mgr progress;
    jmp_buf leave;
    const sara_image_source *source;
    sara_image *out;
    int *orientation;
    uint8_t *row, *exif;
    sara_status status; /* why libjpeg was left */
} jpeg_job;

static _Noreturn void leave(jpeg_job *job, sara_status status)
{
    job->status = status;
    longjmp(job->leave, 1);
}

static void jpeg_check(jpeg_job *job, sara_status status)
{
    if (status != SARA_OK)
        leave(job, status);
}

static sara_status jpeg_describe(j_common_ptr common, sara_status status)
{
    jpeg_job *job = common->client_data;
    char message[JMSG_LENGTH_MAX];
    common->err->format_message(common, message);
    return sara_fail(job->source->ctx, status, "%s: JPEG, offset %zu: %s", job->source->path,
                     job->source->size - (job->jpeg.src ? job->jpeg.src->bytes_in_buffer : 0),
                     message);
}

static void jpeg_fail(j_common_ptr common)
{
    bool memory = common->err->msg_code == JERR_OUT_OF_MEMORY;
    leave(common->client_data,
          jpeg_describe(common, memory ? SARA_ERROR_MEMORY : SARA_ERROR_INPUT));
}

/* Warnings are damage that libjpeg would paint over, but for bytes between markers and odd headers,
 * which cost no pixel. */
static void emit(j_common_ptr common, int level)
{
    jpeg_job *job = common->client_data;
    char message[JMSG_LENGTH_MAX];
    int code = common->err->msg_code;
    if (level >= 0)
        return;
    if (code != JWRN_EXTRANEOUS_DATA && code != JWRN_JFIF_MAJOR && code != JWRN_ADOBE_XFORM)
        jpeg_fail(common);
    common->err->format_message(common, message);
    sara_log(job->source->ctx, SARA_LOG_WARNING, "%s: %s", job->source->path, message);
}

static void limit_scans(j_common_ptr common)
{
    jpeg_job *job = common->client_data;
    if (job->jpeg.input_scan_number > MAX_SCANS)
        leave(job, sara_fail(job->source->ctx, SARA_ERROR_INPUT,
                             "%s: JPEG: more than %d scans, expected at most that",
                             job->source->path, MAX_SCANS));
}

static bool is_marker(const struct jpeg_marker_struct *marker, const char *name, size_t size)
{
    return marker->marker == JPEG_APP0 + 1 && marker->data_length >= size &&
           memcmp(marker->data, name, size) == 0;
}

/* EXIF longer than a marker continues in the next one, without its first six bytes. */
static void jpeg_read_orientation(jpeg_job *job)
{
    static const char exif[] = "Exif\0", xmp[] = "http://ns.adobe.com/xap/1.0/";
    const struct jpeg_marker_struct *marker, *list = job->jpeg.marker_list;
    sara_image_metadata metadata = {0};
    size_t total = 0, skip;
    for (marker = list; marker; marker = marker->next) {
        total += is_marker(marker, exif, 6) ? marker->data_length : 0;
        if (is_marker(marker, xmp, sizeof(xmp))) {
            metadata.xmp = marker->data + sizeof(xmp);
            metadata.xmp_size = marker->data_length - sizeof(xmp);
        }
    }
    if (total)
        jpeg_check(job, sara_alloc(job->source->ctx, &job->exif, total, 1));
    for (marker = list; marker && total; marker = marker->next) {
        if (!is_marker(marker, exif, 6))
            continue;
        skip = metadata.exif ? 6 : 0;
        metadata.exif = job->exif;
        memcpy(job->exif + metadata.exif_size, marker->data + skip, marker->data_length - skip);
        metadata.exif_size += marker->data_length - skip;
    }
    jpeg_check(job, sara_image_orientation(job->source, job->orientation, &metadata));
}

static void jpeg_check_header(jpeg_job *job)
{
    struct jpeg_decompress_struct *jpeg = &job->jpeg;
    int components = jpeg->num_components;
    jpeg_check(job, sara_image_check_size(job->source, jpeg->image_width, jpeg->image_height));
    if (components != 1 && components != 3 && components != 4)
        leave(job, sara_fail(job->source->ctx, SARA_ERROR_INPUT,
                             "%s: JPEG of %d components, expected 1, 3 or 4", job->source->path,
                             components));
    jpeg->out_color_space = components == 4 ? JCS_CMYK : JCS_RGB;
}

/* a * b / 255, rounded, for bytes. */
static unsigned jpeg_multiply(unsigned a, unsigned b)
{
    unsigned product = a * b + 128;
    return ((product >> 8) + product) >> 8;
}

/* Inverted CMYK: the stored values are 255 - ink. */
static void cmyk_to_rgb(uint8_t *out, const uint8_t *in, int width)
{
    for (int x = 0; x < width; x++, out += 3, in += 4)
        for (int c = 0; c < 3; c++)
            out[c] = (uint8_t)(in[3] - jpeg_multiply(255u - in[c], in[3]));
}

static void jpeg_read_pixels(jpeg_job *job)
{
    struct jpeg_decompress_struct *jpeg = &job->jpeg;
    sara_context *ctx = job->source->ctx;
    jpeg_start_decompress(jpeg);
    int width = (int)jpeg->output_width;
    bool cmyk = jpeg->out_color_space == JCS_CMYK;
    jpeg_check(job, sara_image_allocate(ctx, job->out, width, (int)jpeg->output_height));
    if (cmyk)
        jpeg_check(job, sara_alloc(ctx, &job->row, (size_t)width, 4));
    while (jpeg->output_scanline < jpeg->output_height) {
        uint8_t *line = job->out->pixels + (size_t)jpeg->output_scanline * (size_t)width * 3;
        JSAMPROW row = cmyk ? job->row : line;
        jpeg_read_scanlines(jpeg, &row, 1);
        if (cmyk)
            cmyk_to_rgb(line, job->row, width);
    }
    jpeg_finish_decompress(jpeg);
}

/* Nothing of this frame is used after a longjmp but job, which does not change. */
static sara_status jpeg_run(jpeg_job *job)
{
    struct jpeg_decompress_struct *jpeg = &job->jpeg;
    if (setjmp(job->leave))
        return job->status;
    jpeg_create_decompress(jpeg);
    jpeg->progress = &job->progress;
    jpeg_mem_src(jpeg, job->source->data, (unsigned long)job->source->size);
    jpeg_save_markers(jpeg, JPEG_APP0 + 1, 0xffff);
    jpeg_read_header(jpeg, TRUE);
    jpeg_check_header(job);
    jpeg_read_orientation(job);
    jpeg_read_pixels(job);
    return SARA_OK;
}

sara_status sara_image_decode_jpeg(const sara_image_source *source, sara_image *out,
                                   int *orientation)
{
    jpeg_job *job = NULL;
    sara_status status = SARA_OK;

    TRY(sara_alloc_zero(source->ctx, &job, 1, sizeof(*job)));
    job->source = source;
    job->out = out;
    job->orientation = orientation;
    job->jpeg.err = jpeg_std_error(&job->errors);
    job->jpeg.client_data = job; /* creation keeps it and err */
    job->errors.error_exit = jpeg_fail;
    job->errors.emit_message = emit;
    job->progress.progress_monitor = limit_scans;
    TRY(jpeg_run(job));
done:
    if (job) {
        jpeg_destroy_decompress(&job->jpeg);
        sara_free(source->ctx, job->row);
        sara_free(source->ctx, job->exif);
    }
    sara_free(source->ctx, job);
    return status;
}

/* Reading PNG with libpng, to the bytes that PIL's convert("RGB") gives: high byte of 16 bits, low
 * depths scaled up, alpha dropped, gamma and colour profiles ignored.
 *
 * 16-bit grey is refused: PIL clips it, so that all values above 255 become white.
 * For an animated PNG the still image is read. */
#include "io/image_codec.h"

#include <png.h>

typedef struct png_job {
    const sara_image_source *source;
    png_structp png;
    png_infop info;
    size_t at; /* bytes of the file read so far */
    sara_image *out;
    int *orientation;
    uint8_t *exif;      /* of a hexadecimal profile */
    uint8_t *rgba;      /* [height][width][4], where alpha is asked for */
    sara_status status; /* why libpng was left */
} png_job;

static void png_fail(png_structp png, png_const_charp message)
{
    png_job *job = png_get_error_ptr(png);
    if (job->status == SARA_OK)
        job->status = sara_fail(job->source->ctx, SARA_ERROR_INPUT, "%s: PNG, offset %zu: %s",
                                job->source->path, job->at, message);
    png_longjmp(png, 1);
}

static void png_warn(png_structp png, png_const_charp message)
{
    (void)png;
    (void)message;
}

static png_voidp png_allocate(png_structp png, png_alloc_size_t size)
{
    png_job *job = png_get_mem_ptr(png);
    void *memory = NULL;
    sara_status status = sara_alloc(job->source->ctx, &memory, 1, size);
    if (status != SARA_OK)
        job->status = status;
    return memory;
}

static void png_release(png_structp png, png_voidp memory)
{
    png_job *job = png_get_mem_ptr(png);
    sara_free(job->source->ctx, memory);
}

static void png_read_bytes(png_structp png, png_bytep out, size_t size)
{
    png_job *job = png_get_io_ptr(png);
    if (size > job->source->size - job->at)
        png_error(png, "the file ends in a chunk");
    memcpy(out, job->source->data + job->at, size);
    job->at += size;
}

/* Leaves libpng with a status that is already set. */
static void png_check(png_job *job, sara_status status)
{
    if (status == SARA_OK)
        return;
    job->status = status;
    png_error(job->png, "");
}

/* Only what carries pixels or an orientation is looked at; checksums count everywhere. */
static void configure(png_job *job)
{
    static const png_byte exif[] = "eXIf", text[] = "iTXt\0tEXt\0zTXt", alpha[] = "tRNS";
    png_structp png = job->png;
    png_set_read_fn(png, job, png_read_bytes);
    png_set_crc_action(png, PNG_CRC_ERROR_QUIT, PNG_CRC_ERROR_QUIT);
    png_set_user_limits(png, 0x7fffffff, 0x7fffffff); /* ours name both values */
    png_set_keep_unknown_chunks(png, PNG_HANDLE_CHUNK_NEVER, NULL, -1);
    if (!job->source->alpha)
        png_set_keep_unknown_chunks(png, PNG_HANDLE_CHUNK_NEVER, alpha, 1);
    else
        png_set_keep_unknown_chunks(png, PNG_HANDLE_CHUNK_AS_DEFAULT, alpha, 1);
    png_set_keep_unknown_chunks(png, PNG_HANDLE_CHUNK_ALWAYS, exif, 1);
    png_set_keep_unknown_chunks(png, PNG_HANDLE_CHUNK_AS_DEFAULT, text, 3);
}

static void png_check_header(png_job *job)
{
    const sara_image_source *source = job->source;
    png_uint_32 width, height;
    int depth, type;
    png_get_IHDR(job->png, job->info, &width, &height, &depth, &type, NULL, NULL, NULL);
    png_check(job, sara_image_check_size(source, width, height));
    if (type == PNG_COLOR_TYPE_GRAY && depth == 16)
        png_check(job, sara_fail(source->ctx, SARA_ERROR_INPUT,
                                 "%s: 16-bit grey PNG, expected 8 bits: PIL would clip it to white",
                                 source->path));
    /* Deflate compresses at most 1032 to 1, so a short file cannot hold a large image. */
    uint64_t bytes = (uint64_t)png_get_rowbytes(job->png, job->info) * height;
    if (bytes / 1032 > source->size)
        png_check(job, sara_fail(source->ctx, SARA_ERROR_INPUT,
                                 "%s: PNG of %zu bytes, too short for its size %ux%u", source->path,
                                 source->size, width, height));
}

static void png_read_pixels(png_job *job)
{
    png_structp png = job->png;
    int width = (int)png_get_image_width(png, job->info);
    int height = (int)png_get_image_height(png, job->info);
    png_set_expand(png); /* transparent colours become alpha */
    png_set_strip_16(png);
    if (job->source->alpha)
        png_set_add_alpha(png, 255, PNG_FILLER_AFTER); /* where there is none */
    else
        png_set_strip_alpha(png);
    png_set_gray_to_rgb(png);
    int passes = png_set_interlace_handling(png);
    png_read_update_info(png, job->info);
    const size_t row = (size_t)width * (job->source->alpha ? 4 : 3);
    if (png_get_rowbytes(png, job->info) != row)
        png_error(png, "a row is not RGB");
    png_check(job, sara_image_allocate(job->source->ctx, job->out, width, height));
    if (job->source->alpha)
        png_check(job, sara_alloc(job->source->ctx, &job->rgba, (size_t)height, row));
    uint8_t *pixels = job->source->alpha ? job->rgba : job->out->pixels;
    for (int pass = 0; pass < passes; pass++)
        for (int y = 0; y < height; y++)
            png_read_row(png, pixels + (size_t)y * row, NULL);
    if (job->source->alpha)
        sara_image_take_alpha(job->out, job->rgba);
    png_read_end(png, job->info);
}

static int hex_digit(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

/* ImageMagick's way before eXIf: a newline, "exif", the size, and hexadecimal digits, in lines. */
static void read_hex_profile(png_job *job, sara_image_metadata *metadata, const char *text,
                             size_t size)
{
    const char *at = text, *end = text + size;
    size_t count = 0;
    for (int line = 0; at && line < 3; line++) {
        at = memchr(at, '\n', (size_t)(end - at));
        at = at ? at + 1 : NULL;
    }
    png_check(job, sara_alloc(job->source->ctx, &job->exif, size / 2 + 1, 1));
    for (int high = -1; at && at < end; at++) {
        int digit = hex_digit(*at);
        if (digit < 0 && *at != '\n' && *at != ' ')
            png_error(job->png, "the EXIF profile is not hexadecimal");
        if (digit >= 0 && high >= 0)
            job->exif[count++] = (uint8_t)(high << 4 | digit);
        if (digit >= 0)
            high = high >= 0 ? -1 : digit;
    }
    metadata->exif = job->exif;
    metadata->exif_size = count;
}

static void png_read_orientation(png_job *job)
{
    sara_image_metadata metadata = {0};
    png_unknown_chunkp chunks = NULL;
    png_textp texts = NULL, profile = NULL;
    int text_count = 0, chunk_count = png_get_unknown_chunks(job->png, job->info, &chunks);
    png_get_text(job->png, job->info, &texts, &text_count);
    for (int i = 0; i < chunk_count; i++) {
        metadata.exif = chunks[i].data;
        metadata.exif_size = chunks[i].size;
    }
    for (int i = 0; i < text_count; i++) {
        if (strcmp(texts[i].key, "XML:com.adobe.xmp") == 0) {
            metadata.xmp = (const uint8_t *)texts[i].text;
            metadata.xmp_size = strlen(texts[i].text);
        } else if (strcmp(texts[i].key, "Raw profile type exif") == 0) {
            profile = &texts[i];
        }
    }
    if (!metadata.exif && profile)
        read_hex_profile(job, &metadata, profile->text, strlen(profile->text));
    png_check(job, sara_image_orientation(job->source, job->orientation, &metadata));
}

/* Nothing of this frame is used after a longjmp but job, which does not change. */
static sara_status png_run(png_job *job)
{
    if (setjmp(png_jmpbuf(job->png)))
        return job->status;
    configure(job);
    png_read_info(job->png, job->info);
    png_check_header(job);
    png_read_pixels(job);
    png_read_orientation(job);
    return job->status; /* an allocation that libpng could do without may have failed */
}

sara_status sara_image_decode_png(const sara_image_source *source, sara_image *out,
                                  int *orientation)
{
    png_job job = {.source = source, .out = out, .orientation = orientation};
    sara_status status = SARA_OK;

    job.png = png_create_read_struct_2(PNG_LIBPNG_VER_STRING, &job, png_fail, png_warn, &job,
                                       png_allocate, png_release);
    job.info = job.png ? png_create_info_struct(job.png) : NULL;
    if (job.info)
        TRY(png_run(&job));
    else
        status = job.status != SARA_OK ? job.status
                                       : sara_fail(source->ctx, SARA_ERROR_MEMORY, "out of memory");
done:
    png_destroy_read_struct(&job.png, &job.info, NULL);
    sara_free(source->ctx, job.exif);
    sara_free(source->ctx, job.rgba);
    return status;
}

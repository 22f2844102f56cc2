/* Writing PNG. Equal pixels and text give equal bytes with one build of libpng and zlib. */
#include "io/image_codec.h"

#include <png.h>
#include <utf8proc.h>

#define TEXT_KEY "parameters"

typedef struct png_job {
    sara_context *ctx;
    const sara_image *image;
    const char *path;
    char *text;  /* NULL: none */
    bool latin1; /* the text's encoding, else UTF-8 */
    sara_writer *writer;
    png_structp png;
    png_infop info;
    sara_status status; /* why libpng was left */
} png_job;

static void image_fail(png_structp png, png_const_charp message)
{
    png_job *job = png_get_error_ptr(png);
    if (job->status == SARA_OK)
        job->status = sara_fail(job->ctx, SARA_ERROR_USAGE, "%s: PNG: %s", job->path, message);
    png_longjmp(png, 1);
}

static void image_warn(png_structp png, png_const_charp message)
{
    (void)png;
    (void)message;
}

static png_voidp image_allocate(png_structp png, png_alloc_size_t size)
{
    png_job *job = png_get_mem_ptr(png);
    void *memory = NULL;
    sara_status status = sara_alloc(job->ctx, &memory, 1, size);
    if (status != SARA_OK)
        job->status = status;
    return memory;
}

static void image_release(png_structp png, png_voidp memory)
{
    png_job *job = png_get_mem_ptr(png);
    sara_free(job->ctx, memory);
}

static void write_bytes(png_structp png, png_bytep data, size_t size)
{
    png_job *job = png_get_io_ptr(png);
    job->status = sara_writer_write(job->writer, data, size);
    if (job->status != SARA_OK)
        png_error(png, "");
}

static void image_flush(png_structp png)
{
    (void)png;
}

/* Latin-1 goes to a tEXt chunk, all else as it is to an iTXt chunk, as PIL and A1111 write it. */
static sara_status convert_text(png_job *job, const char *text)
{
    utf8proc_int32_t code;
    size_t at = 0, count = 0, size = text ? strlen(text) : 0;
    sara_status status = SARA_OK;

    if (!text)
        return SARA_OK;
    job->latin1 = true;
    TRY(sara_strdup(job->ctx, &job->text, text));
    while (at < size) {
        utf8proc_ssize_t used = utf8proc_iterate((const utf8proc_uint8_t *)text + at,
                                                 (utf8proc_ssize_t)(size - at), &code);
        if (used < 1)
            TRY(sara_fail(job->ctx, SARA_ERROR_USAGE, "%s: text: byte %zu is not UTF-8", job->path,
                          at));
        at += (size_t)used;
        job->latin1 = job->latin1 && code < 256;
        if (job->latin1)
            job->text[count++] = (char)code;
    }
    if (job->latin1)
        job->text[count] = '\0';
    else
        memcpy(job->text, text, size);
done:
    return status;
}

static void set_text(png_job *job)
{
    char key[] = TEXT_KEY;
    png_text text = {.key = key, .text = job->text};
    text.compression = job->latin1 ? PNG_TEXT_COMPRESSION_NONE : PNG_ITXT_COMPRESSION_NONE;
    if (job->text)
        png_set_text(job->png, job->info, &text, 1);
}

/* Nothing of this frame is used after a longjmp but job, which does not change. */
static sara_status image_run(png_job *job)
{
    const sara_image *image = job->image;
    if (setjmp(png_jmpbuf(job->png)))
        return job->status;
    png_set_write_fn(job->png, job, write_bytes, image_flush);
    png_set_compression_level(job->png, 6);
    png_set_filter(job->png, PNG_FILTER_TYPE_BASE, PNG_ALL_FILTERS);
    png_set_IHDR(job->png, job->info, (png_uint_32)image->width, (png_uint_32)image->height, 8,
                 PNG_COLOR_TYPE_RGB, PNG_INTERLACE_NONE, PNG_COMPRESSION_TYPE_BASE,
                 PNG_FILTER_TYPE_BASE);
    set_text(job);
    png_write_info(job->png, job->info);
    for (int y = 0; y < image->height; y++)
        png_write_row(job->png, image->pixels + (size_t)y * (size_t)image->width * 3);
    png_write_end(job->png, job->info);
    return job->status; /* an allocation that libpng could do without may have failed */
}

static sara_status write_png(png_job *job)
{
    sara_status status = SARA_OK;
    job->png = png_create_write_struct_2(PNG_LIBPNG_VER_STRING, job, image_fail, image_warn, job,
                                         image_allocate, image_release);
    job->info = job->png ? png_create_info_struct(job->png) : NULL;
    if (job->info)
        status = image_run(job);
    else
        status = job->status != SARA_OK ? job->status
                                        : sara_fail(job->ctx, SARA_ERROR_MEMORY, "out of memory");
    png_destroy_write_struct(&job->png, &job->info);
    return status;
}

sara_status sara_image_save(sara_context *ctx, const sara_image *image, const char *path,
                            const char *text)
{
    png_job job = {.ctx = ctx, .image = image, .path = path};
    sara_status status = SARA_OK;

    if (image->width < 1 || image->height < 1 || !image->pixels)
        return sara_fail(ctx, SARA_ERROR_USAGE, "%s: image %dx%d, expected pixels", path,
                         image->width, image->height);
    TRY(convert_text(&job, text));
    TRY(sara_writer_open(ctx, &job.writer, path));
    TRY(write_png(&job));
    TRY(sara_writer_commit(&job.writer));
done:
    if (job.writer)
        sara_writer_abort(&job.writer);
    sara_free(ctx, job.text);
    return status;
}

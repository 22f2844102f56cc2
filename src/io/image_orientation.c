/* EXIF orientation: finding it and applying it, as PIL's ImageOps.exif_transpose does. */
#include "io/image_codec.h"

#define TAG_ORIENTATION 0x0112

typedef struct tiff {
    const uint8_t *data;
    size_t size;
    bool big_endian;
} tiff;

static uint32_t read16(const tiff *file, size_t at)
{
    const uint8_t *p = file->data + at;
    return file->big_endian ? (uint32_t)p[0] << 8 | p[1] : (uint32_t)p[1] << 8 | p[0];
}

static uint32_t exif_read32(const tiff *file, size_t at)
{
    uint32_t first = read16(file, at), second = read16(file, at + 2);
    return file->big_endian ? first << 16 | second : second << 16 | first;
}

/* The first value of a directory entry of integers; false for other types and outside data. */
static bool exif_read_entry(const tiff *file, size_t at, uint32_t *out)
{
    uint32_t type = read16(file, at + 2), count = exif_read32(file, at + 4);
    uint32_t bytes = type == 3 || type == 8 ? 2 : type == 4 || type == 9 ? 4 : 0;
    size_t value = at + 8;
    if (!bytes || !count)
        return false;
    if (count > 4 / bytes) {
        value = exif_read32(file, value);
        if (value > file->size || file->size - value < (uint64_t)count * bytes)
            return false;
    }
    *out = bytes == 2 ? read16(file, value) : exif_read32(file, value);
    return true;
}

/* *out is 0 where the first directory has no orientation. A directory cut off is read as far as it
 * goes, as in PIL. */
static void scan_directory(const tiff *file, uint32_t *out)
{
    size_t at = exif_read32(file, 4), entries;
    *out = 0;
    if (file->size < 2 || at > file->size - 2)
        return;
    entries = read16(file, at);
    at += 2;
    for (; entries && file->size - at >= 12; entries--, at += 12)
        if (read16(file, at) == TAG_ORIENTATION && exif_read_entry(file, at, out))
            return;
}

static sara_status from_exif(const sara_image_source *source, uint32_t *out, const uint8_t *data,
                             size_t size)
{
    tiff file = {.data = data, .size = size};
    *out = 0;
    for (int i = 0; i < 2 && file.size >= 6 && memcmp(file.data, "Exif\0\0", 6) == 0; i++) {
        file.data += 6;
        file.size -= 6;
    }
    if (!file.size)
        return SARA_OK;
    if (file.size < 8 || (memcmp(file.data, "II*\0", 4) && memcmp(file.data, "MM\0*", 4)))
        return sara_fail(source->ctx, SARA_ERROR_INPUT,
                         "%s: EXIF: %zu bytes without a TIFF header, expected II*\\0 or MM\\0*",
                         source->path, file.size);
    file.big_endian = file.data[0] == 'M';
    scan_directory(&file, out);
    return SARA_OK;
}

/* As the pattern tiff:Orientation(="|>)([0-9]). */
static uint32_t from_xmp(const uint8_t *data, size_t size)
{
    static const char tag[] = "tiff:Orientation";
    const size_t length = sizeof(tag) - 1;
    const uint8_t *end = data + size, *at = data;
    while ((at = memmem(at, (size_t)(end - at), tag, length)) != NULL) {
        at += length;
        const uint8_t *digit = at;
        if (end - digit >= 2 && digit[0] == '=' && digit[1] == '"')
            digit += 2;
        else if (end - digit >= 1 && digit[0] == '>')
            digit += 1;
        if (digit > at && digit < end && *digit >= '0' && *digit <= '9')
            return (uint32_t)(*digit - '0');
    }
    return 0;
}

sara_status sara_image_orientation(const sara_image_source *source, int *out,
                                   const sara_image_metadata *metadata)
{
    uint32_t value = 0;
    sara_status status = SARA_OK;

    if (metadata->exif)
        TRY(from_exif(source, &value, metadata->exif, metadata->exif_size));
    if (!value && metadata->xmp)
        value = from_xmp(metadata->xmp, metadata->xmp_size);
    *out = value >= 1 && value <= 8 ? (int)value : 1;
done:
    return status;
}

sara_status sara_image_orient(sara_context *ctx, sara_image *image, int orientation)
{
    /* Row x of the result runs along the stored columns where `swap`; flips are of the stored x, y.
     */
    static const struct {
        bool swap, flip_x, flip_y;
    } how[9] = {[2] = {0, 1, 0}, [3] = {0, 1, 1}, [4] = {0, 0, 1}, [5] = {1, 0, 0},
                [6] = {1, 0, 1}, [7] = {1, 1, 1}, [8] = {1, 1, 0}};
    sara_image turned = {0};
    sara_status status = SARA_OK;
    const int width = image->width, height = image->height;

    if (orientation < 2 || orientation > 8)
        return SARA_OK;
    const bool swap = how[orientation].swap;
    const ptrdiff_t step_x = how[orientation].flip_x ? -3 : 3;
    const ptrdiff_t step_y = (ptrdiff_t)width * (how[orientation].flip_y ? -3 : 3);
    const uint8_t *from = image->pixels;
    uint8_t *to;

    TRY(sara_image_allocate(ctx, &turned, swap ? height : width, swap ? width : height));
    if (step_x < 0)
        from += (ptrdiff_t)(width - 1) * 3;
    if (step_y < 0)
        from += (ptrdiff_t)(height - 1) * width * 3;
    to = turned.pixels;
    for (int y = 0; y < turned.height; y++) {
        const uint8_t *pixel = from + y * (swap ? step_x : step_y);
        for (int x = 0; x < turned.width; x++, to += 3) {
            memcpy(to, pixel, 3);
            if (x + 1 < turned.width)
                pixel += swap ? step_y : step_x;
        }
    }
    sara_image_clear(ctx, image);
    *image = turned;
done:
    return status;
}

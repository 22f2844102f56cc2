/* Several images of one size as one, for comparing them by eye. */
#include "io/image_codec.h"

#define GAP 2 /* white pixels between cells, before enlargement */
#define MAX_GRID_SIDE 65535

static sara_status check_cells(sara_context *ctx, const sara_image *images, int count, int columns,
                               int enlarge)
{
    if (count < 1 || columns < 1 || enlarge < 1)
        return sara_fail(ctx, SARA_ERROR_USAGE,
                         "image grid: %d images, %d columns, enlarged %d times, expected 1 or more",
                         count, columns, enlarge);
    for (int i = 0; i < count; i++) {
        if (images[i].width < 1 || images[i].height < 1 || !images[i].pixels)
            return sara_fail(ctx, SARA_ERROR_USAGE, "image grid: image %d has no pixels", i);
        if (images[i].width != images[0].width || images[i].height != images[0].height)
            return sara_fail(ctx, SARA_ERROR_USAGE,
                             "image grid: image %d is %dx%d, expected %dx%d as the first", i,
                             images[i].width, images[i].height, images[0].width, images[0].height);
    }
    return SARA_OK;
}

/* Pixel (x, y) becomes a square of enlarge x enlarge from (left, top) + enlarge (x, y) on. */
static void paste(sara_image *grid, const sara_image *cell, size_t left, size_t top, size_t enlarge)
{
    const size_t stride = (size_t)grid->width * 3;
    for (size_t y = 0; y < (size_t)cell->height; y++) {
        uint8_t *row = grid->pixels + (top + y * enlarge) * stride + left * 3;
        const uint8_t *pixel = cell->pixels + y * (size_t)cell->width * 3;
        uint8_t *to = row;
        for (int x = 0; x < cell->width; x++, pixel += 3)
            for (size_t i = 0; i < enlarge; i++, to += 3)
                memcpy(to, pixel, 3);
        for (size_t i = 1; i < enlarge; i++)
            memcpy(row + i * stride, row, (size_t)(to - row));
    }
}

sara_status sara_image_grid(sara_context *ctx, sara_image **out, const sara_image *images,
                            int count, int columns, int enlarge)
{
    sara_image *grid = NULL;
    sara_status status = SARA_OK;

    TRY(check_cells(ctx, images, count, columns, enlarge));
    const int across = columns < count ? columns : count, down = (count - 1) / across + 1;
    const int64_t step_x = (int64_t)(images[0].width + GAP) * enlarge;
    const int64_t step_y = (int64_t)(images[0].height + GAP) * enlarge;
    const int64_t gap = (int64_t)GAP * enlarge;
    if (step_x > MAX_GRID_SIDE / across || step_y > MAX_GRID_SIDE / down)
        TRY(sara_fail(ctx, SARA_ERROR_USAGE,
                      "image grid: %dx%d cells of %lldx%lld pixels, the limit is %d a side", across,
                      down, (long long)step_x, (long long)step_y, MAX_GRID_SIDE));
    TRY(sara_alloc_zero(ctx, &grid, 1, sizeof(*grid)));
    TRY(sara_image_allocate(ctx, grid, (int)(step_x * across - gap), (int)(step_y * down - gap)));
    memset(grid->pixels, 255, (size_t)grid->width * (size_t)grid->height * 3);
    for (int i = 0; i < count; i++)
        paste(grid, &images[i], (size_t)(i % across * step_x), (size_t)(i / across * step_y),
              (size_t)enlarge);
    *out = grid;
    grid = NULL;
done:
    sara_images_free(ctx, grid, 1);
    return status;
}

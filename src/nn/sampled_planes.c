#include "nn/sampled.h"

/* Tap k of a kernel reads pixel s * p + k - pad = s * (p + shift) + phase. */
static int64_t shift_of(int64_t k, int pad, int stride)
{
    int64_t at = k - pad;
    return at >= 0 ? at / stride : -((-at + stride - 1) / stride);
}

static int64_t planes_largest(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* Positions per row (or rows per image): neither a tap before the first pixel nor one beyond the
 * last may land on a pixel of the neighbouring row. */
static int64_t extent(int64_t side, int64_t out_side, int64_t kernel, int pad, int stride)
{
    int64_t pixels = (side + stride - 1) / stride;
    int64_t low = shift_of(0, pad, stride), high = shift_of(kernel - 1, pad, stride);
    return planes_largest(
        planes_largest(pixels + planes_largest(-low, 0), out_side + planes_largest(high, 0)),
        pixels);
}

sara_plane_grid sara_plane_grid_of(const sara_conv_shape *s)
{
    sara_plane_grid grid = {.phases = s->stride * s->stride};
    grid.pitch = extent(s->w, s->ow, s->kw, s->pad_left, s->stride);
    grid.image = grid.pitch * extent(s->h, s->oh, s->kh, s->pad_top, s->stride);
    grid.positions = (s->n - 1) * grid.image + (s->oh - 1) * grid.pitch + s->ow;
    grid.lead = planes_largest(0, -(shift_of(0, s->pad_top, s->stride) * grid.pitch +
                                    shift_of(0, s->pad_left, s->stride)));
    grid.reach = planes_largest(0, shift_of(s->kh - 1, s->pad_top, s->stride) * grid.pitch +
                                       shift_of(s->kw - 1, s->pad_left, s->stride));
    return grid;
}

void sara_plane_offsets(uint32_t *offsets, const sara_plane_grid *grid, const sara_conv_shape *s,
                        int64_t channels, int64_t stride)
{
    for (int64_t i = 0; i < channels; i++)
        for (int64_t ky = 0; ky < s->kh; ky++)
            for (int64_t kx = 0; kx < s->kw; kx++) {
                int64_t down = shift_of(ky, s->pad_top, s->stride);
                int64_t right = shift_of(kx, s->pad_left, s->stride);
                int64_t a = ky - s->pad_top - down * s->stride;
                int64_t b = kx - s->pad_left - right * s->stride;
                int64_t plane = i * grid->phases + a * s->stride + b;
                *offsets++ = (uint32_t)(plane * stride + grid->lead + down * grid->pitch + right);
            }
}

/* Every step-th pixel of every step-th row of images [n][h][w][channels], from row a, pixel b. */
typedef struct image_set {
    const float *data;
    int64_t n, h, w, channels, step, a, b;
} image_set;

static void find_rows(const float **rows, int64_t first, int64_t count, const image_set *set,
                      const float *zeros, const sara_plane_grid *grid)
{
    for (int64_t p = 0; p < count;) {
        int64_t at = first + p, image = at < 0 ? -1 : at / grid->image;
        int64_t within = at < 0 ? grid->pitch + at % grid->pitch : at % grid->image;
        int64_t y = within / grid->pitch * set->step + set->a;
        bool inside = image >= 0 && image < set->n && y < set->h;
        int64_t line = (image * set->h + y) * set->w;
        for (int64_t x = within % grid->pitch; x < grid->pitch && p < count; x++, p++) {
            int64_t pixel = x * set->step + set->b;
            rows[p] = inside && pixel < set->w ? set->data + (line + pixel) * set->channels : zeros;
        }
    }
}

void sara_plane_dy_rows(const float **rows, int64_t first, int64_t count, const float *dy,
                        const float *zeros, const sara_plane_grid *grid, const sara_conv_shape *s)
{
    const image_set set = {dy, s->n, s->oh, s->ow, s->out, 1, 0, 0};
    find_rows(rows, first, count, &set, zeros, grid);
}

void sara_plane_x_rows(const float **rows, int64_t first, int64_t count, const float *x, int phase,
                       const float *zeros, const sara_plane_grid *grid, const sara_conv_shape *s)
{
    const image_set set = {
        x, s->n, s->h, s->w, s->in, s->stride, phase / s->stride, phase % s->stride};
    find_rows(rows, first, count, &set, zeros, grid);
}

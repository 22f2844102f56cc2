#include "nn/sampled.h"

#define BLOCK 16 /* channels turned at a time: one cache line of a pixel */

/* Tap k of a kernel reads pixel s * p + k - pad = s * (p + shift) + phase. */
static int64_t shift_of(int64_t k, int pad, int stride)
{
    int64_t at = k - pad;
    return at >= 0 ? at / stride : -((-at + stride - 1) / stride);
}

static int64_t largest(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* Positions per row (or rows per image): neither a tap before the first pixel nor one beyond the
 * last may land on a pixel of the neighbouring row. */
static int64_t extent(int64_t side, int64_t out_side, int64_t kernel, int pad, int stride)
{
    int64_t pixels = (side + stride - 1) / stride;
    int64_t low = shift_of(0, pad, stride), high = shift_of(kernel - 1, pad, stride);
    return largest(largest(pixels + largest(-low, 0), out_side + largest(high, 0)), pixels);
}

sara_plane_grid sara_plane_grid_of(const sara_conv_shape *s)
{
    sara_plane_grid grid = {.phases = s->stride * s->stride};
    grid.pitch = extent(s->w, s->ow, s->kw, s->pad_left, s->stride);
    grid.rows = extent(s->h, s->oh, s->kh, s->pad_top, s->stride);
    grid.image = grid.pitch * grid.rows;
    grid.lead = largest(0, -(shift_of(0, s->pad_top, s->stride) * grid.pitch +
                             shift_of(0, s->pad_left, s->stride)));
    grid.reach = largest(0, shift_of(s->kh - 1, s->pad_top, s->stride) * grid.pitch +
                                shift_of(s->kw - 1, s->pad_left, s->stride));
    return grid;
}

void sara_plane_offsets(uint32_t *offsets, const sara_plane_grid *grid, const sara_conv_shape *s,
                        int64_t stride)
{
    for (int64_t i = 0; i < s->in; i++)
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

typedef float vec4 __attribute__((vector_size(16)));

static vec4 load4(const float *p)
{
    vec4 v;
    memcpy(&v, p, sizeof(v));
    return v;
}

static void store4(float *p, vec4 v)
{
    memcpy(p, &v, sizeof(v));
}

/* Four channels of four pixels, `step` apart, into four planes. */
static inline void turn4(float *planes, int64_t stride, const float *pixel, int64_t step)
{
    vec4 a = load4(pixel), b = load4(pixel + step);
    vec4 c = load4(pixel + 2 * step), d = load4(pixel + 3 * step);
    vec4 ab0 = __builtin_shufflevector(a, b, 0, 4, 1, 5);
    vec4 ab2 = __builtin_shufflevector(a, b, 2, 6, 3, 7);
    vec4 cd0 = __builtin_shufflevector(c, d, 0, 4, 1, 5);
    vec4 cd2 = __builtin_shufflevector(c, d, 2, 6, 3, 7);
    store4(planes, __builtin_shufflevector(ab0, cd0, 0, 1, 4, 5));
    store4(planes + stride, __builtin_shufflevector(ab0, cd0, 2, 3, 6, 7));
    store4(planes + 2 * stride, __builtin_shufflevector(ab2, cd2, 0, 1, 4, 5));
    store4(planes + 3 * stride, __builtin_shufflevector(ab2, cd2, 2, 3, 6, 7));
}

/* count pixels of up to BLOCK channels into as many planes. */
static void turn(float *planes, int64_t stride, const float *pixel, int64_t step, int64_t count,
                 int64_t channels)
{
    int64_t whole = channels / 4 * 4, p = 0;
    for (; p + 4 <= count; p += 4)
        for (int64_t c = 0; c < whole; c += 4)
            turn4(planes + c * stride + p, stride, pixel + p * step + c, step);
    for (int64_t q = 0; q < count; q++)
        for (int64_t c = q < p ? whole : 0; c < channels; c++)
            planes[c * stride + q] = pixel[q * step + c];
}

typedef struct image_set {
    const float *data; /* [images][h][w][channels] */
    int64_t images, h, w, channels;
    int step;          /* a plane holds every step-th pixel of every step-th row */
} image_set;

/* Positions from .. to - 1 of as many planes. */
static void clear(float *planes, int64_t stride, int64_t channels, int64_t from, int64_t to)
{
    for (int64_t c = 0; c < channels; c++)
        for (int64_t p = from; p < to; p++)
            planes[c * stride + p] = 0;
}

/* Phase (a, b) of image n, channels c .. c + channels - 1, with its gaps. */
static void turn_phase(float *planes, int64_t stride, const image_set *set, int64_t n, int64_t c,
                       int64_t channels, int64_t a, int64_t b, const sara_plane_grid *grid)
{
    int64_t count = b < set->w ? (set->w - b + set->step - 1) / set->step : 0;
    for (int64_t y = 0; y < grid->rows; y++) {
        float *to = planes + n * grid->image + y * grid->pitch;
        int64_t line = set->step * y + a, filled = line < set->h ? count : 0;
        const float *from = set->data + ((n * set->h + line) * set->w + b) * set->channels + c;
        if (filled)
            turn(to, stride, from, set->step * set->channels, filled, channels);
        clear(to, stride, channels, filled, grid->pitch);
    }
}

/* Plane c * step * step + a * step + b gets phase (a, b) of channel c, after `lead` zeros. */
static void fill(float *planes, int64_t stride, int64_t lead, const image_set *set,
                 const sara_plane_grid *grid, int threads)
{
    int64_t phases = (int64_t)set->step * set->step, end = lead + set->images * grid->image;
    int64_t blocks = (set->channels + BLOCK - 1) / BLOCK;
#pragma omp parallel for num_threads(threads) schedule(static) collapse(2)
    for (int64_t block = 0; block < blocks; block++)
        for (int64_t n = 0; n < set->images; n++)
            for (int64_t phase = 0; phase < phases; phase++) {
                int64_t c = block * BLOCK, left = set->channels - c;
                int64_t channels = left < BLOCK ? left : BLOCK;
                float *first = planes + (c * phases + phase) * stride;
                turn_phase(first + lead, stride * phases, set, n, c, channels, phase / set->step,
                           phase % set->step, grid);
                if (n == 0)
                    clear(first, stride * phases, channels, 0, lead);
                if (n == set->images - 1)
                    clear(first, stride * phases, channels, end, stride);
            }
}

void sara_plane_fill_dy(float *planes, int64_t stride, const float *dy, int64_t first,
                        int64_t images, const sara_plane_grid *grid, const sara_conv_shape *s,
                        int threads)
{
    const image_set set = {dy + first * s->oh * s->ow * s->out, images, s->oh, s->ow, s->out, 1};
    fill(planes, stride, 0, &set, grid, threads);
}

void sara_plane_fill_x(float *planes, int64_t stride, const float *x, int64_t first, int64_t images,
                       const sara_plane_grid *grid, const sara_conv_shape *s, int threads)
{
    const image_set set = {x + first * s->h * s->w * s->in, images, s->h, s->w, s->in, s->stride};
    fill(planes, stride, grid->lead, &set, grid, threads);
}

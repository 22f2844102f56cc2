#include "nn/winograd.h"

#include "nn/simd/simd.h"

#include <omp.h>

#define POINTS       36 /* of a tile */
#define TILE         4  /* outputs along a side */
#define MIN_CHANNELS 16
#define TURNED       16                  /* channels whose weights are turned at a time */
#define V_BYTES      ((int64_t)18 << 20) /* transformed inputs at a time; at least one block */

/* y [n][oh][ow][out] from x [n][h][w][in]. One pass takes some blocks of tiles: their inputs are
 * transformed into v; then each task multiplies a block of tiles with a block of outputs, over
 * chunks of input channels, whose weights it transforms into its own u. */
typedef struct winograd_job {
    const sara_simd *simd;
    int64_t n, h, w, in, oh, ow, out;
    int64_t pad_top, pad_left;
    const float *x, *bias; /* bias may be NULL */
    const sara_weight_view *weights;
    float *y;
    bool backward;   /* weights [in][out][3][3], taps reversed: the gradient of the input */
    bool accumulate; /* adds to y */
    int64_t tiles_x, tiles_y, tiles;         /* of an image, of all */
    int64_t block_tiles, block_out, chunk;   /* sizes; chunk: input channels */
    int64_t chunks, out_blocks, pass_blocks; /* counts; pass_blocks: of tiles in a pass */
    int64_t v_step, u_step, m_step;          /* floats from point to point */
    int64_t v_chunk, v_block;
    float *v; /* [block of tiles][chunk][point][tile][channel] */
} winograd_job;

static int64_t up(int64_t count, int64_t unit)
{
    return (count + unit - 1) / unit;
}

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* An odd number of cache lines, so that the points of one place do not share a cache set. */
static int64_t step_of(int64_t floats)
{
    return (up(floats, 16) | 1) * 16;
}

/* The largest block, halved at most, with which the threads have about as much to do. */
static int64_t choose_block_out(const winograd_job *job, int64_t most, int threads)
{
    int64_t unit = job->simd->width, best = 0;
    double best_share = 0;
    most = least(most, up(job->out, unit) * unit);
    for (int64_t size = most; size >= (most + 1) / 2 && best_share < 0.9; size -= unit) {
        int64_t tasks = up(job->out, size) * job->pass_blocks;
        double share = (double)tasks / (double)(up(tasks, threads) * threads);
        share *= (double)job->out / (double)(up(job->out, size) * size); /* padding is work too */
        if (share > best_share) {
            best_share = share;
            best = size;
        }
    }
    return best;
}

/* u and the products of a task share the second-level cache: about 2 MiB where there is AVX-512. */
static void choose_blocks(winograd_job *job, int threads)
{
    bool wide = job->simd->width == 16;
    int64_t unit = job->simd->width;
    job->block_tiles = least(wide ? 128 : 64, up(job->tiles, TILE) * TILE);
    job->chunk = least(wide ? 64 : 32, up(job->in, unit) * unit);
    job->chunks = up(job->in, job->chunk);
    job->v_step = step_of(job->block_tiles * job->chunk);
    job->v_chunk = POINTS * job->v_step;
    job->v_block = job->chunks * job->v_chunk;
    int64_t fit = V_BYTES / (job->v_block * (int64_t)sizeof(float));
    job->pass_blocks = least(fit < 1 ? 1 : fit, up(job->tiles, job->block_tiles));
    job->block_out = choose_block_out(job, wide ? 64 : 32, threads);
    job->out_blocks = up(job->out, job->block_out);
    job->u_step = step_of(job->chunk * job->block_out);
    job->m_step = step_of(job->block_tiles * job->block_out);
}

/* --------------------------------------------------------------------------------- transforms */

typedef struct tile_place {
    int64_t n, y, x; /* image and first output */
} tile_place;

static tile_place winograd_place_of(const winograd_job *job, int64_t tile)
{
    int64_t in_image = tile % (job->tiles_x * job->tiles_y);
    return (tile_place){tile / (job->tiles_x * job->tiles_y), in_image / job->tiles_x * TILE,
                        in_image % job->tiles_x * TILE};
}

/* One tile, one chunk of channels: 6x6 pixels, zeros outside the image. */
static void transform_input(const winograd_job *job, float *v, int64_t tile, int64_t chunk)
{
    static const float zeros[64] = {0};
    const float *pixels[POINTS];
    tile_place at = winograd_place_of(job, tile);
    int64_t c = chunk * job->chunk;
    for (int64_t i = 0; i < 6; i++)
        for (int64_t j = 0; j < 6; j++) {
            int64_t y = at.y + i - job->pad_top, x = at.x + j - job->pad_left;
            bool inside = y >= 0 && y < job->h && x >= 0 && x < job->w;
            pixels[i * 6 + j] =
                inside ? job->x + ((at.n * job->h + y) * job->w + x) * job->in + c : zeros;
        }
    job->simd->winograd_input(v, job->v_step, pixels, least(job->in - c, job->chunk));
}

/* `rows` rows of `count` taps, lying *stride apart from `first` on: where they are, or as floats in
 * wide, where they lie `count` apart. */
static const float *winograd_taps_of(const winograd_job *job, float *wide, int64_t *stride,
                                     int64_t first, int64_t rows, int64_t count)
{
    const uint16_t *halves = (const uint16_t *)job->weights->data + first;
    if (job->weights->dtype == SARA_F32)
        return (const float *)job->weights->data + first;
    for (int64_t i = 0; i < rows; i++)
        job->simd->widen(wide + i * count, halves + i * *stride, count, job->weights->dtype);
    *stride = count;
    return wide;
}

/* u [point][channel of the chunk][output of the block] of output block o and a chunk; a few
 * channels at a time are first turned in `spare` [channel][tap][output of the block]; `wide` is as
 * large. */
static void transform_weights(const winograd_job *job, float *u, float *spare, float *wide,
                              int64_t o, int64_t chunk)
{
    const sara_simd *simd = job->simd;
    int64_t first = o * job->block_out, c = chunk * job->chunk, line = job->block_out;
    int64_t outs = least(job->out - first, job->block_out), whole = up(outs, simd->width);
    int64_t channels = least(job->in - c, job->chunk);
    for (int64_t i = 0; i < channels; i += TURNED) {
        int64_t count = least(channels - i, TURNED), row = job->in * 9, own = outs * 9;
        const float *taps = spare;
        if (job->backward) { /* a row of weights holds the taps of all outputs of a channel */
            for (int64_t k = 0; k < count; k++)
                simd->transpose(spare + k * 9 * line, line,
                                winograd_taps_of(job, wide, &own,
                                                 ((c + i + k) * job->out + first) * 9, 1, outs * 9),
                                9, outs, 9);
            taps += 8 * line; /* reversed */
        } else {
            const float *from =
                winograd_taps_of(job, wide, &row, (first * job->in + c + i) * 9, outs, count * 9);
            simd->transpose(spare, line, from, row, outs, count * 9);
        }
        simd->winograd_weights(u + i * line, job->u_step, line, taps, job->backward ? -line : line,
                               9 * line, count, whole * simd->width);
    }
}

static void transform_output(const winograd_job *job, const float *m, int64_t tile, int64_t o)
{
    float *pixels[TILE * TILE];
    tile_place at = winograd_place_of(job, tile);
    int64_t first = o * job->block_out;
    for (int64_t i = 0; i < TILE; i++)
        for (int64_t j = 0; j < TILE; j++) {
            int64_t y = at.y + i, x = at.x + j;
            bool inside = y < job->oh && x < job->ow;
            pixels[i * TILE + j] =
                inside ? job->y + ((at.n * job->oh + y) * job->ow + x) * job->out + first : NULL;
        }
    job->simd->winograd_output(pixels, m, job->m_step, job->bias ? job->bias + first : NULL,
                               least(job->out - first, job->block_out), job->accumulate);
}

/* -------------------------------------------------------------------------------------- passes */

/* A thread's own memory, in floats. */
static int64_t products_size(const winograd_job *job)
{
    return POINTS * job->m_step;
}

static int64_t u_size(const winograd_job *job)
{
    return POINTS * job->u_step;
}

static int64_t spare_size(const winograd_job *job)
{
    return TURNED * 9 * job->block_out;
}

static int64_t own_size(const winograd_job *job)
{
    return products_size(job) + u_size(job) + 2 * spare_size(job);
}

/* Block b of the pass, whose first tile is `tile`, against output block o. */
static void winograd_multiply(const winograd_job *job, float *own, int64_t b, int64_t tile,
                              int64_t o)
{
    const sara_simd *simd = job->simd;
    float *m = own, *u = m + products_size(job), *spare = u + u_size(job);
    float *wide = spare + spare_size(job);
    int64_t count = least(job->tiles - tile, job->block_tiles), unit = simd->width;
    int64_t outs = up(least(job->out - o * job->block_out, job->block_out), unit) * unit;
    for (int64_t chunk = 0; chunk < job->chunks; chunk++) {
        const float *v = job->v + b * job->v_block + chunk * job->v_chunk;
        int64_t channels = least(job->in - chunk * job->chunk, job->chunk);
        transform_weights(job, u, spare, wide, o, chunk);
        for (int64_t p = 0; p < POINTS; p++)
            simd->gemm(m + p * job->m_step, job->block_out, v + p * job->v_step, job->chunk, 1,
                       u + p * job->u_step, job->block_out, count, outs, channels, chunk > 0);
    }
    for (int64_t t = 0; t < count; t++)
        transform_output(job, m + t * job->block_out, tile + t, o);
}

/* Tiles from first on, at most pass_blocks blocks of them. Every output is summed in one order
 * whatever the threads. */
static void run_pass(const winograd_job *job, float *works, int64_t first, int threads)
{
    int64_t tiles = least(job->tiles - first, job->pass_blocks * job->block_tiles);
    int64_t blocks = up(tiles, job->block_tiles);
#pragma omp parallel num_threads(threads)
    {
#pragma omp for schedule(static) collapse(2)
        for (int64_t t = 0; t < tiles; t++)
            for (int64_t chunk = 0; chunk < job->chunks; chunk++) {
                float *v = job->v + t / job->block_tiles * job->v_block + chunk * job->v_chunk;
                transform_input(job, v + t % job->block_tiles * job->chunk, first + t, chunk);
            }
        float *own = works + omp_get_thread_num() * own_size(job);
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < job->out_blocks * blocks; i++) {
            int64_t b = i % blocks;
            winograd_multiply(job, own, b, first + b * job->block_tiles, i / blocks);
        }
    }
}

static void winograd_choose_sizes(winograd_job *job, int threads)
{
    job->simd = sara_simd_best();
    job->tiles_x = up(job->ow, TILE);
    job->tiles_y = up(job->oh, TILE);
    job->tiles = job->n * job->tiles_x * job->tiles_y;
    choose_blocks(job, threads);
}

static sara_status winograd_run(const sara_kernel_env *env, winograd_job *job)
{
    int threads = sara_threads(env->ctx);
    float *works = NULL;
    sara_status status;
    winograd_choose_sizes(job, threads);
    TRY(sara_scratch(env, &job->v, (size_t)(job->pass_blocks * job->v_block)));
    TRY(sara_scratch(env, &works, (size_t)(threads * own_size(job))));
    for (int64_t t = 0; t < job->tiles; t += job->pass_blocks * job->block_tiles)
        run_pass(job, works, t, threads);
done:
    sara_unscratch(env, works);
    sara_unscratch(env, job->v);
    return status;
}

/* --------------------------------------------------------------------------------- the kernels */

bool sara_winograd_fits(const sara_conv_shape *s)
{
    return s->kh == 3 && s->kw == 3 && s->stride == 1 && s->in >= MIN_CHANNELS &&
           s->out >= MIN_CHANNELS && s->pad_top <= 2 && s->pad_left <= 2;
}

static winograd_job forward_job(const sara_conv_shape *s)
{
    return (winograd_job){.n = s->n,
                          .h = s->h,
                          .w = s->w,
                          .in = s->in,
                          .oh = s->oh,
                          .ow = s->ow,
                          .out = s->out,
                          .pad_top = s->pad_top,
                          .pad_left = s->pad_left};
}

/* The gradient of the input is a convolution of dy, with the taps reversed and the channels'
 * roles exchanged. */
static winograd_job backward_job(const sara_conv_shape *s)
{
    return (winograd_job){.n = s->n,
                          .h = s->oh,
                          .w = s->ow,
                          .in = s->out,
                          .oh = s->h,
                          .ow = s->w,
                          .out = s->in,
                          .pad_top = 2 - s->pad_top,
                          .pad_left = 2 - s->pad_left,
                          .backward = true};
}

size_t sara_winograd_need(const sara_conv_shape *s, bool backward, int threads)
{
    winograd_job job = backward ? backward_job(s) : forward_job(s);
    winograd_choose_sizes(&job, threads);
    return (size_t)(job.pass_blocks * job.v_block + threads * own_size(&job));
}

sara_status sara_winograd_forward(const sara_kernel_env *env, float *y, const float *x,
                                  const sara_weight_view *w, const float *b,
                                  const sara_conv_shape *s)
{
    winograd_job job = forward_job(s);
    job.x = x;
    job.weights = w;
    job.bias = b;
    job.y = y;
    return winograd_run(env, &job);
}

sara_status sara_winograd_dx(const sara_kernel_env *env, float *dx, const float *dy,
                             const sara_weight_view *w, const sara_conv_shape *s, bool accumulate)
{
    winograd_job job = backward_job(s);
    job.x = dy;
    job.weights = w;
    job.y = dx;
    job.accumulate = accumulate;
    return winograd_run(env, &job);
}

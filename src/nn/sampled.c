#include "nn/onednn/onednn.h"
#include "nn/sampled.h"
#include "nn/simd/simd.h"

#define CHUNK      288                  /* positions at a time; dy's are held in registers */
#define NEAR_BYTES ((int64_t)32 << 10)  /* of x planes that stay in the first cache */
#define FAR_BYTES  ((int64_t)512 << 10) /* and in the second */
#define COLUMNS    64                   /* of activations turned at a time */
#define ROWS       16                   /* output rows searched or summed at a time, at least */
#define ROW_BLOCK  256                  /* and at most */

typedef struct sampled_job {
    const sara_conv_shape *shape;
    const sara_simd *simd;
    sara_plane_grid grid;
    int64_t chunk, x_length, x_stride; /* of positions; of an x plane and from plane to plane */
    int64_t tile, tiles;               /* input channels whose planes are gone through together */
    const float *dy_pixels, *x_pixels; /* activations */
    float *x, *dy, *zeros;             /* planes of a chunk, a pixel of the gaps */
    const float **dy_rows, **x_rows;   /* [chunk], [phases][x_length] */
    uint32_t *offsets;                 /* of a tile: [tile][kh][kw] */
    uint32_t *first;                   /* [tiles + 1][out]: entries of a row before a tile end */
    const uint32_t *positions;
    size_t count;
    float *dw;
} sampled_job;

static int64_t round_up(int64_t value, int64_t to)
{
    return (value + to - 1) / to * to;
}

static int64_t pieces(int64_t value, int64_t of)
{
    return (value + of - 1) / of;
}

static int64_t sampled_taps_of(const sara_conv_shape *shape)
{
    return shape->kh * shape->kw;
}

static void choose_tiles(sampled_job *job, int64_t bytes)
{
    const sara_conv_shape *s = job->shape;
    int64_t tile = bytes / (job->grid.phases * job->x_stride * (int64_t)sizeof(float));
    job->tiles = pieces(s->in, tile < 1 ? 1 : tile);
    job->tile = pieces(s->in, job->tiles);
    job->tiles = pieces(s->in, job->tile);
}

static void sampled_choose_sizes(sampled_job *job)
{
    job->grid = sara_plane_grid_of(job->shape);
    int64_t chunks = pieces(job->grid.positions, CHUNK);
    job->chunk = round_up(pieces(job->grid.positions, chunks), 16);
    job->x_length = round_up(job->grid.lead + job->chunk + job->grid.reach, 16);
    /* an odd number of cache lines, so that equal places of planes do not share a cache set */
    job->x_stride = (job->x_length / 16 | 1) * 16;
    choose_tiles(job, NEAR_BYTES);
    /* Few entries of an output row would meet in the first cache: not worth starting so often. */
    double vectors = (double)job->chunk / 16, least = 4 + 40 / vectors;
    if ((double)job->count < least * (double)(job->tiles * job->shape->out))
        choose_tiles(job, FAR_BYTES);
}

/* The first entry from e on whose position is beyond last. */
static size_t sampled_advance(const sampled_job *job, size_t e, uint32_t last)
{
    for (; e + 8 <= job->count; e += 8) {
        const uint32_t *next = job->positions + e;
        size_t before = 0;
        for (int k = 0; k < 8; k++)
            before += next[k] <= last;
        if (before < 8)
            return e + before;
    }
    while (e < job->count && job->positions[e] <= last)
        e++;
    return e;
}

static size_t sampled_lower_bound(const sampled_job *job, int64_t position)
{
    size_t first = 0, last = job->count;
    while (first < last) {
        size_t middle = first + (last - first) / 2;
        if (job->positions[middle] < position)
            first = middle + 1;
        else
            last = middle;
    }
    return first;
}

static void find_entries(const sara_kernel_env *env, sampled_job *job)
{
    const sara_conv_shape *s = job->shape;
    int64_t taps = sampled_taps_of(s), row = s->in * taps;
#pragma omp parallel for num_threads(sara_threads(env->ctx)) schedule(static)
    for (int64_t block = 0; block < s->out; block += ROWS) {
        size_t e = sampled_lower_bound(job, block * row);
        for (int64_t o = block; o < s->out && o < block + ROWS; o++) {
            job->first[o] = (uint32_t)e;
            for (int64_t t = 1; t <= job->tiles; t++) {
                int64_t channels = t * job->tile < s->in ? t * job->tile : s->in;
                e = sampled_advance(job, e, (uint32_t)(o * row + channels * taps - 1));
                job->first[t * s->out + o] = (uint32_t)e;
            }
        }
    }
}

static void fill_columns(const sampled_job *job, float *planes, int64_t stride,
                         const float *const *rows, int64_t block, int64_t count, int64_t channels)
{
    int64_t from = block * COLUMNS, left = channels - from;
    job->simd->columns(planes + from * stride, stride, rows, from, count,
                       left < COLUMNS ? left : COLUMNS);
}

/* The planes of positions first, first + 1, ... */
static void fill_planes(const sara_kernel_env *env, sampled_job *job, int64_t first)
{
    const sara_conv_shape *s = job->shape;
    int phases = job->grid.phases;
    int64_t x_blocks = pieces(s->in, COLUMNS), dy_blocks = pieces(s->out, COLUMNS);
    sara_plane_dy_rows(job->dy_rows, first, job->chunk, job->dy_pixels, job->zeros, &job->grid, s);
    for (int phase = 0; phase < phases; phase++)
        sara_plane_x_rows(job->x_rows + phase * job->x_length, first - job->grid.lead,
                          job->x_length, job->x_pixels, phase, job->zeros, &job->grid, s);
#pragma omp parallel for num_threads(sara_threads(env->ctx)) schedule(static)
    for (int64_t b = 0; b < x_blocks * phases + dy_blocks; b++)
        if (b < x_blocks * phases)
            fill_columns(job, job->x + b % phases * job->x_stride, phases * job->x_stride,
                         job->x_rows + b % phases * job->x_length, b / phases, job->x_length,
                         s->in);
        else
            fill_columns(job, job->dy, job->chunk, job->dy_rows, b - x_blocks * phases, job->chunk,
                         s->out);
}

/* Entries of a tile's input channels in output rows first .. last - 1. */
static void run_tile(const sampled_job *job, int64_t tile, int64_t first, int64_t last)
{
    const sara_conv_shape *s = job->shape;
    int64_t taps = sampled_taps_of(s);
    const sara_simd_dots dots = {.dw = job->dw,
                                 .dy = job->dy,
                                 .x = job->x + tile * job->tile * job->grid.phases * job->x_stride,
                                 .positions = job->positions,
                                 .begin = job->first + tile * s->out,
                                 .end = job->first + (tile + 1) * s->out,
                                 .offsets = job->offsets,
                                 .base = (uint32_t)(tile * job->tile * taps),
                                 .row = (uint32_t)(s->in * taps),
                                 .length = job->chunk};
    job->simd->sampled_dots(&dots, first, last);
}

/* Each entry's sum is made by one thread in one order: it does not depend on how many there are. A
 * block of output rows meets all tiles before the next: a tile reads few entries of each row, from
 * pages and lines that the next tile needs, too. */
static void run_tiles(const sara_kernel_env *env, const sampled_job *job)
{
    int threads = sara_threads(env->ctx);
    int64_t out = job->shape->out, blocks = pieces(4 * threads, job->tiles);
    int64_t rows = round_up(pieces(out, blocks), ROWS);
    rows = rows < ROW_BLOCK ? rows : ROW_BLOCK;
    blocks = pieces(out, rows);
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (int64_t b = 0; b < job->tiles * blocks; b++) {
        int64_t first = b / job->tiles * rows;
        run_tile(job, b % job->tiles, first, first + rows < out ? first + rows : out);
    }
}

static sara_status run_chunks(const sara_kernel_env *env, sampled_job *job)
{
    sara_status status = SARA_OK;
    find_entries(env, job);
    for (int64_t first = 0; first < job->grid.positions; first += job->chunk) {
        TRY(SARA_TRACED_VOID(env->ctx, "planes", fill_planes(env, job, first)));
        run_tiles(env, job);
    }
done:
    return status;
}

/* Floats of a job's arrays. */
typedef struct job_sizes {
    int64_t x, dy, zeros, rows, numbers;
} job_sizes;

static job_sizes sizes_of(const sampled_job *job)
{
    const sara_conv_shape *s = job->shape;
    int64_t pointers = job->grid.phases * job->x_length + job->chunk;
    return (job_sizes){.x = s->in * job->grid.phases * job->x_stride,
                       .dy = s->out * job->chunk,
                       .zeros = s->in > s->out ? s->in : s->out,
                       .rows = pointers * (int64_t)sizeof(float *) / (int64_t)sizeof(float),
                       .numbers = job->tile * sampled_taps_of(s) + (job->tiles + 1) * s->out};
}

sara_status sara_sampled_by_planes(const sara_kernel_env *env, float *dw, const float *dy,
                                   const float *x, const uint32_t *positions, size_t count,
                                   const sara_conv_shape *shape)
{
    sampled_job job = {.shape = shape,
                       .simd = sara_simd_best(),
                       .dy_pixels = dy,
                       .x_pixels = x,
                       .positions = positions,
                       .count = count,
                       .dw = dw};
    float *rows = NULL, *numbers = NULL;
    sara_status status;
    sampled_choose_sizes(&job);
    const job_sizes sizes = sizes_of(&job);
    TRY(sara_scratch(env, &job.x, (size_t)sizes.x));
    TRY(sara_scratch(env, &job.dy, (size_t)sizes.dy));
    TRY(sara_scratch(env, &job.zeros, (size_t)sizes.zeros));
    TRY(sara_scratch(env, &rows, (size_t)sizes.rows));
    TRY(sara_scratch(env, &numbers, (size_t)sizes.numbers));
    job.x_rows = (const float **)(void *)rows;
    job.dy_rows = job.x_rows + job.grid.phases * job.x_length;
    job.offsets = (uint32_t *)(void *)numbers;
    job.first = job.offsets + job.tile * sampled_taps_of(shape);
    memset(job.zeros, 0, (size_t)sizes.zeros * sizeof(float));
    sara_plane_offsets(job.offsets, &job.grid, shape, job.tile, job.x_stride);
    TRY(run_chunks(env, &job));
done:
    sara_unscratch(env, numbers);
    sara_unscratch(env, rows);
    sara_unscratch(env, job.zeros);
    sara_unscratch(env, job.dy);
    sara_unscratch(env, job.x);
    return status;
}

sara_status sara_sampled_by_dense(const sara_kernel_env *env, float *dw, const float *dy,
                                  const float *x, const uint32_t *positions, size_t count,
                                  const sara_conv_shape *shape)
{
    size_t entries = (size_t)(shape->out * shape->in * sampled_taps_of(shape));
    float *dense = NULL;
    sara_status status;
    TRY(sara_scratch(env, &dense, entries));
    TRY(sara_kernel_conv_dw(env, dense, dy, x, shape, false));
    for (size_t e = 0; e < count; e++)
        dw[e] += dense[positions[e]];
done:
    sara_unscratch(env, dense);
    return status;
}

/* Nanoseconds on two threads, of which only the ratios matter: measured by bench/sampled.c with
 * AVX-512 and with AVX2. The costs per multiplication depend on the instruction set. */
bool sara_sampled_is_worth_it(const sara_conv_shape *s, size_t count)
{
    sampled_job job = {.shape = s, .count = count};
    const sara_simd_dw_cost *cost = &sara_simd_best()->dw_cost;
    bool conv = sampled_taps_of(s) > 1;
    double entries = (double)(s->out * s->in * sampled_taps_of(s));
    double pixels = (double)(s->n * s->oh * s->ow);
    sampled_choose_sizes(&job);
    double chunks = (double)pieces(job.grid.positions, job.chunk);
    double floats = (double)(s->in * job.grid.phases * job.x_length + s->out * job.chunk);
    double dots = (double)count * ((double)job.chunk / 16 * cost->sampled + 2);
    double dense =
        entries * (pixels / 16 * (conv ? cost->conv : cost->linear) + (conv ? 1.7 : 0.5));
    return chunks * (dots + 0.35 * floats) <= dense;
}

static bool dense_supports(const sara_kernel_case *c)
{
    return c->selected > 0 && c->conv->n > 0 && c->conv->w > 0;
}

static bool planes_support(const sara_kernel_case *c)
{
    return dense_supports(c) && sara_sampled_is_worth_it(c->conv, c->selected);
}

static sara_kernel_needs planes_needs(const sara_kernel_case *c)
{
    sampled_job job = {.shape = c->conv, .count = c->selected};
    sampled_choose_sizes(&job);
    job_sizes sizes = sizes_of(&job);
    return (sara_kernel_needs){
        .scratch = (size_t)(sizes.x + sizes.dy + sizes.zeros + sizes.rows + sizes.numbers)};
}

/* The dense gradient and what makes it. */
static sara_kernel_needs dense_needs(const sara_kernel_case *c)
{
    const sara_conv_shape *s = c->conv;
    sara_kernel_needs needs = sara_kernel_conv_dw_needs(c);
    needs.scratch += (size_t)(s->out * s->in * sampled_taps_of(s));
    return needs;
}

/* A linear layer is a convolution of an image of one line, whose pixels are the rows. */
static sara_conv_shape line_of(const sara_linear_shape *shape)
{
    return (sara_conv_shape){.n = 1,
                             .h = 1,
                             .w = shape->rows,
                             .in = shape->in,
                             .oh = 1,
                             .ow = shape->rows,
                             .out = shape->out,
                             .kh = 1,
                             .kw = 1,
                             .stride = 1};
}

static bool line_planes_support(const sara_kernel_case *c)
{
    const sara_conv_shape line = line_of(c->linear);
    return planes_support(&(sara_kernel_case){.conv = &line, .selected = c->selected});
}

static sara_kernel_needs line_planes_needs(const sara_kernel_case *c)
{
    const sara_conv_shape line = line_of(c->linear);
    return planes_needs(&(sara_kernel_case){.conv = &line, .selected = c->selected});
}

static sara_status line_by_planes(const sara_kernel_env *env, float *dw, const float *dy,
                                  const float *x, const uint32_t *positions, size_t count,
                                  const sara_linear_shape *shape)
{
    const sara_conv_shape line = line_of(shape);
    return sara_sampled_by_planes(env, dw, dy, x, positions, count, &line);
}

static bool line_dense_supports(const sara_kernel_case *c)
{
    return c->selected > 0 && c->linear->rows > 0;
}

static sara_kernel_needs line_dense_needs(const sara_kernel_case *c)
{
    const sara_conv_shape line = line_of(c->linear);
    return dense_needs(&(sara_kernel_case){.env = c->env, .conv = &line});
}

static sara_status line_by_dense(const sara_kernel_env *env, float *dw, const float *dy,
                                 const float *x, const uint32_t *positions, size_t count,
                                 const sara_linear_shape *shape)
{
    const sara_conv_shape line = line_of(shape);
    return sara_sampled_by_dense(env, dw, dy, x, positions, count, &line);
}

void sara_fast_sampled_register(sara_kernels *table)
{
    SARA_KERNEL_ADD(table, linear_dw_sampled, line_planes_support, line_planes_needs,
                    line_by_planes);
    SARA_KERNEL_ADD(table, linear_dw_sampled, line_dense_supports, line_dense_needs, line_by_dense);
    SARA_KERNEL_ADD(table, conv_dw_sampled, planes_support, planes_needs, sara_sampled_by_planes);
    SARA_KERNEL_ADD(table, conv_dw_sampled, dense_supports, dense_needs, sara_sampled_by_dense);
}

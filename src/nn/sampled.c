#include "nn/onednn.h"
#include "nn/sampled.h"

#define CHUNK 512                        /* positions whose rows stay in cache */
#define TILE_BYTES ((int64_t)512 << 10)  /* of x chunks that are gone through again and again */
#define PASS_BYTES ((int64_t)4 << 20)    /* of planes; at least one image */

typedef struct sampled_job {
    const sara_conv_shape *shape;
    sara_plane_grid grid;
    int64_t images;              /* of a pass */
    int64_t x_stride, dy_stride; /* from plane to plane */
    float *x, *dy;               /* planes */
    uint32_t *offsets;           /* [in][kh][kw] */
    const uint32_t *positions;
    size_t count;
    size_t *rows;                /* [out + 1]: the first entry of each output row */
    float *dw;
    sara_dot_fn dot;
} sampled_job;

static int64_t round_up(int64_t value, int64_t to)
{
    return (value + to - 1) / to * to;
}

/* An odd number of cache lines, so that equal places of many planes do not share a cache set. */
static int64_t plane_stride(int64_t floats)
{
    return (round_up(floats, 16) / 16 | 1) * 16;
}

static void choose_strides(sampled_job *job, int64_t images)
{
    job->images = images;
    job->x_stride = plane_stride(job->grid.lead + images * job->grid.image);
    job->dy_stride = plane_stride(images * job->grid.image);
}

/* A dot product reads beyond the last plane by a tap's reach; what it reads meets zeros of dy. */
static int64_t x_beyond(const sampled_job *job)
{
    return round_up(job->grid.reach, 16) + 16;
}

static int64_t x_floats(const sampled_job *job)
{
    return job->shape->in * job->grid.phases * job->x_stride + x_beyond(job);
}

/* As many images as PASS_BYTES hold. */
static void choose_images(sampled_job *job)
{
    const sara_conv_shape *s = job->shape;
    int64_t per_image = (s->in * job->grid.phases + s->out) * job->grid.image * 4;
    int64_t images = PASS_BYTES / per_image;
    choose_strides(job, images < 1 ? 1 : images > s->n ? s->n : images);
}

/* The first entry at or after `position` among entries first .. last - 1. */
static size_t lower_bound(const uint32_t *positions, size_t first, size_t last, int64_t position)
{
    while (first < last) {
        size_t middle = first + (last - first) / 2;
        if (positions[middle] < position)
            first = middle + 1;
        else
            last = middle;
    }
    return first;
}

static int64_t row_length(const sara_conv_shape *shape)
{
    return shape->in * shape->kh * shape->kw;
}

static void find_rows(sampled_job *job)
{
    job->rows[0] = 0;
    for (int64_t o = 0; o < job->shape->out; o++)
        job->rows[o + 1] = lower_bound(job->positions, job->rows[o], job->count,
                                       (o + 1) * row_length(job->shape));
}

/* Entries first .. last - 1, those of input channels i0 .. i1 - 1, at `length` positions from p. */
static void run_tile(const sampled_job *job, size_t first, size_t last, int64_t i0, int64_t i1,
                     int64_t p, int64_t length)
{
    int64_t row = row_length(job->shape), taps = job->shape->kh * job->shape->kw;
    while (first < last) {
        int64_t o = job->positions[first] / row;
        size_t end = job->rows[o + 1] < last ? job->rows[o + 1] : last;
        size_t from = lower_bound(job->positions, first, end, o * row + i0 * taps);
        size_t to = lower_bound(job->positions, from, end, o * row + i1 * taps);
        job->dot(job->dw + from, job->dy + o * job->dy_stride + p, job->x + p,
                 job->positions + from, to - from, (uint32_t)(o * row), job->offsets,
                 (size_t)length);
        first = end;
    }
}

static void run_share(const sampled_job *job, int64_t positions, size_t first, size_t last)
{
    const sara_conv_shape *s = job->shape;
    int64_t tile = TILE_BYTES / (CHUNK * 4 * job->grid.phases);
    if (positions < CHUNK)
        tile = TILE_BYTES / (positions * 4 * job->grid.phases);
    if (tile < 1)
        tile = 1;
    for (int64_t p = 0; p < positions; p += CHUNK)
        for (int64_t i = 0; i < s->in; i += tile)
            run_tile(job, first, last, i, i + tile < s->in ? i + tile : s->in, p,
                     positions - p < CHUNK ? positions - p : CHUNK);
}

/* Each entry belongs to one thread and is summed in one order: the result does not depend on how
 * many threads there are. */
static void run_pass(const sara_kernel_env *env, sampled_job *job, int64_t images)
{
    int threads = sara_threads(env->ctx);
    int64_t positions = round_up(images * job->grid.image, 16);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int t = 0; t < threads; t++)
        run_share(job, positions, job->count * (size_t)t / (size_t)threads,
                  job->count * (size_t)(t + 1) / (size_t)threads);
}

static sara_status run_passes(const sara_kernel_env *env, sampled_job *job, const float *dy,
                              const float *x)
{
    const sara_conv_shape *s = job->shape;
    int threads = sara_threads(env->ctx);
    sara_status status = SARA_OK;
    for (int64_t first = 0; first < s->n; first += job->images) {
        int64_t images = s->n - first < job->images ? s->n - first : job->images;
        TRY(SARA_TRACED_VOID(env->ctx, "planes",
                             sara_plane_fill_x(job->x, job->x_stride, x, first, images, &job->grid,
                                               s, threads)));
        TRY(SARA_TRACED_VOID(env->ctx, "planes",
                             sara_plane_fill_dy(job->dy, job->dy_stride, dy, first, images,
                                                &job->grid, s, threads)));
        run_pass(env, job, images);
    }
done:
    return status;
}

sara_status sara_sampled_by_planes(const sara_kernel_env *env, float *dw, const float *dy,
                                   const float *x, const uint32_t *positions, size_t count,
                                   const sara_conv_shape *shape)
{
    sampled_job job = {.shape = shape, .positions = positions, .count = count, .dw = dw};
    float *offsets = NULL, *rows = NULL;
    size_t words = (size_t)(shape->out + 1) * (sizeof(size_t) / sizeof(float));
    sara_status status;
    job.grid = sara_plane_grid_of(shape);
    choose_images(&job);
    TRY(sara_scratch(env, &job.x, (size_t)x_floats(&job)));
    TRY(sara_scratch(env, &job.dy, (size_t)(shape->out * job.dy_stride)));
    TRY(sara_scratch(env, &offsets, (size_t)row_length(shape)));
    TRY(sara_scratch(env, &rows, words));
    job.offsets = (uint32_t *)(void *)offsets;
    job.rows = (size_t *)(void *)rows;
    job.dot = sara_dot_choose();
    memset(job.x + x_floats(&job) - x_beyond(&job), 0, (size_t)x_beyond(&job) * sizeof(float));
    sara_plane_offsets(job.offsets, &job.grid, shape, job.x_stride);
    find_rows(&job);
    TRY(run_passes(env, &job, dy, x));
done:
    sara_unscratch(env, rows);
    sara_unscratch(env, offsets);
    sara_unscratch(env, job.dy);
    sara_unscratch(env, job.x);
    return status;
}

/* All of dw, then the entries wanted. */
static sara_status by_dense(const sara_kernel_env *env, float *dw, const float *dy, const float *x,
                            const uint32_t *positions, size_t count, const sara_conv_shape *shape)
{
    const sara_kernels *kernels = env->device->kernels;
    size_t entries = (size_t)(shape->out * row_length(shape));
    float *dense = NULL;
    sara_status status;
    TRY(sara_scratch(env, &dense, entries));
    memset(dense, 0, entries * sizeof(*dense));
    TRY(kernels->conv_dw(env, dense, dy, x, shape));
    for (size_t e = 0; e < count; e++)
        dw[e] += dense[positions[e]];
done:
    sara_unscratch(env, dense);
    return status;
}

/* Whether the planes are cheaper than all of dw. The unit is a multiplication of the dense kernel;
 * the factors were measured with AVX-512 at 16 to 4096 positions: a sampled multiplication costs
 * 3.3, an entry 350 for its set-up, a float of a plane 25 to make, an entry of the dense dw 75 to
 * clear, add to and gather. */
static bool is_worth_it(const sara_conv_shape *s, size_t count)
{
    sara_plane_grid grid = sara_plane_grid_of(s);
    double entries = (double)(s->out * s->in * s->kh * s->kw);
    double positions = (double)round_up(s->n * grid.image, 16);
    double planes = (double)(s->in * grid.phases + s->out);
    double sampled = (double)count * (3.3 * positions + 350) + 25 * planes * positions;
    return sampled <= entries * ((double)(s->n * s->oh * s->ow) + 75);
}

/* Offsets into the x planes have 32 bits. */
static bool is_too_large(const sara_conv_shape *shape)
{
    sampled_job job = {.shape = shape, .grid = sara_plane_grid_of(shape)};
    choose_images(&job);
    return x_floats(&job) > UINT32_MAX;
}

static sara_status image_dw_sampled(const sara_kernel_env *env, float *dw, const float *dy,
                                    const float *x, const uint32_t *positions, size_t count,
                                    const sara_conv_shape *shape)
{
    if (count == 0 || shape->n == 0 || shape->w == 0)
        return SARA_OK;
    if (!is_worth_it(shape, count) || is_too_large(shape))
        return by_dense(env, dw, dy, x, positions, count, shape);
    return sara_sampled_by_planes(env, dw, dy, x, positions, count, shape);
}

/* A linear layer over images of one line, whose pixels are the rows. */
static sara_conv_shape lines(const sara_linear_shape *shape, int64_t images, int64_t width)
{
    return (sara_conv_shape){.n = images, .h = 1, .w = width, .in = shape->in, .oh = 1,
                             .ow = width, .out = shape->out, .kh = 1, .kw = 1, .stride = 1};
}

/* Lines of CHUNK rows and a shorter one, so that passes can be made of them. */
static sara_status linear_dw_sampled(const sara_kernel_env *env, float *dw, const float *dy,
                                     const float *x, const uint32_t *positions, size_t count,
                                     const sara_linear_shape *shape)
{
    int64_t whole = shape->rows / CHUNK, rest = shape->rows % CHUNK, past = whole * CHUNK;
    const sara_conv_shape all = lines(shape, 1, shape->rows), full = lines(shape, whole, CHUNK);
    const sara_conv_shape last = lines(shape, rest > 0, rest);
    sara_status status;
    if (!is_worth_it(&all, count))
        return image_dw_sampled(env, dw, dy, x, positions, count, &all);
    TRY(image_dw_sampled(env, dw, dy, x, positions, count, &full));
    TRY(image_dw_sampled(env, dw, dy + past * shape->out, x + past * shape->in, positions, count,
                         &last));
done:
    return status;
}

static sara_status conv_dw_sampled(const sara_kernel_env *env, float *dw, const float *dy,
                                   const float *x, const uint32_t *positions, size_t count,
                                   const sara_conv_shape *shape)
{
    sara_linear_shape linear;
    if (sara_conv_is_linear(&linear, shape))
        return linear_dw_sampled(env, dw, dy, x, positions, count, &linear);
    return image_dw_sampled(env, dw, dy, x, positions, count, shape);
}

void sara_fast_sampled_register(sara_kernels *table)
{
    table->linear_dw_sampled = linear_dw_sampled;
    table->conv_dw_sampled = conv_dw_sampled;
}

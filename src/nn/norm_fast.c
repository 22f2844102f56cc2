/* Group, layer and rms norm in blocks of rows. A block's sums are floats of differences, which do
 * not cancel; blocks are put together in double and always in the same order, whatever the
 * threads. */
#include "nn/kernels.h"
#include "nn/simd/simd.h"

#include <math.h>

#define BLOCK_ROWS ((int64_t)32)

/* How the rows of [n][inner][c] are cut. */
typedef struct blocks {
    const sara_group_norm_shape *shape;
    int64_t per_sample, count;
} blocks;

typedef struct block {
    int64_t sample, start, rows; /* start: offset of its first element */
} block;

static blocks norm_cut(const sara_group_norm_shape *shape)
{
    int64_t per_sample = (shape->inner + BLOCK_ROWS - 1) / BLOCK_ROWS;
    return (blocks){shape, per_sample, per_sample * shape->n};
}

static block block_at(const blocks *cuts, int64_t index)
{
    int64_t sample = index / cuts->per_sample, first = index % cuts->per_sample * BLOCK_ROWS;
    int64_t inner = cuts->shape->inner;
    return (block){sample, (sample * inner + first) * cuts->shape->c,
                   inner - first < BLOCK_ROWS ? inner - first : BLOCK_ROWS};
}

/* Mean and variance of a group from its blocks' sums of d and d^2, d = x - the block's first row:
 * x - mean = d + (first - mean). sums [block][2][c] */
static void group_moments(float *mean, float *rstd, const float *x, const float *sums,
                          const blocks *cuts, int64_t sample, int64_t first, int64_t last)
{
    const sara_group_norm_shape *s = cuts->shape;
    double count = (double)(s->inner * (last - first)), total = 0, square = 0;
    for (int64_t i = sample * cuts->per_sample; i < (sample + 1) * cuts->per_sample; i++) {
        block b = block_at(cuts, i);
        for (int64_t j = first; j < last; j++)
            total += sums[2 * i * s->c + j] + (double)b.rows * x[b.start + j];
    }
    double middle = total / count;
    for (int64_t i = sample * cuts->per_sample; i < (sample + 1) * cuts->per_sample; i++) {
        block b = block_at(cuts, i);
        const float *sum = sums + 2 * i * s->c, *product = sum + s->c;
        for (int64_t j = first; j < last; j++) {
            double shift = x[b.start + j] - middle;
            square += product[j] + shift * (2 * (double)sum[j] + shift * (double)b.rows);
        }
    }
    *mean = (float)middle;
    *rstd = (float)(1 / sqrt(square / count + (double)s->eps));
}

static void norm_fill(float *to, float value, int64_t first, int64_t last)
{
    for (int64_t j = first; j < last; j++)
        to[j] = value;
}

static sara_status group_norm_forward_fast(const sara_kernel_env *env, float *y, float *mean,
                                           float *rstd, const float *x, const float *w,
                                           const float *b, const sara_group_norm_shape *shape)
{
    const sara_simd *simd = sara_simd_best();
    const blocks cuts = norm_cut(shape);
    int64_t c = shape->c, width = c / shape->groups;
    float *sums = NULL, *means = NULL, *rstds;
    sara_status status;
    TRY(sara_scratch(env, &sums, (size_t)(2 * cuts.count * c)));
    TRY(sara_scratch(env, &means, (size_t)(2 * shape->n * c))); /* per channel */
    rstds = means + shape->n * c;
#pragma omp parallel num_threads(sara_threads(env->ctx)) if (cuts.count > 1)
    {
#pragma omp for schedule(static)
        for (int64_t i = 0; i < cuts.count; i++) {
            block at = block_at(&cuts, i);
            float *sum = sums + 2 * i * c;
            simd->norm_moments(sum, sum + c, x + at.start, at.rows, c);
        }
#pragma omp for schedule(static)
        for (int64_t k = 0; k < shape->n * shape->groups; k++) {
            int64_t sample = k / shape->groups, first = k % shape->groups * width;
            group_moments(&mean[k], &rstd[k], x, sums, &cuts, sample, first, first + width);
            norm_fill(means + sample * c, mean[k], first, first + width);
            norm_fill(rstds + sample * c, rstd[k], first, first + width);
        }
#pragma omp for schedule(static)
        for (int64_t i = 0; i < cuts.count; i++) {
            block at = block_at(&cuts, i);
            const sara_simd_norm norm = {
                means + at.sample * c, rstds + at.sample * c, w, b, at.rows, c, shape->silu};
            simd->group_norm(y + at.start, x + at.start, &norm);
        }
    }
done:
    sara_unscratch(env, means);
    sara_unscratch(env, sums);
    return status;
}

/* Per-channel vectors [n][c] of the backward pass. */
typedef struct channels {
    float *mean, *rstd;   /* the group's */
    float *dmean, *drstd; /* what every element of the group gets */
    float *sum, *product; /* over the sample, for db and dw */
} channels;

static channels norm_split(float *scratch, int64_t count)
{
    return (channels){scratch,
                      scratch + count,
                      scratch + 2 * count,
                      scratch + 3 * count,
                      scratch + 4 * count,
                      scratch + 5 * count};
}

static void group_sums(channels *to, const float *sums, const float *w, const blocks *cuts,
                       int64_t sample, int64_t first, int64_t last)
{
    int64_t c = cuts->shape->c, at = sample * c;
    double count = (double)(cuts->shape->inner * (last - first)), dmean = 0, drstd = 0;
    for (int64_t j = first; j < last; j++) {
        double sum = 0, product = 0;
        for (int64_t i = sample * cuts->per_sample; i < (sample + 1) * cuts->per_sample; i++) {
            sum += sums[2 * i * c + j];
            product += sums[(2 * i + 1) * c + j];
        }
        to->sum[at + j] = (float)sum;
        to->product[at + j] = (float)product;
        dmean += sum * w[j];
        drstd += product * w[j];
    }
    norm_fill(to->dmean + at, (float)(dmean / count), first, last);
    norm_fill(to->drstd + at, (float)(drstd / count), first, last);
}

static void add_samples(float *to, const float *from, int64_t n, int64_t c)
{
    for (int64_t j = 0; j < (to ? c : 0); j++) {
        double sum = 0;
        for (int64_t i = 0; i < n; i++)
            sum += from[i * c + j];
        to[j] += (float)sum;
    }
}

static sara_simd_norm norm_at(const channels *vectors, const block *at, const float *w,
                              const float *b, const sara_group_norm_shape *shape)
{
    int64_t first = at->sample * shape->c;
    return (sara_simd_norm){
        vectors->mean + first, vectors->rstd + first, w, b, at->rows, shape->c, shape->silu};
}

static sara_status group_norm_backward_fast(const sara_kernel_env *env, float *dx, float *dw,
                                            float *db, const float *dy, const float *x,
                                            const float *mean, const float *rstd, const float *w,
                                            const float *b, const sara_group_norm_shape *shape,
                                            bool accumulate)
{
    const sara_simd *simd = sara_simd_best();
    const blocks cuts = norm_cut(shape);
    int64_t c = shape->c, width = c / shape->groups;
    float *sums = NULL, *scratch = NULL;
    sara_status status;
    TRY(sara_scratch(env, &sums, (size_t)(2 * cuts.count * c)));
    TRY(sara_scratch(env, &scratch, (size_t)(6 * shape->n * c)));
    channels vectors = norm_split(scratch, shape->n * c);
    for (int64_t i = 0; i < shape->n * c; i++) {
        int64_t k = i / c * shape->groups + i % c / width;
        vectors.mean[i] = mean[k];
        vectors.rstd[i] = rstd[k];
    }
#pragma omp parallel num_threads(sara_threads(env->ctx)) if (cuts.count > 1)
    {
#pragma omp for schedule(static)
        for (int64_t i = 0; i < cuts.count; i++) {
            block at = block_at(&cuts, i);
            const sara_simd_norm norm = norm_at(&vectors, &at, w, b, shape);
            float *sum = sums + 2 * i * c;
            simd->group_norm_sums(sum, sum + c, dy + at.start, x + at.start, &norm);
        }
#pragma omp for schedule(static)
        for (int64_t k = 0; k < shape->n * shape->groups; k++) {
            int64_t first = k % shape->groups * width;
            group_sums(&vectors, sums, w, &cuts, k / shape->groups, first, first + width);
        }
#pragma omp for schedule(static)
        for (int64_t i = 0; i < (dx ? cuts.count : 0); i++) {
            block at = block_at(&cuts, i);
            const sara_simd_norm norm = norm_at(&vectors, &at, w, b, shape);
            simd->group_norm_dx(dx + at.start, dy + at.start, x + at.start,
                                vectors.dmean + at.sample * c, vectors.drstd + at.sample * c, &norm,
                                accumulate);
        }
    }
    add_samples(dw, vectors.product, shape->n, c);
    add_samples(db, vectors.sum, shape->n, c);
done:
    sara_unscratch(env, scratch);
    sara_unscratch(env, sums);
    return status;
}

static int64_t rows_of(int64_t rows, int64_t first)
{
    return rows - first < BLOCK_ROWS ? rows - first : BLOCK_ROWS;
}

static sara_status layer_norm_forward_fast(const sara_kernel_env *env, float *y, float *mean,
                                           float *rstd, const float *x, const float *w,
                                           const float *b, int64_t rows, int64_t c, float eps)
{
    const sara_simd *simd = sara_simd_best();
#pragma omp parallel for num_threads(sara_threads(env->ctx)) schedule(static) if (rows > BLOCK_ROWS)
    for (int64_t r = 0; r < rows; r += BLOCK_ROWS)
        simd->layer_norm(y + r * c, mean + r, rstd + r, x + r * c, w, b, rows_of(rows, r), c, eps);
    return SARA_OK;
}

static sara_status layer_norm_backward_fast(const sara_kernel_env *env, float *dx, float *dw,
                                            float *db, const float *dy, const float *x,
                                            const float *mean, const float *rstd, const float *w,
                                            int64_t rows, int64_t c, bool accumulate)
{
    const sara_simd *simd = sara_simd_best();
    int64_t count = (rows + BLOCK_ROWS - 1) / BLOCK_ROWS;
    bool wants_sums = dw || db;
    float *sums = NULL; /* dw [count][c], then db */
    sara_status status = SARA_OK;
    if (wants_sums)
        TRY(sara_scratch(env, &sums, (size_t)(2 * count * c)));
#pragma omp parallel for num_threads(sara_threads(env->ctx)) schedule(static) if (rows > BLOCK_ROWS)
    for (int64_t i = 0; i < count; i++) {
        int64_t r = i * BLOCK_ROWS, n = rows_of(rows, r);
        if (wants_sums)
            simd->layer_norm_sums(sums + i * c, sums + (count + i) * c, dy + r * c, x + r * c,
                                  mean + r, rstd + r, n, c);
        if (dx)
            simd->layer_norm_dx(dx + r * c, dy + r * c, x + r * c, mean + r, rstd + r, w, n, c,
                                accumulate);
    }
    add_samples(dw, sums, count, c);
    add_samples(db, sums + count * c, count, c);
done:
    sara_unscratch(env, sums);
    return status;
}

static sara_status rms_norm_forward_fast(const sara_kernel_env *env, float *y, float *rstd,
                                         const float *x, const float *w, int64_t rows, int64_t c,
                                         float eps)
{
    const sara_simd *simd = sara_simd_best();
#pragma omp parallel for num_threads(sara_threads(env->ctx)) schedule(static) if (rows > BLOCK_ROWS)
    for (int64_t r = 0; r < rows; r += BLOCK_ROWS)
        simd->rms_norm(y + r * c, rstd + r, x + r * c, w, rows_of(rows, r), c, eps);
    return SARA_OK;
}

static sara_status rms_norm_backward_fast(const sara_kernel_env *env, float *dx, float *dw,
                                          const float *dy, const float *x, const float *rstd,
                                          const float *w, int64_t rows, int64_t c, bool accumulate)
{
    const sara_simd *simd = sara_simd_best();
    int64_t count = (rows + BLOCK_ROWS - 1) / BLOCK_ROWS;
    float *sums = NULL; /* [count][c] */
    sara_status status = SARA_OK;
    if (dw)
        TRY(sara_scratch(env, &sums, (size_t)(count * c)));
#pragma omp parallel for num_threads(sara_threads(env->ctx)) schedule(static) if (rows > BLOCK_ROWS)
    for (int64_t i = 0; i < count; i++) {
        int64_t r = i * BLOCK_ROWS, n = rows_of(rows, r);
        if (dw)
            simd->rms_norm_sums(sums + i * c, dy + r * c, x + r * c, rstd + r, n, c);
        if (dx)
            simd->rms_norm_dx(dx + r * c, dy + r * c, x + r * c, rstd + r, w, n, c, accumulate);
    }
    add_samples(dw, sums, count, c);
done:
    sara_unscratch(env, sums);
    return status;
}

/* The backward pass's, which takes more. */
static sara_kernel_needs group_norm_needs(const sara_kernel_case *c)
{
    const sara_group_norm_shape *s = c->group_norm;
    return (sara_kernel_needs){.scratch = (size_t)(2 * norm_cut(s).count * s->c + 6 * s->n * s->c)};
}

static sara_kernel_needs layer_norm_backward_needs(const sara_kernel_case *c)
{
    int64_t blocks_count = (c->rows + BLOCK_ROWS - 1) / BLOCK_ROWS;
    return (sara_kernel_needs){.scratch = (size_t)(2 * blocks_count * c->columns)};
}

static sara_kernel_needs rms_norm_backward_needs(const sara_kernel_case *c)
{
    int64_t count = (c->rows + BLOCK_ROWS - 1) / BLOCK_ROWS;
    return (sara_kernel_needs){.scratch = (size_t)(count * c->columns)};
}

void sara_fast_norm_register(sara_kernels *table)
{
    SARA_KERNEL_ADD(table, group_norm_forward, NULL, group_norm_needs, group_norm_forward_fast);
    SARA_KERNEL_ADD(table, group_norm_backward, NULL, group_norm_needs, group_norm_backward_fast);
    SARA_KERNEL_ADD(table, layer_norm_forward, .run = layer_norm_forward_fast);
    SARA_KERNEL_ADD(table, layer_norm_backward, NULL, layer_norm_backward_needs,
                    layer_norm_backward_fast);
    SARA_KERNEL_ADD(table, rms_norm_forward, .run = rms_norm_forward_fast);
    SARA_KERNEL_ADD(table, rms_norm_backward, NULL, rms_norm_backward_needs,
                    rms_norm_backward_fast);
}

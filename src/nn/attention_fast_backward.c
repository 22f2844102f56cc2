#include "nn/attention_blocks.h"

#include <omp.h>

/* As many independent tasks as keep this many cores busy, if the queries are enough. */
#define TASKS ((int64_t)16)

/* A block of keys while the queries pass by. */
typedef struct key_block {
    float *k, *v, *dk, *dv; /* [dim][keys] */
    float *rows;            /* k [keys][width] */
} key_block;

/* One thread's memory. */
typedef struct backward_work {
    key_block blocks[LARGEST_SPAN];
    float *q, *dy; /* [QUERIES][dim] */
    float *dq;     /* [QUERIES][width] */
    float *p, *dp; /* [QUERIES][keys] */
    float *spare;  /* [keys][dim] */
} backward_work;

/* A head's queries are split into `groups`. The first adds to dk and dv; the others have their own,
 * which are added last. Gradients are NULL if not wanted. */
typedef struct backward_pass {
    sara_attention_plan plan;
    int64_t groups, blocks; /* query blocks in a group */
    int64_t span;           /* blocks of keys */
    int64_t width;          /* dim in whole cache lines */
    const float *q, *k, *v, *y, *dy, *lse;
    float *dq, *dk, *dv;
    float *delta;               /* [heads][t]: sums of dy y */
    float *dk_parts, *dv_parts; /* [heads][groups - 1][s][dim] */
    float *works;
    int64_t own; /* floats of a thread's arrays */
} backward_pass;

/* Gives work its arrays in memory; returns how many floats they are. */
static int64_t attention_backward_carve(backward_work *work, float *memory,
                                        const backward_pass *pass)
{
    int64_t keys = pass->plan.keys, dim = pass->plan.shape->dim, used = 0;
    for (int64_t i = 0; i < pass->span; i++) {
        key_block *block = &work->blocks[i];
        block->k = sara_attention_take(memory, &used, keys * dim);
        block->v = sara_attention_take(memory, &used, keys * dim);
        block->dk = sara_attention_take(memory, &used, keys * dim);
        block->dv = sara_attention_take(memory, &used, keys * dim);
        block->rows = sara_attention_take(memory, &used, keys * pass->width);
    }
    work->q = sara_attention_take(memory, &used, QUERIES * dim);
    work->dy = sara_attention_take(memory, &used, QUERIES * dim);
    work->dq = sara_attention_take(memory, &used, QUERIES * pass->width);
    work->p = sara_attention_take(memory, &used, QUERIES * keys);
    work->dp = sara_attention_take(memory, &used, QUERIES * keys);
    work->spare = sara_attention_take(memory, &used, keys * dim);
    return used;
}

static void attention_backward_start_block(key_block *block, const backward_pass *pass, int64_t at,
                                           int64_t count)
{
    const sara_attention_plan *plan = &pass->plan;
    int64_t dim = plan->shape->dim;
    size_t bytes = (size_t)(dim * plan->keys) * sizeof(float);
    plan->simd->transpose(block->k, plan->keys, pass->k + at, plan->row, count, dim);
    sara_attention_scale(plan, block->k, plan->keys, dim, count);
    plan->simd->transpose(block->v, plan->keys, pass->v + at, plan->row, count, dim);
    plan->simd->copy_rows(block->rows, pass->width, pass->k + at, plan->row, count, dim);
    memset(block->dk, 0, bytes);
    memset(block->dv, 0, bytes);
}

/* What work's `count` queries, those from t0 of head h, give for the keys from s0. */
static void backward_pair(const backward_pass *pass, const backward_work *work,
                          const key_block *block, int64_t h, int64_t t0, int64_t count, int64_t s0)
{
    const sara_attention_plan *plan = &pass->plan;
    const sara_simd *simd = plan->simd;
    int64_t dim = plan->shape->dim, line = h * plan->shape->t + t0, stride = plan->keys;
    int64_t keys = sara_attention_min(plan->shape->s - s0, stride);
    const sara_simd_scores scores = sara_attention_scores(plan, count, keys, stride, t0, s0);
    if (plan->bias)
        simd->copy_rows(work->p, stride, sara_attention_bias(plan, h, t0, s0), plan->shape->s,
                        count, keys);
    simd->gemm(work->p, stride, work->q, dim, 1, block->k, stride, count, keys, dim, plan->bias);
    simd->gemm(work->dp, stride, work->dy, dim, 1, block->v, stride, count, keys, dim, false);
    simd->softmax_grad(work->p, work->dp, pass->lse + line, pass->delta + line, &scores);
    if (pass->dk)
        simd->gemm(block->dk, stride, work->q, 1, dim, work->dp, stride, dim, keys, count, true);
    if (pass->dv)
        simd->gemm(block->dv, stride, work->dy, 1, dim, work->p, stride, dim, keys, count, true);
    if (pass->dq)
        simd->gemm(work->dq, pass->width, work->dp, stride, 1, block->rows, pass->width, count, dim,
                   keys, true);
}

/* The block of queries from t0 of head h with the span of keys from `first` to `end`. */
static void backward_queries(const backward_pass *pass, const backward_work *work, int64_t h,
                             int64_t t0, int64_t first, int64_t end)
{
    const sara_attention_plan *plan = &pass->plan;
    const sara_simd *simd = plan->simd;
    int64_t dim = plan->shape->dim, t = plan->shape->t;
    int64_t at = sara_attention_offset(plan, h, t, t0), count = sara_attention_min(t - t0, QUERIES);
    if (!sara_attention_sees(plan, t0, first))
        return;
    simd->copy_rows(work->q, dim, pass->q + at, plan->row, count, dim);
    simd->copy_rows(work->dy, dim, pass->dy + at, plan->row, count, dim);
    memset(work->dq, 0, (size_t)(count * pass->width) * sizeof(float));
    if (first == 0)
        simd->row_dots(pass->delta + h * t + t0, pass->dy + at, pass->y + at, plan->row, count,
                       dim);
    for (int64_t s0 = first, i = 0; s0 < end; s0 += plan->keys, i++)
        if (sara_attention_sees(plan, t0, s0))
            backward_pair(pass, work, &work->blocks[i], h, t0, count, s0);
    if (pass->dq)
        simd->add_rows(pass->dq + at, plan->row, work->dq, pass->width, count, dim);
}

/* Adds the gradient x [dim][keys] of the keys from s0 to the sum of group g, if wanted. */
static void attention_backward_put(float *to, float *parts, const float *x,
                                   const backward_pass *pass, float *spare, int64_t h, int64_t g,
                                   int64_t s0)
{
    const sara_attention_plan *plan = &pass->plan;
    int64_t dim = plan->shape->dim, s = plan->shape->s;
    int64_t count = sara_attention_min(s - s0, plan->keys);
    if (!to)
        return;
    float *rows = g == 0 ? spare : parts + ((h * (pass->groups - 1) + g - 1) * s + s0) * dim;
    plan->simd->transpose(rows, dim, x, plan->keys, dim, count);
    if (g == 0)
        plan->simd->add_rows(to + sara_attention_offset(plan, h, s, s0), plan->row, rows, dim,
                             count, dim);
}

/* Queries of group g of head h with the keys from `first` to `end`, at most a span. */
static void backward_span(const backward_pass *pass, backward_work *work, int64_t h, int64_t g,
                          int64_t first, int64_t end)
{
    const sara_attention_plan *plan = &pass->plan;
    int64_t s = plan->shape->s, size = pass->blocks * QUERIES;
    for (int64_t s0 = first, i = 0; s0 < end; s0 += plan->keys, i++)
        attention_backward_start_block(&work->blocks[i], pass,
                                       sara_attention_offset(plan, h, s, s0),
                                       sara_attention_min(s - s0, plan->keys));
    for (int64_t t0 = g * size; t0 < (g + 1) * size && t0 < plan->shape->t; t0 += QUERIES)
        backward_queries(pass, work, h, t0, first, end);
    for (int64_t s0 = first, i = 0; s0 < end; s0 += plan->keys, i++) {
        const key_block *block = &work->blocks[i];
        attention_backward_put(pass->dk, pass->dk_parts, block->dk, pass, work->spare, h, g, s0);
        attention_backward_put(pass->dv, pass->dv_parts, block->dv, pass, work->spare, h, g, s0);
    }
}

/* Adds the later groups' gradients of head h, if wanted. */
static void attention_backward_gather(float *to, const float *parts, const backward_pass *pass,
                                      int64_t h)
{
    const sara_attention_plan *plan = &pass->plan;
    int64_t s = plan->shape->s, dim = plan->shape->dim;
    for (int64_t g = 1; to && g < pass->groups; g++)
        plan->simd->add_rows(to + sara_attention_offset(plan, h, s, 0), plan->row,
                             parts + (h * (pass->groups - 1) + g - 1) * s * dim, dim, s, dim);
}

/* Cuts the work; by its shape alone, as sums depend on it. */
static void attention_backward_cut(backward_pass *pass)
{
    const sara_attention_plan *plan = &pass->plan;
    int64_t dim = plan->shape->dim, cache = 200000, most = cache / (5 * plan->keys * dim);
    pass->width = sara_attention_lines(dim);
    pass->span = sara_attention_min(sara_attention_min(most, LARGEST_SPAN), plan->key_blocks);
    pass->span = pass->span < 1 ? 1 : pass->span;
    pass->groups = sara_attention_min((TASKS + plan->heads - 1) / plan->heads, plan->query_blocks);
    pass->blocks = (plan->query_blocks + pass->groups - 1) / pass->groups;
}

/* Of the keys' gradients, or the values': what the groups but the first sum up on their own. */
static size_t parts_size(const backward_pass *pass)
{
    const sara_attention_shape *shape = pass->plan.shape;
    return (size_t)(pass->plan.heads * (pass->groups - 1) * shape->s * shape->dim);
}

static bool has_queries(const sara_kernel_case *c)
{
    return c->attention->n > 0 && c->attention->t > 0;
}

static sara_kernel_needs attention_backward_needs(const sara_kernel_case *c)
{
    backward_pass pass = {.plan = sara_attention_plan_make(c->attention, NULL)};
    backward_work work;
    attention_backward_cut(&pass);
    int64_t own = sara_threads(c->env->ctx) * attention_backward_carve(&work, NULL, &pass);
    return (sara_kernel_needs){.scratch = (size_t)(own + pass.plan.heads * c->attention->t) +
                                          2 * parts_size(&pass)};
}

static sara_status take_scratch(const sara_kernel_env *env, backward_pass *pass, int threads)
{
    const sara_attention_shape *shape = pass->plan.shape;
    size_t parts = parts_size(pass);
    backward_work work;
    sara_status status;
    pass->own = attention_backward_carve(&work, NULL, pass);
    TRY(sara_scratch(env, &pass->works, (size_t)(threads * pass->own)));
    TRY(sara_scratch(env, &pass->delta, (size_t)(pass->plan.heads * shape->t)));
    if (pass->dk && parts > 0)
        TRY(sara_scratch(env, &pass->dk_parts, parts));
    if (pass->dv && parts > 0)
        TRY(sara_scratch(env, &pass->dv_parts, parts));
done:
    return status;
}

static sara_status attention_backward_fast(const sara_kernel_env *env, float *dq, float *dk,
                                           float *dv, const float *dy, const float *y,
                                           const float *lse, const float *q, const float *k,
                                           const float *v, const float *bias,
                                           const sara_attention_shape *shape)
{
    backward_pass pass = {
        .plan = sara_attention_plan_make(shape, bias), .q = q, .k = k, .v = v, .y = y};
    int threads = sara_threads(env->ctx);
    sara_status status;
    pass.dy = dy;
    pass.lse = lse;
    pass.dq = dq;
    pass.dk = dk;
    pass.dv = dv;
    attention_backward_cut(&pass);
    TRY(take_scratch(env, &pass, threads));
#pragma omp parallel num_threads(threads)
    {
        backward_work work;
        int64_t span = pass.span * pass.plan.keys;
        attention_backward_carve(&work, pass.works + omp_get_thread_num() * pass.own, &pass);
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < pass.plan.heads * pass.groups; i++)
            for (int64_t s0 = 0; s0 < shape->s; s0 += span)
                backward_span(&pass, &work, i / pass.groups, i % pass.groups, s0,
                              sara_attention_min(s0 + span, shape->s));
#pragma omp for schedule(static)
        for (int64_t h = 0; h < pass.plan.heads; h++) {
            attention_backward_gather(dk, pass.dk_parts, &pass, h);
            attention_backward_gather(dv, pass.dv_parts, &pass, h);
        }
    }
done:
    sara_unscratch(env, pass.dv_parts);
    sara_unscratch(env, pass.dk_parts);
    sara_unscratch(env, pass.delta);
    sara_unscratch(env, pass.works);
    return status;
}

void sara_fast_attention_register_backward(sara_kernels *table)
{
    SARA_KERNEL_ADD(table, attention_backward, has_queries, attention_backward_needs,
                    attention_backward_fast);
}

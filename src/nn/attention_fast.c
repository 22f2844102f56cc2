#include "nn/attention_blocks.h"

#include <math.h>
#include <omp.h>

/* A block of queries while the keys pass by. */
typedef struct query_block {
    float *q, *out;   /* [dim][QUERIES] */
    float *max, *sum; /* [QUERIES] */
} query_block;

/* One thread's memory. */
typedef struct forward_work {
    query_block blocks[LARGEST_SPAN];
    float *k, *v;  /* [keys][dim] */
    float *scores; /* [keys][QUERIES] */
    float *factor; /* [QUERIES] */
} forward_work;

typedef struct forward_pass {
    sara_attention_plan plan;
    int64_t span; /* blocks of queries; does not change what is computed */
    const float *q, *k, *v;
    float *y, *lse;
    float *works;
    int64_t own; /* floats of a thread's arrays */
} forward_pass;

/* Gives work its arrays in memory; returns how many floats they are. */
static int64_t attention_carve(forward_work *work, float *memory, const forward_pass *pass)
{
    int64_t keys = pass->plan.keys, dim = pass->plan.shape->dim, used = 0;
    for (int64_t i = 0; i < pass->span; i++) {
        query_block *block = &work->blocks[i];
        block->q = sara_attention_take(memory, &used, dim * QUERIES);
        block->out = sara_attention_take(memory, &used, dim * QUERIES);
        block->max = sara_attention_take(memory, &used, QUERIES);
        block->sum = sara_attention_take(memory, &used, QUERIES);
    }
    work->k = sara_attention_take(memory, &used, keys * dim);
    work->v = sara_attention_take(memory, &used, keys * dim);
    work->scores = sara_attention_take(memory, &used, keys * QUERIES);
    work->factor = sara_attention_take(memory, &used, QUERIES);
    return used;
}

static void attention_start_block(const query_block *block, const float *q,
                                  const sara_attention_plan *plan, int64_t count)
{
    plan->simd->transpose(block->q, QUERIES, q, plan->row, count, plan->shape->dim);
    sara_attention_scale(plan, block->q, QUERIES, plan->shape->dim, count);
    for (int64_t i = 0; i < count; i++) {
        block->max[i] = -INFINITY;
        block->sum[i] = 0;
    }
}

/* `count` queries from t0 of head h against work's `keys` keys, those from s0. */
static void forward_pair(const query_block *block, const forward_work *work,
                         const sara_attention_plan *plan, int64_t h, int64_t count, int64_t keys,
                         int64_t t0, int64_t s0)
{
    const sara_simd *simd = plan->simd;
    int64_t dim = plan->shape->dim;
    const sara_simd_scores scores = sara_attention_scores(plan, keys, count, QUERIES, t0, s0);
    if (plan->bias)
        simd->transpose(work->scores, QUERIES, sara_attention_bias(plan, h, t0, s0), plan->shape->s,
                        count, keys);
    simd->gemm(work->scores, QUERIES, work->k, dim, 1, block->q, QUERIES, keys, count, dim,
               plan->bias);
    simd->softmax(work->scores, block->max, block->sum, work->factor, &scores);
    if (s0 > 0)
        simd->scale_columns(block->out, QUERIES, work->factor, dim, count);
    simd->gemm(block->out, QUERIES, work->v, 1, dim, work->scores, QUERIES, dim, count, keys,
               s0 > 0);
}

static void finish_block(float *y, float *lse, const query_block *block,
                         const sara_attention_plan *plan, int64_t count)
{
    int64_t dim = plan->shape->dim;
    for (int64_t i = 0; i < count; i++) {
        lse[i] = block->max[i] + logf(block->sum[i]);
        block->sum[i] = 1 / block->sum[i];
    }
    plan->simd->scale_columns(block->out, QUERIES, block->sum, dim, count);
    plan->simd->transpose(y, plan->row, block->out, QUERIES, dim, count);
}

/* Queries from `first` to `end`, at most a span, of head h. */
static void forward_span(const forward_pass *pass, const forward_work *work, int64_t h,
                         int64_t first, int64_t end)
{
    const sara_attention_plan *plan = &pass->plan;
    const sara_attention_shape *shape = plan->shape;
    for (int64_t t0 = first, i = 0; t0 < end; t0 += QUERIES, i++)
        attention_start_block(&work->blocks[i],
                              pass->q + sara_attention_offset(plan, h, shape->t, t0), plan,
                              sara_attention_min(end - t0, QUERIES));
    int64_t seen = shape->causal ? end : shape->s;
    for (int64_t s0 = 0; s0 < seen; s0 += plan->keys) {
        int64_t keys = sara_attention_min(shape->s - s0, plan->keys);
        int64_t at = sara_attention_offset(plan, h, shape->s, s0);
        plan->simd->copy_rows(work->k, shape->dim, pass->k + at, plan->row, keys, shape->dim);
        plan->simd->copy_rows(work->v, shape->dim, pass->v + at, plan->row, keys, shape->dim);
        for (int64_t t0 = first, i = 0; t0 < end; t0 += QUERIES, i++)
            if (sara_attention_sees(plan, t0, s0))
                forward_pair(&work->blocks[i], work, plan, h, sara_attention_min(end - t0, QUERIES),
                             keys, t0, s0);
    }
    for (int64_t t0 = first, i = 0; t0 < end; t0 += QUERIES, i++)
        finish_block(pass->y + sara_attention_offset(plan, h, shape->t, t0),
                     pass->lse + h * shape->t + t0, &work->blocks[i], plan,
                     sara_attention_min(end - t0, QUERIES));
}

/* Large if that leaves each thread four tasks, but no more than the thread's cache holds. */
static int64_t choose_span(const sara_attention_plan *plan, int threads)
{
    int64_t cache = 100000, most = cache / (2 * QUERIES * plan->shape->dim);
    int64_t span = plan->heads * plan->query_blocks / threads / 4;
    span = sara_attention_min(sara_attention_min(span, most), LARGEST_SPAN);
    span = sara_attention_min(span, plan->query_blocks);
    return span < 1 ? 1 : span;
}

static sara_kernel_needs attention_forward_needs(const sara_kernel_case *c)
{
    forward_pass pass = {.plan = sara_attention_plan_make(c->attention, NULL)};
    forward_work work;
    int threads = sara_threads(c->env->ctx);
    pass.span = choose_span(&pass.plan, threads);
    return (sara_kernel_needs){.scratch =
                                   (size_t)(threads * attention_carve(&work, NULL, &pass))};
}

static sara_status attention_forward_fast(const sara_kernel_env *env, float *y, float *lse,
                                          const float *q, const float *k, const float *v,
                                          const float *bias, const sara_attention_shape *shape)
{
    int threads = sara_threads(env->ctx);
    forward_pass pass = {
        .plan = sara_attention_plan_make(shape, bias), .q = q, .k = k, .v = v, .y = y, .lse = lse};
    sara_status status;
    pass.span = choose_span(&pass.plan, threads);
    pass.own = attention_carve(&(forward_work){0}, NULL, &pass);
    TRY(sara_scratch(env, &pass.works, (size_t)(threads * pass.own)));
    int64_t size = pass.span * QUERIES, spans = (shape->t + size - 1) / size;
#pragma omp parallel num_threads(threads)
    {
        forward_work work;
        attention_carve(&work, pass.works + omp_get_thread_num() * pass.own, &pass);
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < pass.plan.heads * spans; i++) {
            int64_t first = i % spans * size;
            forward_span(&pass, &work, i / spans, first,
                         sara_attention_min(first + size, shape->t));
        }
    }
done:
    sara_unscratch(env, pass.works);
    return status;
}

void sara_fast_attention_register(sara_kernels *table)
{
    SARA_KERNEL_ADD(table, attention_forward, NULL, attention_forward_needs,
                    attention_forward_fast);
    sara_fast_attention_register_backward(table);
}

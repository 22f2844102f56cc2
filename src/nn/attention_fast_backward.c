#include "nn/attention_blocks.h"

#include <omp.h>

/* As many independent tasks as keep this many cores busy, if the queries are enough. */
#define TASKS ((int64_t)16)

/* One thread's memory; q, dy and dq [QUERIES][width] follow. */
typedef struct backward_work {
    float p[QUERIES * KEYS], dp[QUERIES * KEYS], delta[QUERIES];
} backward_work;

/* A head's queries are split into `groups`, each with its own dk and dv, which are summed last. */
typedef struct backward_pass {
    const sara_attention_plan *plan;
    int64_t groups, blocks;                      /* query blocks in a group */
    float *key_strips, *value_strips, *key_rows; /* [heads] copies */
    float *dk, *dv; /* [heads][groups] gradients in rows; NULL: not wanted */
    const float *q, *y, *dy, *lse;
    float *dq; /* NULL: not wanted */
} backward_pass;

/* Adds what queries from t0 of head h give; task tells whose dk and dv. */
static void backward_block(const backward_pass *pass, backward_work *work, int64_t h, int64_t task,
                           int64_t t0)
{
    const sara_attention_plan *plan = pass->plan;
    const sara_simd *simd = plan->simd;
    const sara_attention_shape *shape = plan->shape;
    int64_t left = shape->t - t0, count = left < QUERIES ? left : QUERIES, width = plan->width;
    int64_t at = sara_attention_offset(plan, h, shape->t) + t0 * plan->row;
    float *q = (float *)(work + 1), *dy = q + QUERIES * width, *dq = dy + QUERIES * width;
    sara_attention_copy_rows(q, pass->q + at, plan, count);
    sara_attention_copy_rows(dy, pass->dy + at, plan, count);
    for (int64_t i = 0; i < count; i++)
        work->delta[i] = simd->dot(dy + i * width, pass->y + at + i * plan->row, shape->dim);
    int64_t seen = sara_attention_seen(plan, t0 + count);
    for (int64_t b = 0; b < seen; b++) {
        sara_simd_scores scores = sara_attention_scores(plan, t0, count, b);
        int64_t strip = h * plan->strips_size + b * plan->strip * shape->dim;
        int64_t rows = b * KEYS * width, own = task * plan->rows_size + rows;
        sara_attention_multiply(work->p, q, width, pass->key_strips + strip, plan, &scores);
        sara_attention_multiply(work->dp, dy, width, pass->value_strips + strip, plan, &scores);
        simd->softmax_grad(work->p, work->dp, pass->lse + h * shape->t + t0, work->delta, &scores);
        if (pass->dv)
            simd->gemm(pass->dv + own, width, work->p, 1, plan->strip, dy, width, scores.limit,
                       width, count, true);
        if (pass->dk)
            simd->gemm(pass->dk + own, width, work->dp, 1, plan->strip, q, width, scores.limit,
                       width, count, true);
        if (pass->dq)
            simd->gemm(dq, width, work->dp, plan->strip, 1,
                       pass->key_rows + h * plan->rows_size + rows, width, count, width,
                       scores.limit, b > 0);
    }
    for (int64_t i = 0; pass->dq && i < count; i++) {
        float *to = pass->dq + at + i * plan->row;
        simd->add(to, to, dq + i * width, shape->dim);
    }
}

static void backward_task(const backward_pass *pass, backward_work *work, int64_t task)
{
    const sara_attention_plan *plan = pass->plan;
    int64_t h = task / pass->groups, first = task % pass->groups * pass->blocks;
    int64_t last = first + pass->blocks;
    size_t bytes = (size_t)plan->rows_size * sizeof(float);
    if (pass->dk)
        memset(pass->dk + task * plan->rows_size, 0, bytes);
    if (pass->dv)
        memset(pass->dv + task * plan->rows_size, 0, bytes);
    for (int64_t b = first; b < last && b < plan->query_blocks; b++)
        backward_block(pass, work, h, task, b * QUERIES);
}

/* Adds the groups' gradients of head h to `to`, if wanted. */
static void gather(float *to, const float *parts, const backward_pass *pass, int64_t h)
{
    const sara_attention_plan *plan = pass->plan;
    if (!to)
        return;
    to += sara_attention_offset(plan, h, plan->shape->s);
    for (int64_t g = 0; g < pass->groups; g++) {
        const float *part = parts + (h * pass->groups + g) * plan->rows_size;
        for (int64_t i = 0; i < plan->shape->s; i++)
            plan->simd->add(to + i * plan->row, to + i * plan->row, part + i * plan->width,
                            plan->shape->dim);
    }
}

static sara_status take_scratch(const sara_kernel_env *env, backward_pass *pass, bool wants_dk,
                                bool wants_dv)
{
    const sara_attention_plan *plan = pass->plan;
    size_t strips = (size_t)(plan->heads * plan->strips_size);
    size_t rows = (size_t)(plan->heads * plan->rows_size);
    sara_status status;
    TRY(sara_scratch(env, &pass->key_strips, strips));
    TRY(sara_scratch(env, &pass->value_strips, strips));
    if (pass->dq)
        TRY(sara_scratch(env, &pass->key_rows, rows));
    if (wants_dk)
        TRY(sara_scratch(env, &pass->dk, rows * (size_t)pass->groups));
    if (wants_dv)
        TRY(sara_scratch(env, &pass->dv, rows * (size_t)pass->groups));
done:
    return status;
}

static void give_scratch(const sara_kernel_env *env, backward_pass *pass)
{
    sara_unscratch(env, pass->dv);
    sara_unscratch(env, pass->dk);
    sara_unscratch(env, pass->key_rows);
    sara_unscratch(env, pass->value_strips);
    sara_unscratch(env, pass->key_strips);
}

static sara_status attention_backward(const sara_kernel_env *env, float *dq, float *dk, float *dv,
                                      const float *dy, const float *y, const float *lse,
                                      const float *q, const float *k, const float *v,
                                      const sara_attention_shape *shape)
{
    const sara_attention_plan plan = sara_attention_plan_make(shape);
    backward_pass pass = {.plan = &plan, .q = q, .y = y, .dy = dy, .lse = lse, .dq = dq};
    int threads = sara_threads(env->ctx);
    int64_t own = (int64_t)(sizeof(backward_work) / sizeof(float)) + 3 * QUERIES * plan.width;
    float *works = NULL;
    sara_status status;
    if (plan.heads == 0 || shape->t == 0)
        return SARA_OK;
    pass.groups = (TASKS + plan.heads - 1) / plan.heads;
    pass.groups = pass.groups < plan.query_blocks ? pass.groups : plan.query_blocks;
    pass.blocks = (plan.query_blocks + pass.groups - 1) / pass.groups;
    TRY(take_scratch(env, &pass, dk != NULL, dv != NULL));
    TRY(sara_scratch(env, &works, (size_t)(threads * own)));
#pragma omp parallel num_threads(threads)
    {
#pragma omp for schedule(static)
        for (int64_t h = 0; h < plan.heads; h++) {
            int64_t at = sara_attention_offset(&plan, h, shape->s);
            sara_attention_copy_strips(pass.key_strips + h * plan.strips_size, k + at, &plan);
            sara_attention_copy_strips(pass.value_strips + h * plan.strips_size, v + at, &plan);
            if (dq)
                sara_attention_copy_rows(pass.key_rows + h * plan.rows_size, k + at, &plan,
                                         shape->s);
        }
        backward_work *work = (backward_work *)(works + omp_get_thread_num() * own);
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < plan.heads * pass.groups; task++)
            backward_task(&pass, work, task);
#pragma omp for schedule(static)
        for (int64_t h = 0; h < plan.heads; h++) {
            gather(dk, pass.dk, &pass, h);
            gather(dv, pass.dv, &pass, h);
        }
    }
done:
    sara_unscratch(env, works);
    give_scratch(env, &pass);
    return status;
}

void sara_fast_attention_register_backward(sara_kernels *table)
{
    table->attention_backward = attention_backward;
}

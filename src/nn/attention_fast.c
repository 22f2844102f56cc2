#include "nn/attention_blocks.h"

#include <math.h>
#include <omp.h>

/* One thread's memory; out [QUERIES][width] follows. */
typedef struct forward_work {
    float scores[QUERIES * KEYS], max[QUERIES], sum[QUERIES], factor[QUERIES];
} forward_work;

/* Queries from t0 of one head; y, lse and q point to the first of them. */
static void forward_block(float *y, float *lse, forward_work *work, const float *q,
                          const float *keys, const float *values, const sara_attention_plan *plan,
                          int64_t t0)
{
    const sara_simd *simd = plan->simd;
    int64_t left = plan->shape->t - t0, count = left < QUERIES ? left : QUERIES;
    int64_t width = plan->width, dim = plan->shape->dim;
    float *out = (float *)(work + 1);
    for (int64_t i = 0; i < count; i++) {
        work->max[i] = -INFINITY;
        work->sum[i] = 0;
    }
    for (int64_t b = 0; b < sara_attention_seen(plan, t0 + count); b++) {
        sara_simd_scores scores = sara_attention_scores(plan, t0, count, b);
        sara_attention_multiply(work->scores, q, plan->row, keys + b * plan->strip * dim, plan,
                                &scores);
        simd->softmax(work->scores, work->max, work->sum, work->factor, &scores);
        for (int64_t i = 0; b > 0 && i < count; i++)
            simd->scale(out + i * width, out + i * width, work->factor[i], width);
        simd->gemm(out, width, work->scores, plan->strip, 1, values + b * KEYS * width, width,
                   count, width, scores.limit, b > 0);
    }
    for (int64_t i = 0; i < count; i++) {
        simd->scale(y + i * plan->row, out + i * width, 1 / work->sum[i], dim);
        lse[i] = work->max[i] + logf(work->sum[i]);
    }
}

static sara_status attention_forward(const sara_kernel_env *env, float *y, float *lse,
                                     const float *q, const float *k, const float *v,
                                     const sara_attention_shape *shape)
{
    const sara_attention_plan plan = sara_attention_plan_make(shape);
    int threads = sara_threads(env->ctx);
    int64_t own = (int64_t)(sizeof(forward_work) / sizeof(float)) + QUERIES * plan.width;
    float *keys = NULL, *values = NULL, *works = NULL;
    sara_status status;
    TRY(sara_scratch(env, &keys, (size_t)(plan.heads * plan.strips_size)));
    TRY(sara_scratch(env, &values, (size_t)(plan.heads * plan.rows_size)));
    TRY(sara_scratch(env, &works, (size_t)(threads * own)));
#pragma omp parallel num_threads(threads)
    {
#pragma omp for schedule(static)
        for (int64_t h = 0; h < plan.heads; h++) {
            int64_t at = sara_attention_offset(&plan, h, shape->s);
            sara_attention_copy_strips(keys + h * plan.strips_size, k + at, &plan);
            sara_attention_copy_rows(values + h * plan.rows_size, v + at, &plan, shape->s);
        }
        forward_work *work = (forward_work *)(works + omp_get_thread_num() * own);
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < plan.heads * plan.query_blocks; i++) {
            int64_t h = i / plan.query_blocks, t0 = i % plan.query_blocks * QUERIES;
            int64_t at = sara_attention_offset(&plan, h, shape->t) + t0 * plan.row;
            forward_block(y + at, lse + h * shape->t + t0, work, q + at,
                          keys + h * plan.strips_size, values + h * plan.rows_size, &plan, t0);
        }
    }
done:
    sara_unscratch(env, works);
    sara_unscratch(env, values);
    sara_unscratch(env, keys);
    return status;
}

void sara_fast_attention_register(sara_kernels *table)
{
    table->attention_forward = attention_forward;
    sara_fast_attention_register_backward(table);
}

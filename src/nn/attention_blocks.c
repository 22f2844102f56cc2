#include "nn/attention_blocks.h"

#include <math.h>

sara_attention_plan sara_attention_plan_make(const sara_attention_shape *shape, const float *bias)
{
    sara_attention_plan plan = {.simd = sara_simd_best(),
                                .shape = shape,
                                .heads = shape->n * shape->heads,
                                .row = shape->heads * shape->dim,
                                .query_blocks = (shape->t + QUERIES - 1) / QUERIES,
                                .scale = shape->scale,
                                .bias = bias};
    if (plan.scale == 0)
        plan.scale = (float)(1 / sqrt((double)shape->dim));
    int64_t about = 64, blocks = (shape->s + about / 2) / about;
    blocks = blocks < 1 ? 1 : blocks;
    plan.keys = sara_attention_lines((shape->s + blocks - 1) / blocks);
    plan.key_blocks = (shape->s + plan.keys - 1) / plan.keys;
    return plan;
}

int64_t sara_attention_offset(const sara_attention_plan *plan, int64_t head, int64_t length,
                              int64_t i)
{
    int64_t heads = plan->shape->heads;
    return (head / heads * length + i) * plan->row + head % heads * plan->shape->dim;
}

int64_t sara_attention_min(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

int64_t sara_attention_lines(int64_t n)
{
    return (n + 15) / 16 * 16;
}

float *sara_attention_take(float *memory, int64_t *used, int64_t count)
{
    float *taken = memory ? memory + *used : NULL;
    *used += sara_attention_lines(count);
    return taken;
}

sara_simd_scores sara_attention_scores(const sara_attention_plan *plan, int64_t rows,
                                       int64_t columns, int64_t stride, int64_t t0, int64_t s0)
{
    return (sara_simd_scores){.rows = rows,
                              .columns = columns,
                              .stride = stride,
                              .seen = t0 - s0,
                              .causal = plan->shape->causal,
                              .scale = plan->bias ? 1 : plan->scale,
                              .slope = plan->scale};
}

const float *sara_attention_bias(const sara_attention_plan *plan, int64_t head, int64_t t0,
                                 int64_t s0)
{
    const sara_attention_shape *shape = plan->shape;
    return plan->bias + (head % shape->heads * shape->t + t0) * shape->s + s0;
}

void sara_attention_scale(const sara_attention_plan *plan, float *factor, int64_t stride,
                          int64_t rows, int64_t n)
{
    for (int64_t i = 0; i < (plan->bias ? rows : 0); i++)
        plan->simd->add_scaled(factor + i * stride, NULL, factor + i * stride, n, plan->scale);
}

bool sara_attention_sees(const sara_attention_plan *plan, int64_t t0, int64_t s0)
{
    return !plan->shape->causal || s0 < t0 + QUERIES;
}

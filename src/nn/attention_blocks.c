#include "nn/attention_blocks.h"

#include <math.h>

static int64_t min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t whole(int64_t n, int64_t unit)
{
    return (n + unit - 1) / unit * unit;
}

sara_attention_plan sara_attention_plan_make(const sara_attention_shape *shape)
{
    const sara_simd *simd = sara_simd_best();
    sara_attention_plan plan = {.simd = simd, .shape = shape};
    plan.heads = shape->n * shape->heads;
    plan.row = shape->heads * shape->dim;
    plan.width = whole(shape->dim, simd->width);
    plan.strip = min64(KEYS, whole(shape->s, simd->width));
    plan.query_blocks = (shape->t + QUERIES - 1) / QUERIES;
    plan.key_blocks = (shape->s + KEYS - 1) / KEYS;
    plan.rows_size = shape->s * plan.width;
    plan.strips_size = plan.key_blocks * plan.strip * shape->dim;
    plan.scale = (float)(1 / sqrt((double)shape->dim));
    return plan;
}

int64_t sara_attention_offset(const sara_attention_plan *plan, int64_t head, int64_t length)
{
    int64_t heads = plan->shape->heads;
    return head / heads * length * plan->row + head % heads * plan->shape->dim;
}

void sara_attention_copy_rows(float *out, const float *x, const sara_attention_plan *plan,
                              int64_t count)
{
    int64_t dim = plan->shape->dim;
    for (int64_t i = 0; i < count; i++) {
        float *to = out + i * plan->width;
        memcpy(to, x + i * plan->row, (size_t)dim * sizeof(*to));
        memset(to + dim, 0, (size_t)(plan->width - dim) * sizeof(*to));
    }
}

void sara_attention_copy_strips(float *out, const float *x, const sara_attention_plan *plan)
{
    int64_t dim = plan->shape->dim;
    for (int64_t b = 0; b < plan->key_blocks; b++) {
        int64_t keys = min64(plan->shape->s - b * KEYS, KEYS);
        float *to = out + b * plan->strip * dim;
        plan->simd->transpose(to, plan->strip, x + b * KEYS * plan->row, plan->row, keys, dim);
        for (int64_t i = 0; keys < plan->strip && i < dim; i++)
            memset(to + i * plan->strip + keys, 0, (size_t)(plan->strip - keys) * sizeof(*to));
    }
}

sara_simd_scores sara_attention_scores(const sara_attention_plan *plan, int64_t t0, int64_t count,
                                       int64_t b)
{
    int64_t keys = min64(plan->shape->s - b * KEYS, KEYS);
    bool causal = plan->shape->causal;
    return (sara_simd_scores){.rows = count,
                              .stride = plan->strip,
                              .width = whole(keys, plan->simd->width),
                              .valid = causal ? t0 + 1 - b * KEYS : keys,
                              .grow = causal,
                              .limit = keys,
                              .scale = plan->scale};
}

int64_t sara_attention_seen(const sara_attention_plan *plan, int64_t end)
{
    return plan->shape->causal ? min64(plan->key_blocks, (end + KEYS - 1) / KEYS)
                               : plan->key_blocks;
}

void sara_attention_multiply(float *out, const float *x, int64_t x_row, const float *strip,
                             const sara_attention_plan *plan, const sara_simd_scores *scores)
{
    plan->simd->gemm(out, plan->strip, x, x_row, 1, strip, plan->strip, scores->rows, scores->width,
                     plan->shape->dim, false);
}

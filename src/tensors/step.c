#include "sparse/adamw.h"
#include "tensors/tensors.h"

#include <math.h>

#define PART  4096 /* entries of one thread's work */
#define BLOCK SARA_TENSOR_BLOCK /* entries whose gradients are copied at a time */
#define AHEAD 24   /* entries whose places are asked for before they are needed */

/* Of positions, which ascend, it takes the last. */
static sara_status open_tensor(sara_context *ctx, sara_param *out, const sara_tensor_view *view,
                               const uint32_t *positions, size_t count)
{
    if (count > 0 && (int64_t)positions[count - 1] >= view->entries)
        return sara_fail(ctx, SARA_ERROR_USAGE, "%s: position %u of %lld entries", view->name,
                         (unsigned)positions[count - 1], (long long)view->entries);
    return sara_view_param(ctx, out, view);
}

static void gather_part(const sara_tensor_gathering *item, const sara_param *dense, size_t first,
                        size_t count)
{
    const uint32_t *positions = item->positions + first;
    const float *floats = dense->value.data;
    float *gradient = item->gradient + first;
    if (!item->adds)
        memset(gradient, 0, count * sizeof(*gradient));
    if (dense->value.dtype == SARA_F32)
        for (size_t i = 0; i < count; i++) {
            __builtin_prefetch(&floats[positions[i + AHEAD < count ? i + AHEAD : i]]);
            gradient[i] += floats[positions[i]];
        }
    else
        for (size_t i = 0; i < count; i++)
            gradient[i] += sara_param_get(dense, positions[i]);
}

static void tensors_gather(sara_context *ctx, const sara_tensor_gathering *item,
                           const sara_param *dense)
{
    size_t parts = item->count / PART + 1;
    int threads = sara_threads(ctx);
#pragma omp parallel for num_threads(threads) schedule(static) if (parts > 1)
    for (size_t k = 0; k < parts; k++) {
        size_t first = k * PART, left = item->count - first;
        gather_part(item, dense, first, left < PART ? left : PART);
    }
}

sara_status sara_tensors_gather(sara_context *ctx, const sara_tensor_gathering *items, size_t count)
{
    sara_status status;
    sara_param *dense = NULL;
    TRY(sara_alloc(ctx, &dense, count, sizeof(*dense)));
    for (size_t i = 0; i < count; i++)
        TRY(open_tensor(ctx, &dense[i], &items[i].dense, items[i].positions, items[i].count));
    for (size_t i = 0; i < count; i++)
        tensors_gather(ctx, &items[i], &dense[i]);
done:
    sara_free(ctx, dense);
    return status;
}

/* ---------------------------------------------------------------------------------------- norm */

static double tensors_square(float x)
{
    return (double)x * x;
}

/* Four sums side by side, as one would wait for each addition. */
static double tensors_square_sum(const float *gradient, size_t count)
{
    double a = 0, b = 0, c = 0, d = 0;
    size_t i = 0;
    for (; i + 4 <= count; i += 4) {
        a += tensors_square(gradient[i]);
        b += tensors_square(gradient[i + 1]);
        c += tensors_square(gradient[i + 2]);
        d += tensors_square(gradient[i + 3]);
    }
    for (; i < count; i++)
        a += tensors_square(gradient[i]);
    return a + b + c + d;
}

sara_status sara_tensors_norm(sara_context *ctx, double *norm, const float *const *gradients,
                              const size_t *counts, size_t count)
{
    sara_status status;
    double *sums = NULL, total = 0;
    int threads = sara_threads(ctx);
    TRY(sara_alloc(ctx, &sums, count, sizeof(*sums)));
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (size_t i = 0; i < count; i++)
        sums[i] = tensors_square_sum(gradients[i], counts[i]);
    for (size_t i = 0; i < count; i++)
        total += sums[i];
    *norm = sqrt(total);
done:
    sara_free(ctx, sums);
    return status;
}

/* ------------------------------------------------------------------------------- low-rank term */

sara_status sara_tensors_nuclear_norm(sara_context *ctx, double *value, float *subgradient,
                                      int64_t rows, int64_t cols, const uint32_t *positions,
                                      const float *values, size_t count)
{
    return sara_nuclear_norm(ctx, value, subgradient, rows, cols, positions, values, count);
}

size_t sara_tensors_draw(size_t candidates, uint64_t seed, uint64_t step)
{
    return (size_t)sara_draw_below(candidates, seed, SARA_DRAW_RANK, step, 0);
}

/* -------------------------------------------------------------------------------------- AdamW */

typedef struct mark_weights {
    int32_t of[BLOCK];
} mark_weights;

static mark_weights weights_of_marks(void)
{
    mark_weights weights;
    for (uint32_t i = 0; i < BLOCK; i++)
        weights.of[i] = (int32_t)(((i + 1) * 2654435761u & 0x7fffffffu) | 1);
    return weights;
}

static int64_t mark_of(const mark_weights *weights, const float *values, size_t count)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < count; i++) {
        int32_t bits;
        memcpy(&bits, &values[i], sizeof(bits));
        sum += (uint64_t)((int64_t)bits * weights->of[i]);
    }
    return (int64_t)sum;
}

void sara_tensors_marks(int64_t *marks, const float *values, size_t count)
{
    const mark_weights weights = weights_of_marks();
    for (size_t at = 0; at < count; at += BLOCK)
        marks[at / BLOCK] =
            mark_of(&weights, values + at, count - at < BLOCK ? count - at : BLOCK);
}

static uint32_t float_bits(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof(bits));
    return bits;
}

/* What the tensor would hold of a value. */
static float rounded_as(sara_dtype dtype, float value)
{
    if (dtype == SARA_BF16)
        return sara_bf16_to_f32(sara_f32_to_bf16(value));
    return dtype == SARA_F16 ? sara_f16_to_f32(sara_f32_to_f16(value)) : value;
}

/* Whether the tensor holds anything else than the values, rounded. There are so many positions in
 * all, of which the next are asked for. */
static bool tensor_differs(const sara_param *param, const uint32_t *positions, size_t all,
                           const float *values, size_t count)
{
    const float *floats = param->value.data;
    uint32_t differs = 0;
    if (param->value.dtype == SARA_F32)
        for (size_t i = 0; i < count; i++) {
            __builtin_prefetch(&floats[positions[i + AHEAD < all ? i + AHEAD : i]], 1);
            differs |= float_bits(floats[positions[i]]) ^ float_bits(values[i]);
        }
    else
        for (size_t i = 0; i < count; i++)
            differs |= float_bits(sara_param_get(param, positions[i])) ^
                       float_bits(rounded_as(param->value.dtype, values[i]));
    return differs != 0;
}

/* Of a block of at most BLOCK entries, which begins at this one. */
static void follow_block(const mark_weights *weights, const sara_param *param,
                         const sara_tensor_entries *item, size_t at, size_t count)
{
    float *values = item->values + at;
    const uint32_t *positions = item->positions + at;
    if (!tensor_differs(param, positions, item->count - at, values, count) ||
        mark_of(weights, values, count) != item->marks[at / BLOCK])
        return;
    for (size_t i = 0; i < count; i++)
        if (tensor_differs(param, positions + i, 1, values + i, 1))
            values[i] = sara_param_get(param, positions[i]);
    item->marks[at / BLOCK] = mark_of(weights, values, count);
}

static void tensors_load(float *block, const float *from, size_t at, size_t count)
{
    if (from)
        memcpy(block, from + at, count * sizeof(*block));
    else
        memset(block, 0, count * sizeof(*block));
}

static void scatter(sara_param *param, const uint32_t *positions, const float *values, size_t count)
{
    float *floats = param->value.data;
    if (param->value.dtype == SARA_F32)
        for (size_t i = 0; i < count; i++) {
            __builtin_prefetch(&floats[positions[i + AHEAD < count ? i + AHEAD : i]], 1);
            floats[positions[i]] = values[i];
        }
    else
        for (size_t i = 0; i < count; i++)
            sara_param_set(param, positions[i], values[i]);
}

/* Of entries whose gradients are zero where gradient or rank are NULL. */
static void tensors_update(const mark_weights *weights, sara_param *param,
                           const sara_tensor_entries *item, const sara_adamw *numbers)
{
    const sara_adamw a = *numbers;
    float gradient[BLOCK], rank[BLOCK];
    for (size_t at = 0; at < item->count; at += BLOCK) {
        size_t count = item->count - at < BLOCK ? item->count - at : BLOCK;
        if (item->marks)
            follow_block(weights, param, item, at, count);
        tensors_load(gradient, item->gradient, at, count);
        tensors_load(rank, item->rank, at, count);
        float *values = item->values + at, *m1 = item->moment1 + at, *m2 = item->moment2 + at;
#pragma omp simd
        for (size_t i = 0; i < count; i++)
            values[i] = sara_adamw_entry(&a, values[i], gradient[i], rank[i], &m1[i], &m2[i]);
        scatter(param, item->positions + at, values, count);
        if (item->marks)
            item->marks[at / BLOCK] = mark_of(weights, values, count);
    }
}

static sara_status open_items(sara_context *ctx, sara_param **out, const sara_tensor_entries *items,
                              size_t count)
{
    sara_status status;
    TRY(sara_alloc(ctx, out, count, sizeof(**out)));
    for (size_t i = 0; i < count; i++)
        TRY(open_tensor(ctx, &(*out)[i], &items[i].tensor, items[i].positions, items[i].count));
done:
    return status;
}

sara_status sara_tensors_follow(sara_context *ctx, const sara_tensor_entries *items, size_t count)
{
    sara_status status;
    sara_param *params = NULL;
    const mark_weights weights = weights_of_marks();
    int threads = sara_threads(ctx);
    TRY(open_items(ctx, &params, items, count));
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (size_t i = 0; i < count; i++)
        for (size_t at = 0; items[i].marks && at < items[i].count; at += BLOCK) {
            size_t left = items[i].count - at;
            follow_block(&weights, &params[i], &items[i], at, left < BLOCK ? left : BLOCK);
        }
done:
    sara_free(ctx, params);
    return status;
}

sara_status sara_tensors_adamw(sara_context *ctx, const sara_tensor_entries *items, size_t count,
                               const sara_adamw_options *options)
{
    const sara_adamw a = sara_adamw_numbers(options);
    sara_status status;
    sara_param *params = NULL;
    const mark_weights weights = weights_of_marks();
    int threads = sara_threads(ctx);
    TRY(open_items(ctx, &params, items, count));
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (size_t i = 0; i < count; i++)
        tensors_update(&weights, &params[i], &items[i], &a);
done:
    sara_free(ctx, params);
    return status;
}

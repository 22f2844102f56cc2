/* AdamW of the selected entries, block by block. A block is compared with the tensor, updated, put
 * into the tensor and marked while the caches hold it; meanwhile the places of the next one are
 * fetched, which are anywhere in memory. */
#include "nn/simd/simd.h"
#include "sparse/adamw.h"
#include "tensors/tensors.h"

#define BLOCK  SARA_TENSOR_BLOCK
#define CHUNK  32 /* entries whose places are asked for, and that are updated, at a time */
#define INLINE static inline __attribute__((always_inline))
#ifdef __x86_64__ /* the same arithmetic, to the bit, on more entries at once */
#define WIDE __attribute__((target("avx2")))
#else
#define WIDE
#endif

static bool runs_wide(void)
{
    return sara_simd_best()->width >= 8;
}

/* -------------------------------------------------------------------------------------- marks */

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

INLINE int64_t mark_of(const mark_weights *weights, const float *values, size_t count)
{
    int32_t bits[BLOCK];
    uint64_t sum = 0;
    memcpy(bits, values, count * sizeof(*bits));
#pragma omp simd reduction(+ : sum)
    for (size_t i = 0; i < count; i++)
        sum += (uint64_t)((int64_t)bits[i] * weights->of[i]);
    return (int64_t)sum;
}

INLINE void mark_blocks(int64_t *marks, const float *values, size_t count)
{
    const mark_weights weights = weights_of_marks();
    for (size_t at = 0; at < count; at += BLOCK)
        marks[at / BLOCK] = mark_of(&weights, values + at, count - at < BLOCK ? count - at : BLOCK);
}

WIDE static void mark_blocks_wide(int64_t *marks, const float *values, size_t count)
{
    mark_blocks(marks, values, count);
}

void sara_tensors_marks(int64_t *marks, const float *values, size_t count)
{
    if (runs_wide())
        mark_blocks_wide(marks, values, count);
    else
        mark_blocks(marks, values, count);
}

/* -------------------------------------------------------------------- what others have written */

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

/* Whether the tensor holds anything else than the values, rounded. */
INLINE bool tensor_differs(const sara_param *param, const uint32_t *positions, const float *values,
                           size_t count)
{
    const float *floats = param->value.data;
    uint32_t differs = 0;
    if (param->value.dtype == SARA_F32)
        for (size_t i = 0; i < count; i++)
            differs |= float_bits(floats[positions[i]]) ^ float_bits(values[i]);
    else
        for (size_t i = 0; i < count; i++)
            differs |= float_bits(sara_param_get(param, positions[i])) ^
                       float_bits(rounded_as(param->value.dtype, values[i]));
    return differs != 0;
}

/* Of a block of at most BLOCK entries, which begins at this one. */
INLINE void follow_block(const mark_weights *weights, const sara_param *param,
                         const sara_tensor_entries *item, size_t at, size_t count)
{
    float *values = item->values + at;
    const uint32_t *positions = item->positions + at;
    if (!tensor_differs(param, positions, values, count) ||
        mark_of(weights, values, count) != item->marks[at / BLOCK])
        return;
    for (size_t i = 0; i < count; i++)
        if (tensor_differs(param, positions + i, values + i, 1))
            values[i] = sara_param_get(param, positions[i]);
    item->marks[at / BLOCK] = mark_of(weights, values, count);
}

/* ------------------------------------------------------------------------------------- update */

/* Has the places of CHUNK positions fetched. */
INLINE void ask_for(const sara_param *param, const uint32_t *positions)
{
    const float *floats = param->value.data;
    const uint16_t *halves = param->value.data;
    if (param->value.dtype == SARA_F32)
        for (size_t i = 0; i < CHUNK; i++)
            __builtin_prefetch(&floats[positions[i]], 1);
    else
        for (size_t i = 0; i < CHUNK; i++)
            __builtin_prefetch(&halves[positions[i]], 1);
}

INLINE void scatter(sara_param *param, const uint32_t *positions, const float *values, size_t count)
{
    float *floats = param->value.data;
    if (param->value.dtype == SARA_F32)
        for (size_t i = 0; i < count; i++)
            floats[positions[i]] = values[i];
    else
        for (size_t i = 0; i < count; i++)
            sara_param_set(param, positions[i], values[i]);
}

/* Of a block of at most BLOCK entries, which begins at this one. */
INLINE void update_block(const sara_simd *simd, sara_param *param, const sara_tensor_entries *item,
                         size_t at, size_t count, const sara_adamw *a)
{
    static const float zeros[BLOCK];
    const float *gradient = item->gradient ? item->gradient + at : zeros;
    const float *rank = item->rank ? item->rank + at : zeros;
    float *values = item->values + at, *m1 = item->moment1 + at, *m2 = item->moment2 + at;
    for (size_t i = 0; i < count; i += CHUNK) {
        size_t next = at + BLOCK + i, n = count - i < CHUNK ? count - i : CHUNK;
        if (next + CHUNK <= item->count)
            ask_for(param, item->positions + next);
        simd->adamw(values + i, gradient + i, rank + i, m1 + i, m2 + i, (int64_t)n, a);
    }
    scatter(param, item->positions + at, values, count);
}

INLINE void update_entries(sara_param *param, const sara_tensor_entries *item, const sara_adamw *a)
{
    const mark_weights weights = weights_of_marks();
    const sara_simd *simd = sara_simd_best();
    for (size_t at = 0; at < item->count; at += BLOCK) {
        size_t count = item->count - at < BLOCK ? item->count - at : BLOCK;
        if (item->marks)
            follow_block(&weights, param, item, at, count);
        update_block(simd, param, item, at, count, a);
        if (item->marks)
            item->marks[at / BLOCK] = mark_of(&weights, item->values + at, count);
    }
}

static void update_plain(sara_param *param, const sara_tensor_entries *item, const sara_adamw *a)
{
    update_entries(param, item, a);
}

WIDE static void update_wide(sara_param *param, const sara_tensor_entries *item,
                             const sara_adamw *a)
{
    update_entries(param, item, a);
}

static sara_status open_items(sara_context *ctx, sara_param **out, const sara_tensor_entries *items,
                              size_t count)
{
    sara_status status;
    TRY(sara_alloc(ctx, out, count, sizeof(**out)));
    for (size_t i = 0; i < count; i++)
        TRY(sara_view_selected(ctx, &(*out)[i], &items[i].tensor, items[i].positions,
                               items[i].count));
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
    int threads = sara_threads(ctx);
    bool wide = runs_wide();
    TRY(open_items(ctx, &params, items, count));
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (size_t i = 0; i < count; i++)
        (wide ? update_wide : update_plain)(&params[i], &items[i], &a);
done:
    sara_free(ctx, params);
    return status;
}

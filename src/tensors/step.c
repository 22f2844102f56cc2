#include "tensors/tensors.h"

#include <math.h>

#define PART  4096 /* entries of one thread's work */
#define AHEAD 24   /* entries whose places are asked for before they are needed */

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
        TRY(sara_view_selected(ctx, &dense[i], &items[i].dense, items[i].positions,
                               items[i].count));
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

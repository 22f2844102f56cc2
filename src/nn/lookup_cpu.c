/* Plain kernels that read or add at given places. */
#include "nn/kernels.h"

sara_status KERNEL(embed_forward)(const sara_kernel_env *env, real *y,
                                  const sara_weight_view *table, const int32_t *ids, int64_t count,
                                  int64_t c)
{
#pragma omp parallel for num_threads(sara_threads(env->ctx)) schedule(static)
    for (int64_t i = 0; i < count; i++)
        for (int64_t j = 0; j < c; j++)
            y[i * c + j] = sara_weight_at(table, ids[i] * c + j);
    return SARA_OK;
}

/* A row may be looked up several times: columns are independent, rows are not. */
sara_status KERNEL(embed_dw)(const sara_kernel_env *env, real *dw, const real *dy,
                             const int32_t *ids, int64_t count, int64_t c)
{
#pragma omp parallel for num_threads(sara_threads(env->ctx)) schedule(static)
    for (int64_t j = 0; j < c; j++)
        for (int64_t i = 0; i < count; i++)
            dw[ids[i] * c + j] += dy[i * c + j];
    return SARA_OK;
}

/* The first of the ascending positions that is not below `limit`. */
static size_t lookup_first(const uint32_t *positions, size_t count, int64_t limit)
{
    size_t low = 0, high = count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if ((int64_t)positions[middle] < limit)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

sara_status KERNEL(embed_dw_sampled)(const sara_kernel_env *env, real *dw, const real *dy,
                                     const int32_t *ids, int64_t count, int64_t c,
                                     const uint32_t *positions, size_t selected)
{
    (void)env;
    for (int64_t i = 0; i < count; i++) {
        int64_t row = ids[i] * c;
        size_t last = lookup_first(positions, selected, row + c);
        for (size_t k = lookup_first(positions, selected, row); k < last; k++)
            dw[k] += dy[i * c + positions[k] - row];
    }
    return SARA_OK;
}

sara_status KERNEL(gather)(const sara_kernel_env *env, real *y, const real *x,
                           const uint32_t *positions, size_t count)
{
#pragma omp parallel for num_threads(sara_threads(env->ctx)) schedule(static) if (count > 16384)
    for (size_t i = 0; i < count; i++)
        y[i] = x[positions[i]];
    return SARA_OK;
}

sara_status KERNEL(gather_add)(const sara_kernel_env *env, real *y, const real *x, size_t x_count,
                               const uint32_t *positions, size_t count)
{
#pragma omp parallel for num_threads(sara_threads(env->ctx)) schedule(static) if (count > 16384)
    for (size_t i = 0; i < count; i++)
        if (positions[i] < x_count)
            y[i] += x[positions[i]];
    return SARA_OK;
}

/* Plain kernels of an optimiser. */
#include "nn/kernels.h"

#define PART ((size_t)1 << 16) /* entries that a thread updates at a time */

sara_status KERNEL(square_sums)(const sara_kernel_env *env, double *sums,
                                const sara_updates *updates, real scale)
{
#pragma omp parallel for num_threads(sara_threads(env->ctx)) schedule(dynamic)
    for (size_t i = 0; i < updates->count; i++) {
        const sara_update *u = &updates->items[i];
        double sum = 0;
        for (size_t k = 0; k < u->count; k++) {
            double gradient = (double)(u->gradient[k] * scale);
            sum += gradient * gradient;
        }
        sums[i] = sum;
    }
    return SARA_OK;
}

static void put_value(const sara_update *u, size_t at, real value)
{
    if (u->dtype == SARA_F16)
        ((uint16_t *)u->value)[at] = sara_f32_to_f16((float)value);
    else if (u->dtype == SARA_BF16)
        ((uint16_t *)u->value)[at] = sara_f32_to_bf16((float)value);
    else
        ((real *)u->value)[at] = value;
}

static void update_plainly(const sara_update *u, const sara_adamw *a, size_t from, size_t to)
{
    for (size_t i = from; i < to; i++) {
        size_t at = u->positions ? u->positions[i] : i;
        real master = u->masters ? u->masters[i] : ((const real *)u->value)[at];
        real value = sara_adamw_entry(a, master, u->gradient[i], u->added ? u->added[i] : 0,
                                      &u->moment1[i], &u->moment2[i]);
        if (u->masters)
            u->masters[i] = value;
        if (u->value)
            put_value(u, at, value);
        u->gradient[i] = 0;
    }
}

/* Of the entries of all parameters together those from `from` on, at most PART. */
static void update_part(const sara_updates *updates, const sara_adamw *a, sara_update_run *run,
                        size_t from)
{
    size_t to = from + PART, at = 0;
    for (size_t i = 0; i < updates->count && at < to; i++) {
        const sara_update *u = &updates->items[i];
        size_t first = from > at ? from - at : 0, end = to - at < u->count ? to - at : u->count;
        if (first < end)
            run(u, a, first, end);
        at += u->count;
    }
}

void KERNEL(each_update)(const sara_kernel_env *env, const sara_updates *updates,
                         const sara_adamw *numbers, sara_update_run *run)
{
    size_t total = 0;
    for (size_t i = 0; i < updates->count; i++)
        total += updates->items[i].count;
#pragma omp parallel for num_threads(sara_threads(env->ctx)) schedule(dynamic)
    for (size_t from = 0; from < total; from += PART)
        update_part(updates, numbers, run, from);
}

sara_status KERNEL(adamw)(const sara_kernel_env *env, const sara_updates *updates,
                          const sara_adamw *numbers)
{
    KERNEL(each_update)(env, updates, numbers, update_plainly);
    return SARA_OK;
}

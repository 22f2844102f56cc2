/* An optimiser's kernels, to the bits of the plain ones: pieces in parallel, vectors within. */
#include "nn/kernels.h"
#include "nn/simd/simd.h"

#define PIECE 1024 /* entries that stay in a core's cache from gradient to value */
#define LANES SARA_SIMD_SUMS

/* ---------------------------------------------------------------------------------------- sums */

/* What a thread sums side by side. */
typedef struct sum_lanes {
    size_t update[LANES]; /* past the last: none */
    size_t done[LANES];   /* of its entries */
    double sum[LANES];
} sum_lanes;

static size_t take_next(size_t *next)
{
    size_t taken;
#pragma omp atomic capture
    taken = (*next)++;
    return taken;
}

/* Has lanes that are done begin the next update. Returns the entries, at most PIECE, that all of
 * them have before them; those without an update have zeros. */
static size_t next_piece(sum_lanes *lanes, const float *gradients[LANES], double *sums,
                         size_t *next, const sara_updates *updates)
{
    static const float zeros[PIECE];
    const sara_update *items = updates->items;
    size_t common = 0;
    for (int i = 0; i < LANES; i++) {
        size_t at = lanes->update[i];
        for (; at < updates->count && lanes->done[i] == items[at].count; at = take_next(next)) {
            sums[at] = lanes->sum[i];
            lanes->sum[i] = 0;
            lanes->done[i] = 0;
        }
        lanes->update[i] = at;
        gradients[i] = zeros;
        if (at < updates->count) {
            size_t left = items[at].count - lanes->done[i];
            gradients[i] = items[at].gradient + lanes->done[i];
            common = common == 0 || left < common ? left : common;
        }
    }
    return common < PIECE ? common : PIECE;
}

/* Each update's sum keeps the order of its entries. */
static sara_status square_sums_fast(const sara_kernel_env *env, double *sums,
                                    const sara_updates *updates, float scale)
{
    const sara_simd *simd = sara_simd_best();
    size_t next = 0;
#pragma omp parallel num_threads(sara_threads(env->ctx))
    {
        sum_lanes lanes = {.sum = {0}};
        const float *gradients[LANES];
        size_t count;
        for (int i = 0; i < LANES; i++)
            lanes.update[i] = take_next(&next);
        while ((count = next_piece(&lanes, gradients, sums, &next, updates)) > 0) {
            simd->square_sums(lanes.sum, gradients, (int64_t)count, scale);
            for (int i = 0; i < LANES; i++)
                lanes.done[i] += count;
        }
    }
    return SARA_OK;
}

/* ------------------------------------------------------------------------------------- updates */

/* The parameter's values of entries that lie anywhere in it, from their masters. */
static void scatter_values(const sara_update *u, const uint32_t *positions, const float *masters,
                           size_t count)
{
    uint16_t halves[PIECE], *narrow = u->value;
    float *wide = u->value;
    if (u->dtype == SARA_F32) {
        for (size_t i = 0; i < count; i++)
            wide[positions[i]] = masters[i];
        return;
    }
    sara_convert_from_f32(halves, u->dtype, masters, count);
    for (size_t i = 0; i < count; i++)
        narrow[positions[i]] = halves[i];
}

/* Of at most PIECE entries from this one on. */
static void update_piece(const sara_simd *simd, const sara_update *u, const sara_adamw *a,
                         size_t at, size_t count)
{
    float gathered[PIECE], *gradient = u->gradient + at, *wide = u->value;
    const uint32_t *positions = u->positions ? u->positions + at : NULL;
    float *masters = u->masters ? u->masters + at : positions ? gathered : wide + at;
    if (masters == gathered)
        for (size_t i = 0; i < count; i++)
            gathered[i] = wide[positions[i]];
    simd->adamw(masters, gradient, u->added ? u->added + at : NULL, u->moment1 + at,
                u->moment2 + at, (int64_t)count, a);
    if (u->value && positions)
        scatter_values(u, positions, masters, count);
    else if (u->value && u->masters)
        sara_convert_from_f32((char *)u->value + at * sara_dtype_size(u->dtype), u->dtype, masters,
                              count);
    memset(gradient, 0, count * sizeof(*gradient));
}

static void update_run(const sara_update *u, const sara_adamw *a, size_t from, size_t to)
{
    const sara_simd *simd = sara_simd_best();
    for (; from < to; from += PIECE)
        update_piece(simd, u, a, from, to - from < PIECE ? to - from : PIECE);
}

static sara_status adamw_fast(const sara_kernel_env *env, const sara_updates *updates,
                              const sara_adamw *numbers)
{
    KERNEL(each_update)(env, updates, numbers, update_run);
    return SARA_OK;
}

void sara_fast_update_register(sara_kernels *table)
{
    SARA_KERNEL_ADD(table, square_sums, .run = square_sums_fast);
    SARA_KERNEL_ADD(table, adamw, .run = adamw_fast);
}

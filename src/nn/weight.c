#include "nn/weight.h"

#include "nn/simd/simd.h"

#define PIECE 8192 /* entries that a thread takes at a time */

void sara_weight_widen(const sara_kernel_env *env, float *out, const sara_weight_view *w,
                       int64_t first, int64_t count)
{
    const sara_simd *simd = sara_simd_best();
    const uint16_t *halves = (const uint16_t *)w->data + first;
    int threads = count > PIECE ? sara_threads(env->ctx) : 1;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < count; i += PIECE)
        simd->widen(out + i, halves + i, count - i < PIECE ? count - i : PIECE, w->dtype);
}

sara_status sara_weight_floats(const sara_kernel_env *env, const float **out, float **scratch,
                               const sara_weight_view *w, int64_t count)
{
    sara_status status = SARA_OK;
    *scratch = NULL;
    *out = w->data;
    if (w->dtype == SARA_F32)
        return SARA_OK;
    TRY(sara_scratch(env, scratch, (size_t)count));
    TRY(SARA_TRACED_VOID(env->ctx, "weight layout", sara_weight_widen(env, *scratch, w, 0, count)));
    *out = *scratch;
done:
    return status;
}

#include "nn/bf16.h"
#include "nn/onednn/onednn.h"

#define PIECE ((int64_t)16384) /* floats that a thread takes at a time */

#ifdef __x86_64__

#include <immintrin.h>

static bool processor_has_bf16(void)
{
    return __builtin_cpu_supports("avx512bf16");
}

__attribute__((target("avx512f,avx512vl,avx512bf16"))) static void bf16_narrow(uint16_t *out,
                                                                               const float *in,
                                                                               int64_t count)
{
    int64_t i = 0;
    for (; i + 16 <= count; i += 16) {
        __m256bh half = _mm512_cvtneps_pbh(_mm512_loadu_ps(in + i));
        memcpy(out + i, &half, sizeof(half));
    }
    sara_convert_from_f32(out + i, SARA_BF16, in + i, (size_t)(count - i));
}

#else

static bool processor_has_bf16(void)
{
    return false;
}

static void bf16_narrow(uint16_t *out, const float *in, int64_t count)
{
    sara_convert_from_f32(out, SARA_BF16, in, (size_t)count);
}

#endif

const char *sara_bf16_lacks(void)
{
    if (!processor_has_bf16())
        return "this processor has no AVX512-BF16";
    return sara_onednn_has_bf16() ? NULL
                                  : "oneDNN makes no use of AVX512-BF16 here (the environment "
                                    "variable ONEDNN_MAX_CPU_ISA may hold it to less)";
}

void sara_bf16_narrow(uint16_t *out, const float *in, int64_t count, int threads)
{
#pragma omp parallel for num_threads(threads) schedule(static) if (count > PIECE)
    for (int64_t i = 0; i < count; i += PIECE)
        bf16_narrow(out + i, in + i, count - i < PIECE ? count - i : PIECE);
}

#include "nn/sampled_dot.h"

#if defined(__x86_64__)

#include <immintrin.h>

typedef __m512 vec;
#define DOT sara_dot_avx512
#define TARGET __attribute__((target("avx512f,avx2,fma")))
#define WIDTH 16
#define vzero _mm512_setzero_ps
#define vload _mm512_loadu_ps
#define vfma _mm512_fmadd_ps

TARGET static __m256 fold(vec v)
{
    __m512d high = _mm512_castps_pd(v);
    return _mm256_add_ps(_mm512_castps512_ps256(v),
                         _mm256_castpd_ps(_mm512_extractf64x4_pd(high, 1)));
}

TARGET static void vsum8(float sums[8], const vec v[8])
{
    __m256 a = _mm256_hadd_ps(fold(v[0]), fold(v[1])), b = _mm256_hadd_ps(fold(v[2]), fold(v[3]));
    __m256 c = _mm256_hadd_ps(fold(v[4]), fold(v[5])), d = _mm256_hadd_ps(fold(v[6]), fold(v[7]));
    __m256 ab = _mm256_hadd_ps(a, b), cd = _mm256_hadd_ps(c, d);
    __m256 low = _mm256_permute2f128_ps(ab, cd, 0x20), high = _mm256_permute2f128_ps(ab, cd, 0x31);
    _mm256_storeu_ps(sums, _mm256_add_ps(low, high));
}

#include "nn/sampled_dot_body.h"

#endif

#include "nn/sampled_dot.h"

#if defined(__x86_64__)

#include <immintrin.h>

typedef __m256 vec;
#define DOT sara_dot_avx2
#define TARGET __attribute__((target("avx2,fma")))
#define WIDTH 8
#define vzero _mm256_setzero_ps
#define vload _mm256_loadu_ps
#define vfma _mm256_fmadd_ps

TARGET static void vsum8(float sums[8], const vec v[8])
{
    __m256 a = _mm256_hadd_ps(v[0], v[1]), b = _mm256_hadd_ps(v[2], v[3]);
    __m256 c = _mm256_hadd_ps(v[4], v[5]), d = _mm256_hadd_ps(v[6], v[7]);
    __m256 ab = _mm256_hadd_ps(a, b), cd = _mm256_hadd_ps(c, d);
    __m256 low = _mm256_permute2f128_ps(ab, cd, 0x20), high = _mm256_permute2f128_ps(ab, cd, 0x31);
    _mm256_storeu_ps(sums, _mm256_add_ps(low, high));
}

#include "nn/sampled_dot_body.h"

#endif

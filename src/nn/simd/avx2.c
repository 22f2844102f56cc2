#ifdef __x86_64__

#include "nn/simd/tables.h"

#include <immintrin.h>

#define SIMD_TABLE   sara_simd_avx2
#define SIMD_NAME    "avx2"
#define SIMD_TARGET  __attribute__((target("avx2,fma,f16c")))
#define GEMM_ROWS    6
#define GEMM_VECTORS 2
#define DOT_VECTORS  12
#define DW_SAMPLED   0.25
#define DW_CONV      0.22
#define DW_LINEAR    0.16
#define W            8

#include "nn/simd/define.h"

typedef __m256 vf;

INLINE vf vload(const float *p)
{
    return _mm256_loadu_ps(p);
}

INLINE void vstore(float *p, vf v)
{
    _mm256_storeu_ps(p, v);
}

INLINE vf vset(float s)
{
    return _mm256_set1_ps(s);
}

INLINE vf vfma(vf a, vf b, vf c)
{
    return _mm256_fmadd_ps(a, b, c);
}

/* b where either is NaN */
INLINE vf vmax(vf a, vf b)
{
    return _mm256_max_ps(a, b);
}

INLINE vf vmin(vf a, vf b)
{
    return _mm256_min_ps(a, b);
}

/* yes where a > 0 */
INLINE vf vpositive(vf a, vf yes, vf no)
{
    return _mm256_blendv_ps(no, yes, _mm256_cmp_ps(a, _mm256_setzero_ps(), _CMP_GT_OQ));
}

INLINE vf vabs(vf a)
{
    return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a);
}

INLINE vf vround(vf a)
{
    return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

INLINE vf power2(__m256i n)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
}

/* p 2^n for whole n in -150..128; in two steps, as 2^n may be no float */
INLINE vf vscale2(vf p, vf n)
{
    __m256i whole = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(whole, 1);
    return p * power2(half) * power2(_mm256_sub_epi32(whole, half));
}

/* p 2^n, but 0 where x < least; the low 9 bits of each lane of biased are n + 127, as adding
 * ROUNDER + 127 to n gives them. */
INLINE vf vscale2_unless_below(vf p, vf biased, vf x, vf least)
{
    vf power = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(biased), 23));
    return _mm256_and_ps(_mm256_cmp_ps(x, least, _CMP_NLT_UQ), p * power);
}

INLINE float vsum(vf a)
{
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_shuffle_ps(s, s, 1)));
}

INLINE vf vload_bf16(const uint16_t *p)
{
    __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}

INLINE vf vload_f16(const uint16_t *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)p));
}

/* All ones in the first n lanes. */
INLINE __m256i lanes(int64_t n)
{
    int32_t count = n < 0 ? 0 : n > W ? W : (int32_t)n;
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

/* Which lanes of a vector are loaded and stored: the first n; n may be anything. */
typedef int64_t vlanes;

INLINE vlanes vfirst(int64_t n)
{
    return n;
}

/* zeros for the other lanes */
INLINE vf vload_lanes(const float *p, vlanes n)
{
    return n >= W ? vload(p) : _mm256_maskload_ps(p, lanes(n));
}

INLINE void vstore_lanes(float *p, vf v, vlanes n)
{
    if (n >= W)
        vstore(p, v);
    else
        _mm256_maskstore_ps(p, lanes(n), v);
}

/* Four floats of rows 0, 1, ... W / 4 - 1, these lying `stride` apart. */
INLINE vf vload_fours(const float *p, int64_t stride)
{
    return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(p)), _mm_loadu_ps(p + stride),
                                1);
}

/* Four floats from `at` on of rows 0 and 4. */
INLINE vf vload_rows(const float *const *rows, int64_t at)
{
    return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(rows[0] + at)),
                                _mm_loadu_ps(rows[4] + at), 1);
}

/* Transposes the 4 x 4 of each four lanes. */
INLINE void vtranspose(vf a[4])
{
    vf low = _mm256_unpacklo_ps(a[0], a[1]), high = _mm256_unpackhi_ps(a[0], a[1]);
    vf low2 = _mm256_unpacklo_ps(a[2], a[3]), high2 = _mm256_unpackhi_ps(a[2], a[3]);
    a[0] = _mm256_shuffle_ps(low, low2, _MM_SHUFFLE(1, 0, 1, 0));
    a[1] = _mm256_shuffle_ps(low, low2, _MM_SHUFFLE(3, 2, 3, 2));
    a[2] = _mm256_shuffle_ps(high, high2, _MM_SHUFFLE(1, 0, 1, 0));
    a[3] = _mm256_shuffle_ps(high, high2, _MM_SHUFFLE(3, 2, 3, 2));
}

/* Lanes 4 j .. 4 j + 3 of part[i] get four partial sums of v[i + 4 j]. */
INLINE void vfold(vf part[4], const vf v[W])
{
    UNROLL
    for (int i = 0; i < 4; i++)
        part[i] =
            _mm256_blend_ps(v[i], v[i + 4], 0xf0) + _mm256_permute2f128_ps(v[i], v[i + 4], 0x21);
}

#include "nn/simd/widen.h"
#include "nn/simd/body.h"

#endif

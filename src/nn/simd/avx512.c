#ifdef __x86_64__

#include "nn/simd/tables.h"

#include <immintrin.h>

#define SIMD_TABLE   sara_simd_avx512
#define SIMD_NAME    "avx512"
#define SIMD_TARGET  __attribute__((target("avx512f,avx512dq,avx2,fma")))
#define GEMM_ROWS    6
#define GEMM_VECTORS 4
#define DOT_VECTORS  18
#define DW_SAMPLED   0.15
#define DW_CONV      0.11
#define DW_LINEAR    0.115
#define W            16

#include "nn/simd/define.h"

typedef __m512 vf;

INLINE vf vload(const float *p)
{
    return _mm512_loadu_ps(p);
}

INLINE void vstore(float *p, vf v)
{
    _mm512_storeu_ps(p, v);
}

INLINE vf vload_bf16(const uint16_t *p)
{
    __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

INLINE vf vload_f16(const uint16_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)p));
}

INLINE vf vset(float s)
{
    return _mm512_set1_ps(s);
}

INLINE vf vfma(vf a, vf b, vf c)
{
    return _mm512_fmadd_ps(a, b, c);
}

/* b where either is NaN */
INLINE vf vmax(vf a, vf b)
{
    return _mm512_max_ps(a, b);
}

INLINE vf vmin(vf a, vf b)
{
    return _mm512_min_ps(a, b);
}

/* yes where a > 0 */
INLINE vf vpositive(vf a, vf yes, vf no)
{
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, _mm512_setzero_ps(), _CMP_GT_OQ), no, yes);
}

INLINE vf vabs(vf a)
{
    return _mm512_abs_ps(a);
}

INLINE vf vround(vf a)
{
    return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

/* p 2^n */
INLINE vf vscale2(vf p, vf n)
{
    return _mm512_scalef_ps(p, n);
}

/* p 2^n, but 0 where x < least; the low 9 bits of each lane of biased are n + 127, as adding
 * ROUNDER + 127 to n gives them. */
INLINE vf vscale2_unless_below(vf p, vf biased, vf x, vf least)
{
    vf power = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(biased), 23));
    return _mm512_maskz_mul_ps(_mm512_cmp_ps_mask(x, least, _CMP_NLT_UQ), p, power);
}

INLINE float vsum(vf a)
{
    return _mm512_reduce_add_ps(a);
}

/* Which lanes of a vector are loaded and stored: the first n; n may be anything. */
typedef __mmask16 vlanes;

INLINE vlanes vfirst(int64_t n)
{
    return n >= W ? (__mmask16)0xffff : n <= 0 ? 0 : (__mmask16)((1u << n) - 1);
}

/* zeros for the other lanes */
INLINE vf vload_lanes(const float *p, vlanes n)
{
    return _mm512_maskz_loadu_ps(n, p);
}

INLINE void vstore_lanes(float *p, vf v, vlanes n)
{
    _mm512_mask_storeu_ps(p, n, v);
}

/* Four floats of rows 0, 1, ... W / 4 - 1, these lying `stride` apart. */
INLINE vf vload_fours(const float *p, int64_t stride)
{
    vf v = _mm512_castps128_ps512(_mm_loadu_ps(p));
    v = _mm512_insertf32x4(v, _mm_loadu_ps(p + stride), 1);
    v = _mm512_insertf32x4(v, _mm_loadu_ps(p + 2 * stride), 2);
    return _mm512_insertf32x4(v, _mm_loadu_ps(p + 3 * stride), 3);
}

/* Transposes the 4 x 4 of each four lanes. */
INLINE void vtranspose(vf a[4])
{
    vf low = _mm512_unpacklo_ps(a[0], a[1]), high = _mm512_unpackhi_ps(a[0], a[1]);
    vf low2 = _mm512_unpacklo_ps(a[2], a[3]), high2 = _mm512_unpackhi_ps(a[2], a[3]);
    a[0] = _mm512_shuffle_ps(low, low2, _MM_SHUFFLE(1, 0, 1, 0));
    a[1] = _mm512_shuffle_ps(low, low2, _MM_SHUFFLE(3, 2, 3, 2));
    a[2] = _mm512_shuffle_ps(high, high2, _MM_SHUFFLE(1, 0, 1, 0));
    a[3] = _mm512_shuffle_ps(high, high2, _MM_SHUFFLE(3, 2, 3, 2));
}

/* Four floats from `at` on of rows 0, 4, 8 and 12. */
INLINE vf vload_rows(const float *const *rows, int64_t at)
{
    vf v = _mm512_castps128_ps512(_mm_loadu_ps(rows[0] + at));
    v = _mm512_insertf32x4(v, _mm_loadu_ps(rows[4] + at), 1);
    v = _mm512_insertf32x4(v, _mm_loadu_ps(rows[8] + at), 2);
    return _mm512_insertf32x4(v, _mm_loadu_ps(rows[12] + at), 3);
}

/* The halves of a added, those of b added. */
INLINE vf fold_halves(vf a, vf b)
{
    return _mm512_mask_blend_ps(0xff00, a, b) + _mm512_shuffle_f32x4(a, b, _MM_SHUFFLE(1, 0, 3, 2));
}

/* Lanes 4 j .. 4 j + 3 of part[i] get four partial sums of v[i + 4 j]. */
INLINE void vfold(vf part[4], const vf v[W])
{
    const __m512i swapped = _mm512_setr_epi64(2, 3, 8, 9, 6, 7, 12, 13);
    UNROLL
    for (int i = 0; i < 4; i++) {
        vf a = fold_halves(v[i], v[i + 8]), b = fold_halves(v[i + 4], v[i + 12]);
        part[i] = _mm512_mask_blend_ps(0xf0f0, a, b) +
                  _mm512_castpd_ps(
                      _mm512_permutex2var_pd(_mm512_castps_pd(a), swapped, _mm512_castps_pd(b)));
    }
}

#include "nn/simd/widen.h"
#include "nn/simd/body.h"

#endif

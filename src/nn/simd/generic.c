/* Four floats in the compilers' own vectors: SSE2, NEON or whatever the target has. */
#include "nn/simd/tables.h"

#define SIMD_TABLE   sara_simd_generic
#define SIMD_NAME    "generic"
#define SIMD_TARGET
#define GEMM_ROWS    4
#define GEMM_VECTORS 2
#define DOT_VECTORS  12
#define DW_SAMPLED   0.4
#define DW_CONV      0.45
#define DW_LINEAR    0.46
#define W            4

#include "nn/simd/define.h"

typedef float vf __attribute__((vector_size(16)));
typedef float vf_unaligned __attribute__((vector_size(16), aligned(4), may_alias));
typedef int32_t vi __attribute__((vector_size(16)));

INLINE vf vload(const float *p)
{
    return *(const vf_unaligned *)p;
}

INLINE void vstore(float *p, vf v)
{
    *(vf_unaligned *)p = v;
}

INLINE vf vset(float s)
{
    return (vf){s, s, s, s};
}

INLINE vf vfma(vf a, vf b, vf c)
{
    return a * b + c;
}

INLINE vf vif(vi mask, vf yes, vf no)
{
    return (vf)((mask & (vi)yes) | (~mask & (vi)no));
}

/* As x86's: b where either is NaN. */
INLINE vf vmax(vf a, vf b)
{
    return vif(a > b, a, b);
}

INLINE vf vmin(vf a, vf b)
{
    return vif(a < b, a, b);
}

/* yes where a > 0 */
INLINE vf vpositive(vf a, vf yes, vf no)
{
    return vif(a > vset(0), yes, no);
}

INLINE vf vabs(vf a)
{
    return (vf)((vi)a & (vi){INT32_MAX, INT32_MAX, INT32_MAX, INT32_MAX});
}

INLINE vf vround(vf a)
{
    return (a + vset(ROUNDER)) - vset(ROUNDER);
}

/* p 2^n for whole n in -150..128; in two steps, as 2^n may be no float */
INLINE vf vscale2(vf p, vf n)
{
    const vi bias = {127, 127, 127, 127};
    vi whole = (vi)(n + vset(ROUNDER)) - (vi)vset(ROUNDER), half = whole >> 1;
    return p * (vf)((half + bias) << 23) * (vf)((whole - half + bias) << 23);
}

/* p 2^n, but 0 where x < least; the low 9 bits of each lane of biased are n + 127, as adding
 * ROUNDER + 127 to n gives them. */
INLINE vf vscale2_unless_below(vf p, vf biased, vf x, vf least)
{
    return (vf)(~(x < least) & (vi)(p * (vf)((vi)biased << 23)));
}

INLINE float vsum(vf a)
{
    return (a[0] + a[2]) + (a[1] + a[3]);
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
    float part[W] = {0};
    if (n >= W)
        return vload(p);
    for (int64_t i = 0; i < n; i++)
        part[i] = p[i];
    return vload(part);
}

INLINE void vstore_lanes(float *p, vf v, vlanes n)
{
    if (n >= W)
        vstore(p, v);
    else
        for (int64_t i = 0; i < n; i++)
            p[i] = v[i];
}

/* Four floats of rows 0, 1, ... W / 4 - 1, these lying `stride` apart. */
INLINE vf vload_fours(const float *p, int64_t stride)
{
    (void)stride;
    return vload(p);
}

/* Four floats from `at` on of row 0. */
INLINE vf vload_rows(const float *const *rows, int64_t at)
{
    return vload(rows[0] + at);
}

/* Transposes the 4 x 4 of each four lanes. */
INLINE void vtranspose(vf a[4])
{
    vf row[4] = {a[0], a[1], a[2], a[3]};
    for (int i = 0; i < 4; i++)
        a[i] = (vf){row[0][i], row[1][i], row[2][i], row[3][i]};
}

/* Lanes 4 j .. 4 j + 3 of part[i] get four partial sums of v[i + 4 j]. */
INLINE void vfold(vf part[4], const vf v[W])
{
    for (int i = 0; i < 4; i++)
        part[i] = v[i];
}

FN void widen(float *out, const uint16_t *in, int64_t count, sara_dtype dtype)
{
    sara_convert_to_f32(out, in, dtype, (size_t)count);
}

#include "nn/simd/body.h"

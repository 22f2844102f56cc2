/* The variant for any processor, and the choice. */
#include "nn/sampled_dot.h"

typedef float vec __attribute__((vector_size(16)));
#define DOT sara_dot_generic
#define TARGET
#define WIDTH 4

static vec vzero(void)
{
    return (vec){0};
}

static vec vload(const float *p)
{
    vec v;
    memcpy(&v, p, sizeof(v));
    return v;
}

static vec vfma(vec a, vec b, vec c)
{
    return c + a * b;
}

static void vsum8(float sums[8], const vec v[8])
{
    for (int k = 0; k < 8; k++)
        sums[k] = (v[k][0] + v[k][1]) + (v[k][2] + v[k][3]);
}

#include "nn/sampled_dot_body.h"

sara_dot_fn sara_dot_choose(void)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("fma"))
        return sara_dot_avx512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return sara_dot_avx2;
#endif
    return sara_dot_generic;
}

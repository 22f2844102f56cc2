#include "nn/simd/tables.h"

#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__) && defined(__clang__)
#include <cpuid.h>
#endif

/* Widest first. */
static const sara_simd *const tables[] = {
#ifdef __x86_64__
    &sara_simd_avx512, &sara_simd_avx2,
#endif
    &sara_simd_generic};

#ifdef __x86_64__
/* Clang's __builtin_cpu_supports() does not know it. To ask the processor itself at each call takes
 * longer in a virtual machine than a small kernel. */
static bool has_f16c(void)
{
#ifdef __clang__
    unsigned a, b, c = 0, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
#else
    return __builtin_cpu_supports("f16c");
#endif
}
#endif

static bool runs(const sara_simd *table)
{
#ifdef __x86_64__
    if (table == &sara_simd_avx512)
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq");
    if (table == &sara_simd_avx2)
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
#endif
    return table == &sara_simd_generic;
}

const sara_simd *sara_simd_best(void)
{
    const char *wanted = getenv("SARA_SIMD");
    const sara_simd *best = NULL;
    for (size_t i = 0; i < sizeof(tables) / sizeof(*tables); i++) {
        if (!runs(tables[i]))
            continue;
        if (wanted && strcmp(wanted, tables[i]->name) == 0)
            return tables[i];
        best = best ? best : tables[i];
    }
    return best;
}

sara_status sara_simd_check(sara_context *ctx)
{
    const char *wanted = getenv("SARA_SIMD");
    if (!wanted || !*wanted || strcmp(sara_simd_best()->name, wanted) == 0)
        return SARA_OK;
    if (strcmp(wanted, "avx2") == 0 || strcmp(wanted, "avx512") == 0)
        return sara_fail(ctx, SARA_ERROR_DEVICE, "SARA_SIMD=%s: this processor does not run it",
                         wanted);
    return sara_fail(ctx, SARA_ERROR_USAGE, "SARA_SIMD=%s: expected generic, avx2 or avx512",
                     wanted);
}

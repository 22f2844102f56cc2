#ifndef SARA_NN_SIMD_TABLES_H
#define SARA_NN_SIMD_TABLES_H

#include "nn/simd/simd.h"

extern const sara_simd sara_simd_generic;
#ifdef __x86_64__
extern const sara_simd sara_simd_avx2, sara_simd_avx512;
#endif

#endif

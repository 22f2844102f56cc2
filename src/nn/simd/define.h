/* How the functions of body.h and of the vector operations below it are declared. */
#define FN     static SIMD_TARGET
#define INLINE static inline SIMD_TARGET __attribute__((always_inline, unused))
#ifdef __clang__
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 18")
#endif
#define ROUNDER 12582912.0f /* 1.5 x 2^23: adding it rounds to an integer, in the low bits */

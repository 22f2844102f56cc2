/* The plain kernels are compiled twice: in float as the reference kernels of the library, and with
 * SARA_DOUBLE for the tests, which check them against finite differences. */
#ifndef SARA_NN_REAL_H
#define SARA_NN_REAL_H

#ifdef SARA_DOUBLE
typedef double real;
#define KERNEL(name) sara_f64_##name
#define REAL_SQRT    sqrt
#else
typedef float real;
#define KERNEL(name) sara_plain_##name
#define REAL_SQRT    sqrtf
#endif

#endif

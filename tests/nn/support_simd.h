/* Runs a check of fast kernels with every instruction set this machine has. */
#ifndef SARA_TEST_SUPPORT_SIMD_H
#define SARA_TEST_SUPPORT_SIMD_H

#include "nn/support_nn.h"

void test_simd_each(void (*check)(void *argument), void *argument);
/* An environment on "cpu" without a tape, of so many threads; test_simd_env_free(). */
sara_kernel_env test_simd_env(int threads);
void test_simd_env_free(sara_kernel_env *env);

#endif

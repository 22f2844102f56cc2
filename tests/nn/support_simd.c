#include "nn/support_simd.h"

#include <stdlib.h>

#include "nn/simd/simd.h"

void test_simd_each(void (*check)(void *argument), void *argument)
{
    const char *const names[] = {"generic", "avx2", "avx512"};
    for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
        setenv("SARA_SIMD", names[i], 1);
        if (strcmp(sara_simd_best()->name, names[i]) == 0)
            check(argument);
    }
    unsetenv("SARA_SIMD");
}

sara_kernel_env test_simd_env(int threads)
{
    const sara_context_options options = {.threads = threads};
    sara_kernel_env env = {0};
    assert_ok(env.ctx, sara_context_new(&env.ctx, &options));
    assert_ok(env.ctx, sara_nn_device_open(env.ctx, &env.device, "cpu"));
    return env;
}

void test_simd_env_free(sara_kernel_env *env)
{
    sara_nn_device_close(env->device);
    sara_context_free(env->ctx);
}

/* The calls of kernels, which follow from their list. */
#include "nn/kept.h"

static sara_status kernel_missing(const sara_kernel_env *env, const char *name)
{
    return sara_fail(env->ctx, SARA_ERROR_DEVICE, "%s: no kernel on device %s", name,
                     env->device->name);
}

/* On a dry device: takes the scratch and gives it back, and keeps account of what would stay. */
static sara_status take_needs(const char *name, const sara_kernel_case *c,
                              const sara_kernel_needs *needs)
{
    float *scratch = NULL;
    sara_status status = SARA_OK;
    if (needs->layout || needs->primitive)
        TRY(sara_kept_add(c->env->device->state, name, c, needs));
    if (needs->scratch)
        TRY(sara_scratch(c->env, &scratch, needs->scratch));
done:
    sara_unscratch(c->env, scratch);
    return status;
}

#define PLAIN_ENTRY(name, parameters, arguments, ...) .name = {{.run = KERNEL(name)}},

/* What a device without kernels of its own has; its memory is the host's. */
static const sara_kernels plain_kernels = {SARA_KERNEL_LIST(PLAIN_ENTRY)};

static const sara_kernels *kernels_of(const sara_kernel_env *env)
{
    return env->device->kernels ? env->device->kernels : &plain_kernels;
}

/* The first implementation that supports the case; its run is NULL where there is none. */
#define CHOOSE(name, parameters, arguments, ...)                                                   \
    static const sara_##name##_impl *choose_##name(const sara_kernel_case *c)                      \
    {                                                                                              \
        const sara_kernels *table = kernels_of(c->env);                                            \
        const sara_##name##_impl *impl = table->name;                                              \
        while (impl->run && impl->supports && !impl->supports(c))                                  \
            impl++;                                                                                \
        return impl;                                                                               \
    }

#define NEEDS(name, parameters, arguments, ...)                                                    \
    sara_kernel_needs sara_kernel_##name##_needs(const sara_kernel_case *c)                        \
    {                                                                                              \
        const sara_##name##_impl *impl = choose_##name(c);                                         \
        return impl->needs ? impl->needs(c) : (sara_kernel_needs){0};                              \
    }

#define CALL(name, parameters, arguments, ...)                                                     \
    sara_status sara_kernel_##name(const sara_kernel_env *env, SARA_UNPACK parameters)             \
    {                                                                                              \
        const sara_kernel_case the_case = {.env = env, __VA_ARGS__};                               \
        const sara_##name##_impl *impl = choose_##name(&the_case);                                 \
        if (!impl->run)                                                                            \
            return kernel_missing(env, #name);                                                     \
        if (env->device->dry) {                                                                    \
            const sara_kernel_needs needs = sara_kernel_##name##_needs(&the_case);                 \
            return take_needs(#name, &the_case, &needs);                                           \
        }                                                                                          \
        return impl->run(env, SARA_UNPACK arguments);                                              \
    }

#define PLAIN(name, parameters, arguments, ...) SARA_KERNEL_ADD(table, name, .run = KERNEL(name));

SARA_KERNEL_LIST(CHOOSE)
SARA_KERNEL_LIST(NEEDS)
SARA_KERNEL_LIST(CALL)

void sara_plain_register(sara_kernels *table)
{
    SARA_KERNEL_LIST(PLAIN)
}

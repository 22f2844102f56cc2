/* The devices: a kernel table each, and for "cpu" the state of its fast kernels. */
#include "nn/bf16.h"
#include "nn/kernels.h"
#include "nn/onednn.h"

typedef struct cpu_device {
    sara_device device;
    sara_kernels table;
} cpu_device;

static void register_plain(sara_kernels *table)
{
    KERNEL(linear_register)(table);
    KERNEL(conv_register)(table);
    KERNEL(norm_register)(table);
    KERNEL(attention_register)(table);
    KERNEL(pointwise_register)(table);
    KERNEL(reshape_register)(table);
}

static void register_fast(sara_kernels *table)
{
    sara_fast_linear_register(table);
    sara_fast_conv_register(table);
    sara_fast_sampled_register(table);
    sara_fast_norm_register(table);
    sara_fast_attention_register(table);
    sara_fast_pointwise_register(table);
}

static void cpu_close(sara_context *ctx, sara_device *device)
{
    sara_onednn_free(device->state);
    sara_free(ctx, device); /* the first member of its cpu_device */
}

sara_status sara_nn_device_open(sara_context *ctx, sara_device **out, const char *name)
{
    cpu_device *cpu = NULL;
    sara_onednn *state = NULL;
    sara_status status;
    bool narrow = strcmp(name, "cpu-bf16") == 0, fast = narrow || strcmp(name, "cpu") == 0;
    if (!fast && strcmp(name, "cpu-plain") != 0)
        return sara_fail(ctx, SARA_ERROR_DEVICE,
                         "device %s: unknown, expected cpu, cpu-bf16 or cpu-plain", name);
    if (narrow && sara_bf16_lacks())
        return sara_fail(ctx, SARA_ERROR_DEVICE, "device %s: this processor has no %s", name,
                         sara_bf16_lacks());
    TRY(sara_alloc_zero(ctx, &cpu, 1, sizeof(*cpu)));
    register_plain(&cpu->table);
    if (fast) {
        TRY(sara_onednn_new(ctx, &state));
        register_fast(&cpu->table);
    }
    if (narrow)
        sara_bf16_register(&cpu->table);
    cpu->device = (sara_device){.name = narrow ? "cpu-bf16" : fast ? "cpu" : "cpu-plain",
                                .kernels = &cpu->table,
                                .state = state,
                                .close = cpu_close,
                                .ctx = ctx};
    *out = &cpu->device;
    cpu = NULL;
done:
    sara_free(ctx, cpu);
    return status;
}

void sara_nn_device_close(sara_device *device)
{
    if (device)
        device->close(device->ctx, device);
}

const sara_kernels *sara_tape_kernels(const sara_tape *tape)
{
    return sara_tape_device(tape)->kernels;
}

sara_kernel_env sara_tape_env(sara_tape *tape)
{
    return (sara_kernel_env){.ctx = sara_tape_context(tape),
                             .device = sara_tape_device(tape),
                             .tape = tape};
}

sara_status sara_kernel_missing(const sara_tape *tape, const char *op)
{
    return sara_fail(sara_tape_context(tape), SARA_ERROR_DEVICE, "%s: no kernel on device %s", op,
                     sara_tape_device(tape)->name);
}

sara_status sara_scratch(const sara_kernel_env *env, float **out, size_t count)
{
    if (env->tape)
        return sara_tape_scratch(env->tape, out, count);
    return sara_alloc(env->ctx, out, count, sizeof(**out));
}

void sara_unscratch(const sara_kernel_env *env, float *scratch)
{
    if (env->tape)
        sara_tape_unscratch(env->tape, scratch);
    else
        sara_free(env->ctx, scratch);
}

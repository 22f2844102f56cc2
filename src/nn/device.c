/* The devices: a kernel table each, and for "cpu" the state of its fast kernels. */
#include "nn/apart.h"
#include "nn/bf16.h"
#include "nn/kept.h"
#include "nn/onednn/onednn.h"
#include "nn/simd/simd.h"

typedef struct cpu_device {
    sara_device device;
    sara_kernels table;
} cpu_device;

typedef struct device_kind {
    const char *name, *dry; /* the device that counts for it */
    bool fast, narrow, apart;
} device_kind;

/* *dry: whether the name is that of the device that counts */
static const device_kind *find_kind(const char *name, bool *dry)
{
    static const device_kind kinds[] = {{"cpu", "dry", true, false, false},
                                        {"cpu-bf16", "dry-bf16", true, true, false},
                                        {"cpu-plain", "dry-plain", false, false, false},
                                        {"cpu-apart", "dry-apart", true, false, true}};
    for (size_t i = 0; i < sizeof(kinds) / sizeof(*kinds); i++) {
        *dry = strcmp(kinds[i].dry, name) == 0;
        if (*dry || strcmp(kinds[i].name, name) == 0)
            return &kinds[i];
    }
    return NULL;
}

static void register_kernels(sara_kernels *table, const device_kind *kind)
{
    if (kind->narrow)
        sara_bf16_register(table);
    if (kind->fast) {
        sara_fast_linear_register(table);
        sara_conv_linear_register(table);
        sara_fast_conv_register(table);
        sara_fast_sampled_register(table);
        sara_fast_norm_register(table);
        sara_fast_attention_register(table);
        sara_fast_pointwise_register(table);
        sara_fast_update_register(table);
        sara_fast_branch_register(table);
    }
    sara_plain_register(table);
}

static void cpu_forget(sara_device *device, const sara_param *param)
{
    if (device->dry)
        sara_kept_forget(device->state, param);
    else
        sara_onednn_forget(device->state, param);
}

static void cpu_close(sara_context *ctx, sara_device *device)
{
    if (device->dry)
        sara_kept_free(device->state);
    else
        sara_onednn_free(device->state);
    sara_free(ctx, device); /* the first member of its cpu_device */
}

static sara_status cpu_open(sara_context *ctx, sara_device **out, const device_kind *kind, bool dry)
{
    cpu_device *cpu = NULL;
    sara_onednn *state = NULL;
    sara_kept *kept = NULL;
    sara_status status;
    if (kind->narrow && !dry && sara_bf16_lacks())
        return sara_fail(ctx, SARA_ERROR_DEVICE, "device %s: %s", kind->name, sara_bf16_lacks());
    if (kind->fast)
        TRY(sara_simd_check(ctx));
    TRY(sara_alloc_zero(ctx, &cpu, 1, sizeof(*cpu)));
    register_kernels(&cpu->table, kind);
    if (dry)
        TRY(sara_kept_new(ctx, &kept));
    else if (kind->fast)
        TRY(sara_onednn_new(ctx, &state));
    cpu->device = (sara_device){.name = dry ? kind->dry : kind->name,
                                .dry = dry,
                                .copies = dry && kind->apart,
                                .memory = dry ? &sara_dry_memory : &sara_host_memory,
                                .kernels = &cpu->table,
                                .state = dry ? (void *)kept : (void *)state,
                                .forget = dry || state ? cpu_forget : NULL,
                                .close = cpu_close,
                                .ctx = ctx};
    *out = &cpu->device;
    cpu = NULL;
done:
    sara_free(ctx, cpu);
    return status;
}

sara_status sara_nn_device_open(sara_context *ctx, sara_device **out, const char *name)
{
    bool dry;
    const device_kind *kind = find_kind(name ? name : "cpu", &dry);
    if (!kind)
        return sara_fail(ctx, SARA_ERROR_DEVICE,
                         "device %s: unknown, expected cpu, cpu-bf16, cpu-plain or cpu-apart, or "
                         "dry, dry-bf16, dry-plain or dry-apart",
                         name);
    return kind->apart && !dry ? sara_apart_open(ctx, out) : cpu_open(ctx, out, kind, dry);
}

sara_status sara_nn_device_open_dry(sara_context *ctx, sara_device **out, const sara_device *device)
{
    bool dry;
    return sara_nn_device_open(ctx, out, find_kind(device->name, &dry)->dry);
}

sara_status sara_nn_device_check(sara_context *ctx, const char *name, const char *option)
{
    static const char *const known[] = {"cpu", "cpu-plain", "cpu-apart"}; /* these two for tests */
    for (size_t i = 0; i < sizeof(known) / sizeof(*known); i++)
        if (!name || strcmp(name, known[i]) == 0)
            return SARA_OK;
    return sara_fail(ctx, SARA_ERROR_USAGE, "%s %s: this build has %s", option, name, known[0]);
}

size_t sara_nn_device_kept(const sara_device *device)
{
    return device->dry ? sara_kept_bytes(device->state) : 0;
}

void sara_nn_device_forget(sara_device *device, const sara_param *param)
{
    if (device->forget)
        device->forget(device, param);
}

void sara_nn_device_close(sara_device *device)
{
    if (device)
        device->close(device->ctx, device);
}

sara_kernel_env sara_tape_env(sara_tape *tape)
{
    return (sara_kernel_env){.ctx = sara_tape_context(tape),
                             .device = sara_tape_device(tape),
                             .tape = tape};
}

sara_status sara_scratch(const sara_kernel_env *env, float **out, size_t count)
{
    if (env->tape)
        return sara_tape_scratch(env->tape, out, count);
    return sara_device_alloc(env->device, out, count, sizeof(**out));
}

void sara_unscratch(const sara_kernel_env *env, float *scratch)
{
    if (env->tape)
        sara_tape_unscratch(env->tape, scratch);
    else
        sara_device_free(env->device, scratch);
}

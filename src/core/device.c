#include "core/context.h"

#define DRY_ADDRESS ((uintptr_t)4096)

/* ---------------------------------------------------------------------------- the host's memory */

static sara_status host_alloc(sara_device *device, void **out, size_t bytes)
{
    return sara_alloc(device->ctx, out, bytes, 1);
}

static void host_free(sara_device *device, void *data)
{
    sara_free(device->ctx, data);
}

static sara_status host_fill(sara_device *device, void *data, int byte, size_t bytes)
{
    (void)device;
    memset(data, byte, bytes);
    return SARA_OK;
}

static sara_status host_copy(sara_device *device, void *to, const void *from, size_t bytes)
{
    (void)device;
    memcpy(to, from, bytes);
    return SARA_OK;
}

static sara_status nothing_to_wait_for(sara_device *device)
{
    (void)device;
    return SARA_OK;
}

const sara_device_memory sara_host_memory = {.is_host = true,
                                             .alloc = host_alloc,
                                             .free = host_free,
                                             .fill = host_fill,
                                             .copy_in = host_copy,
                                             .copy_out = host_copy,
                                             .copy_within = host_copy,
                                             .synchronise = nothing_to_wait_for};

/* ------------------------------------------------------------------- memory that does not exist */

static sara_status dry_alloc(sara_device *device, void **out, size_t bytes)
{
    (void)device;
    (void)bytes;
    *out = (void *)DRY_ADDRESS;
    return SARA_OK;
}

static void dry_free(sara_device *device, void *data)
{
    (void)device;
    (void)data;
}

static sara_status dry_fill(sara_device *device, void *data, int byte, size_t bytes)
{
    (void)device;
    (void)data;
    (void)byte;
    (void)bytes;
    return SARA_OK;
}

static sara_status dry_copy(sara_device *device, void *to, const void *from, size_t bytes)
{
    return dry_fill(device, to, 0, from ? bytes : 0);
}

static sara_status dry_copy_out(sara_device *device, void *to, const void *from, size_t bytes)
{
    (void)device;
    (void)from;
    memset(to, 0, bytes);
    return SARA_OK;
}

const sara_device_memory sara_dry_memory = {.alloc = dry_alloc,
                                            .free = dry_free,
                                            .fill = dry_fill,
                                            .copy_in = dry_copy,
                                            .copy_out = dry_copy_out,
                                            .copy_within = dry_copy,
                                            .synchronise = nothing_to_wait_for};

/* -------------------------------------------------------------------------- what everyone calls */

sara_device *sara_host_device(sara_context *ctx)
{
    return &ctx->host;
}

/* A device that is not named has the host's memory, whose functions but alloc and free ask nothing
 * of it. */
static const sara_device_memory *memory_of(const sara_device *device)
{
    return device ? device->memory : &sara_host_memory;
}

bool sara_device_is_host(const sara_device *device)
{
    return memory_of(device)->is_host;
}

sara_status sara_device_alloc(sara_device *device, void *out, size_t count, size_t size)
{
    void *result = NULL;
    size_t bytes;
    sara_status status = SARA_OK;
    if (__builtin_mul_overflow(count, size, &bytes))
        status = sara_fail(device->ctx, SARA_ERROR_MEMORY, "out of memory: %zu x %zu bytes", count,
                           size);
    else if (bytes > 0)
        status = device->memory->alloc(device, &result, bytes);
    memcpy(out, &result, sizeof(result));
    return status;
}

void sara_device_free(sara_device *device, void *data)
{
    if (data)
        device->memory->free(device, data);
}

sara_status sara_device_fill(sara_device *device, void *data, int byte, size_t bytes)
{
    return bytes ? memory_of(device)->fill(device, data, byte, bytes) : SARA_OK;
}

sara_status sara_device_copy_in(sara_device *device, void *to, const void *from, size_t bytes)
{
    return bytes ? memory_of(device)->copy_in(device, to, from, bytes) : SARA_OK;
}

sara_status sara_device_copy_out(sara_device *device, void *to, const void *from, size_t bytes)
{
    return bytes ? memory_of(device)->copy_out(device, to, from, bytes) : SARA_OK;
}

sara_status sara_device_copy_within(sara_device *device, void *to, const void *from, size_t bytes)
{
    return bytes ? memory_of(device)->copy_within(device, to, from, bytes) : SARA_OK;
}

sara_status sara_device_synchronise(sara_device *device)
{
    return memory_of(device)->synchronise(device);
}

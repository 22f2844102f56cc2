/* Devices: where ops run and where their data lies.
 *
 * What a variable, a parameter or a trainable points to is memory of its device. Only the device's
 * own kernels dereference it; everyone else allocates, fills and copies through the functions
 * below. Where the memory is the host's (sara_device_is_host), it may also be read and written as
 * it is, between a kernel's return and the next one's start.
 */
#ifndef SARA_CORE_DEVICE_H
#define SARA_CORE_DEVICE_H

#include "sara.h"

typedef struct sara_device sara_device;
struct sara_param;

/* What a device does with memory. Sizes are in bytes and not 0; copies do not overlap. Errors:
 * SARA_ERROR_MEMORY of alloc, SARA_ERROR_DEVICE of the others. */
typedef struct sara_device_memory {
    bool is_host; /* what alloc gives may be read and written as it is */
    sara_status (*alloc)(sara_device *device, void **out, size_t bytes); /* 64-byte aligned */
    void (*free)(sara_device *device, void *data);
    sara_status (*fill)(sara_device *device, void *data, int byte, size_t bytes);
    sara_status (*copy_in)(sara_device *device, void *to, const void *from, size_t bytes);
    sara_status (*copy_out)(sara_device *device, void *to, const void *from, size_t bytes);
    sara_status (*copy_within)(sara_device *device, void *to, const void *from, size_t bytes);
    sara_status (*synchronise)(sara_device *device);
} sara_device_memory;

struct sara_device {
    const char *name; /* "cpu" */
    bool dry;         /* no memory and no arithmetic: tapes on it count what a pass needs */
    bool copies;      /* of a dry one: stands for a device whose memory is not the host's */
    const sara_device_memory *memory;
    /* The nn layer's table (struct sara_kernels), opaque here; NULL: its plain kernels, which
     * compute in the host's memory. */
    const void *kernels;
    void *state;         /* the kernels' caches; freed by close */
    /* What the kernels keep of a parameter is given up; NULL: they keep nothing. */
    void (*forget)(sara_device *device, const struct sara_param *param);
    void (*close)(sara_context *ctx, sara_device *device);
    sara_context *ctx;
};

/* The context's own, with the host's memory and no kernels but the plain ones. */
sara_device *sara_host_device(sara_context *ctx);
/* The host's memory, counted by the context's allocator; and memory that does not exist: alloc
 * gives an address to reckon with, copies out give zeros, and the others do nothing. */
extern const sara_device_memory sara_host_memory, sara_dry_memory;

/* Whether data of the device may be dereferenced by anyone. Of this and of what follows, device
 * NULL is the host; alloc and free take none. */
bool sara_device_is_host(const sara_device *device);
/* count * size bytes, uninitialised; *(void **)out becomes NULL for 0 bytes and on an error. */
SARA_NODISCARD sara_status sara_device_alloc(sara_device *device, void *out, size_t count,
                                             size_t size);
void sara_device_free(sara_device *device, void *data); /* NULL is fine */
/* Sets each byte. */
SARA_NODISCARD sara_status sara_device_fill(sara_device *device, void *data, int byte,
                                            size_t bytes);
/* From the host, to the host, and from one place of the device to another. 0 bytes are fine. Work
 * that was begun before is done first; the host's side may be freed when the call returns. */
SARA_NODISCARD sara_status sara_device_copy_in(sara_device *device, void *to, const void *from,
                                               size_t bytes);
SARA_NODISCARD sara_status sara_device_copy_out(sara_device *device, void *to, const void *from,
                                                size_t bytes);
SARA_NODISCARD sara_status sara_device_copy_within(sara_device *device, void *to,
                                                   const void *from, size_t bytes);
/* Waits for all that was begun; an error of a kernel that returned before it was done comes here,
 * if not earlier. */
SARA_NODISCARD sara_status sara_device_synchronise(sara_device *device);

#endif

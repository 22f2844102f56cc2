#include "nn/apart.h"

#include "core/pool.h"

#include <sys/mman.h>
#include <unistd.h>

typedef struct apart_region {
    struct apart_region *next;
    char *start;
    size_t bytes;
} apart_region;

typedef struct apart {
    sara_device device; /* first: what users have */
    sara_kernels table;
    sara_device *cpu;    /* whose kernels run */
    sara_device mapping; /* where `pool` has its chunks from: gives regions */
    sara_pool pool;
    apart_region *regions;
    int users; /* kernels and copies within which we are */
} apart;

/* ------------------------------------------------------------------------------------- regions */

static sara_status apart_fail(const apart *a, const char *what)
{
    return sara_fail(a->device.ctx, SARA_ERROR_DEVICE, "device %s: %s", a->device.name, what);
}

static int protection(const apart *a)
{
    return a->users > 0 ? PROT_READ | PROT_WRITE : PROT_NONE;
}

static sara_status region_alloc(sara_device *mapping, void **out, size_t bytes)
{
    apart *a = mapping->state;
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    apart_region *region = NULL;
    sara_status status;
    TRY(sara_alloc(a->device.ctx, &region, 1, sizeof(*region)));
    bytes = (bytes + page - 1) / page * page;
    region->start = mmap(NULL, bytes, protection(a), MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (region->start == MAP_FAILED)
        TRY(sara_fail(a->device.ctx, SARA_ERROR_MEMORY, "out of memory: %zu bytes", bytes));
    region->bytes = bytes;
    region->next = a->regions;
    a->regions = region;
    *out = region->start;
    region = NULL;
done:
    sara_free(a->device.ctx, region);
    return status;
}

static void region_free(sara_device *mapping, void *data)
{
    apart *a = mapping->state;
    for (apart_region **at = &a->regions; *at; at = &(*at)->next)
        if ((*at)->start == data) {
            apart_region *region = *at;
            *at = region->next;
            munmap(region->start, region->bytes);
            sara_free(a->device.ctx, region);
            return;
        }
}

static bool is_inside(const apart *a, const void *data)
{
    for (const apart_region *r = a->regions; r; r = r->next)
        if ((const char *)data >= r->start && (const char *)data < r->start + r->bytes)
            return true;
    return false;
}

static sara_status protect(const apart *a)
{
    for (const apart_region *r = a->regions; r; r = r->next)
        if (mprotect(r->start, r->bytes, protection(a)) != 0)
            return apart_fail(a, "memory cannot be protected");
    return SARA_OK;
}

/* Between apart_enter() and apart_leave() the memory is accessible. */
static sara_status apart_enter(apart *a)
{
    return a->users++ == 0 ? protect(a) : SARA_OK;
}

/* Returns status, or the error of its own. */
static sara_status apart_leave(apart *a, sara_status status)
{
    sara_status own = --a->users == 0 ? protect(a) : SARA_OK;
    return status == SARA_OK ? own : status;
}

/* -------------------------------------------------------------------------------------- memory */

static sara_status apart_alloc(sara_device *device, void **out, size_t bytes)
{
    apart *a = device->state;
    float *data;
    sara_status status;
    TRY(sara_pool_take(&a->pool, &data, (bytes + sizeof(*data) - 1) / sizeof(*data)));
    *out = data;
done:
    return status;
}

static void apart_free(sara_device *device, void *data)
{
    apart *a = device->state;
    sara_pool_give(&a->pool, data);
    sara_pool_trim(&a->pool);
}

static sara_status apart_fill(sara_device *device, void *data, int byte, size_t bytes)
{
    apart *a = device->state;
    sara_status status;
    if (!is_inside(a, data))
        return apart_fail(a, "fill: not of its memory");
    TRY(apart_enter(a));
    memset(data, byte, bytes);
    status = apart_leave(a, status);
done:
    return status;
}

/* Tells on which sides the device's memory has to be. */
static sara_status apart_copy(sara_device *device, void *to, const void *from, size_t bytes,
                              bool to_inside, bool from_inside)
{
    apart *a = device->state;
    sara_status status;
    if (is_inside(a, to) != to_inside || is_inside(a, from) != from_inside)
        return apart_fail(a, to_inside == from_inside ? "copy within: not of its memory"
                             : to_inside              ? "copy in: not from the host to its memory"
                                         : "copy out: not from its memory to the host");
    TRY(apart_enter(a));
    memcpy(to, from, bytes);
    status = apart_leave(a, status);
done:
    return status;
}

static sara_status apart_copy_in(sara_device *device, void *to, const void *from, size_t bytes)
{
    return apart_copy(device, to, from, bytes, true, false);
}

static sara_status apart_copy_out(sara_device *device, void *to, const void *from, size_t bytes)
{
    return apart_copy(device, to, from, bytes, false, true);
}

static sara_status apart_copy_within(sara_device *device, void *to, const void *from, size_t bytes)
{
    return apart_copy(device, to, from, bytes, true, true);
}

static sara_status apart_synchronise(sara_device *device)
{
    (void)device;
    return SARA_OK;
}

static const sara_device_memory apart_memory = {.alloc = apart_alloc,
                                                .free = apart_free,
                                                .fill = apart_fill,
                                                .copy_in = apart_copy_in,
                                                .copy_out = apart_copy_out,
                                                .copy_within = apart_copy_within,
                                                .synchronise = apart_synchronise};

/* ------------------------------------------------------------------------------------- kernels */

/* The data that an argument, at this address, points to; NULL: none, or the host's. */
static const void *data_of_pointer(const void *argument)
{
    const void *data;
    memcpy(&data, argument, sizeof(data));
    return data;
}

static const void *data_of_weight(const void *argument)
{
    const sara_weight_view *w = data_of_pointer(argument);
    return w->data;
}

static const void *data_of_host(const void *argument)
{
    (void)argument;
    return NULL;
}

/* An argument of another type is an error of the compiler: it has to be told whose it is. */
#define DATA_OF(x)                                                                                 \
    _Generic((x),                                                                                  \
        float *: data_of_pointer,                                                                  \
        const float *: data_of_pointer,                                                            \
        const uint32_t *: data_of_pointer,                                                         \
        const sara_weight_view *: data_of_weight,                                                  \
        const int32_t *: data_of_host,                                                             \
        const sara_linear_shape *: data_of_host,                                                   \
        const sara_conv_shape *: data_of_host,                                                     \
        const sara_group_norm_shape *: data_of_host,                                               \
        const sara_attention_shape *: data_of_host,                                                \
        int64_t: data_of_host,                                                                     \
        size_t: data_of_host,                                                                      \
        float: data_of_host,                                                                       \
        bool: data_of_host,                                                                        \
        sara_activation: data_of_host)(&(x))

#define DATA_1(x)                                             DATA_OF(x)
#define DATA_2(x, ...)                                        DATA_OF(x), DATA_1(__VA_ARGS__)
#define DATA_3(x, ...)                                        DATA_OF(x), DATA_2(__VA_ARGS__)
#define DATA_4(x, ...)                                        DATA_OF(x), DATA_3(__VA_ARGS__)
#define DATA_5(x, ...)                                        DATA_OF(x), DATA_4(__VA_ARGS__)
#define DATA_6(x, ...)                                        DATA_OF(x), DATA_5(__VA_ARGS__)
#define DATA_7(x, ...)                                        DATA_OF(x), DATA_6(__VA_ARGS__)
#define DATA_8(x, ...)                                        DATA_OF(x), DATA_7(__VA_ARGS__)
#define DATA_9(x, ...)                                        DATA_OF(x), DATA_8(__VA_ARGS__)
#define DATA_10(x, ...)                                       DATA_OF(x), DATA_9(__VA_ARGS__)
#define DATA_11(x, ...)                                       DATA_OF(x), DATA_10(__VA_ARGS__)
#define DATA_12(x, ...)                                       DATA_OF(x), DATA_11(__VA_ARGS__)
#define PICK(a, b, c, d, e, f, g, h, i, j, k, l, chosen, ...) chosen
#define DATA_ALL(...)                                                                              \
    PICK(__VA_ARGS__, DATA_12, DATA_11, DATA_10, DATA_9, DATA_8, DATA_7, DATA_6, DATA_5, DATA_4,   \
         DATA_3, DATA_2, DATA_1, 0)                                                                \
    (__VA_ARGS__)

/* inner: the environment of the kernel that computes. */
static sara_status begin_kernel(const sara_kernel_env *env, sara_kernel_env *inner,
                                const char *name, const void *const *data, size_t count)
{
    apart *a = env->device->state;
    for (size_t i = 0; i < count; i++)
        if (data[i] && !is_inside(a, data[i]))
            return sara_fail(env->ctx, SARA_ERROR_DEVICE,
                             "device %s: %s: argument %zu is not of its memory", a->device.name,
                             name, i + 1);
    *inner = *env;
    inner->device = a->cpu;
    return apart_enter(a);
}

/* Names that no kernel's parameter has. */
#define WRAP(name, parameters, arguments, ...)                                                     \
    static sara_status apart_##name(const sara_kernel_env *env, SARA_UNPACK parameters)            \
    {                                                                                              \
        const void *const the_data[] = {DATA_ALL arguments};                                       \
        const size_t the_count = sizeof(the_data) / sizeof(*the_data);                             \
        sara_kernel_env the_env;                                                                   \
        sara_status the_status = begin_kernel(env, &the_env, #name, the_data, the_count);          \
        if (the_status != SARA_OK)                                                                 \
            return the_status;                                                                     \
        the_status = sara_kernel_##name(&the_env, SARA_UNPACK arguments);                          \
        return apart_leave(env->device->state, the_status);                                        \
    }
#define REGISTER(name, parameters, arguments, ...)                                                 \
    SARA_KERNEL_ADD(table, name, .run = apart_##name);

SARA_KERNEL_LIST(WRAP)

static void apart_register(sara_kernels *table)
{
    SARA_KERNEL_LIST(REGISTER)
}

/* -------------------------------------------------------------------------------------- device */

static void apart_close(sara_context *ctx, sara_device *device)
{
    apart *a = device->state;
    sara_pool_free(&a->pool);
    sara_nn_device_close(a->cpu);
    sara_free(ctx, a);
}

sara_status sara_apart_open(sara_context *ctx, sara_device **out)
{
    static const sara_device_memory regions = {.alloc = region_alloc, .free = region_free};
    apart *a = NULL;
    sara_status status;
    TRY(sara_alloc_zero(ctx, &a, 1, sizeof(*a)));
    TRY(sara_nn_device_open(ctx, &a->cpu, "cpu"));
    a->mapping = (sara_device){.name = "regions", .memory = &regions, .state = a, .ctx = ctx};
    sara_pool_init(&a->pool, &a->mapping);
    apart_register(&a->table);
    a->device = (sara_device){.name = "cpu-apart",
                              .memory = &apart_memory,
                              .kernels = &a->table,
                              .state = a,
                              .close = apart_close,
                              .ctx = ctx};
    *out = &a->device;
    a = NULL;
done:
    sara_free(ctx, a);
    return status;
}

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

/* Whether what an argument, at this address, points to is where it has to be. */
typedef bool (*apart_check)(const apart *a, const void *argument);

static bool is_own_or_null(const apart *a, const void *data)
{
    return !data || is_inside(a, data);
}

static bool check_pointer(const apart *a, const void *argument)
{
    const void *data;
    memcpy(&data, argument, sizeof(data));
    return is_own_or_null(a, data);
}

static bool check_weight(const apart *a, const void *argument)
{
    const sara_weight_view *const *w = argument;
    return is_own_or_null(a, (*w)->data);
}

static bool check_updates(const apart *a, const void *argument)
{
    const sara_updates *const *updates = argument;
    for (size_t i = 0; i < (*updates)->count; i++) {
        const sara_update *u = &(*updates)->items[i];
        const void *const all[] = {u->value,   u->positions, u->masters, u->gradient,
                                   u->moment1, u->moment2,   u->added};
        for (size_t k = 0; k < sizeof(all) / sizeof(*all) && u->count > 0; k++)
            if (!is_own_or_null(a, all[k]))
                return false;
    }
    return true;
}

/* The host's. */
static bool check_nothing(const apart *a, const void *argument)
{
    (void)a;
    (void)argument;
    return true;
}

typedef struct apart_argument {
    apart_check check;
    const void *at;
} apart_argument;

/* An argument of another type is an error of the compiler: it has to be told whose it is. */
#define CHECK_OF(x)                                                                                \
    _Generic((x),                                                                                  \
        float *: check_pointer,                                                                    \
        const float *: check_pointer,                                                              \
        double *: check_pointer,                                                                   \
        const uint32_t *: check_pointer,                                                           \
        const sara_weight_view *: check_weight,                                                    \
        const sara_updates *: check_updates,                                                       \
        const sara_adamw *: check_nothing,                                                         \
        const int32_t *: check_nothing,                                                            \
        const sara_linear_shape *: check_nothing,                                                  \
        const sara_conv_shape *: check_nothing,                                                    \
        const sara_group_norm_shape *: check_nothing,                                              \
        const sara_attention_shape *: check_nothing,                                               \
        int64_t: check_nothing,                                                                    \
        size_t: check_nothing,                                                                     \
        float: check_nothing,                                                                      \
        bool: check_nothing,                                                                       \
        sara_activation: check_nothing)
#define ARGUMENT(x) ((apart_argument){CHECK_OF(x), &(x)})

#define ARGUMENTS_1(x)       ARGUMENT(x)
#define ARGUMENTS_2(x, ...)  ARGUMENT(x), ARGUMENTS_1(__VA_ARGS__)
#define ARGUMENTS_3(x, ...)  ARGUMENT(x), ARGUMENTS_2(__VA_ARGS__)
#define ARGUMENTS_4(x, ...)  ARGUMENT(x), ARGUMENTS_3(__VA_ARGS__)
#define ARGUMENTS_5(x, ...)  ARGUMENT(x), ARGUMENTS_4(__VA_ARGS__)
#define ARGUMENTS_6(x, ...)  ARGUMENT(x), ARGUMENTS_5(__VA_ARGS__)
#define ARGUMENTS_7(x, ...)  ARGUMENT(x), ARGUMENTS_6(__VA_ARGS__)
#define ARGUMENTS_8(x, ...)  ARGUMENT(x), ARGUMENTS_7(__VA_ARGS__)
#define ARGUMENTS_9(x, ...)  ARGUMENT(x), ARGUMENTS_8(__VA_ARGS__)
#define ARGUMENTS_10(x, ...) ARGUMENT(x), ARGUMENTS_9(__VA_ARGS__)
#define ARGUMENTS_11(x, ...) ARGUMENT(x), ARGUMENTS_10(__VA_ARGS__)
#define ARGUMENTS_12(x, ...) ARGUMENT(x), ARGUMENTS_11(__VA_ARGS__)
#define PICK(a, b, c, d, e, f, g, h, i, j, k, l, chosen, ...) chosen
#define ARGUMENTS(...)                                                                             \
    PICK(__VA_ARGS__, ARGUMENTS_12, ARGUMENTS_11, ARGUMENTS_10, ARGUMENTS_9, ARGUMENTS_8,          \
         ARGUMENTS_7, ARGUMENTS_6, ARGUMENTS_5, ARGUMENTS_4, ARGUMENTS_3, ARGUMENTS_2,             \
         ARGUMENTS_1, 0)                                                                           \
    (__VA_ARGS__)

/* inner: the environment of the kernel that computes. */
static sara_status begin_kernel(const sara_kernel_env *env, sara_kernel_env *inner,
                                const char *name, const apart_argument *arguments, size_t count)
{
    apart *a = env->device->state;
    for (size_t i = 0; i < count; i++)
        if (!arguments[i].check(a, arguments[i].at))
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
        const apart_argument the_arguments[] = {ARGUMENTS arguments};                              \
        const size_t the_count = sizeof(the_arguments) / sizeof(*the_arguments);                   \
        sara_kernel_env the_env;                                                                   \
        sara_status the_status = begin_kernel(env, &the_env, #name, the_arguments, the_count);     \
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

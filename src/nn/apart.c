#include "nn/apart.h"

#include "core/pool.h"

#include <sys/mman.h>
#include <unistd.h>

/* Memory is there twice: users have addresses that are never accessible, and kernels and copies
 * those of the same bytes beside them. */
typedef struct apart_region {
    struct apart_region *next;
    char *shown, *real;
    size_t bytes;
} apart_region;

typedef struct apart {
    sara_device device; /* first: what users have */
    sara_kernels table;
    sara_device *cpu;    /* whose kernels run */
    sara_device mapping; /* where `pool` has its chunks from: gives regions */
    sara_pool pool;
    apart_region *regions;
} apart;

/* ------------------------------------------------------------------------------------- regions */

static sara_status apart_fail(const apart *a, const char *what)
{
    return sara_fail(a->device.ctx, SARA_ERROR_DEVICE, "device %s: %s", a->device.name, what);
}

static sara_status region_alloc(sara_device *mapping, void **out, size_t bytes)
{
    apart *a = mapping->state;
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    apart_region *region = NULL;
    sara_status status;
    TRY(sara_alloc(a->device.ctx, &region, 1, sizeof(*region)));
    bytes = (bytes + page - 1) / page * page;
    region->real =
        mmap(NULL, 2 * bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (region->real == MAP_FAILED)
        TRY(sara_fail(a->device.ctx, SARA_ERROR_MEMORY, "out of memory: %zu bytes", bytes));
    region->shown = region->real + bytes;
    region->bytes = bytes;
    if (mprotect(region->shown, bytes, PROT_NONE) != 0) {
        munmap(region->real, 2 * bytes);
        TRY(apart_fail(a, "memory cannot be protected"));
    }
    region->next = a->regions;
    a->regions = region;
    *out = region->shown;
    region = NULL;
done:
    sara_free(a->device.ctx, region);
    return status;
}

static void region_free(sara_device *mapping, void *data)
{
    apart *a = mapping->state;
    for (apart_region **at = &a->regions; *at; at = &(*at)->next)
        if ((*at)->shown == data) {
            apart_region *region = *at;
            *at = region->next;
            munmap(region->real, 2 * region->bytes);
            sara_free(a->device.ctx, region);
            return;
        }
}

/* Where the bytes are that users have at this address; NULL: not of the device's memory. */
static void *real_of(const apart *a, const void *data)
{
    const char *at = data;
    for (const apart_region *r = a->regions; r; r = r->next)
        if (at >= r->shown && at < r->shown + r->bytes)
            return r->real + (at - r->shown);
    return NULL;
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
    const apart *a = device->state;
    void *place = real_of(a, data);
    if (!place)
        return apart_fail(a, "fill: not of its memory");
    memset(place, byte, bytes);
    return SARA_OK;
}

static sara_status apart_copy_in(sara_device *device, void *to, const void *from, size_t bytes)
{
    const apart *a = device->state;
    void *place = real_of(a, to);
    if (!place || real_of(a, from))
        return apart_fail(a, "copy in: not from the host to its memory");
    memcpy(place, from, bytes);
    return SARA_OK;
}

static sara_status apart_copy_out(sara_device *device, void *to, const void *from, size_t bytes)
{
    const apart *a = device->state;
    const void *place = real_of(a, from);
    if (!place || real_of(a, to))
        return apart_fail(a, "copy out: not from its memory to the host");
    memcpy(to, place, bytes);
    return SARA_OK;
}

static sara_status apart_copy_within(sara_device *device, void *to, const void *from, size_t bytes)
{
    const apart *a = device->state;
    void *place = real_of(a, to);
    const void *source = real_of(a, from);
    if (!place || !source)
        return apart_fail(a, "copy within: not of its memory");
    memcpy(place, source, bytes);
    return SARA_OK;
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

/* A call of a kernel, whose arguments become those of the kernel that computes. */
typedef struct apart_call {
    const apart *a;
    sara_kernel_env env;
    sara_weight_view view; /* copies of what arguments point to */
    sara_updates updates;
    sara_update *items;
} apart_call;

/* Translates the argument at this address; SARA_ERROR_DEVICE where it points to other memory. */
typedef sara_status (*apart_take)(apart_call *call, void *argument);

static sara_status take_data(apart_call *call, void *argument)
{
    void *data;
    memcpy(&data, argument, sizeof(data));
    if (!data)
        return SARA_OK;
    data = real_of(call->a, data);
    memcpy(argument, &data, sizeof(data));
    return data ? SARA_OK : SARA_ERROR_DEVICE;
}

static sara_status take_weight(apart_call *call, void *argument)
{
    const sara_weight_view **w = argument;
    SARA_ASSERT(!call->view.data); /* a kernel has one */
    call->view = **w;
    *w = &call->view;
    return take_data(call, &call->view.data);
}

static sara_status take_updates(apart_call *call, void *argument)
{
    const sara_updates **updates = argument;
    sara_status status;
    TRY(sara_alloc(call->env.ctx, &call->items, (*updates)->count, sizeof(*call->items)));
    for (size_t i = 0; i < (*updates)->count; i++) {
        sara_update *u = &call->items[i];
        void *const all[] = {&u->value,   &u->positions, &u->masters, &u->gradient,
                             &u->moment1, &u->moment2,   &u->added};
        *u = (*updates)->items[i];
        for (size_t k = 0; k < sizeof(all) / sizeof(*all) && u->count > 0; k++)
            TRY(take_data(call, all[k]));
    }
    call->updates = (sara_updates){call->items, (*updates)->count};
    *updates = &call->updates;
done:
    return status;
}

/* The host's. */
static sara_status take_nothing(apart_call *call, void *argument)
{
    (void)call;
    (void)argument;
    return SARA_OK;
}

typedef struct apart_argument {
    apart_take take;
    void *at;
} apart_argument;

/* An argument of another type is an error of the compiler: it has to be told whose it is. */
#define TAKE_OF(x)                                                                                 \
    _Generic((x),                                                                                  \
        float *: take_data,                                                                    \
        const float *: take_data,                                                              \
        double *: take_data,                                                                   \
        const uint32_t *: take_data,                                                           \
        const sara_weight_view *: take_weight,                                                    \
        const sara_updates *: take_updates,                                                       \
        const sara_adamw *: take_nothing,                                                         \
        const int32_t *: take_nothing,                                                            \
        const sara_linear_shape *: take_nothing,                                                  \
        const sara_conv_shape *: take_nothing,                                                    \
        const sara_group_norm_shape *: take_nothing,                                              \
        const sara_attention_shape *: take_nothing,                                               \
        const sara_pooling_shape *: take_nothing,                                                 \
        int64_t: take_nothing,                                                                    \
        size_t: take_nothing,                                                                     \
        float: take_nothing,                                                                      \
        bool: take_nothing,                                                                       \
        sara_activation: take_nothing)
#define ARGUMENT(x) ((apart_argument){TAKE_OF(x), &(x)})

#define ARGUMENTS_1(x)                                        ARGUMENT(x)
#define ARGUMENTS_2(x, ...)                                   ARGUMENT(x), ARGUMENTS_1(__VA_ARGS__)
#define ARGUMENTS_3(x, ...)                                   ARGUMENT(x), ARGUMENTS_2(__VA_ARGS__)
#define ARGUMENTS_4(x, ...)                                   ARGUMENT(x), ARGUMENTS_3(__VA_ARGS__)
#define ARGUMENTS_5(x, ...)                                   ARGUMENT(x), ARGUMENTS_4(__VA_ARGS__)
#define ARGUMENTS_6(x, ...)                                   ARGUMENT(x), ARGUMENTS_5(__VA_ARGS__)
#define ARGUMENTS_7(x, ...)                                   ARGUMENT(x), ARGUMENTS_6(__VA_ARGS__)
#define ARGUMENTS_8(x, ...)                                   ARGUMENT(x), ARGUMENTS_7(__VA_ARGS__)
#define ARGUMENTS_9(x, ...)                                   ARGUMENT(x), ARGUMENTS_8(__VA_ARGS__)
#define ARGUMENTS_10(x, ...)                                  ARGUMENT(x), ARGUMENTS_9(__VA_ARGS__)
#define ARGUMENTS_11(x, ...)                                  ARGUMENT(x), ARGUMENTS_10(__VA_ARGS__)
#define ARGUMENTS_12(x, ...)                                  ARGUMENT(x), ARGUMENTS_11(__VA_ARGS__)
#define PICK(a, b, c, d, e, f, g, h, i, j, k, l, chosen, ...) chosen
#define ARGUMENTS(...)                                                                             \
    PICK(__VA_ARGS__, ARGUMENTS_12, ARGUMENTS_11, ARGUMENTS_10, ARGUMENTS_9, ARGUMENTS_8,          \
         ARGUMENTS_7, ARGUMENTS_6, ARGUMENTS_5, ARGUMENTS_4, ARGUMENTS_3, ARGUMENTS_2,             \
         ARGUMENTS_1, 0)                                                                           \
    (__VA_ARGS__)

/* Scratch of the kernel that computes is of its own device. */
static sara_status begin_kernel(apart_call *call, const sara_kernel_env *env, const char *name,
                                const apart_argument *arguments, size_t count)
{
    const apart *a = env->device->state;
    sara_status status = SARA_OK;
    *call = (apart_call){.a = a, .env = {.ctx = env->ctx, .device = a->cpu}};
    for (size_t i = 0; i < count && status == SARA_OK; i++) {
        status = arguments[i].take(call, arguments[i].at);
        if (status == SARA_ERROR_DEVICE)
            sara_fail(env->ctx, status, "device %s: %s: argument %zu is not of its memory",
                      a->device.name, name, i + 1);
    }
    return status;
}

/* Names that no kernel's parameter has. */
#define WRAP(name, parameters, arguments, ...)                                                     \
    static sara_status apart_##name(const sara_kernel_env *env, SARA_UNPACK parameters)            \
    {                                                                                              \
        const apart_argument the_arguments[] = {ARGUMENTS arguments};                              \
        const size_t the_count = sizeof(the_arguments) / sizeof(*the_arguments);                   \
        apart_call the_call;                                                                       \
        sara_status the_status = begin_kernel(&the_call, env, #name, the_arguments, the_count);    \
        if (the_status == SARA_OK)                                                                 \
            the_status = sara_kernel_##name(&the_call.env, SARA_UNPACK arguments);                 \
        sara_free(env->ctx, the_call.items);                                                       \
        return the_status;                                                                         \
    }
#define REGISTER(name, parameters, arguments, ...)                                                 \
    SARA_KERNEL_ADD(table, name, .run = apart_##name);

SARA_KERNEL_LIST(WRAP)

static void apart_register(sara_kernels *table)
{
    SARA_KERNEL_LIST(REGISTER)
}

/* -------------------------------------------------------------------------------------- device */

static void apart_forget(sara_device *device, const sara_param *param)
{
    apart *a = device->state;
    sara_nn_device_forget(a->cpu, param);
}

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
                              .forget = apart_forget,
                              .close = apart_close,
                              .ctx = ctx};
    *out = &a->device;
    a = NULL;
done:
    sara_free(ctx, a);
    return status;
}

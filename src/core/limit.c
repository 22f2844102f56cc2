/* How much memory there is, from Linux's /proc and control groups. */
#include "core/context.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>

/* The number after `name` at the start of a line, times unit; UINT64_MAX: there is none. */
static uint64_t limit_read_number(const char *path, const char *name, uint64_t unit)
{
    char line[256];
    uint64_t result = UINT64_MAX;
    FILE *file = fopen(path, "r");
    while (file && result == UINT64_MAX && fgets(line, sizeof(line), file)) {
        char *end, *start = line + strlen(name);
        if (strncmp(line, name, strlen(name)) != 0)
            continue;
        unsigned long long number = strtoull(start, &end, 10);
        if (end != start && number < UINT64_MAX / unit)
            result = number * unit;
    }
    if (file)
        fclose(file);
    return result;
}

/* Of a line "name N kB" of a file in /proc. */
static uint64_t read_kib(const char *root, const char *file, const char *name)
{
    char path[4096];
    snprintf(path, sizeof(path), "%s/proc/%s", root, file);
    return limit_read_number(path, name, 1024);
}

static uint64_t resident(const char *root)
{
    uint64_t bytes = read_kib(root, "self/status", "VmRSS:");
    return bytes == UINT64_MAX ? 0 : bytes;
}

/* The lowest limit from a control group up to the root ("max" is no number). */
static uint64_t lowest_limit(const char *root, const char *mount, const char *file, char *group)
{
    char path[4096];
    uint64_t lowest = UINT64_MAX;
    for (;;) {
        snprintf(path, sizeof(path), "%s/sys/fs/cgroup%s%s/%s", root, mount, group, file);
        uint64_t limit = limit_read_number(path, "", 1);
        lowest = limit < lowest ? limit : lowest;
        char *slash = strrchr(group, '/');
        if (!slash)
            return lowest;
        *slash = '\0';
    }
}

/* Of the process's groups, "0::/path" (version 2) and "4:memory:/path" (version 1). */
static uint64_t group_limit(const char *root)
{
    char line[2048], path[4096];
    uint64_t lowest = UINT64_MAX;
    snprintf(path, sizeof(path), "%s/proc/self/cgroup", root);
    FILE *file = fopen(path, "r");
    while (file && fgets(line, sizeof(line), file)) {
        char *group = strchr(line, '/');
        bool unified = strncmp(line, "0::", 3) == 0;
        if (!group || (!unified && !strstr(line, ":memory:")))
            continue;
        group[strcspn(group, "\n")] = '\0';
        uint64_t limit = unified ? lowest_limit(root, "", "memory.max", group)
                                 : lowest_limit(root, "/memory", "memory.limit_in_bytes", group);
        lowest = limit < lowest ? limit : lowest;
    }
    if (file)
        fclose(file);
    return lowest;
}

#define MIB ((uint64_t)1 << 20)
/* Addresses that come to be taken without memory behind them, beyond those that are so when it is
 * asked what there is: the allocator takes 64 MiB for each thread at once; stacks, what oneDNN
 * compiles and gaps were up to 220 MiB in all for two threads. */
#define EMPTY_BYTES        (128 * MIB)
#define EMPTY_THREAD_BYTES (64 * MIB)
/* To come as far as a message about memory. */
#define START_BYTES (24 * MIB)

/* What `ulimit -v` leaves, UINT64_MAX without one; *taken: addresses. */
static uint64_t addresses_left(uint64_t *taken)
{
    struct rlimit limit;
    *taken = read_kib("", "self/status", "VmSize:");
    if (getrlimit(RLIMIT_AS, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY ||
        *taken == UINT64_MAX)
        return UINT64_MAX;
    return limit.rlim_cur > *taken ? limit.rlim_cur - *taken : 0;
}

/* Addresses that are taken but hold nothing count in `ulimit -v`, too. */
static uint64_t process_limit(uint64_t own, int threads)
{
    uint64_t taken, left = addresses_left(&taken);
    uint64_t empty = EMPTY_BYTES + (uint64_t)threads * EMPTY_THREAD_BYTES;
    if (left == UINT64_MAX)
        return UINT64_MAX;
    left += own < taken ? own : taken;
    return left > empty ? left - empty : 0;
}

sara_status sara_check_addresses(sara_context *ctx)
{
    uint64_t taken, left = addresses_left(&taken), need = START_BYTES;
    size_t stack = 0;
    pthread_attr_t attributes;
    sara_bytes_text needed, there;
    if (pthread_attr_init(&attributes) == 0) {
        if (pthread_attr_getstacksize(&attributes, &stack) != 0)
            stack = 0;
        pthread_attr_destroy(&attributes);
    }
    need += (uint64_t)(ctx->threads - 1) * stack;
    if (need <= left)
        return SARA_OK;
    return sara_fail(ctx, SARA_ERROR_MEMORY,
                     "starting %d thread%s needs %s of addresses, the limit (ulimit -v) leaves %s",
                     ctx->threads, ctx->threads == 1 ? "" : "s", sara_bytes_format(&needed, need),
                     sara_bytes_format(&there, left));
}

uint64_t sara_memory_limit_below(const sara_context *ctx, const char *root)
{
    uint64_t free_bytes = read_kib(root, "meminfo", "MemAvailable:"), own = resident(root);
    uint64_t group = group_limit(root), process = process_limit(own, ctx->threads);
    uint64_t system = free_bytes > UINT64_MAX - own ? UINT64_MAX : free_bytes + own;
    system = system < group ? system : group;
    return system < process ? system : process;
}

uint64_t sara_memory_limit(const sara_context *ctx)
{
    return ctx->memory_limit ? ctx->memory_limit : sara_memory_limit_below(ctx, "");
}

const char *sara_bytes_format(sara_bytes_text *buffer, uint64_t bytes)
{
    double mib = (double)bytes / 1048576.0;
    sara_print(buffer->text, sizeof(buffer->text), mib < 999.5 ? "%.0f MiB" : "%.2f GiB",
               mib < 999.5 ? mib : mib / 1024);
    return buffer->text;
}

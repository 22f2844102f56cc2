/* How much memory there is, by made-up /proc and /sys/fs/cgroup, and by the real ones. */
#include "support/support.h"

#include "core/context.h"

#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#define KIB ((uint64_t)1 << 10)
#define MIB ((uint64_t)1 << 20)
#define GIB ((uint64_t)1 << 30)

typedef struct made_up {
    sara_context *ctx;
    char *root;
} made_up;

static void put(const made_up *m, const char *name, const char *text)
{
    char path[512];
    snprintf(path, sizeof(path), "%s/%s", m->root, name);
    *strrchr(path, '/') = '\0';
    assert_ok(m->ctx, sara_directory_make(m->ctx, path));
    snprintf(path, sizeof(path), "%s/%s", m->root, name);
    assert_ok(m->ctx, sara_file_write(m->ctx, path, text, strlen(text)));
}

static int limit_setup(void **state)
{
    made_up *m = calloc(1, sizeof(*m));
    assert_non_null(m);
    m->ctx = test_context();
    m->root = test_folder();
    put(m, "proc/meminfo", "MemTotal:    9000000 kB\nMemFree:  1 kB\nMemAvailable:  1000 kB\n");
    put(m, "proc/self/status", "Name:\tx\nVmHWM:\t   77 kB\nVmRSS:\t   24 kB\nThreads:\t1\n");
    *state = m;
    return 0;
}

static int limit_teardown(void **state)
{
    made_up *m = *state;
    sara_context_free(m->ctx);
    test_folder_remove(m->root);
    free(m);
    return 0;
}

static uint64_t limit_of(const made_up *m)
{
    return sara_memory_limit_below(m->ctx, m->root);
}

/* What is free and what the process has already; its kB are of 1024 bytes. */
static void test_available(void **state)
{
    const made_up *m = *state;
    assert_int_equal(limit_of(m), 1024 * KIB);
    put(m, "proc/self/status", "Name:\tx\n");
    assert_int_equal(limit_of(m), 1000 * KIB);
    put(m, "proc/meminfo", "MemTotal: 9000000 kB\n");
    assert_true(limit_of(m) == UINT64_MAX);
}

/* Version 2: the lowest limit of the group, of those above and of the root's. */
static void test_groups(void **state)
{
    const made_up *m = *state;
    put(m, "proc/self/cgroup", "0::/a/b/c\n");
    put(m, "sys/fs/cgroup/a/b/c/memory.max", "max\n");
    assert_int_equal(limit_of(m), 1024 * KIB);
    put(m, "sys/fs/cgroup/a/b/memory.max", "3000\n");
    assert_int_equal(limit_of(m), 3000);
    put(m, "sys/fs/cgroup/a/memory.max", "2000\n");
    assert_int_equal(limit_of(m), 2000);
    put(m, "sys/fs/cgroup/memory.max", "1000\n");
    assert_int_equal(limit_of(m), 1000);
    put(m, "sys/fs/cgroup/a/b/c/memory.max", "500\n");
    assert_int_equal(limit_of(m), 500);
    put(m, "proc/self/cgroup", "0::/\n");
    assert_int_equal(limit_of(m), 1000);
}

/* Version 1: the controller of memory alone, in a folder of its own. */
static void test_old_groups(void **state)
{
    const made_up *m = *state;
    put(m, "proc/self/cgroup", "5:cpu,cpuacct:/other\n4:memory:/a/b\n");
    put(m, "sys/fs/cgroup/memory/other/memory.limit_in_bytes", "10\n");
    put(m, "sys/fs/cgroup/memory/a/b/memory.limit_in_bytes", "9223372036854771712\n");
    assert_int_equal(limit_of(m), 1024 * KIB);
    put(m, "sys/fs/cgroup/memory/a/memory.limit_in_bytes", "4096\n");
    assert_int_equal(limit_of(m), 4096);
    put(m, "proc/self/cgroup", "4:memory:/a/b\n0::/c\n");
    put(m, "sys/fs/cgroup/c/memory.max", "5000\n");
    assert_int_equal(limit_of(m), 4096);
}

/* The context's word counts; without one the system's, which is more than a test needs. */
static void test_memory_limit(void **state)
{
    (void)state;
    sara_context *ctx = test_context();
    assert_true(sara_memory_limit(ctx) > MIB);
    sara_context_free(ctx);
    const sara_context_options options = {.memory_limit = 12345};
    assert_ok(ctx, sara_context_new(&ctx, &options));
    assert_int_equal(sara_memory_limit(ctx), 12345);
    sara_context_free(ctx);
}

/* As `ps` has it. */
static uint64_t addresses_taken(void)
{
    unsigned long long pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (!file || fscanf(file, "%llu", &pages) != 1)
        pages = 0;
    if (file)
        fclose(file);
    return pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

/* Of the addresses that are left, those that come to be taken without memory do not count, which
 * are 128 MiB and 64 MiB for each of two threads; and those behind which there is memory do. */
static bool process_is_limited(const made_up *m, uint64_t addresses)
{
    const struct rlimit limit = {addresses, addresses};
    put(m, "proc/meminfo", "MemAvailable: 99999999999 kB\n");
    if (setrlimit(RLIMIT_AS, &limit) != 0)
        return false;
    int64_t left = (int64_t)addresses - (int64_t)addresses_taken();
    left = (left > 0 ? left : 0) + (int64_t)(24 * KIB) - (int64_t)(256 * MIB);
    int64_t off = (int64_t)limit_of(m) - (left > 0 ? left : 0);
    return llabs(off) < (int64_t)MIB && sara_memory_limit(m->ctx) < addresses;
}

/* In a process of its own, whose limit on addresses cannot be taken back. */
static void test_limit_of_process(void **state)
{
    int code = 0;
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0)
        _exit(process_is_limited(*state, addresses_taken() + 4 * GIB) ? 0 : 1);
    assert_int_equal(waitpid(child, &code, 0), child);
    assert_true(WIFEXITED(code) && WEXITSTATUS(code) == 0);
}

#define LIMIT_CASE(name) cmocka_unit_test_setup_teardown(name, limit_setup, limit_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        LIMIT_CASE(test_available),        LIMIT_CASE(test_groups),
        LIMIT_CASE(test_old_groups),       cmocka_unit_test(test_memory_limit),
        LIMIT_CASE(test_limit_of_process),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

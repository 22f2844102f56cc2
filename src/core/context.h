/* The inside of a context, for core alone. */
#ifndef SARA_CORE_CONTEXT_H
#define SARA_CORE_CONTEXT_H

#include "core/core.h"

#include <stdatomic.h>

#define SARA_ERROR_SIZE 2048

struct sara_context {
    sara_allocator allocator;
    int threads;
    sara_log_fn log;
    sara_progress_fn progress;
    void *user;
    int64_t part, parts;   /* of work that is told as one; parts 0: it is not */
    double parts_begun;    /* on sara_clock() */
    uint64_t memory_limit; /* 0: the system's */
    atomic_int interrupted; /* from handlers and other threads, too: it is free of locks */
    sara_arena arena;
    sara_device host;
    struct sara_trace *trace; /* NULL: off */
    uint64_t param_sets; /* made so far; where the versions of the next one start */
    char error[SARA_ERROR_SIZE];
};

/* Whether there are addresses for the threads, which OpenMP would end the program for. */
SARA_NODISCARD sara_status sara_check_addresses(sara_context *ctx);

/* The system's limit by the /proc and /sys/fs/cgroup in the folder root: "", but for tests. */
uint64_t sara_memory_limit_below(const sara_context *ctx, const char *root);

/* sara_shape_count() of a shape from outside; SARA_ERROR_MEMORY if it is too large. */
SARA_NODISCARD sara_status sara_shape_elements(sara_context *ctx, size_t *out,
                                               const sara_shape *shape);

#endif

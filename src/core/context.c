#include "core/context.h"

#include "core/trace.h"

#include <omp.h>
#include <stdlib.h>
#include <unistd.h>

#ifndef SARA_VERSION
#define SARA_VERSION "0.0.0"
#endif

const char *sara_version(void)
{
    return SARA_VERSION;
}

static void *default_allocate(void *user, size_t size)
{
    (void)user;
    return malloc(size);
}

static void default_release(void *user, void *memory)
{
    (void)user;
    free(memory);
}

/* More threads than processors only slow the kernels down: OMP_NUM_THREADS=999 is cut. */
static int choose_threads(int wanted)
{
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    int limit = online > 0 ? (int)online : 1;
    int threads = wanted > 0 ? wanted : omp_get_max_threads();
    return threads > limit ? limit : threads < 1 ? 1 : threads;
}

sara_status sara_context_new(sara_context **out, const sara_context_options *options)
{
    const sara_allocator standard = {default_allocate, default_release, NULL};
    const sara_allocator *allocator =
        options && options->allocator ? options->allocator : &standard;
    sara_context *ctx = allocator->allocate(allocator->user, sizeof(*ctx));
    *out = ctx;
    if (!ctx)
        return SARA_ERROR_MEMORY;
    memset(ctx, 0, sizeof(*ctx));
    ctx->allocator = *allocator;
    ctx->threads = choose_threads(options ? options->threads : 0);
    if (options) {
        ctx->log = options->log;
        ctx->progress = options->progress;
        ctx->user = options->user;
        ctx->memory_limit = options->memory_limit;
    }
    sara_arena_init(&ctx->arena, ctx);
    ctx->host = (sara_device){.name = "host", .memory = &sara_host_memory, .ctx = ctx};
    omp_set_dynamic(0);
    omp_set_num_threads(ctx->threads);
    return sara_check_addresses(ctx);
}

void sara_context_free(sara_context *ctx)
{
    if (!ctx)
        return;
    sara_trace_stop(ctx);
    sara_arena_free(&ctx->arena);
    sara_allocator allocator = ctx->allocator;
    allocator.release(allocator.user, ctx);
}

const char *sara_context_error(const sara_context *ctx)
{
    return ctx ? ctx->error : "out of memory";
}

void sara_context_interrupt(sara_context *ctx)
{
    ctx->interrupted = 1;
}

bool sara_interrupted(const sara_context *ctx)
{
    return ctx->interrupted != 0;
}

void sara_interrupt_clear(sara_context *ctx)
{
    ctx->interrupted = 0;
}

int sara_threads(const sara_context *ctx)
{
    return ctx->threads;
}

sara_arena *sara_context_arena(sara_context *ctx)
{
    return &ctx->arena;
}

void sara_report_progress(sara_context *ctx, const sara_progress *progress)
{
    if (ctx->progress)
        ctx->progress(ctx->user, progress);
}

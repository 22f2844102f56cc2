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

static const sara_options_type context_options_type =
    SARA_OPTIONS_TYPE(sara_context_options, memory_limit);

void sara_context_options_init_sized(sara_context_options *options, size_t size)
{
    const sara_context_options defaults = {0};
    sara_options_init(options, size, &defaults, &context_options_type);
}

sara_status sara_context_new(sara_context **out, const sara_context_options *given)
{
    const sara_allocator standard = {default_allocate, default_release, NULL};
    /* of every version, so that a context can tell what is wrong with the others */
    const sara_allocator *allocator = given && given->allocator ? given->allocator : &standard;
    sara_context *ctx = allocator->allocate(allocator->user, sizeof(*ctx));
    sara_context_options options = {0};
    *out = ctx;
    if (!ctx)
        return SARA_ERROR_MEMORY;
    memset(ctx, 0, sizeof(*ctx));
    ctx->allocator = *allocator;
    sara_arena_init(&ctx->arena, ctx);
    ctx->host = (sara_device){.name = "host", .memory = &sara_host_memory, .ctx = ctx};
    if (given && sara_options_read(ctx, &options, &context_options_type, given) != SARA_OK)
        return SARA_ERROR_USAGE;
    ctx->threads = choose_threads(options.threads);
    ctx->log = options.log;
    ctx->progress = options.progress;
    ctx->user = options.user;
    ctx->memory_limit = options.memory_limit;
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
    atomic_store_explicit(&ctx->interrupted, 1, memory_order_relaxed);
}

bool sara_interrupted(const sara_context *ctx)
{
    return atomic_load_explicit(&ctx->interrupted, memory_order_relaxed) != 0;
}

void sara_interrupt_clear(sara_context *ctx)
{
    atomic_store_explicit(&ctx->interrupted, 0, memory_order_relaxed);
}

int sara_threads(const sara_context *ctx)
{
    return ctx->threads;
}

sara_arena *sara_context_arena(sara_context *ctx)
{
    return &ctx->arena;
}

void sara_progress_part(sara_context *ctx, int64_t index, int64_t count)
{
    if (count != ctx->parts || index == 0)
        ctx->parts_begun = sara_clock();
    ctx->part = index;
    ctx->parts = count;
}

/* Of all parts, at the rate of those so far. */
static sara_progress whole_progress(const sara_context *ctx, const sara_progress *progress)
{
    sara_progress whole = *progress;
    whole.step += ctx->part * progress->total;
    whole.total *= ctx->parts;
    whole.steps_per_second = (double)whole.step / (sara_clock() - ctx->parts_begun + 1e-9);
    whole.seconds_left = (double)(whole.total - whole.step) / whole.steps_per_second;
    return whole;
}

void sara_report_progress(sara_context *ctx, const sara_progress *progress)
{
    const sara_progress whole = ctx->parts ? whole_progress(ctx, progress) : *progress;
    if (ctx->progress)
        ctx->progress(ctx->user, &whole);
}

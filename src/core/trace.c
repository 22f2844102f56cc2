#include "core/trace.h"

#include "core/context.h"

#include <time.h>

#define DEPTH 16 /* of nested kernels; deeper ones are counted with what encloses them */

typedef struct open_event {
    double start, inner; /* inner: seconds of the events within */
} open_event;

struct sara_trace {
    sara_context *ctx;
    sara_trace_event *events;
    size_t count, capacity;
    int depth;
    open_event open[DEPTH];
};

double sara_clock(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

sara_status sara_trace_start(sara_context *ctx)
{
    sara_status status;
    sara_trace *trace = NULL;
    sara_trace_stop(ctx);
    TRY(sara_alloc_zero(ctx, &trace, 1, sizeof(*trace)));
    trace->ctx = ctx;
    ctx->trace = trace;
done:
    return status;
}

void sara_trace_stop(sara_context *ctx)
{
    sara_trace *trace = ctx->trace;
    if (!trace)
        return;
    ctx->trace = NULL;
    sara_free(ctx, trace->events);
    sara_free(ctx, trace);
}

const sara_trace_event *sara_trace_events(const sara_context *ctx, size_t *count)
{
    *count = ctx->trace ? ctx->trace->count : 0;
    return ctx->trace ? ctx->trace->events : NULL;
}

void sara_trace_begin(sara_context *ctx)
{
    sara_trace *trace = ctx->trace;
    if (!trace)
        return;
    if (trace->depth < DEPTH)
        trace->open[trace->depth] = (open_event){sara_clock(), 0};
    trace->depth++;
}

sara_status sara_trace_end(sara_context *ctx, const char *kind, double flops, sara_status status)
{
    sara_trace *trace = ctx->trace;
    if (!trace || --trace->depth >= DEPTH)
        return status;
    const open_event *open = &trace->open[trace->depth];
    double seconds = sara_clock() - open->start;
    if (trace->depth > 0)
        trace->open[trace->depth - 1].inner += seconds;
    if (status != SARA_OK)
        return status;
    TRY(sara_grow(ctx, &trace->events, &trace->capacity, trace->count + 1, sizeof(*trace->events)));
    trace->events[trace->count++] =
        (sara_trace_event){kind, open->start, seconds, seconds - open->inner, flops};
done:
    return status;
}

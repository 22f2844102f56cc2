/* What a pass spends its time on: one event for each kernel call, with its arithmetic. Off unless
 * started; then it costs two clock readings a call. */
#ifndef SARA_CORE_TRACE_H
#define SARA_CORE_TRACE_H

#include "core/core.h"

typedef struct sara_trace sara_trace;

typedef struct sara_trace_event {
    const char *kind; /* "conv2d", "conv2d dx", "attention", ...; a literal */
    double start;     /* seconds on sara_clock() */
    double seconds;
    double own;   /* seconds without those of events within it */
    double flops; /* additions and multiplications; 0 where memory is the limit */
} sara_trace_event;

/* Monotonic seconds from some origin. */
double sara_clock(void);
/* Forgets earlier events and records from now on, until stop. */
SARA_NODISCARD sara_status sara_trace_start(sara_context *ctx);
void sara_trace_stop(sara_context *ctx);
/* In the order in which they ended; borrowed until the next traced call. */
const sara_trace_event *sara_trace_events(const sara_context *ctx, size_t *count);

void sara_trace_begin(sara_context *ctx);
/* Returns status, or SARA_ERROR_MEMORY if the event cannot be kept. */
SARA_NODISCARD sara_status sara_trace_end(sara_context *ctx, const char *kind, double flops,
                                          sara_status status);

/* The status of a call, traced. */
#define SARA_TRACED(ctx, kind, flops, call)                                                        \
    (sara_trace_begin(ctx), sara_trace_end(ctx, kind, flops, (call)))
/* A call without a status, traced. */
#define SARA_TRACED_VOID(ctx, kind, call)                                                          \
    (sara_trace_begin(ctx), (call), sara_trace_end(ctx, kind, 0, SARA_OK))

#endif

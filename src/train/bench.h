/* What the parts of a benchmark share. */
#ifndef SARA_TRAIN_BENCH_H
#define SARA_TRAIN_BENCH_H

#include "train/trainer.h"

typedef struct bench_step {
    double seconds;
    double processor_seconds; /* of all threads */
    size_t first, end; /* its events in the trace */
} bench_step;

typedef struct bench {
    sara_context *ctx;
    const sara_bench_options *options;
    trainer t;
    bench_step *steps;                 /* [options->steps] */
    int best;                          /* the fastest */
    double load_seconds, rank_seconds; /* rank: NaN if not wanted */
    double peak_flops;                 /* of the host, a second */
    int64_t peak_bytes;                /* resident, after the steps */
} bench;

/* The kind of the event around a step; its own time is what no kernel's is. */
#define SARA_BENCH_STEP "step"

/* bench.c: states of a text: as asked for, else CLIP's and T5's (or zeros in their place), as many
 * as in training, or in drawing where no method is timed. */
int64_t sara_bench_text_length(const bench *b);
/* bench_report.c: the JSON text, sara_free(). */
SARA_NODISCARD sara_status sara_bench_report(bench *b, char **out);

#endif

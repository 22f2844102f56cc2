/* Time of the low-rank term for each shape of matrix that it may be drawn from in Stable Diffusion
 * 1.5's U-Net, and the mean over all of these matrices: bench_low_rank [DENSITY] [THREADS] */
#include "sparse/low_rank.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define RUNS 5

/* Shapes of the candidates and how many there are of each: attention and feed-forward of the 16
 * transformer blocks (five of 320 and of 640 channels, six of 1280), time embeddings. */
static const struct {
    int64_t rows, cols;
    int matrices;
} shapes[] = {
    {1280, 1280, 49}, {640, 640, 30},  {320, 320, 30},  {1280, 768, 12}, {640, 768, 10},
    {320, 768, 10},   {10240, 1280, 6}, {1280, 5120, 6}, {5120, 640, 5}, {640, 2560, 5},
    {2560, 320, 5},   {320, 1280, 10},  {640, 1280, 5}, {1280, 320, 1},
};
#define SHAPES (sizeof(shapes) / sizeof(*shapes))

typedef struct sample {
    uint32_t *positions;
    float *values, *subgradient;
    size_t count;
} sample;

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static sara_status sample_new(sara_context *ctx, sample *s, int64_t rows, int64_t cols,
                              double density)
{
    sara_status status;
    size_t entries = (size_t)(rows * cols);
    float *uniform = NULL;
    TRY(sara_alloc(ctx, &uniform, entries, sizeof(*uniform)));
    TRY(sara_alloc(ctx, &s->positions, entries, sizeof(*s->positions)));
    TRY(sara_alloc(ctx, &s->values, entries, sizeof(*s->values)));
    TRY(sara_alloc(ctx, &s->subgradient, entries, sizeof(*s->subgradient)));
    sara_draw_uniform(uniform, entries, 1, SARA_DRAW_TEST, (uint64_t)(rows * 10007 + cols));
    for (size_t i = 0; i < entries; i++) {
        if ((double)uniform[i] >= density)
            continue;
        s->positions[s->count] = (uint32_t)i;
        s->values[s->count++] = (float)(2e-3 * ((double)uniform[i] / density * 2 - 1));
    }
done:
    sara_free(ctx, uniform);
    return status;
}

static void sample_free(sara_context *ctx, sample *s)
{
    sara_free(ctx, s->positions);
    sara_free(ctx, s->values);
    sara_free(ctx, s->subgradient);
}

/* Least seconds of a call, with memory kept between calls as in training. */
static sara_status measure(sara_context *ctx, sara_arena *work, double *best, int64_t rows,
                           int64_t cols, double density)
{
    sara_status status;
    sample s = {NULL, NULL, NULL, 0};
    TRY(sample_new(ctx, &s, rows, cols, density));
    for (int run = 0; run < RUNS; run++) {
        double value, start = seconds();
        TRY(sara_nuclear_norm_in(ctx, work, &value, s.subgradient, rows, cols, s.positions,
                                 s.values, s.count));
        double taken = seconds() - start;
        sara_arena_reset(work);
        *best = run == 0 || taken < *best ? taken : *best;
    }
done:
    sample_free(ctx, &s);
    return status;
}

static sara_status measure_all(sara_context *ctx, double density)
{
    sara_status status = SARA_OK;
    sara_arena work;
    double sum = 0;
    int matrices = 0;
    sara_arena_init(&work, ctx);
    printf("low-rank term at density %g, %d threads, least of %d\n", density, sara_threads(ctx),
           RUNS);
    for (size_t i = 0; i < SHAPES; i++) {
        double best = 0;
        TRY(measure(ctx, &work, &best, shapes[i].rows, shapes[i].cols, density));
        printf("[%lld,%lld] x %d: %.1f ms\n", (long long)shapes[i].rows, (long long)shapes[i].cols,
               shapes[i].matrices, 1e3 * best);
        sum += best * shapes[i].matrices;
        matrices += shapes[i].matrices;
    }
    printf("mean of %d matrices: %.1f ms\n", matrices, 1e3 * sum / matrices);
done:
    sara_arena_free(&work);
    return status;
}

int main(int argc, char **argv)
{
    sara_context *ctx = NULL;
    sara_context_options options = {.threads = argc > 2 ? atoi(argv[2]) : 0};
    double density = argc > 1 ? atof(argv[1]) : 0.058;
    sara_status status = sara_context_new(&ctx, &options);
    if (status == SARA_OK)
        status = measure_all(ctx, density);
    if (status != SARA_OK)
        fprintf(stderr, "bench_low_rank: %s\n", ctx ? sara_context_error(ctx) : "no context");
    sara_context_free(ctx);
    return status == SARA_OK ? 0 : 1;
}

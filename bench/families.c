/* Rates at the shapes of SD3-medium at 1024x1024 pixels: linear layers against oneDNN's bare
 * product of float32 matrices, attention against that of the U-Nets of SD1.5 and SDXL, and the
 * gradient at chosen entries.
 *
 *     bench_families [THREADS]
 *
 * A rate is work over the processor's seconds of all threads, the best of several rounds in which
 * those that are compared take turns: other programs disturb it less than the time that passes. */
#include "core/trace.h"
#include "nn/onednn/onednn.h"
#include "nn/sampled.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define ROUNDS  5
#define DENSITY 0.058

#define CHECK(call)                                                                                \
    do {                                                                                           \
        if ((call) != SARA_OK) {                                                                   \
            fprintf(stderr, "bench_families: %s\n", sara_context_error(ctx));                      \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

/* Image tokens and text tokens meet the same shapes. */
static const sara_linear_shape linear_shapes[] = {
    {4096, 1536, 1536}, {4096, 1536, 6144}, {4096, 6144, 1536},
    {333, 1536, 1536},  {333, 1536, 6144},  {333, 6144, 1536},
    {256, 1280, 1280}, {256, 1280, 10240}, {256, 5120, 1280}, {77, 2048, 1280},
};

static const struct {
    const char *name;
    sara_attention_shape shape;
} attention_shapes[] = {
    {"SD1.5 at 512", {.n = 1, .t = 4096, .s = 4096, .heads = 8, .dim = 40}},
    {"SDXL at 1024", {.n = 1, .t = 4096, .s = 4096, .heads = 10, .dim = 64}},
    {"SD3-medium", {.n = 1, .t = 4429, .s = 4429, .heads = 24, .dim = 64}},
};

static double processor_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static float *draws(int64_t count, uint64_t seed)
{
    float *values = malloc((size_t)count * sizeof(*values));
    if (!values)
        exit(1);
    sara_draw_normal(values, (size_t)count, seed, SARA_DRAW_TEST, 0);
    return values;
}

/* Least seconds of what has run since `start`. */
static void take(double *least, double start)
{
    double taken = processor_seconds() - start;
    *least = *least == 0 || taken < *least ? taken : *least;
}

/* ------------------------------------------------------------------------------------ linear */

enum { FORWARD, FORWARD_BF16, FORWARD_BARE, DX, DX_BF16, DX_BARE, LINEAR_RUNS };

typedef struct linear_data {
    float *x, *y, *w, *b;
    uint16_t *halves;
} linear_data;

static void run_linear(sara_kernel_env *env, int run, const linear_data *d,
                       const sara_linear_shape *s)
{
    const sara_weight_view w = {d->w, SARA_F32, NULL}, half = {d->halves, SARA_BF16, NULL};
    const sara_matmul_shape y = {.m = s->rows, .n = s->out, .k = s->in};
    const sara_matmul_shape x = {.m = s->rows, .n = s->in, .k = s->out};
    sara_context *ctx = env->ctx;
    switch (run) {
    case FORWARD:
        CHECK(sara_kernel_linear_forward(env, d->y, d->x, &w, d->b, s));
        break;
    case FORWARD_BF16:
        CHECK(sara_kernel_linear_forward(env, d->y, d->x, &half, d->b, s));
        break;
    case FORWARD_BARE:
        CHECK(sara_onednn_matmul(env, d->y, d->x, d->w, NULL, &y));
        break;
    case DX:
        CHECK(sara_kernel_linear_dx(env, d->x, d->y, &w, s, false));
        break;
    case DX_BF16:
        CHECK(sara_kernel_linear_dx(env, d->x, d->y, &half, s, false));
        break;
    default:
        CHECK(sara_onednn_matmul(env, d->x, d->y, d->w, NULL, &x));
    }
}

static void bench_linear(sara_kernel_env *env, const sara_linear_shape *s)
{
    linear_data d = {.x = draws(s->rows * s->in, 1),
                     .y = draws(s->rows * s->out, 2),
                     .w = draws(s->in * s->out, 3),
                     .b = draws(s->out, 4),
                     .halves = malloc((size_t)(s->in * s->out) * sizeof(uint16_t))};
    double least[LINEAR_RUNS] = {0}, work = 2e-9 * (double)(s->rows * s->in) * (double)s->out;
    for (int64_t i = 0; d.halves && i < s->in * s->out; i++)
        d.halves[i] = sara_f32_to_bf16(d.w[i]);
    for (int round = 0; d.halves && round < ROUNDS; round++)
        for (int run = 0; run < LINEAR_RUNS; run++) {
            double start = processor_seconds();
            run_linear(env, run, &d, s);
            take(&least[run], start);
        }
    printf("%4lld x %4lld -> %4lld |", (long long)s->rows, (long long)s->in, (long long)s->out);
    for (int run = 0; run < LINEAR_RUNS; run++) {
        int bare = run < DX ? FORWARD_BARE : DX_BARE;
        printf(" %6.1f", work / least[run]);
        printf(run == bare ? " |" : " (%.2f)", least[bare] / least[run]);
    }
    printf("\n");
    fflush(stdout);
    free(d.x);
    free(d.y);
    free(d.w);
    free(d.b);
    free(d.halves);
}

/* --------------------------------------------------------------------------------- attention */

typedef struct attention_data {
    float *q, *k, *v, *y, *lse, *dy, *dq, *dk, *dv;
} attention_data;

static attention_data attention_new(const sara_attention_shape *s)
{
    int64_t row = s->heads * s->dim;
    return (attention_data){.q = draws(s->t * row, 1),
                            .k = draws(s->s * row, 2),
                            .v = draws(s->s * row, 3),
                            .y = draws(s->t * row, 4),
                            .lse = draws(s->heads * s->t, 5),
                            .dy = draws(s->t * row, 6),
                            .dq = draws(s->t * row, 7),
                            .dk = draws(s->s * row, 8),
                            .dv = draws(s->s * row, 9)};
}

static void attention_free(attention_data *d)
{
    free(d->q);
    free(d->k);
    free(d->v);
    free(d->y);
    free(d->lse);
    free(d->dy);
    free(d->dq);
    free(d->dk);
    free(d->dv);
}

static void bench_attention(sara_kernel_env *env)
{
    enum { SHAPES = sizeof(attention_shapes) / sizeof(*attention_shapes) };
    double forward[SHAPES] = {0}, backward[SHAPES] = {0};
    sara_context *ctx = env->ctx;
    for (int round = 0; round < ROUNDS; round++)
        for (int i = 0; i < SHAPES; i++) {
            const sara_attention_shape *s = &attention_shapes[i].shape;
            attention_data d = attention_new(s);
            double start = processor_seconds();
            CHECK(sara_kernel_attention_forward(env, d.y, d.lse, d.q, d.k, d.v, NULL, s));
            take(&forward[i], start);
            start = processor_seconds();
            CHECK(sara_kernel_attention_backward(env, d.dq, d.dk, d.dv, d.dy, d.y, d.lse, d.q, d.k,
                                                 d.v, NULL, s));
            take(&backward[i], start);
            attention_free(&d);
        }
    printf("attention: GFLOP/s forward (of SD1.5's), backward (of SD1.5's)\n");
    for (int i = 0; i < SHAPES; i++) {
        const sara_attention_shape *s = &attention_shapes[i].shape;
        double work = 4e-9 * (double)(s->heads * s->dim) * (double)(s->t * s->s);
        forward[i] = work / forward[i];
        backward[i] = 2.5 * work / backward[i];
        printf("%-12s | %6.1f (%.2f) | %6.1f (%.2f)\n", attention_shapes[i].name, forward[i],
               forward[i] / forward[0], backward[i], backward[i] / backward[0]);
    }
}

/* ----------------------------------------------------------------------------------- sampled */

static void bench_sampled(sara_kernel_env *env, const sara_linear_shape *s)
{
    int64_t entries = s->in * s->out;
    float *x = draws(s->rows * s->in, 1), *dy = draws(s->rows * s->out, 2), *dw = draws(entries, 3);
    uint32_t *positions = malloc((size_t)entries * sizeof(*positions)), state = 1;
    sara_context *ctx = env->ctx;
    double dense = 0, sampled = 0;
    size_t count = 0;
    for (int64_t e = 0; positions && e < entries; e++) {
        state = state * 1664525u + 1013904223u;
        if (state < DENSITY * 4294967296.0)
            positions[count++] = (uint32_t)e;
    }
    for (int round = 0; round < ROUNDS; round++) {
        double start = processor_seconds();
        CHECK(sara_kernel_linear_dw_sampled(env, dw, dy, x, positions, count, s));
        take(&sampled, start);
        start = processor_seconds();
        CHECK(sara_kernel_linear_dw(env, dw, dy, x, s));
        take(&dense, start);
    }
    printf("%4lld x %4lld -> %4lld | %6.2f | %6.2f (%.2f)\n", (long long)s->rows, (long long)s->in,
           (long long)s->out, 1e3 * sampled, 1e3 * dense, sampled / dense);
    fflush(stdout);
    free(x);
    free(dy);
    free(dw);
    free(positions);
}

int main(int argc, char **argv)
{
    sara_context *ctx = NULL;
    sara_context_options options = {.threads = argc > 1 ? atoi(argv[1]) : 0};
    sara_kernel_env env = {0};
    const int count = sizeof(linear_shapes) / sizeof(*linear_shapes);
    CHECK(sara_context_new(&ctx, &options));
    CHECK(sara_nn_device_open(ctx, &env.device, "cpu"));
    CHECK(sara_tape_new(ctx, &env.tape, env.device));
    env.ctx = ctx;
    printf("per processor second, %d threads, best of %d\n", sara_threads(ctx), ROUNDS);
    printf("linear: GFLOP/s forward, with bf16 weights (of the bare product), bare product |"
           " backward to the input, the same\n");
    for (int i = 0; i < count; i++)
        bench_linear(&env, &linear_shapes[i]);
    bench_attention(&env);
    printf("gradient of %.1f %% of the entries: ms | of all\n", 100 * DENSITY);
    for (int i = 0; i < count; i++)
        bench_sampled(&env, &linear_shapes[i]);
    sara_tape_free(env.tape);
    sara_nn_device_close(env.device);
    sara_context_free(ctx);
    return 0;
}

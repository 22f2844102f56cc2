/* Times the gradient of a weight at chosen entries against the dense one, over shapes of Stable
 * Diffusion 1.5's U-Net: at 64x64 latents, at 32x32 and at four of 32x32.
 *
 *     bench_sampled [DENSITY...]
 *
 * SARA_SIMD=avx2 ONEDNN_MAX_CPU_ISA=AVX2 shows what a processor without AVX-512 would do. */
#include "core/trace.h"
#include "nn/sampled.h"

#include <stdio.h>
#include <stdlib.h>

#define CHECK(call)                                                                                \
    do {                                                                                           \
        if ((call) != SARA_OK) {                                                                   \
            fprintf(stderr, "%s\n", sara_context_error(ctx));                                      \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

/* n images of side x side, as their layer in the U-Net sees them; k 1 and side^2 rows: linear */
typedef struct bench_layer {
    int64_t n, side, in, out;
    int k, stride;
} bench_layer;

static const bench_layer layers[] = {
    {1, 64, 320, 320, 3, 1},   {1, 64, 960, 320, 3, 1},    {1, 32, 640, 640, 3, 1},
    {1, 32, 1920, 640, 3, 1},  {1, 64, 320, 320, 3, 2},    {1, 16, 1280, 1280, 3, 1},
    {1, 8, 1280, 1280, 3, 1},  {1, 8, 2560, 1280, 3, 1},   {1, 4, 1280, 1280, 3, 1},
    {4, 32, 320, 320, 3, 1},   {4, 16, 640, 640, 3, 1},    {4, 8, 1280, 1280, 3, 1},
    {4, 4, 1280, 1280, 3, 1},  {1, 64, 320, 320, 1, 1},    {1, 64, 320, 2560, 1, 1},
    {1, 32, 640, 640, 1, 1},   {1, 32, 640, 5120, 1, 1},   {1, 32, 2560, 640, 1, 1},
    {1, 16, 1280, 1280, 1, 1}, {1, 16, 1280, 10240, 1, 1}, {1, 8, 1280, 10240, 1, 1},
    {1, 8, 1280, 1280, 1, 1},  {4, 16, 640, 640, 1, 1},    {4, 4, 1280, 1280, 1, 1},
};

typedef struct bench_data {
    float *x, *dy, *dense, *dw;
    uint32_t *positions;
    size_t entries, count;
} bench_data;

static sara_conv_shape shape_of(const bench_layer *l)
{
    int pad = l->k / 2;
    int64_t out = (l->side + 2 * pad - l->k) / l->stride + 1;
    if (l->k == 1)
        return (sara_conv_shape){1,      1, l->n * l->side * l->side,
                                 l->in,  1, l->n * l->side * l->side,
                                 l->out, 1, 1,
                                 1,      0, 0,
                                 0,      0};
    return (sara_conv_shape){l->n, l->side, l->side,   l->in, out, out, l->out,
                             l->k, l->k,    l->stride, pad,   pad, pad, pad};
}

static float *draws(size_t count, uint64_t seed)
{
    float *values = malloc(count * sizeof(*values));
    if (!values)
        exit(1);
    sara_draw_normal(values, count, seed, SARA_DRAW_TEST, 0);
    return values;
}

/* Every entry with probability `density`. */
static void draw_positions(bench_data *d, double density)
{
    uint32_t state = 1;
    d->count = 0;
    for (size_t e = 0; e < d->entries; e++) {
        state = state * 1664525u + 1013904223u;
        if (state < density * 4294967296.0)
            d->positions[d->count++] = (uint32_t)e;
    }
}

/* The least of several runs, in milliseconds. */
static double time_of(sara_kernel_env *env, bench_data *d, const sara_conv_shape *s, bool dense)
{
    sara_context *ctx = env->ctx;
    double least = 1e9, spent = 0;
    for (int run = 0; run < 20 && (run < 3 || spent < 60); run++) {
        double start = sara_clock();
        if (dense)
            CHECK(sara_sampled_by_dense(env, d->dw, d->dy, d->x, d->positions, d->count, s));
        else
            CHECK(sara_sampled_by_planes(env, d->dw, d->dy, d->x, d->positions, d->count, s));
        double ms = (sara_clock() - start) * 1e3;
        least = ms < least ? ms : least;
        spent += ms;
    }
    return least;
}

static void bench_one(sara_kernel_env *env, const bench_layer *l, const double *densities, int n)
{
    sara_conv_shape s = shape_of(l);
    bench_data d = {.entries = (size_t)(s.out * s.in * s.kh * s.kw)};
    d.x = draws((size_t)(s.n * s.h * s.w * s.in), 1);
    d.dy = draws((size_t)(s.n * s.oh * s.ow * s.out), 2);
    d.dw = draws(d.entries, 3);
    d.positions = malloc(d.entries * sizeof(*d.positions));
    printf("%dx %2dx%-2d %4d -> %-5d %dx%d/%d", (int)l->n, (int)l->side, (int)l->side, (int)l->in,
           (int)l->out, l->k, l->k, l->stride);
    for (int i = 0; i < n && d.positions; i++) {
        draw_positions(&d, densities[i]);
        double sampled = time_of(env, &d, &s, false), dense = time_of(env, &d, &s, true);
        bool chosen = sara_sampled_is_worth_it(&s, d.count);
        printf(" | %7.2f%c %7.2f%c", sampled, chosen ? '*' : ' ', dense, chosen ? ' ' : '*');
    }
    printf("\n");
    fflush(stdout);
    free(d.x);
    free(d.dy);
    free(d.dw);
    free(d.positions);
}

int main(int argc, char **argv)
{
    double densities[16] = {0.006, 0.023, 0.058, 0.2, 0.5};
    int n = argc > 1 ? argc - 1 < 16 ? argc - 1 : 16 : 5;
    sara_context *ctx = NULL;
    sara_kernel_env env = {0};
    for (int i = 1; i <= n && i < argc; i++)
        densities[i - 1] = atof(argv[i]);
    CHECK(sara_context_new(&ctx, NULL));
    CHECK(sara_nn_device_open(ctx, &env.device, "cpu"));
    CHECK(sara_tape_new(ctx, &env.tape, env.device));
    env.ctx = ctx;
    printf("ms sampled, dense (* is chosen) at densities");
    for (int i = 0; i < n; i++)
        printf(" %g", densities[i]);
    printf("\n");
    for (size_t i = 0; i < sizeof(layers) / sizeof(*layers); i++)
        bench_one(&env, &layers[i], densities, n);
    sara_tape_free(env.tape);
    sara_nn_device_close(env.device);
    sara_context_free(ctx);
    return 0;
}

/* Elementwise kernels: chunks in parallel, vectors within. */
#include "nn/kernels.h"
#include "nn/simd/simd.h"

#define CHUNK ((int64_t)16384)

static int64_t chunk_count(int64_t count)
{
    return (count + CHUNK - 1) / CHUNK;
}

static int64_t chunk_size(int64_t count, int64_t at)
{
    return count - at < CHUNK ? count - at : CHUNK;
}

static void activate_forward_fast(float *y, const float *x, int64_t count,
                                  sara_activation activation)
{
    const sara_simd *simd = sara_simd_best();
    int64_t chunks = chunk_count(count);
#pragma omp parallel for schedule(static) if (chunks > 1)
    for (int64_t i = 0; i < chunks; i++) {
        int64_t at = i * CHUNK;
        simd->activate(y + at, x + at, chunk_size(count, at), activation);
    }
}

static void activate_backward_fast(float *dx, const float *dy, const float *x, int64_t count,
                                   sara_activation activation, bool accumulate)
{
    const sara_simd *simd = sara_simd_best();
    int64_t chunks = chunk_count(count);
#pragma omp parallel for schedule(static) if (chunks > 1)
    for (int64_t i = 0; i < chunks; i++) {
        int64_t at = i * CHUNK;
        simd->activate_grad(dx + at, dy + at, x + at, chunk_size(count, at), activation,
                            accumulate);
    }
}

static void geglu_forward_fast(float *y, const float *x, int64_t rows, int64_t c)
{
    const sara_simd *simd = sara_simd_best();
#pragma omp parallel for schedule(static) if (rows * c > CHUNK)
    for (int64_t r = 0; r < rows; r++)
        simd->geglu(y + r * c, x + 2 * r * c, x + (2 * r + 1) * c, c);
}

static void geglu_backward_fast(float *dx, const float *dy, const float *x, int64_t rows, int64_t c,
                                bool accumulate)
{
    const sara_simd *simd = sara_simd_best();
#pragma omp parallel for schedule(static) if (rows * c > CHUNK)
    for (int64_t r = 0; r < rows; r++) {
        int64_t value = 2 * r * c, gate = value + c;
        simd->geglu_grad(dx + value, dx + gate, dy + r * c, x + value, x + gate, c, accumulate);
    }
}

static void add_fast(float *y, const float *a, const float *b, int64_t count)
{
    const sara_simd *simd = sara_simd_best();
    int64_t chunks = chunk_count(count);
#pragma omp parallel for schedule(static) if (chunks > 1)
    for (int64_t i = 0; i < chunks; i++) {
        int64_t at = i * CHUNK;
        simd->add(y + at, a + at, b + at, chunk_size(count, at));
    }
}

static void accumulate_into_fast(float *y, const float *x, int64_t count)
{
    add_fast(y, y, x, count);
}

static void add_per_sample_fast(float *y, const float *x, const float *e, int64_t n, int64_t inner,
                                int64_t c)
{
    const sara_simd *simd = sara_simd_best();
#pragma omp parallel for schedule(static) if (n * inner * c > CHUNK)
    for (int64_t r = 0; r < n * inner; r++)
        simd->add(y + r * c, x + r * c, e + r / inner * c, c);
}

/* Columns are independent: a cache-friendly strip of them at a time. */
static void add_per_sample_de_fast(float *de, const float *dy, int64_t n, int64_t inner, int64_t c)
{
    const sara_simd *simd = sara_simd_best();
    const int64_t strip = 64, strips = (c + strip - 1) / strip;
#pragma omp parallel for schedule(static) if (n * inner * c > CHUNK)
    for (int64_t i = 0; i < n * strips; i++) {
        int64_t sample = i / strips, at = i % strips * strip;
        simd->column_sums(de + sample * c + at, dy + sample * inner * c + at, c, inner,
                          c - at < strip ? c - at : strip);
    }
}

void sara_fast_pointwise_register(sara_kernels *table)
{
    table->activate_forward = activate_forward_fast;
    table->activate_backward = activate_backward_fast;
    table->geglu_forward = geglu_forward_fast;
    table->geglu_backward = geglu_backward_fast;
    table->add = add_fast;
    table->accumulate = accumulate_into_fast;
    table->add_per_sample = add_per_sample_fast;
    table->add_per_sample_de = add_per_sample_de_fast;
}

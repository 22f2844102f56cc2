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

static sara_status activate_forward_fast(const sara_kernel_env *env, float *y, const float *x,
                                         int64_t count, sara_activation activation)
{
    const sara_simd *simd = sara_simd_best();
    int64_t chunks = chunk_count(count);
#pragma omp parallel for num_threads(sara_threads(env->ctx)) schedule(static) if (chunks > 1)
    for (int64_t i = 0; i < chunks; i++) {
        int64_t at = i * CHUNK;
        simd->activate(y + at, x + at, chunk_size(count, at), activation);
    }
    return SARA_OK;
}

static sara_status activate_backward_fast(const sara_kernel_env *env, float *dx, const float *dy,
                                          const float *x, int64_t count, sara_activation activation,
                                          bool accumulate)
{
    const sara_simd *simd = sara_simd_best();
    int64_t chunks = chunk_count(count);
#pragma omp parallel for num_threads(sara_threads(env->ctx)) schedule(static) if (chunks > 1)
    for (int64_t i = 0; i < chunks; i++) {
        int64_t at = i * CHUNK;
        simd->activate_grad(dx + at, dy + at, x + at, chunk_size(count, at), activation,
                            accumulate);
    }
    return SARA_OK;
}

static sara_status geglu_forward_fast(const sara_kernel_env *env, float *y, const float *x,
                                      int64_t rows, int64_t c)
{
    const sara_simd *simd = sara_simd_best();
#pragma omp parallel for num_threads(sara_threads(env->ctx)) schedule(static) if (rows * c > CHUNK)
    for (int64_t r = 0; r < rows; r++)
        simd->geglu(y + r * c, x + 2 * r * c, x + (2 * r + 1) * c, c);
    return SARA_OK;
}

static sara_status geglu_backward_fast(const sara_kernel_env *env, float *dx, const float *dy,
                                       const float *x, int64_t rows, int64_t c, bool accumulate)
{
    const sara_simd *simd = sara_simd_best();
#pragma omp parallel for num_threads(sara_threads(env->ctx)) schedule(static) if (rows * c > CHUNK)
    for (int64_t r = 0; r < rows; r++) {
        int64_t value = 2 * r * c, gate = value + c;
        simd->geglu_grad(dx + value, dx + gate, dy + r * c, x + value, x + gate, c, accumulate);
    }
    return SARA_OK;
}

static sara_status gated_gelu_forward_fast(const sara_kernel_env *env, float *y, const float *a,
                                           const float *b, int64_t count)
{
    const sara_simd *simd = sara_simd_best();
    int64_t chunks = chunk_count(count);
#pragma omp parallel for num_threads(sara_threads(env->ctx)) schedule(static) if (chunks > 1)
    for (int64_t i = 0; i < chunks; i++) {
        int64_t at = i * CHUNK;
        simd->gated_gelu(y + at, a + at, b + at, chunk_size(count, at));
    }
    return SARA_OK;
}

static sara_status gated_gelu_backward_fast(const sara_kernel_env *env, float *da, float *db,
                                            const float *dy, const float *a, const float *b,
                                            int64_t count, bool add_a, bool add_b)
{
    const sara_simd *simd = sara_simd_best();
    int64_t chunks = chunk_count(count);
#pragma omp parallel for num_threads(sara_threads(env->ctx)) schedule(static) if (chunks > 1)
    for (int64_t i = 0; i < chunks; i++) {
        int64_t at = i * CHUNK;
        simd->gated_gelu_grad(da ? da + at : NULL, db ? db + at : NULL, dy + at, a + at, b + at,
                              chunk_size(count, at), add_a, add_b);
    }
    return SARA_OK;
}

static sara_status add_fast(const sara_kernel_env *env, float *y, const float *a, const float *b,
                            int64_t count)
{
    const sara_simd *simd = sara_simd_best();
    int64_t chunks = chunk_count(count);
#pragma omp parallel for num_threads(sara_threads(env->ctx)) schedule(static) if (chunks > 1)
    for (int64_t i = 0; i < chunks; i++) {
        int64_t at = i * CHUNK;
        simd->add(y + at, a + at, b + at, chunk_size(count, at));
    }
    return SARA_OK;
}

static sara_status accumulate_into_fast(const sara_kernel_env *env, float *y, const float *x,
                                        int64_t count)
{
    return add_fast(env, y, y, x, count);
}

static sara_status add_scaled_fast(const sara_kernel_env *env, float *y, const float *a,
                                   const float *b, int64_t count, float scale)
{
    const sara_simd *simd = sara_simd_best();
    int64_t chunks = chunk_count(count);
#pragma omp parallel for num_threads(sara_threads(env->ctx)) schedule(static) if (chunks > 1)
    for (int64_t i = 0; i < chunks; i++) {
        int64_t at = i * CHUNK;
        simd->add_scaled(y + at, a ? a + at : NULL, b + at, chunk_size(count, at), scale);
    }
    return SARA_OK;
}

static sara_status add_per_sample_fast(const sara_kernel_env *env, float *y, const float *x,
                                       const float *e, int64_t n, int64_t inner, int64_t c)
{
    const sara_simd *simd = sara_simd_best();
#pragma omp parallel for num_threads(sara_threads(env->ctx))                                       \
    schedule(static) if (n * inner * c > CHUNK)
    for (int64_t r = 0; r < n * inner; r++)
        simd->add(y + r * c, x + r * c, e + r / inner * c, c);
    return SARA_OK;
}

/* Columns are independent: a cache-friendly strip of them at a time. */
static sara_status add_per_sample_de_fast(const sara_kernel_env *env, float *de, const float *dy,
                                          int64_t n, int64_t inner, int64_t c)
{
    const sara_simd *simd = sara_simd_best();
    const int64_t strip = 64, strips = (c + strip - 1) / strip;
#pragma omp parallel for num_threads(sara_threads(env->ctx))                                       \
    schedule(static) if (n * inner * c > CHUNK)
    for (int64_t i = 0; i < n * strips; i++) {
        int64_t sample = i / strips, at = i % strips * strip;
        simd->column_sums(de + sample * c + at, dy + sample * inner * c + at, c, inner,
                          c - at < strip ? c - at : strip);
    }
    return SARA_OK;
}

void sara_fast_pointwise_register(sara_kernels *table)
{
    SARA_KERNEL_ADD(table, activate_forward, .run = activate_forward_fast);
    SARA_KERNEL_ADD(table, activate_backward, .run = activate_backward_fast);
    SARA_KERNEL_ADD(table, geglu_forward, .run = geglu_forward_fast);
    SARA_KERNEL_ADD(table, geglu_backward, .run = geglu_backward_fast);
    SARA_KERNEL_ADD(table, gated_gelu_forward, .run = gated_gelu_forward_fast);
    SARA_KERNEL_ADD(table, gated_gelu_backward, .run = gated_gelu_backward_fast);
    SARA_KERNEL_ADD(table, add, .run = add_fast);
    SARA_KERNEL_ADD(table, accumulate, .run = accumulate_into_fast);
    SARA_KERNEL_ADD(table, add_scaled, .run = add_scaled_fast);
    SARA_KERNEL_ADD(table, add_per_sample, .run = add_per_sample_fast);
    SARA_KERNEL_ADD(table, add_per_sample_de, .run = add_per_sample_de_fast);
}

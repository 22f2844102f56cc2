/* How much of a matrix two factors hold, as they are: rounded, scaled. In double, without
 * the dense product: |P - A|^2 = |P|^2 - 2 <P, A> + |A|^2, where |A|^2 follows from the factors'
 * Gram matrices. */
#include "sparse/sparse.h"

#define GRAM_ROWS 16   /* of a Gram matrix, which one thread computes */
#define ENTRIES   4096 /* of <P, A>, which one thread adds up */

static double product_dot(const float *a, const float *b, int64_t n)
{
    double sum = 0;
    for (int64_t k = 0; k < n; k++)
        sum += (double)a[k] * (double)b[k];
    return sum;
}

/* The lower triangle [rank][rank] of x^T x, x [length][rank]: each element is summed up in the
 * order of x's rows whatever the number of threads. */
static void product_fill_gram(sara_context *ctx, double *gram, const float *x, int64_t length,
                              int64_t rank)
{
    int threads = sara_threads(ctx);
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (int64_t low = 0; low < rank; low += GRAM_ROWS)
        for (int64_t i = 0; i < length; i++) {
            const float *row = x + i * rank;
            for (int64_t k = low; k < rank && k < low + GRAM_ROWS; k++) {
                double *out = gram + k * rank, value = (double)row[k];
#pragma omp simd
                for (int64_t l = 0; l <= k; l++)
                    out[l] += value * (double)row[l];
            }
        }
}

/* |up down|^2 */
static sara_status square_norm(sara_context *ctx, double *out, const float *up, const float *across,
                               int64_t rows, int64_t cols, int64_t rank)
{
    double *gram[2] = {NULL, NULL}, sum = 0;
    sara_status status;
    for (int i = 0; i < 2; i++) {
        TRY(sara_alloc_zero(ctx, &gram[i], (size_t)rank, (size_t)rank * sizeof(**gram)));
        product_fill_gram(ctx, gram[i], i ? across : up, i ? cols : rows, rank);
    }
    for (int64_t k = 0; k < rank; k++)
        for (int64_t l = 0; l <= k; l++)
            sum += gram[0][k * rank + l] * gram[1][k * rank + l] * (l < k ? 2 : 1);
    *out = sum;
done:
    sara_free(ctx, gram[0]);
    sara_free(ctx, gram[1]);
    return status;
}

static int64_t place_of(const uint32_t *positions, size_t index)
{
    return positions ? (int64_t)positions[index] : (int64_t)index;
}

/* <P, up down> */
static sara_status inner_product(sara_context *ctx, double *out, const float *up,
                                 const float *across, int64_t cols, int64_t rank,
                                 const uint32_t *positions, const float *values, size_t count)
{
    double *sums = NULL, sum = 0;
    size_t parts = (count + ENTRIES - 1) / ENTRIES;
    int threads = sara_threads(ctx);
    sara_status status;
    TRY(sara_alloc_zero(ctx, &sums, parts, sizeof(*sums)));
#pragma omp parallel for num_threads(threads)
    for (size_t part = 0; part < parts; part++)
        for (size_t i = part * ENTRIES; i < count && i < (part + 1) * ENTRIES; i++)
            sums[part] += (double)values[i] *
                          product_dot(up + place_of(positions, i) / cols * rank,
                                      across + place_of(positions, i) % cols * rank, rank);
    for (size_t part = 0; part < parts; part++)
        sum += sums[part];
    *out = sum;
done:
    sara_free(ctx, sums);
    return status;
}

sara_status sara_product_gain(sara_context *ctx, double *gain, const float *up, const float *down,
                              double scale, int64_t rows, int64_t cols, int64_t rank,
                              const uint32_t *positions, const float *values, size_t count)
{
    float *across = NULL; /* [cols][rank]: down transposed */
    double inner, square;
    sara_status status;
    TRY(sara_alloc(ctx, &across, (size_t)cols, (size_t)rank * sizeof(*across)));
    for (int64_t k = 0; k < rank; k++)
        for (int64_t j = 0; j < cols; j++)
            across[j * rank + k] = down[k * cols + j];
    TRY(square_norm(ctx, &square, up, across, rows, cols, rank));
    TRY(inner_product(ctx, &inner, up, across, cols, rank, positions, values, count));
    *gain = 2 * scale * inner - scale * scale * square;
done:
    sara_free(ctx, across);
    return status;
}

/* What a low-rank layer changes of a weight, row by row: the same bits whichever rows are computed
 * together and by how many threads. */
#include "nn/simd/simd.h"
#include "sparse/applied.h"

#include <math.h>

#define TILE 1024 /* columns whose factors stay near */
#define BAND 8    /* rows that one thread adds up for inputs' norms */

/* kohya's lora_mid: down is a 1x1 convolution, mid the other one. [rank][in][kh][kw] */
static sara_status multiply_mid(sara_context *ctx, float **out, const sara_lora_layer *layer)
{
    int64_t area = layer->kh * layer->kw, rank = layer->rank;
    sara_status status;
    TRY(sara_alloc_zero(ctx, out, (size_t)(rank * layer->in * area), sizeof(**out)));
    for (int64_t q = 0; q < rank; q++)
        for (int64_t p = 0; p < rank; p++) {
            const float *mid = layer->mid + (q * rank + p) * area;
            const float *down = layer->down + p * layer->in;
            float *to = *out + q * layer->in * area;
            for (int64_t i = 0; i < layer->in; i++)
                for (int64_t x = 0; x < area; x++)
                    to[i * area + x] += mid[x] * down[i];
        }
done:
    return status;
}

/* scale up down, or the whole change as the file has it. */
static void plain_rows(const sara_low_change *change, float *out, int64_t first, int64_t rows)
{
    const sara_lora_layer *layer = change->layer;
    int64_t cols = change->cols;
    if (layer->whole) {
        memcpy(out, layer->whole + first * cols, (size_t)(rows * cols) * sizeof(*out));
        return;
    }
    for (int64_t j = 0; j < cols; j += TILE)
        sara_simd_best()->gemm(out + j, cols, layer->up + first * layer->rank, layer->rank, 1,
                               change->down + j, cols, rows, cols - j < TILE ? cols - j : TILE,
                               layer->rank, false);
    for (int64_t i = 0; i < rows * cols; i++)
        out[i] = (float)(layer->scale * (double)out[i]);
}

/* Where V is nothing, so is what it is scaled to. */
static double low_ratio(double magnitude, double square)
{
    return square > 0 ? magnitude / sqrt(square) : 0;
}

/* sums [in]: of the squares of V = original + change in a band's rows. delta: room for them. */
static void square_inputs(double *sums, float *delta, const sara_low_change *change,
                          const sara_param *original, int64_t first)
{
    const sara_lora_layer *layer = change->layer;
    int64_t cols = change->cols, area = layer->kh * layer->kw;
    int64_t rows = layer->out - first < BAND ? layer->out - first : BAND;
    plain_rows(change, delta, first, rows);
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < cols; j++) {
            double v = (double)sara_param_get(original, (size_t)((first + i) * cols + j)) +
                       (double)delta[i * cols + j];
            sums[j / area] += v * v;
        }
}

/* Bands of rows add up for themselves, and then in their order. */
static sara_status norm_inputs(sara_context *ctx, sara_low_change *change,
                               const sara_param *original)
{
    const sara_lora_layer *layer = change->layer;
    int64_t bands = (layer->out + BAND - 1) / BAND, in = layer->in;
    int threads = sara_threads(ctx);
    size_t room = (size_t)(BAND * change->cols);
    double *sums = NULL;
    float *deltas = NULL;
    sara_status status;
    TRY(sara_alloc_zero(ctx, &sums, (size_t)(bands * in), sizeof(*sums)));
    TRY(sara_alloc(ctx, &deltas, room * (size_t)threads, sizeof(*deltas)));
    TRY(sara_alloc_zero(ctx, &change->inputs, (size_t)in, sizeof(*change->inputs)));
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (int t = 0; t < threads; t++)
        for (int64_t b = t; b < bands; b += threads)
            square_inputs(sums + b * in, deltas + (size_t)t * room, change, original, b * BAND);
    for (int64_t b = 0; b < bands; b++)
        for (int64_t i = 0; i < in; i++)
            change->inputs[i] += sums[b * in + i];
    for (int64_t i = 0; i < in; i++)
        change->inputs[i] = low_ratio((double)layer->magnitude[i], change->inputs[i]);
done:
    sara_free(ctx, sums);
    sara_free(ctx, deltas);
    return status;
}

sara_status sara_low_change_begin(sara_context *ctx, sara_low_change *out,
                                  const sara_lora_layer *layer, const sara_param *original)
{
    sara_status status = SARA_OK;
    *out = (sara_low_change){.layer = layer, .cols = layer->in * layer->kh * layer->kw};
    out->down = layer->down;
    if (layer->mid) {
        TRY(multiply_mid(ctx, &out->product, layer));
        out->down = out->product;
    }
    if (layer->magnitude && layer->magnitude_of_inputs)
        TRY(norm_inputs(ctx, out, original));
done:
    return status;
}

void sara_low_change_end(sara_context *ctx, sara_low_change *change)
{
    sara_free(ctx, change->product);
    sara_free(ctx, change->inputs);
    memset(change, 0, sizeof(*change));
}

void sara_low_change_rows(const sara_low_change *change, float *out, const float *original,
                          int64_t first, int64_t rows)
{
    const sara_lora_layer *layer = change->layer;
    int64_t cols = change->cols, area = layer->kh * layer->kw;
    plain_rows(change, out, first, rows);
    for (int64_t i = 0; layer->magnitude && i < rows; i++) {
        const float *base = original + i * cols;
        float *row = out + i * cols;
        double square = 0, ratio = 0;
        for (int64_t j = 0; j < cols && !change->inputs; j++) {
            double v = (double)base[j] + (double)row[j];
            square += v * v;
        }
        if (!change->inputs)
            ratio = low_ratio((double)layer->magnitude[first + i], square);
        for (int64_t j = 0; j < cols; j++) {
            double v = (double)base[j] + (double)row[j];
            double by = change->inputs ? change->inputs[j / area] : ratio;
            row[j] = (float)(by * v - (double)base[j]);
        }
    }
}

/* What a low-rank layer changes of a weight, row by row: the same bits whichever rows are computed
 * together and by how many threads. */
#include "nn/simd/simd.h"
#include "sparse/applied.h"

#include <math.h>

#define TILE 1024 /* columns whose factors stay near */
#define BAND 8    /* rows that one thread adds up for inputs' norms */

/* kohya's lora_mid: down is a 1x1 convolution, mid the other one. [rank][in][kh][kw] */
static void multiply_mid(float *out, const sara_lora_layer *layer)
{
    int64_t area = layer->kh * layer->kw, rank = layer->rank;
    memset(out, 0, (size_t)(rank * layer->in * area) * sizeof(*out));
    for (int64_t q = 0; q < rank; q++)
        for (int64_t p = 0; p < rank; p++) {
            const float *mid = layer->mid + (q * rank + p) * area;
            const float *down = layer->down + p * layer->in;
            float *to = out + q * layer->in * area;
            for (int64_t i = 0; i < layer->in; i++)
                for (int64_t x = 0; x < area; x++)
                    to[i * area + x] += mid[x] * down[i];
        }
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

static int64_t count_bands(const sara_lora_layer *layer)
{
    return (layer->out + BAND - 1) / BAND;
}

/* Bands of rows add up for themselves, and then in their order. */
static void norm_inputs(sara_low_change *change, const sara_param *original, int threads)
{
    const sara_lora_layer *layer = change->layer;
    int64_t bands = count_bands(layer), in = layer->in;
    double *sums = change->sums;
    memset(sums, 0, (size_t)(bands * in) * sizeof(*sums));
    memset(change->inputs, 0, (size_t)in * sizeof(*change->inputs));
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (int t = 0; t < threads; t++)
        for (int64_t b = t; b < bands; b += threads)
            square_inputs(sums + b * in, change->deltas + t * BAND * change->cols, change, original,
                          b * BAND);
    for (int64_t b = 0; b < bands; b++)
        for (int64_t i = 0; i < in; i++)
            change->inputs[i] += sums[b * in + i];
    for (int64_t i = 0; i < in; i++)
        change->inputs[i] = low_ratio((double)layer->magnitude[i], change->inputs[i]);
}

void sara_low_change_lay(sara_low_change *out, const sara_lora_layer *layer, int threads,
                         sara_applied_room *room)
{
    *out = (sara_low_change){.layer = layer, .cols = layer->in * layer->kh * layer->kw};
    out->down = layer->down;
    if (layer->mid)
        out->down = out->product =
            sara_applied_take(room, (size_t)(layer->rank * out->cols), sizeof(float));
    if (!layer->magnitude || !layer->magnitude_of_inputs)
        return;
    out->inputs = sara_applied_take(room, (size_t)layer->in, sizeof(double));
    out->sums = sara_applied_take(room, (size_t)(count_bands(layer) * layer->in), sizeof(double));
    out->deltas = sara_applied_take(room, (size_t)(threads * BAND * out->cols), sizeof(float));
}

void sara_low_change_begin(sara_low_change *change, const sara_param *original, int threads)
{
    if (change->product)
        multiply_mid(change->product, change->layer);
    if (change->inputs)
        norm_inputs(change, original, threads);
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

void sara_lora_rows(float *out, const sara_lora_layer *layer, const float *original, int64_t first,
                    int64_t rows)
{
    sara_low_change change;
    sara_low_change_lay(&change, layer, 1, &(sara_applied_room){NULL, 0});
    sara_low_change_rows(&change, out, original, first, rows);
    for (int64_t i = 0; i < rows * change.cols; i++)
        out[i] = (float)((double)original[i] + (double)out[i]);
}

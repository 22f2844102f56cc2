/* Low-rank branches with magnitudes, row by row. */
#include "nn/kernels.h"
#include "nn/weight.h"

#include <math.h>

#define PIECE      4096 /* entries of a weight's row at a time */
#define PIECE_ROWS 512

/* values [count] += scale * the row's changes from `first` on; down [rank][in], up [rank] */
static void add_row_change(float *restrict values, const float *down, const float *up, float scale,
                           int64_t first, int64_t count, int64_t in, int64_t rank)
{
    for (int64_t r = 0; r < rank; r++) {
        const float *from = down + r * in + first, factor = scale * up[r];
#pragma omp simd
        for (int64_t i = 0; i < count; i++)
            values[i] += factor * from[i];
    }
}

static double square_sum(const float *values, int64_t count)
{
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < count; i++)
        sum += (double)values[i] * (double)values[i];
    return sum;
}

static float row_norm(const sara_weight_view *w, const float *down, const float *up, float scale,
                      int64_t o, int64_t in, int64_t rank)
{
    float values[PIECE];
    double sum = 0;
    for (int64_t first = 0; first < in; first += PIECE) {
        int64_t count = in - first < PIECE ? in - first : PIECE;
        for (int64_t i = 0; i < count; i++)
            values[i] = sara_weight_at(w, o * in + first + i);
        add_row_change(values, down, up + o * rank, scale, first, count, in, rank);
        sum += square_sum(values, count);
    }
    return (float)sqrt(sum);
}

static sara_status low_rank_norm_fast(const sara_kernel_env *env, float *norm,
                                      const sara_weight_view *w, const float *down, const float *up,
                                      float scale, int64_t out, int64_t in, int64_t rank)
{
#pragma omp parallel for num_threads(sara_threads(env->ctx)) schedule(static)
    for (int64_t o = 0; o < out; o++)
        norm[o] = row_norm(w, down, up, scale, o, in, rank);
    return SARA_OK;
}

/* factor [out] = m / norm */
static sara_status take_factors(const sara_kernel_env *env, float **factor, const float *m,
                                const float *norm, int64_t out)
{
    sara_status status;
    TRY(sara_scratch(env, factor, (size_t)out));
    for (int64_t o = 0; o < out; o++)
        (*factor)[o] = norm ? m[o] / norm[o] : m[o];
done:
    return status;
}

static sara_kernel_needs scale_outputs_needs(const sara_kernel_case *c)
{
    return (sara_kernel_needs){.scratch = (size_t)c->columns};
}

static sara_status scale_outputs_fast(const sara_kernel_env *env, float *y, const float *x,
                                      const float *m, const float *norm, const float *b,
                                      int64_t rows, int64_t out)
{
    float *factor = NULL;
    sara_status status;
    TRY(take_factors(env, &factor, m, norm, out));
#pragma omp parallel for num_threads(sara_threads(env->ctx)) schedule(static)
    for (int64_t r = 0; r < rows; r++) {
        float *to = y + r * out;
        const float *from = x + r * out;
#pragma omp simd
        for (int64_t o = 0; o < out; o++)
            to[o] = from[o] * factor[o] + (b ? b[o] : 0);
    }
done:
    sara_unscratch(env, factor);
    return status;
}

static int64_t scaled_pieces(int64_t rows)
{
    return (rows + PIECE_ROWS - 1) / PIECE_ROWS;
}

/* Of one piece of rows; sum [out] is assigned, or NULL. */
static void scale_rows_backward(float *restrict sum, float *dx, const float *dy, const float *x,
                                const float *factor, int64_t rows, int64_t out, bool accumulate)
{
    if (sum)
        memset(sum, 0, (size_t)out * sizeof(*sum));
    for (int64_t r = 0; r < rows; r++) {
        const float *dy_row = dy + r * out, *x_row = sum ? x + r * out : NULL;
        float *dx_row = dx ? dx + r * out : NULL;
#pragma omp simd
        for (int64_t o = 0; o < (sum ? out : 0); o++)
            sum[o] += dy_row[o] * x_row[o];
        if (dx_row && accumulate)
#pragma omp simd
            for (int64_t o = 0; o < out; o++)
                dx_row[o] += dy_row[o] * factor[o];
        else if (dx_row)
#pragma omp simd
            for (int64_t o = 0; o < out; o++)
                dx_row[o] = dy_row[o] * factor[o];
    }
}

static sara_kernel_needs scale_outputs_backward_needs(const sara_kernel_case *c)
{
    return (sara_kernel_needs){.scratch = (size_t)((1 + scaled_pieces(c->rows)) * c->columns)};
}

static sara_status scale_outputs_backward_fast(const sara_kernel_env *env, float *dx, float *dm,
                                               const float *dy, const float *x, const float *m,
                                               const float *norm, int64_t rows, int64_t out,
                                               bool accumulate)
{
    int64_t pieces = scaled_pieces(rows);
    float *factor = NULL, *sums = NULL;
    sara_status status;
    TRY(take_factors(env, &factor, m, norm, out));
    TRY(sara_scratch(env, &sums, (size_t)(pieces * out)));
#pragma omp parallel for num_threads(sara_threads(env->ctx)) schedule(static) if (pieces > 1)
    for (int64_t p = 0; p < pieces; p++) {
        int64_t first = p * PIECE_ROWS, left = rows - first;
        scale_rows_backward(dm ? sums + p * out : NULL, dx ? dx + first * out : NULL,
                            dy + first * out, dm ? x + first * out : NULL, factor,
                            left < PIECE_ROWS ? left : PIECE_ROWS, out, accumulate);
    }
    for (int64_t p = 0; dm && p < pieces; p++)
        for (int64_t o = 0; o < out; o++)
            dm[o] += norm ? sums[p * out + o] / norm[o] : sums[p * out + o];
done:
    sara_unscratch(env, sums);
    sara_unscratch(env, factor);
    return status;
}

void sara_fast_branch_register(sara_kernels *table)
{
    SARA_KERNEL_ADD(table, low_rank_norm, NULL, NULL, low_rank_norm_fast);
    SARA_KERNEL_ADD(table, scale_outputs, NULL, scale_outputs_needs, scale_outputs_fast);
    SARA_KERNEL_ADD(table, scale_outputs_backward, NULL, scale_outputs_backward_needs,
                    scale_outputs_backward_fast);
}

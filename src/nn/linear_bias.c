/* The gradient of a bias: rows are summed in pieces, so that the result does not depend on the
 * number of threads and long sums stay accurate. */
#include "nn/kernels.h"

#define PIECE_ROWS 512

static void sum_rows(float *restrict sum, const float *dy, int64_t rows, int64_t out)
{
    int64_t r = 0;
    memset(sum, 0, (size_t)out * sizeof(*sum));
    for (; r + 4 <= rows; r += 4) {
        const float *a = dy + r * out, *b = a + out, *c = b + out, *d = c + out;
#pragma omp simd
        for (int64_t o = 0; o < out; o++)
            sum[o] += (a[o] + b[o]) + (c[o] + d[o]);
    }
    for (; r < rows; r++)
        for (int64_t o = 0; o < out; o++)
            sum[o] += dy[r * out + o];
}

static int64_t count_pieces(int64_t rows)
{
    return (rows + PIECE_ROWS - 1) / PIECE_ROWS;
}

static sara_kernel_needs bias_grad_needs(const sara_kernel_case *c)
{
    return (sara_kernel_needs){.scratch = (size_t)(count_pieces(c->rows) * c->columns)};
}

static sara_status bias_grad_fast(const sara_kernel_env *env, float *db, const float *dy,
                                  int64_t rows, int64_t out)
{
    int64_t pieces = count_pieces(rows);
    float *sums = NULL;
    sara_status status;
    TRY(sara_scratch(env, &sums, (size_t)(pieces * out)));
#pragma omp parallel for num_threads(sara_threads(env->ctx)) schedule(static) if (pieces > 1)
    for (int64_t p = 0; p < pieces; p++) {
        int64_t first = p * PIECE_ROWS, left = rows - first;
        sum_rows(sums + p * out, dy + first * out, left < PIECE_ROWS ? left : PIECE_ROWS, out);
    }
    for (int64_t p = 0; p < pieces; p++)
        for (int64_t o = 0; o < out; o++)
            db[o] += sums[p * out + o];
done:
    sara_unscratch(env, sums);
    return status;
}

void sara_fast_bias_register(sara_kernels *table)
{
    SARA_KERNEL_ADD(table, bias_grad, NULL, bias_grad_needs, bias_grad_fast);
}

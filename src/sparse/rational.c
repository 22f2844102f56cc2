/* The tables are Zolotarev's functions as in Nakatsukasa and Freund (SIAM Review 58, 2016), in
 * partial fractions: of t (1 + sum over poles of ...) with shifts low^2 sn^2/cn^2 of equally spaced
 * arguments. */
#include "sparse/rational.h"

#include "nn/simd/simd.h"

const sara_rational sara_rational_first = { /* [1e-4, 1] to [0.1166, 1] */
    0.996588803f, 1, {{2.91902415e-06f, 0.00341120727f}},
};
const sara_rational sara_rational_second = { /* [0.1166, 1] to 1 +- 1.4e-5 */
    0.250708074f, 4,
    {{0.00222001876f, 0.0631103234f},
     {0.0299586431f, 0.106188859f},
     {0.181177307f, 0.240497291f},
     {1.31126533f, 0.877418736f}},
};
const sara_rational sara_rational_wide = { /* [0.08, 1] to 1 +- 4.7e-5 */
    0.277049719f, 4,
    {{0.00129114379f, 0.0486254196f},
     {0.0188455436f, 0.0888657167f},
     {0.128153836f, 0.21588373f},
     {1.02931372f, 0.803308144f}},
};

/* Of the inverse of s + shift: the trace and the sum of squares. */
typedef struct moments {
    double trace, squares;
} moments;

static void shift_lower(sara_context *ctx, sara_block to, sara_block s, float shift, int64_t m)
{
    int threads = sara_threads(ctx);
#pragma omp parallel for num_threads(threads)
    for (int64_t i = 0; i < m; i++) {
        memcpy(to.at + i * to.ld, s.at + i * s.ld, (size_t)(i + 1) * sizeof(float));
        to.at[i * to.ld + i] += shift;
    }
}

/* w (+)= weight b, lower triangles; squares [m]: of the rows of the whole b */
static void add_lower(sara_context *ctx, sara_block w, double *squares, sara_block b, float weight,
                      int64_t m, bool first)
{
    const sara_simd *simd = sara_simd_best();
    int threads = sara_threads(ctx);
#pragma omp parallel for num_threads(threads) schedule(static, 16)
    for (int64_t i = 0; i < m; i++) {
        float *to = w.at + i * w.ld, *from = b.at + i * b.ld, below = 0;
        simd->row_dots(&below, from, from, 0, 1, i);
        squares[i] = 2 * (double)below + (double)from[i] * (double)from[i];
        for (int64_t j = 0; j <= i; j++)
            to[j] = (first ? 0 : to[j]) + weight * from[j];
    }
}

/* By partial fractions, with B_j the inverse of S + c_j: S B_j = 1 - c_j B_j and
 * B_j B_k = (B_j - B_k) / (c_k - c_j). */
static double sum_of_squares(const sara_rational *f, const moments *of, double trace, int64_t m)
{
    double a = (double)f->constant, sum = a * a * trace;
    for (int j = 0; j < f->count; j++) {
        double c = (double)f->poles[j].shift, weight = (double)f->poles[j].weight;
        sum += 2 * a * weight * ((double)m - c * of[j].trace);
        sum += weight * weight * (of[j].trace - c * of[j].squares);
        for (int k = 0; k < j; k++) {
            double product = (of[j].trace - of[k].trace) / ((double)f->poles[k].shift - c);
            sum += 2 * weight * (double)f->poles[k].weight * (of[k].trace - c * product);
        }
    }
    return sum;
}

static double trace_of(sara_block s, int64_t m)
{
    double trace = 0;
    for (int64_t i = 0; i < m; i++)
        trace += (double)s.at[i * s.ld + i];
    return trace;
}

sara_status sara_rational_apply(sara_context *ctx, sara_block w, double *sum, sara_block s,
                                const sara_rational *f, int64_t m, sara_block work, float *spare,
                                double *squares)
{
    sara_status status = SARA_OK;
    moments of[sizeof(f->poles) / sizeof(*f->poles)] = {{0, 0}};
    for (int j = 0; j < f->count; j++) {
        shift_lower(ctx, work, s, f->poles[j].shift, m);
        TRY(sara_symmetric_invert(ctx, work, m, f->poles[j].shift / 2, spare));
        of[j].trace = trace_of(work, m);
        add_lower(ctx, w, squares, work, f->poles[j].weight, m, j == 0);
        for (int64_t i = 0; i < m; i++)
            of[j].squares += squares[i];
    }
    for (int64_t i = 0; i < m; i++)
        w.at[i * w.ld + i] += f->constant;
    sara_symmetric_mirror(ctx, w, m);
    *sum = sum_of_squares(f, of, trace_of(s, m), m);
done:
    return status;
}

/* Single-threaded inner kernels of the fast paths, once per instruction set. body.h is
 * compiled for each of them over a few vector operations; simd.c chooses at run time. Arrays may
 * have any alignment and, unless said otherwise, any length.
 */
#ifndef SARA_NN_SIMD_H
#define SARA_NN_SIMD_H

#include "nn/nn.h"
#include "nn/update.h"

/* One group norm over rows of one sample; all vectors are per channel. */
typedef struct sara_simd_norm {
    const float *mean, *rstd, *w, *b; /* [c] */
    int64_t rows, c;
    bool silu;
} sara_simd_norm;

/* One block of attention scores [rows][stride], `columns` columns of it. If causal, those that
 * `seen` cuts off get weight 0. */
typedef struct sara_simd_scores {
    int64_t rows, columns, stride, seen;
    bool causal;
    float scale, slope; /* of scores, and of what is made of their gradient */
} sara_simd_scores;

/* Nanoseconds of 16 multiplications of a weight's gradient: at chosen entries, dense of a
 * convolution, dense of a linear layer. Only their ratios matter. */
typedef struct sara_simd_dw_cost {
    double sampled, conv, linear;
} sara_simd_dw_cost;

/* Entries of output rows, each the dot product of a plane of dy and a piece of one of x. */
typedef struct sara_simd_dots {
    float *dw;                   /* of all entries */
    const float *dy;             /* [rows][length] */
    const float *x;
    const uint32_t *positions;   /* of all entries */
    const uint32_t *begin, *end; /* [rows]: which entries */
    const uint32_t *offsets;     /* into x: of position base + o * row + j at j */
    uint32_t base, row;
    int64_t length;              /* a multiple of 16 */
} sara_simd_dots;

#define SARA_SIMD_SUMS 4 /* made side by side */

typedef struct sara_simd {
    const char *name;
    int64_t width; /* floats in a vector */
    sara_simd_dw_cost dw_cost;

    /* c [m][n] (+)= a [m][k] b [k][n]; rows of c and b lie ldc and ldb apart, a's element (i, p) is
     * at i * a_row + p * a_column. */
    void (*gemm)(float *c, int64_t ldc, const float *a, int64_t a_row, int64_t a_column,
                 const float *b, int64_t ldb, int64_t m, int64_t n, int64_t k, bool accumulate);
    /* out [n][stride]: columns of x [rows][n], rows lying x_stride apart */
    void (*transpose)(float *out, int64_t stride, const float *x, int64_t x_stride, int64_t rows,
                      int64_t n);
    /* Online softmax (Milakov, Gimelshein 2018) of each column, a query; row j, a key, is seen by
     * columns from j - seen. Scores become exp(scale * score - max), max and sum [columns] are
     * updated and factor [columns] is what older weights are to be multiplied by. */
    void (*softmax)(float *scores, float *max, float *sum, float *factor,
                    const sara_simd_scores *shape);
    /* Rows are queries and row i sees columns up to seen + i. p: scores become exp(scale * score -
     * lse); dp becomes slope * p * (dp - delta) */
    void (*softmax_grad)(float *p, float *dp, const float *lse, const float *delta,
                         const sara_simd_scores *shape);
    /* x [rows][stride], n columns: multiplied by factor [n] */
    void (*scale_columns)(float *x, int64_t stride, const float *factor, int64_t rows, int64_t n);
    /* y [rows][n] = x and += x, rows lying so far apart */
    void (*copy_rows)(float *y, int64_t y_stride, const float *x, int64_t x_stride, int64_t rows,
                      int64_t n);
    void (*add_rows)(float *y, int64_t y_stride, const float *x, int64_t x_stride, int64_t rows,
                     int64_t n);
    /* out [rows]: dot products of rows of a and b, n floats each */
    void (*row_dots)(float *out, const float *a, const float *b, int64_t stride, int64_t rows,
                     int64_t n);
    /* F16 or BF16 to floats */
    void (*widen)(float *out, const uint16_t *in, int64_t count, sara_dtype dtype);

    void (*add)(float *y, const float *a, const float *b, int64_t count);
    /* y = a + scale b; a NULL: zeros */
    void (*add_scaled)(float *y, const float *a, const float *b, int64_t count, float scale);
    void (*activate)(float *y, const float *x, int64_t count, sara_activation activation);
    void (*activate_grad)(float *dx, const float *dy, const float *x, int64_t count,
                          sara_activation activation, bool accumulate);
    /* y = a gelu(b); da and db are assigned or added to */
    void (*geglu)(float *y, const float *a, const float *b, int64_t count);
    void (*geglu_grad)(float *da, float *db, const float *dy, const float *a, const float *b,
                       int64_t count, bool accumulate);
    /* y = gelu(a) b, by tanh; either of da, db may be NULL */
    void (*gated_gelu)(float *y, const float *a, const float *b, int64_t count);
    void (*gated_gelu_grad)(float *da, float *db, const float *dy, const float *a, const float *b,
                            int64_t count, bool add_a, bool add_b);
    /* out [n] += sum over rows of x [rows][stride], first n columns; in double between blocks of
     * 64 rows */
    void (*column_sums)(float *out, const float *x, int64_t stride, int64_t rows, int64_t n);

    /* sum, square [c]: of x - first row and its square, over rows (few: the sums are floats) */
    void (*norm_moments)(float *sum, float *square, const float *x, int64_t rows, int64_t c);
    void (*group_norm)(float *y, const float *x, const sara_simd_norm *norm);
    /* dz is the gradient before SiLU: sum, product [c] of dz and dz * (x - mean) * rstd */
    void (*group_norm_sums)(float *sum, float *product, const float *dy, const float *x,
                            const sara_simd_norm *norm);
    /* dx (+)= rstd (w dz - dmean - (x - mean) rstd drstd), dmean and drstd [c] */
    void (*group_norm_dx)(float *dx, const float *dy, const float *x, const float *dmean,
                          const float *drstd, const sara_simd_norm *norm, bool accumulate);
    /* mean, rstd [rows] */
    void (*layer_norm)(float *y, float *mean, float *rstd, const float *x, const float *w,
                       const float *b, int64_t rows, int64_t c, float eps);
    void (*layer_norm_dx)(float *dx, const float *dy, const float *x, const float *mean,
                          const float *rstd, const float *w, int64_t rows, int64_t c,
                          bool accumulate);
    /* dw, db [c]: assigned, over rows (few) */
    void (*layer_norm_sums)(float *dw, float *db, const float *dy, const float *x,
                            const float *mean, const float *rstd, int64_t rows, int64_t c);

    /* rstd [rows]; dw [c]: assigned, over rows (few) */
    void (*rms_norm)(float *y, float *rstd, const float *x, const float *w, int64_t rows, int64_t c,
                     float eps);
    void (*rms_norm_dx)(float *dx, const float *dy, const float *x, const float *rstd,
                        const float *w, int64_t rows, int64_t c, bool accumulate);
    void (*rms_norm_sums)(float *dw, const float *dy, const float *x, const float *rstd,
                          int64_t rows, int64_t c);

    /* The transforms of nn/winograd.h; point p of a channel lies at p * step. Of `count` channels;
     * whole vectors of v and m are written and read. */
    void (*winograd_input)(float *v, int64_t step, const float *const pixels[36], int64_t count);
    /* u's rows lie u_row apart, taps' rows taps_row, the nine taps `tap`; count in whole vectors */
    void (*winograd_weights)(float *u, int64_t step, int64_t u_row, const float *taps, int64_t tap,
                             int64_t taps_row, int64_t rows, int64_t count);
    /* pixels: of a 4x4 tile, NULL outside the image; bias may be NULL */
    void (*winograd_output)(float *const pixels[16], const float *m, int64_t step,
                            const float *bias, int64_t count, bool accumulate);

    /* Nothing but multiply-adds in registers: what their number and the time tell is the most that
     * one thread can do. Returns a number that depends on all of them. */
    float (*peak)(int64_t rounds, double *flops);

    /* out [n][stride]: n floats of each row, from `from` on, as columns; count is a multiple of
     * 16 */
    void (*columns)(float *out, int64_t stride, const float *const *rows, int64_t from,
                    int64_t count, int64_t n);
    /* dw[e] += its dot product, for the entries of rows first .. last - 1. The sum of an entry does
     * not depend on its neighbours. */
    void (*sampled_dots)(const sara_simd_dots *dots, int64_t first, int64_t last);

    /* sara_adamw_entry() of each, to its bits; added may be NULL. */
    void (*adamw)(float *masters, const float *gradient, const float *added, float *moment1,
                  float *moment2, int64_t count, const sara_adamw *numbers);
    /* Adds to each sum the squares of count elements of its array times scale, in their order. */
    void (*square_sums)(double sums[SARA_SIMD_SUMS], const float *const arrays[SARA_SIMD_SUMS],
                        int64_t count, float scale);
} sara_simd;

/* The widest this machine runs, or the one the environment variable SARA_SIMD names ("generic",
 * "avx2", "avx512") if the machine runs it. */
const sara_simd *sara_simd_best(void);
/* Refuses a SARA_SIMD that names none or one that the machine does not run; empty is as unset. */
SARA_NODISCARD sara_status sara_simd_check(sara_context *ctx);

#endif

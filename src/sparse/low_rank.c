#include "sparse/low_rank.h"

#include <math.h>

#define NONE UINT32_MAX

/* A matrix without its all-zero rows and columns, transposed if it had more rows than columns;
 * singular values and vectors are the same but for zeros. */
typedef struct compact {
    uint32_t *rows, *cols; /* of the matrix -> of its compact form, NONE if all zero */
    int64_t row_count, col_count;
    bool transposed;
    int64_t m, n; /* m <= n */
    float *a;     /* [m][n], magnitudes below 1 */
    float *x;     /* [m][n], the polar factor */
    double scale; /* a times scale is the matrix; a power of two, so that a's rank is the same */
} compact;

/* Numbers the marked elements in order and unmarks the others. */
static int64_t number_used(uint32_t *map, int64_t count)
{
    int64_t used = 0;
    for (int64_t i = 0; i < count; i++)
        map[i] = map[i] ? (uint32_t)used++ : NONE;
    return used;
}

/* NaN if a value is not finite. */
static double largest_magnitude(const float *values, size_t count)
{
    double largest = 0;
    for (size_t i = 0; i < count; i++) {
        if (!isfinite(values[i]))
            return (double)NAN;
        largest = fmax(largest, fabs((double)values[i]));
    }
    return largest;
}

/* Where an entry lies in a and x; -1 in an all-zero row or column. */
static int64_t locate(const compact *c, uint32_t position, int64_t cols)
{
    uint32_t row = c->rows[position / cols], col = c->cols[position % cols];
    if (row == NONE || col == NONE)
        return -1;
    return c->transposed ? (int64_t)col * c->n + row : (int64_t)row * c->n + col;
}

static sara_status compact_fill(sara_context *ctx, compact *c, int64_t rows, int64_t cols,
                                const uint32_t *positions, const float *values, size_t count)
{
    sara_status status;
    TRY(sara_alloc_zero(ctx, &c->rows, (size_t)rows, sizeof(*c->rows)));
    TRY(sara_alloc_zero(ctx, &c->cols, (size_t)cols, sizeof(*c->cols)));
    for (size_t i = 0; i < count; i++)
        if (values[i] != 0) {
            c->rows[positions[i] / cols] = 1;
            c->cols[positions[i] % cols] = 1;
        }
    int64_t used_rows = number_used(c->rows, rows), used_cols = number_used(c->cols, cols);
    c->transposed = used_rows > used_cols;
    c->m = c->transposed ? used_cols : used_rows;
    c->n = c->transposed ? used_rows : used_cols;
    TRY(sara_alloc_zero(ctx, &c->a, (size_t)c->m, (size_t)c->n * sizeof(float)));
    TRY(sara_alloc(ctx, &c->x, (size_t)c->m, (size_t)c->n * sizeof(float)));
    for (size_t i = 0; i < count; i++)
        if (values[i] != 0)
            c->a[locate(c, positions[i], cols)] = (float)((double)values[i] / c->scale);
done:
    return status;
}

static void compact_free(sara_context *ctx, compact *c)
{
    sara_free(ctx, c->rows);
    sara_free(ctx, c->cols);
    sara_free(ctx, c->a);
    sara_free(ctx, c->x);
}

/* An SVD by LAPACK takes about 20 m m n flops, at the rate of whatever BLAS there is. */
#define ALWAYS_EXACT 160.0 /* m m n up to its cube: nothing else is faster */
#define EXACT_IN_DOUBT 512.0 /* up to its cube: where products leave singular values unresolved */

/* *nuclear is set if the exact route was taken. */
static sara_status polar_factor(sara_context *ctx, const compact *c, double *nuclear, bool *exact)
{
    sara_status status = SARA_OK;
    double work = (double)c->m * (double)c->m * (double)c->n;
    bool certain = false;
    *exact = work <= ALWAYS_EXACT * ALWAYS_EXACT * ALWAYS_EXACT;
    if (!*exact && c->n >= 2 * c->m)
        TRY(sara_polar_iterate_wide(ctx, c->x, &certain, c->a, c->m, c->n));
    if (!*exact && !certain) {
        TRY(sara_polar_iterate(ctx, c->x, &certain, c->a, c->m, c->n));
        *exact = !certain && work <= EXACT_IN_DOUBT * EXACT_IN_DOUBT * EXACT_IN_DOUBT;
    }
    if (*exact)
        TRY(sara_polar_exact(ctx, c->x, nuclear, c->a, c->m, c->n));
done:
    return status;
}

/* <A, U V^T> is the nuclear norm where the SVD has not given it. */
static double gather(float *subgradient, const compact *c, int64_t cols, const uint32_t *positions,
                     size_t count)
{
    double product = 0;
    for (size_t i = 0; i < count; i++) {
        int64_t at = locate(c, positions[i], cols);
        subgradient[i] = at < 0 ? 0 : c->x[at];
        product += at < 0 ? 0 : (double)c->a[at] * (double)c->x[at];
    }
    return product;
}

sara_status sara_nuclear_norm(sara_context *ctx, double *value, float *subgradient, int64_t rows,
                              int64_t cols, const uint32_t *positions, const float *values,
                              size_t count)
{
    sara_status status = SARA_OK;
    compact c = {.scale = 1};
    int exponent;
    double nuclear = 0, largest = largest_magnitude(values, count);
    bool exact;
    for (size_t i = 0; i < count; i++)
        if ((int64_t)positions[i] / cols >= rows)
            return sara_fail(ctx, SARA_ERROR_USAGE, "nuclear norm: position %u in a [%lld,%lld] "
                             "matrix", (unsigned)positions[i], (long long)rows, (long long)cols);
    if (!(largest > 0)) {
        for (size_t i = 0; i < count; i++)
            subgradient[i] = 0;
        *value = largest;
        goto done;
    }
    frexp(largest, &exponent);
    c.scale = ldexp(1, exponent);
    TRY(compact_fill(ctx, &c, rows, cols, positions, values, count));
    TRY(polar_factor(ctx, &c, &nuclear, &exact));
    double product = gather(subgradient, &c, cols, positions, count);
    *value = c.scale * (exact ? nuclear : product);
done:
    compact_free(ctx, &c);
    return status;
}

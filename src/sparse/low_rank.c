#include "sparse/low_rank.h"

#include <math.h>

#define NONE     UINT32_MAX
#define LINE     ((size_t)64)   /* bytes of a cache line */
#define ROUNDING ((size_t)1024) /* bytes that an arena adds, at most */

/* A matrix without its all-zero rows and columns, transposed if it had more rows than columns;
 * singular values and vectors are the same but for zeros. */
typedef struct compact {
    uint32_t *rows, *cols; /* of the matrix -> of its compact form, NONE if all zero */
    bool transposed;
    sara_columns entries;
    uint32_t *order; /* the place of each entry among those given */
    float *x;        /* the polar factor at the entries */
    double scale;    /* the entries times it are the matrix's; a power of two, for the same rank */
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

/* Where a position of the matrix lies in the compact form; false in an all-zero row or column. */
static inline bool locate(const compact *c, uint32_t position, uint32_t cols, uint32_t *row,
                          uint32_t *col)
{
    uint32_t i = position / cols, r = c->rows[i], k = c->cols[position - i * cols];
    *row = c->transposed ? k : r;
    *col = c->transposed ? r : k;
    return r != NONE && k != NONE;
}

static sara_status take_zeros(sara_arena *work, void *out, size_t count, size_t size)
{
    void *memory;
    sara_status status = sara_arena_alloc(work, out, count, size);
    memcpy(&memory, out, sizeof(memory));
    if (memory)
        memset(memory, 0, count * size);
    return status;
}

/* From the start of a cache line on. */
static sara_status take_line(sara_arena *work, float **out, size_t count)
{
    float *memory = NULL;
    sara_status status =
        sara_arena_alloc(work, &memory, count + LINE / sizeof(float), sizeof(float));
    size_t over = (uintptr_t)memory % LINE;
    *out = memory && over ? memory + (LINE - over) / sizeof(float) : memory;
    return status;
}

/* The entries sorted by column: counted, then each put behind those before it. */
static sara_status low_rank_sort_entries(sara_arena *work, compact *c, uint32_t cols,
                                         const uint32_t *positions, const float *values,
                                         size_t count)
{
    sara_status status;
    sara_columns *e = &c->entries;
    uint32_t row, col;
    TRY(take_zeros(work, &e->first, (size_t)e->n + 2, sizeof(*e->first)));
    size_t *next = e->first + 1; /* first after the sort */
    for (size_t i = 0; i < count; i++)
        if (locate(c, positions[i], cols, &row, &col))
            next[col + 1]++;
    for (int64_t j = 0; j < e->n; j++)
        next[j + 1] += next[j];
    size_t kept = next[e->n];
    TRY(sara_arena_alloc(work, &e->rows, kept, sizeof(*e->rows)));
    TRY(sara_arena_alloc(work, &e->values, kept, sizeof(*e->values)));
    TRY(sara_arena_alloc(work, &c->order, kept, sizeof(*c->order)));
    TRY(sara_arena_alloc(work, &c->x, kept, sizeof(*c->x)));
    for (size_t i = 0; i < count; i++)
        if (locate(c, positions[i], cols, &row, &col)) {
            size_t at = next[col]++;
            e->rows[at] = row;
            e->values[at] = (float)((double)values[i] / c->scale);
            c->order[at] = (uint32_t)i;
        }
done:
    return status;
}

static sara_status compact_fill(sara_arena *work, compact *c, int64_t rows, int64_t cols,
                                const uint32_t *positions, const float *values, size_t count)
{
    sara_status status;
    TRY(take_zeros(work, &c->rows, (size_t)rows, sizeof(*c->rows)));
    TRY(take_zeros(work, &c->cols, (size_t)cols, sizeof(*c->cols)));
    for (size_t i = 0; i < count; i++)
        if (values[i] != 0) {
            uint32_t row = positions[i] / (uint32_t)cols;
            c->rows[row] = 1;
            c->cols[positions[i] - row * (uint32_t)cols] = 1;
        }
    int64_t used_rows = number_used(c->rows, rows), used_cols = number_used(c->cols, cols);
    c->transposed = used_rows > used_cols;
    c->entries.m = c->transposed ? used_cols : used_rows;
    c->entries.n = c->transposed ? used_rows : used_cols;
    TRY(low_rank_sort_entries(work, c, (uint32_t)cols, positions, values, count));
done:
    return status;
}

/* An SVD by LAPACK takes about 20 m m n flops, at the rate of whatever BLAS there is. */
#define ALWAYS_EXACT 160.0 /* m m n up to its cube: nothing else is faster */
#define EXACT_IN_DOUBT 512.0 /* up to its cube: where products leave singular values unresolved */

static sara_status exact_factor(sara_context *ctx, sara_arena *work, const compact *c,
                                double *nuclear)
{
    sara_status status;
    const sara_columns *e = &c->entries;
    float *a = NULL, *x = NULL;
    TRY(take_zeros(work, &a, (size_t)e->m, (size_t)e->n * sizeof(float)));
    TRY(sara_arena_alloc(work, &x, (size_t)e->m, (size_t)e->n * sizeof(float)));
    for (int64_t j = 0; j < e->n; j++)
        for (size_t i = e->first[j]; i < e->first[j + 1]; i++)
            a[e->rows[i] * e->n + j] = e->values[i];
    TRY(sara_polar_exact(ctx, work, x, nuclear, a, e->m, e->n));
    for (int64_t j = 0; j < e->n; j++)
        for (size_t i = e->first[j]; i < e->first[j + 1]; i++)
            c->x[i] = x[e->rows[i] * e->n + j];
done:
    return status;
}

/* *nuclear is set if the exact route was taken. */
static sara_status polar_factor(sara_context *ctx, sara_arena *work, const compact *c,
                                double *nuclear, bool *exact)
{
    sara_status status = SARA_OK;
    const sara_columns *e = &c->entries;
    double size = (double)e->m * (double)e->m * (double)e->n;
    bool certain = false;
    float *memory;
    *exact = size <= ALWAYS_EXACT * ALWAYS_EXACT * ALWAYS_EXACT;
    if (!*exact)
        TRY(take_line(work, &memory, sara_polar_floats(e->m)));
    if (!*exact && 2 * e->n >= 3 * e->m)
        TRY(sara_polar_rational(ctx, memory, c->x, &certain, e, true));
    if (!*exact && !certain) {
        TRY(sara_polar_rational(ctx, memory, c->x, &certain, e, false));
        *exact = !certain && size <= EXACT_IN_DOUBT * EXACT_IN_DOUBT * EXACT_IN_DOUBT;
    }
    if (*exact)
        TRY(exact_factor(ctx, work, c, nuclear));
done:
    return status;
}

/* <A, U V^T> is the nuclear norm where the SVD has not given it. */
static double give_back(float *subgradient, const compact *c, size_t count)
{
    const sara_columns *e = &c->entries;
    double product = 0;
    memset(subgradient, 0, count * sizeof(*subgradient)); /* of entries left out */
    for (size_t i = 0; i < e->first[e->n]; i++) {
        subgradient[c->order[i]] = c->x[i];
        product += (double)e->values[i] * (double)c->x[i];
    }
    return product;
}

sara_status sara_nuclear_norm_in(sara_context *ctx, sara_arena *work, double *value,
                                 float *subgradient, int64_t rows, int64_t cols,
                                 const uint32_t *positions, const float *values, size_t count)
{
    sara_status status = SARA_OK;
    compact c = {.scale = 1};
    int exponent;
    double nuclear = 0, largest = largest_magnitude(values, count);
    bool exact;
    for (size_t i = 0; i < count; i++)
        if ((int64_t)positions[i] >= rows * cols)
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
    TRY(compact_fill(work, &c, rows, cols, positions, values, count));
    TRY(polar_factor(ctx, work, &c, &nuclear, &exact));
    double product = give_back(subgradient, &c, count);
    *value = c.scale * (exact ? nuclear : product);
done:
    return status;
}

sara_status sara_nuclear_norm(sara_context *ctx, double *value, float *subgradient, int64_t rows,
                              int64_t cols, const uint32_t *positions, const float *values,
                              size_t count)
{
    sara_arena work;
    sara_arena_init(&work, ctx);
    sara_status status =
        sara_nuclear_norm_in(ctx, &work, value, subgradient, rows, cols, positions, values, count);
    sara_arena_free(&work);
    return status;
}

/* The entries sorted, the matrices of the rational functions, and where these may leave it in doubt
 * those of an SVD in double. */
size_t sara_nuclear_norm_bytes(int64_t rows, int64_t cols, size_t count)
{
    int64_t m = rows < cols ? rows : cols, n = rows < cols ? cols : rows;
    double work = (double)m * (double)m * (double)n;
    size_t bytes = sara_polar_floats(m) * sizeof(float) + ROUNDING;
    bytes += (size_t)(2 * n) * sizeof(size_t) + count * 4 * sizeof(float);
    if (work <= EXACT_IN_DOUBT * EXACT_IN_DOUBT * EXACT_IN_DOUBT)
        bytes += (size_t)(m * n) * 3 * sizeof(double) + (size_t)(m * m) * 6 * sizeof(double);
    return bytes;
}

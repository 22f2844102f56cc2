/* The truncated singular value decomposition by the eigenvectors of the Gram matrix of the shorter
 * side, in double: of a sparse matrix that costs little more than the eigenvectors. Squaring leaves
 * singular values down to 1e-7 of the largest; they are taken from projections, which are exact. */
#include "sparse/low_rank.h"

#include <lapacke.h>
#include <limits.h>
#include <math.h>

#define GRAM_ROWS  64    /* of a block that one thread computes */
#define NEGLIGIBLE 1e-10 /* of the largest singular value: rounding */

typedef struct truncation {
    int64_t m, n, rank; /* m <= n: the sides, transposed if there are more rows than columns */
    bool transposed;
    sara_columns entries;
    double *gram;        /* [m][m], the lower triangle */
    double *vectors;     /* [m][rank]: of the shorter side, the largest first */
    double *projections; /* [n][rank]: the matrix's columns on them */
    double *singular;    /* [rank] */
} truncation;

/* The rows of each column ascend as the positions do. */
static sara_status truncate_sort_entries(sara_context *ctx, truncation *t, int64_t cols,
                                         const uint32_t *positions, const float *values,
                                         size_t count)
{
    sara_status status;
    sara_columns *e = &t->entries;
    TRY(sara_alloc_zero(ctx, &e->first, (size_t)t->n + 2, sizeof(*e->first)));
    TRY(sara_alloc(ctx, &e->rows, count, sizeof(*e->rows)));
    TRY(sara_alloc(ctx, &e->values, count, sizeof(*e->values)));
    size_t *next = e->first + 1; /* first after the sort */
    for (size_t i = 0; i < count; i++) {
        size_t place = positions ? positions[i] : i;
        int64_t row = (int64_t)place / cols, col = (int64_t)place % cols;
        next[(t->transposed ? row : col) + 1]++;
    }
    for (int64_t j = 0; j < t->n; j++)
        next[j + 1] += next[j];
    for (size_t i = 0; i < count; i++) {
        size_t place = positions ? positions[i] : i;
        int64_t row = (int64_t)place / cols, col = (int64_t)place % cols;
        size_t at = next[t->transposed ? row : col]++;
        e->rows[at] = (uint32_t)(t->transposed ? col : row);
        e->values[at] = values[i];
    }
done:
    return status;
}

/* One column's part of the rows from low to high - 1. */
static void gram_column(double *gram, int64_t m, const uint32_t *rows, const float *values,
                        size_t count, int64_t low, int64_t high)
{
    for (size_t a = 0; a < count && rows[a] < high; a++) {
        double *row = gram + rows[a] * m, value = (double)values[a];
        if (rows[a] < low)
            continue;
        for (size_t b = 0; b <= a; b++)
            row[rows[b]] += value * (double)values[b];
    }
}

/* The same for four columns that have all rows, so that the products are vectors'. */
static void gram_full_columns(double *gram, int64_t m, const float *values, int64_t low,
                              int64_t high)
{
    const float *c0 = values, *c1 = c0 + m, *c2 = c1 + m, *c3 = c2 + m;
    for (int64_t i = low; i < high; i++) {
        const double a0 = (double)c0[i], a1 = (double)c1[i], a2 = (double)c2[i];
        const double a3 = (double)c3[i];
        double *row = gram + i * m;
        for (int64_t j = 0; j <= i; j++)
            row[j] = (((row[j] + a0 * (double)c0[j]) + a1 * (double)c1[j]) + a2 * (double)c2[j]) +
                     a3 * (double)c3[j];
    }
}

static void gram_rows(const truncation *t, int64_t low)
{
    const sara_columns *e = &t->entries;
    int64_t high = low + GRAM_ROWS < t->m ? low + GRAM_ROWS : t->m, j = 0;
    bool full = e->first[t->n] == (size_t)(t->m * t->n);
    for (; full && j + 4 <= t->n; j += 4)
        gram_full_columns(t->gram, t->m, e->values + e->first[j], low, high);
    for (; j < t->n; j++)
        gram_column(t->gram, t->m, e->rows + e->first[j], e->values + e->first[j],
                    e->first[j + 1] - e->first[j], low, high);
}

/* Each element is summed up in the order of the columns whatever the number of threads. */
static void truncate_fill_gram(sara_context *ctx, const truncation *t)
{
    int threads = sara_threads(ctx);
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (int64_t low = 0; low < t->m; low += GRAM_ROWS)
        gram_rows(t, low);
}

static sara_status truncate_check_info(sara_context *ctx, lapack_int info, int64_t m)
{
    if (info == 0)
        return SARA_OK;
    return sara_fail(ctx, SARA_ERROR_DEVICE,
                     "eigenvectors of a [%lld,%lld] matrix: dsyevr info %lld", (long long)m,
                     (long long)m, (long long)info);
}

/* z [rank][m], ascending by eigenvalue; the lower triangle row by row is the upper column by
 * column. */
static sara_status find_eigenvectors(sara_context *ctx, const truncation *t, double *z)
{
    sara_status status;
    lapack_int m = (lapack_int)t->m, rank = (lapack_int)t->rank, found, wanted_integers;
    double wanted, *eigenvalues = NULL, *work = NULL;
    lapack_int *support = NULL, *integers = NULL;
    TRY(sara_alloc(ctx, &eigenvalues, (size_t)m, sizeof(*eigenvalues)));
    TRY(sara_alloc(ctx, &support, 2 * (size_t)m, sizeof(*support)));
    TRY(truncate_check_info(ctx,
                            LAPACKE_dsyevr_work(LAPACK_COL_MAJOR, 'V', 'I', 'U', m, t->gram, m, 0,
                                                0, m - rank + 1, m, 0, &found, eigenvalues, z, m,
                                                support, &wanted, -1, &wanted_integers, -1),
                            m));
    TRY(sara_alloc(ctx, &work, (size_t)wanted, sizeof(*work)));
    TRY(sara_alloc(ctx, &integers, (size_t)wanted_integers, sizeof(*integers)));
    TRY(truncate_check_info(ctx,
                            LAPACKE_dsyevr_work(LAPACK_COL_MAJOR, 'V', 'I', 'U', m, t->gram, m, 0,
                                                0, m - rank + 1, m, 0, &found, eigenvalues, z, m,
                                                support, work, (lapack_int)wanted, integers,
                                                wanted_integers),
                            m));
done:
    sara_free(ctx, eigenvalues);
    sara_free(ctx, support);
    sara_free(ctx, work);
    sara_free(ctx, integers);
    return status;
}

static sara_status find_vectors(sara_context *ctx, const truncation *t)
{
    sara_status status;
    double *z = NULL;
    TRY(sara_alloc(ctx, &z, (size_t)t->rank, (size_t)t->m * sizeof(*z)));
    TRY(find_eigenvectors(ctx, t, z));
    for (int64_t i = 0; i < t->m; i++)
        for (int64_t k = 0; k < t->rank; k++)
            t->vectors[i * t->rank + k] = z[(t->rank - 1 - k) * t->m + i];
done:
    sara_free(ctx, z);
    return status;
}

static void project(sara_context *ctx, const truncation *t)
{
    const sara_columns *e = &t->entries;
    int threads = sara_threads(ctx);
#pragma omp parallel for num_threads(threads)
    for (int64_t j = 0; j < t->n; j++) {
        double *out = t->projections + j * t->rank;
        memset(out, 0, (size_t)t->rank * sizeof(*out));
        for (size_t i = e->first[j]; i < e->first[j + 1]; i++) {
            const double *vector = t->vectors + e->rows[i] * t->rank;
            double value = (double)e->values[i];
            for (int64_t k = 0; k < t->rank; k++)
                out[k] += value * vector[k];
        }
    }
    memset(t->singular, 0, (size_t)t->rank * sizeof(*t->singular));
    for (int64_t j = 0; j < t->n; j++)
        for (int64_t k = 0; k < t->rank; k++)
            t->singular[k] += t->projections[j * t->rank + k] * t->projections[j * t->rank + k];
    for (int64_t k = 0; k < t->rank; k++)
        t->singular[k] = sqrt(t->singular[k]);
}

/* Element [i][k] of a factor [length][rank], which for `down` lies as [rank][length]. */
static void write_factor(float *out, bool down, const double *in, int64_t length, int64_t rank,
                         const double *scale)
{
    for (int64_t i = 0; i < length; i++)
        for (int64_t k = 0; k < rank; k++)
            out[down ? k * length + i : i * rank + k] = (float)(in[i * rank + k] * scale[k]);
}

static sara_status write_factors(sara_context *ctx, float *up, float *down, truncation *t)
{
    sara_status status;
    double *shorter = NULL, *longer = NULL;
    TRY(sara_alloc_zero(ctx, &shorter, (size_t)t->rank, sizeof(*shorter)));
    TRY(sara_alloc_zero(ctx, &longer, (size_t)t->rank, sizeof(*longer)));
    for (int64_t k = 0; k < t->rank; k++) {
        if (!(t->singular[k] > NEGLIGIBLE * t->singular[0])) {
            t->singular[k] = 0;
            continue;
        }
        shorter[k] = sqrt(t->singular[k]);
        longer[k] = 1 / shorter[k];
    }
    write_factor(t->transposed ? down : up, t->transposed, t->vectors, t->m, t->rank, shorter);
    write_factor(t->transposed ? up : down, !t->transposed, t->projections, t->n, t->rank, longer);
done:
    sara_free(ctx, shorter);
    sara_free(ctx, longer);
    return status;
}

static void truncation_free(sara_context *ctx, truncation *t)
{
    sara_free(ctx, t->entries.first);
    sara_free(ctx, t->entries.rows);
    sara_free(ctx, t->entries.values);
    sara_free(ctx, t->gram);
    sara_free(ctx, t->vectors);
    sara_free(ctx, t->projections);
}

sara_status sara_truncated_svd(sara_context *ctx, float *up, float *down, double *singular,
                               int64_t rows, int64_t cols, int64_t rank, const uint32_t *positions,
                               const float *values, size_t count)
{
    sara_status status;
    bool wide = rows <= cols;
    truncation t = {.m = wide ? rows : cols,
                    .n = wide ? cols : rows,
                    .rank = rank,
                    .transposed = !wide,
                    .singular = singular};
    if (rank < 1 || rank > t.m || t.m > INT_MAX ||
        (count > 0 && (positions ? positions[count - 1] : (int64_t)count - 1) >= rows * cols))
        return sara_fail(ctx, SARA_ERROR_USAGE, "rank %lld of a [%lld,%lld] matrix",
                         (long long)rank, (long long)rows, (long long)cols);
    TRY(truncate_sort_entries(ctx, &t, cols, positions, values, count));
    TRY(sara_alloc_zero(ctx, &t.gram, (size_t)t.m, (size_t)t.m * sizeof(*t.gram)));
    TRY(sara_alloc(ctx, &t.vectors, (size_t)t.m, (size_t)rank * sizeof(*t.vectors)));
    TRY(sara_alloc(ctx, &t.projections, (size_t)t.n, (size_t)rank * sizeof(*t.projections)));
    truncate_fill_gram(ctx, &t);
    TRY(find_vectors(ctx, &t));
    project(ctx, &t);
    TRY(write_factors(ctx, up, down, &t));
done:
    truncation_free(ctx, &t);
    return status;
}

/* Maximum mean discrepancies: KID's and CMMD's. */
#include "eval/sets.h"

#include <math.h>

/* ---------------------------------------------------------------------------------- KID */

/* Above this many numbers (1 GiB) the kernel of all pairs is not kept, but made for each subset. */
#define KEPT_PAIRS ((int64_t)1 << 27)

/* The kernel of all pairs: of two sets of a_count and b_count. */
typedef struct kid_kernels {
    double *aa, *bb, *ab;
    int64_t a_count, b_count;
} kid_kernels;

static void kid_kernels_free(sara_context *ctx, kid_kernels *k)
{
    sara_free(ctx, k->aa);
    sara_free(ctx, k->bb);
    sara_free(ctx, k->ab);
}

/* (x.y / width + 1)^3 of the columns of x [width][n] and y [width][m] */
static sara_status kid_pairs(sara_context *ctx, double **out, const double *x, int64_t n,
                             const double *y, int64_t m, int64_t width)
{
    sara_status status;
    TRY(sara_alloc_zero(ctx, out, (size_t)n * (size_t)m, sizeof(**out)));
    sara_add_products(ctx, *out, x, n, n, y, m, width);
    for (int64_t i = 0; i < n * m; i++) {
        double value = (*out)[i] / (double)width + 1;
        (*out)[i] = value * value * value;
    }
done:
    return status;
}

static sara_status kid_kernels_make(sara_context *ctx, kid_kernels *k, const sara_features *a,
                                    const sara_features *b)
{
    sara_status status;
    int64_t width = a->width, n = a->count, m = b->count;
    double *x = NULL, *y = NULL;
    *k = (kid_kernels){.a_count = n, .b_count = m};
    TRY(sara_alloc(ctx, &x, (size_t)(n * width), sizeof(*x)));
    TRY(sara_alloc(ctx, &y, (size_t)(m * width), sizeof(*y)));
    sara_features_columns(x, a, NULL, 1);
    sara_features_columns(y, b, NULL, 1);
    TRY(kid_pairs(ctx, &k->aa, x, n, x, n, width));
    TRY(kid_pairs(ctx, &k->bb, y, m, y, m, width));
    TRY(kid_pairs(ctx, &k->ab, x, n, y, m, width));
done:
    sara_free(ctx, x);
    sara_free(ctx, y);
    return status;
}

/* Of the rows given in a and in b, size of each; NULL: of the first. */
static double kid_of(const kid_kernels *k, const int64_t *in_a, const int64_t *in_b, int64_t size)
{
    double within = 0, between = 0, count = (double)size;
    for (int64_t i = 0; i < size; i++)
        for (int64_t j = 0; j < size; j++) {
            int64_t ai = in_a ? in_a[i] : i, bi = in_b ? in_b[i] : i;
            int64_t aj = in_a ? in_a[j] : j, bj = in_b ? in_b[j] : j;
            if (i != j)
                within += k->aa[ai * k->a_count + aj] + k->bb[bi * k->b_count + bj];
            between += k->ab[ai * k->b_count + bj];
        }
    return within / (count * (count - 1)) - 2 * between / (count * count);
}

/* The first `size` of a shuffle of 0 .. count - 1, which ids [count] hold in some order. */
static void kid_draw(int64_t *ids, int64_t count, int64_t size, uint64_t seed, uint64_t index)
{
    for (int64_t i = 0; i < size; i++) {
        int64_t other = i + (int64_t)sara_draw_below((uint64_t)(count - i), seed, SARA_DRAW_SUBSET,
                                                     index, (uint64_t)i);
        int64_t id = ids[i];
        ids[i] = ids[other];
        ids[other] = id;
    }
}

static sara_status kid_take(sara_context *ctx, sara_features *out, const sara_features *set,
                            const int64_t *ids, int64_t size)
{
    sara_status status;
    size_t row = (size_t)set->width * sizeof(float);
    *out = (sara_features){.count = size, .width = set->width};
    TRY(sara_alloc(ctx, &out->values, (size_t)size, row));
    for (int64_t i = 0; i < size; i++)
        memcpy(out->values + i * set->width, set->values + ids[i] * set->width, row);
done:
    return status;
}

/* Of subsets whose pairs' kernel is made for them alone. */
static sara_status kid_of_taken(sara_context *ctx, double *out, const sara_features *a,
                                const sara_features *b, const int64_t *in_a, const int64_t *in_b,
                                int64_t size)
{
    sara_status status;
    sara_features x = {NULL, 0, 0}, y = x;
    kid_kernels kernels = {NULL, NULL, NULL, 0, 0};
    TRY(kid_take(ctx, &x, a, in_a, size));
    TRY(kid_take(ctx, &y, b, in_b, size));
    TRY(kid_kernels_make(ctx, &kernels, &x, &y));
    *out = kid_of(&kernels, NULL, NULL, size);
done:
    kid_kernels_free(ctx, &kernels);
    sara_free(ctx, x.values);
    sara_free(ctx, y.values);
    return status;
}

/* values [subsets] */
static sara_status kid_subsets(sara_context *ctx, double *values, const sara_features *a,
                               const sara_features *b, int64_t size, int64_t subsets, uint64_t seed)
{
    sara_status status;
    int64_t n = a->count, m = b->count;
    bool kept = n * n + m * m + n * m <= KEPT_PAIRS;
    kid_kernels kernels = {NULL, NULL, NULL, 0, 0};
    int64_t *in_a = NULL, *in_b = NULL;
    TRY(sara_alloc(ctx, &in_a, (size_t)n, sizeof(*in_a)));
    TRY(sara_alloc(ctx, &in_b, (size_t)m, sizeof(*in_b)));
    for (int64_t i = 0; i < n; i++)
        in_a[i] = i;
    for (int64_t i = 0; i < m; i++)
        in_b[i] = i;
    if (kept)
        TRY(kid_kernels_make(ctx, &kernels, a, b));
    for (int64_t s = 0; s < subsets; s++) {
        kid_draw(in_a, n, size, seed, 2 * (uint64_t)s);
        kid_draw(in_b, m, size, seed, 2 * (uint64_t)s + 1);
        if (kept)
            values[s] = kid_of(&kernels, in_a, in_b, size);
        else
            TRY(kid_of_taken(ctx, &values[s], a, b, in_a, in_b, size));
    }
done:
    kid_kernels_free(ctx, &kernels);
    sara_free(ctx, in_a);
    sara_free(ctx, in_b);
    return status;
}

sara_status sara_kid(sara_context *ctx, double *mean, double *deviation, const sara_features *a,
                     const sara_features *b, int64_t subset_size, int64_t subsets, uint64_t seed)
{
    sara_status status;
    int64_t smaller = a->count < b->count ? a->count : b->count;
    int64_t size = subset_size < smaller ? subset_size : smaller;
    double *values = NULL, sum = 0, squares = 0;
    TRY(sara_features_check(ctx, "KID", a, b, 2));
    if (size < 2 || subsets < 1) {
        status = sara_fail(ctx, SARA_ERROR_USAGE, "KID of %lld subsets of %lld pictures",
                           (long long)subsets, (long long)subset_size);
        goto done;
    }
    if (a->count == size && b->count == size)
        subsets = 1;
    TRY(sara_alloc(ctx, &values, (size_t)subsets, sizeof(*values)));
    TRY(kid_subsets(ctx, values, a, b, size, subsets, seed));
    for (int64_t s = 0; s < subsets; s++)
        sum += values[s];
    *mean = sum / (double)subsets;
    for (int64_t s = 0; s < subsets; s++)
        squares += (values[s] - *mean) * (values[s] - *mean);
    *deviation = sqrt(squares / (double)subsets);
done:
    sara_free(ctx, values);
    return status;
}

/* --------------------------------------------------------------------------------- CMMD */

enum { CMMD_ROWS = 256 }; /* whose products are in memory at a time */
#define CMMD_SIGMA 10.0
#define CMMD_SCALE 1000.0

/* out [width][count], of unit length */
static sara_status cmmd_unit(sara_context *ctx, double *out, const sara_features *set,
                             const char *which)
{
    sara_features_columns(out, set, NULL, 1);
    for (int64_t i = 0; i < set->count; i++) {
        double square = 0;
        for (int64_t j = 0; j < set->width; j++)
            square += out[j * set->count + i] * out[j * set->count + i];
        if (!(square > 0))
            return sara_fail(ctx, SARA_ERROR_INPUT,
                             "CMMD: the features of picture %lld of the %s set are all 0",
                             (long long)i, which);
        for (int64_t j = 0; j < set->width; j++)
            out[j * set->count + i] /= sqrt(square);
    }
    return SARA_OK;
}

/* The mean of exp(-|x - y|^2 / (2 sigma^2)) over all pairs of columns of x [width][n] and
 * y [width][m], also of a column and itself. */
static sara_status cmmd_mean(sara_context *ctx, double *out, const double *x, int64_t n,
                             const double *y, int64_t m, int64_t width)
{
    sara_status status;
    double *products = NULL, sum = 0;
    TRY(sara_alloc(ctx, &products, CMMD_ROWS * (size_t)m, sizeof(*products)));
    for (int64_t first = 0; first < n; first += CMMD_ROWS) {
        int64_t rows = n - first < CMMD_ROWS ? n - first : CMMD_ROWS;
        memset(products, 0, (size_t)(rows * m) * sizeof(*products));
        sara_add_products(ctx, products, x + first, n, rows, y, m, width);
        for (int64_t i = 0; i < rows * m; i++)
            sum += exp((products[i] - 1) / (CMMD_SIGMA * CMMD_SIGMA));
    }
    *out = sum / ((double)n * (double)m);
done:
    sara_free(ctx, products);
    return status;
}

sara_status sara_cmmd(sara_context *ctx, double *out, const sara_features *a,
                      const sara_features *b)
{
    sara_status status;
    double *x = NULL, *y = NULL, xx, yy, xy;
    int64_t n = a->count, m = b->count, width = a->width;
    TRY(sara_features_check(ctx, "CMMD", a, b, 1));
    TRY(sara_alloc(ctx, &x, (size_t)(n * width), sizeof(*x)));
    TRY(sara_alloc(ctx, &y, (size_t)(m * width), sizeof(*y)));
    TRY(cmmd_unit(ctx, x, a, "first"));
    TRY(cmmd_unit(ctx, y, b, "second"));
    TRY(cmmd_mean(ctx, &xx, x, n, x, n, width));
    TRY(cmmd_mean(ctx, &yy, y, m, y, m, width));
    TRY(cmmd_mean(ctx, &xy, x, n, y, m, width));
    *out = CMMD_SCALE * (xx + yy - 2 * xy);
done:
    sara_free(ctx, x);
    sara_free(ctx, y);
    return status;
}

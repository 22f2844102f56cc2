/* The polar factor by the Polar Express iteration (Amsel et al. 2025, arXiv 2505.16932):
 * X <- (a + b X X^T + c (X X^T)^2) X, whose coefficients are at each step the best that map
 * [low, high] around 1 by an odd polynomial of degree 5, low being the smallest singular value to
 * be resolved. The first steps of each table have their argument divided by 1.01, which keeps
 * rounding at the upper end from growing. */
#include "sparse/low_rank.h"

#include <math.h>

typedef struct quintic {
    float a, b, c;
} quintic;

static const quintic general_steps[] = {
    /* low = 1e-4 */
    {8.42562901f, -24.5212847f, 17.8433764f},
    {4.20749849f, -3.0621891f, 0.557449267f},
    {4.1832893f, -3.04575501f, 0.555611676f},
    {4.0839987f, -2.97809325f, 0.548047046f},
    {3.72080231f, -2.72665356f, 0.519960971f},
    {2.82789856f, -2.07129396f, 0.447294266f},
    {2.00059447f, -1.36243792f, 0.371712808f},
    {1.8758751f, -1.25097199f, 0.375097212f},
    {1.8749998f, -1.2499996f, 0.374999799f},
    {1.875f, -1.25f, 0.375f},
};
static const quintic wide_steps[] = {
    /* low = 0.05 */
    {6.68552008f, -17.8112698f, 12.6195413f},
    {2.51273713f, -1.81954296f, 0.419863122f},
    {1.92697854f, -1.30661623f, 0.380705135f},
    {1.87504539f, -1.25005043f, 0.375005043f},
    {1.87499967f, -1.24999934f, 0.374999669f},
};
#define COUNT(table) (sizeof(table) / sizeof(*(table)))

/* So much may the squares of the singular values miss 1 before the last step (root of the sum of
 * the squared differences); that step brings each singular value to within 4e-3. */
#define CERTAIN 0.2

static void scale(float *x, int64_t count, double factor)
{
    for (int64_t i = 0; i < count; i++)
        x[i] = (float)((double)x[i] * factor);
}

/* An upper bound of the largest singular value, given (A A^T)^2: the 8-norm of all of them, with
 * something for rounding. */
static double upper_bound(const float *fourth, int64_t m)
{
    double sum = 0;
    for (int64_t i = 0; i < m * m; i++)
        sum += (double)fourth[i] * (double)fourth[i];
    return pow(sum, 0.125) * 1.001;
}

/* Scales the powers of A with A itself to at most 1; returns the factor. */
static double normalise(float *square, float *fourth, int64_t m)
{
    double factor = 1 / upper_bound(fourth, m);
    scale(square, m * m, factor * factor);
    scale(fourth, m * m, factor * factor * factor * factor);
    return factor;
}

static bool is_certain(const float *square, int64_t m)
{
    double sum = 0;
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < m; j++) {
            double d = (double)square[i * m + j] - (i == j);
            sum += d * d;
        }
    return sqrt(sum) <= CERTAIN;
}

/* fourth becomes a + b square + c fourth */
static void polynomial(float *fourth, const float *square, int64_t m, const quintic *step)
{
    for (int64_t i = 0; i < m * m; i++)
        fourth[i] = step->b * square[i] + step->c * fourth[i];
    for (int64_t i = 0; i < m; i++)
        fourth[i * m + i] += step->a;
}

static void swap(float **a, float **b)
{
    float *kept = *a;
    *a = *b;
    *b = kept;
}

sara_status sara_polar_iterate(sara_context *ctx, float *x, bool *certain, const float *a,
                               int64_t m, int64_t n)
{
    sara_status status;
    float *square = NULL, *fourth = NULL, *other = NULL, *from = x, *to;
    _Static_assert(COUNT(general_steps) % 2 == 0, "from x to the other and back: it ends in x");
    TRY(sara_alloc(ctx, &square, (size_t)m, (size_t)m * sizeof(float)));
    TRY(sara_alloc(ctx, &fourth, (size_t)m, (size_t)m * sizeof(float)));
    TRY(sara_alloc(ctx, &other, (size_t)m, (size_t)n * sizeof(float)));
    memcpy(x, a, (size_t)(m * n) * sizeof(*x));
    to = other;
    for (size_t i = 0; i < COUNT(general_steps); i++) {
        TRY(sara_matmul(ctx, square, from, from, m, m, n, true));
        TRY(sara_matmul(ctx, fourth, square, square, m, m, m, false));
        if (i == 0)
            scale(from, m * n, normalise(square, fourth, m));
        if (i + 1 == COUNT(general_steps))
            *certain = is_certain(square, m);
        polynomial(fourth, square, m, &general_steps[i]);
        TRY(sara_matmul(ctx, to, fourth, from, m, n, m, false));
        swap(&from, &to);
    }
done:
    sara_free(ctx, square);
    sara_free(ctx, fourth);
    sara_free(ctx, other);
    return status;
}

/* X = Q A with Q a polynomial in A A^T, as are X X^T and all factors here: they commute. The square
 * of the singular values is what float32 must hold, hence the few steps. */
sara_status sara_polar_iterate_wide(sara_context *ctx, float *x, bool *certain, const float *a,
                                    int64_t m, int64_t n)
{
    sara_status status;
    double factor = 1;
    float *work = NULL;
    TRY(sara_alloc(ctx, &work, 4 * (size_t)m, (size_t)m * sizeof(float)));
    float *square = work, *fourth = work + m * m, *q = work + 2 * m * m, *spare = work + 3 * m * m;
    TRY(sara_matmul(ctx, square, a, a, m, m, n, true));
    for (size_t i = 0; i < COUNT(wide_steps); i++) {
        TRY(sara_matmul(ctx, fourth, square, square, m, m, m, false));
        if (i == 0)
            factor = normalise(square, fourth, m);
        if (i + 1 == COUNT(wide_steps))
            *certain = is_certain(square, m);
        polynomial(fourth, square, m, &wide_steps[i]);
        if (i == 0) {
            memcpy(q, fourth, (size_t)(m * m) * sizeof(*q));
        } else {
            TRY(sara_matmul(ctx, spare, fourth, q, m, m, m, false));
            swap(&q, &spare);
        }
        if (i + 1 < COUNT(wide_steps)) {
            TRY(sara_matmul(ctx, spare, fourth, square, m, m, m, false));
            TRY(sara_matmul(ctx, square, spare, fourth, m, m, m, false));
        }
    }
    scale(q, m * m, factor);
    TRY(sara_matmul(ctx, x, q, a, m, n, m, false));
done:
    sara_free(ctx, work);
    return status;
}

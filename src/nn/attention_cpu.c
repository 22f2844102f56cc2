/* Plain attention: the softmax as it is defined, one query at a time; sums are in double. */
#include "nn/kernels.h"

#include <math.h>

/* What query t of one head sees: q, y and dy start at its row, k and v at the head's first. */
typedef struct head_view {
    int64_t query, keys, step; /* offsets of q's row and of k's first row; distance of rows */
    int64_t visible, dim;
    double scale;
    const real *bias; /* [s] of the query; NULL: none */
} head_view;

/* head: of all samples' */
static head_view view_at(const sara_attention_shape *s, const real *bias, int64_t head, int64_t t)
{
    int64_t step = s->heads * s->dim, n = head / s->heads, h = head % s->heads;
    return (head_view){.query = (n * s->t + t) * step + h * s->dim,
                       .keys = n * s->s * step + h * s->dim,
                       .step = step,
                       .visible = s->causal && t + 1 < s->s ? t + 1 : s->s,
                       .dim = s->dim,
                       .scale = s->scale != 0 ? (double)s->scale : 1 / sqrt((double)s->dim),
                       .bias = bias ? bias + (h * s->t + t) * s->s : NULL};
}

static double attention_dot(const real *a, const real *b, int64_t count)
{
    double sum = 0;
    for (int64_t i = 0; i < count; i++)
        sum += (double)a[i] * b[i];
    return sum;
}

static double score_at(const head_view *view, const real *q, const real *k, int64_t s)
{
    double score = view->scale * attention_dot(q, k + s * view->step, view->dim);
    return view->bias ? score + view->bias[s] : score;
}

static void attend_plain(real *y, real *lse, const real *q, const real *k, const real *v,
                         const head_view *view)
{
    double top = -INFINITY, sum = 0;
    for (int64_t s = 0; s < view->visible; s++) {
        double score = score_at(view, q, k, s);
        top = score <= top ? top : score; /* NaN stays */
    }
    for (int64_t s = 0; s < view->visible; s++)
        sum += exp(score_at(view, q, k, s) - top);
    *lse = (real)(top + log(sum));
    memset(y, 0, (size_t)view->dim * sizeof(*y));
    for (int64_t s = 0; s < view->visible; s++) {
        double p = exp(score_at(view, q, k, s) - top) / sum;
        for (int64_t i = 0; i < view->dim; i++)
            y[i] += (real)(p * v[s * view->step + i]);
    }
}

sara_status KERNEL(attention_forward)(const sara_kernel_env *env, real *y, real *lse, const real *q,
                                      const real *k, const real *v, const real *bias,
                                      const sara_attention_shape *shape)
{
    int64_t rows = shape->n * shape->heads * shape->t;
#pragma omp parallel for num_threads(sara_threads(env->ctx)) schedule(static)
    for (int64_t r = 0; r < rows; r++) {
        head_view view = view_at(shape, bias, r / shape->t, r % shape->t);
        attend_plain(y + view.query, &lse[r], q + view.query, k + view.keys, v + view.keys, &view);
    }
    return SARA_OK;
}

static void add_scaled(real *y, double factor, const real *x, int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        y[i] += (real)(factor * x[i]);
}

sara_status KERNEL(attention_backward)(const sara_kernel_env *env, real *dq, real *dk, real *dv,
                                       const real *dy, const real *y, const real *lse,
                                       const real *q, const real *k, const real *v,
                                       const real *bias, const sara_attention_shape *shape)
{
    int64_t dim = shape->dim;
#pragma omp parallel for num_threads(sara_threads(env->ctx)) schedule(static)
    for (int64_t head = 0; head < shape->n * shape->heads; head++)
        for (int64_t t = 0; t < shape->t; t++) {
            head_view view = view_at(shape, bias, head, t);
            const real *g = dy + view.query;
            double delta = attention_dot(g, y + view.query, dim);
            for (int64_t s = 0; s < view.visible; s++) {
                int64_t at = view.keys + s * view.step;
                double score = score_at(&view, q + view.query, k + view.keys, s);
                double p = exp(score - lse[head * shape->t + t]);
                double dscore = view.scale * p * (attention_dot(g, v + at, dim) - delta);
                if (dv)
                    add_scaled(dv + at, p, g, dim);
                if (dk)
                    add_scaled(dk + at, dscore, q + view.query, dim);
                if (dq)
                    add_scaled(dq + view.query, dscore, k + at, dim);
            }
        }
    return SARA_OK;
}

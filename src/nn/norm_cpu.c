/* Plain group, layer and rms norm; sums are in double, the variance in a second pass. */
#include "nn/kernels.h"

#include <math.h>

/* One group of one sample: x [inner][c], `width` channels. */
typedef struct group {
    int64_t start, inner, c, width;
} group;

static group group_at(const sara_group_norm_shape *s, int64_t index)
{
    int64_t width = s->c / s->groups;
    int64_t sample = index / s->groups, first = index % s->groups * width;
    return (group){sample * s->inner * s->c + first, s->inner, s->c, width};
}

static void moments(real *mean, real *rstd, const real *x, const group *g, double eps)
{
    double count = (double)(g->inner * g->width), sum = 0, square = 0;
    for (int64_t i = 0; i < g->inner; i++)
        for (int64_t j = 0; j < g->width; j++)
            sum += x[g->start + i * g->c + j];
    double middle = sum / count;
    for (int64_t i = 0; i < g->inner; i++)
        for (int64_t j = 0; j < g->width; j++) {
            double d = x[g->start + i * g->c + j] - middle;
            square += d * d;
        }
    *mean = (real)middle;
    *rstd = (real)(1 / sqrt(square / count + eps));
}

static double silu(double x)
{
    return x / (1 + exp(-x));
}

static double silu_grad(double x)
{
    double s = 1 / (1 + exp(-x));
    return s * (1 + x * (1 - s));
}

sara_status KERNEL(group_norm_forward)(const sara_kernel_env *env, real *y, real *mean, real *rstd,
                                       const real *x, const real *w, const real *b,
                                       const sara_group_norm_shape *shape)
{
#pragma omp parallel for num_threads(sara_threads(env->ctx)) schedule(static)
    for (int64_t k = 0; k < shape->n * shape->groups; k++) {
        group g = group_at(shape, k);
        int64_t first = k % shape->groups * g.width;
        moments(&mean[k], &rstd[k], x, &g, shape->eps);
        for (int64_t i = 0; i < g.inner; i++)
            for (int64_t j = 0; j < g.width; j++) {
                int64_t at = g.start + i * g.c + j;
                double z = ((double)x[at] - mean[k]) * rstd[k] * w[first + j] + b[first + j];
                y[at] = (real)(shape->silu ? silu(z) : z);
            }
    }
    return SARA_OK;
}

typedef struct norm_inputs {
    const real *dy, *x, *mean, *rstd, *w, *b;
    const sara_group_norm_shape *shape;
} norm_inputs;

/* The gradient before SiLU at element `at` of group k, channel c; hat: normalised x there. */
static double dz_at(double *hat, const norm_inputs *in, int64_t at, int64_t k, int64_t c)
{
    *hat = ((double)in->x[at] - in->mean[k]) * in->rstd[k];
    return in->shape->silu ? in->dy[at] * silu_grad(*hat * in->w[c] + in->b[c]) : in->dy[at];
}

static void group_dx(real *dx, const norm_inputs *in, int64_t k, bool accumulate)
{
    group g = group_at(in->shape, k);
    int64_t first = k % in->shape->groups * g.width;
    double sum = 0, product = 0, hat, count = (double)(g.inner * g.width);
    for (int64_t i = 0; i < g.inner; i++)
        for (int64_t j = 0; j < g.width; j++) {
            double d = dz_at(&hat, in, g.start + i * g.c + j, k, first + j) * in->w[first + j];
            sum += d;
            product += d * hat;
        }
    for (int64_t i = 0; i < g.inner; i++)
        for (int64_t j = 0; j < g.width; j++) {
            int64_t at = g.start + i * g.c + j;
            double d = dz_at(&hat, in, at, k, first + j) * in->w[first + j];
            d = in->rstd[k] * (d - sum / count - hat * product / count);
            dx[at] = (real)(accumulate ? dx[at] + d : d);
        }
}

sara_status KERNEL(group_norm_backward)(const sara_kernel_env *env, real *dx, real *dw, real *db,
                                        const real *dy, const real *x, const real *mean,
                                        const real *rstd, const real *w, const real *b,
                                        const sara_group_norm_shape *shape, bool accumulate)
{
    const norm_inputs in = {dy, x, mean, rstd, w, b, shape};
    int64_t width = shape->c / shape->groups;
#pragma omp parallel num_threads(sara_threads(env->ctx))
    {
#pragma omp for schedule(static)
        for (int64_t k = 0; k < (dx ? shape->n * shape->groups : 0); k++)
            group_dx(dx, &in, k, accumulate);
#pragma omp for schedule(static)
        for (int64_t c = 0; c < (dw || db ? shape->c : 0); c++) {
            double sum = 0, product = 0, hat;
            for (int64_t r = 0; r < shape->n * shape->inner; r++) {
                int64_t k = r / shape->inner * shape->groups + c / width;
                double dz = dz_at(&hat, &in, r * shape->c + c, k, c);
                sum += dz;
                product += dz * hat;
            }
            if (dw)
                dw[c] += (real)product;
            if (db)
                db[c] += (real)sum;
        }
    }
    return SARA_OK;
}

sara_status KERNEL(layer_norm_forward)(const sara_kernel_env *env, real *y, real *mean, real *rstd,
                                       const real *x, const real *w, const real *b, int64_t rows,
                                       int64_t c, real eps)
{
#pragma omp parallel for num_threads(sara_threads(env->ctx)) schedule(static)
    for (int64_t r = 0; r < rows; r++) {
        group row = {r * c, 1, c, c};
        moments(&mean[r], &rstd[r], x, &row, eps);
        for (int64_t i = 0; i < c; i++)
            y[r * c + i] = (real)(((double)x[r * c + i] - mean[r]) * rstd[r] * w[i] + b[i]);
    }
    return SARA_OK;
}

static void row_dx(real *dx, const real *dy, const real *x, double mean, double rstd, const real *w,
                   int64_t c, bool accumulate)
{
    double sum = 0, product = 0;
    for (int64_t i = 0; i < c; i++) {
        sum += (double)dy[i] * w[i];
        product += (double)dy[i] * w[i] * (x[i] - mean) * rstd;
    }
    for (int64_t i = 0; i < c; i++) {
        double d = (double)dy[i] * w[i] - sum / (double)c;
        d = rstd * (d - (x[i] - mean) * rstd * product / (double)c);
        dx[i] = (real)(accumulate ? dx[i] + d : d);
    }
}

sara_status KERNEL(layer_norm_backward)(const sara_kernel_env *env, real *dx, real *dw, real *db,
                                        const real *dy, const real *x, const real *mean,
                                        const real *rstd, const real *w, int64_t rows, int64_t c,
                                        bool accumulate)
{
#pragma omp parallel num_threads(sara_threads(env->ctx))
    {
#pragma omp for schedule(static)
        for (int64_t r = 0; r < (dx ? rows : 0); r++)
            row_dx(dx + r * c, dy + r * c, x + r * c, mean[r], rstd[r], w, c, accumulate);
#pragma omp for schedule(static)
        for (int64_t i = 0; i < (dw || db ? c : 0); i++) {
            double sum = 0, product = 0;
            for (int64_t r = 0; r < rows; r++) {
                sum += dy[r * c + i];
                product += dy[r * c + i] * ((double)x[r * c + i] - mean[r]) * rstd[r];
            }
            if (dw)
                dw[i] += (real)product;
            if (db)
                db[i] += (real)sum;
        }
    }
    return SARA_OK;
}

sara_status KERNEL(rms_norm_forward)(const sara_kernel_env *env, real *y, real *rstd, const real *x,
                                     const real *w, int64_t rows, int64_t c, real eps)
{
#pragma omp parallel for num_threads(sara_threads(env->ctx)) schedule(static)
    for (int64_t r = 0; r < rows; r++) {
        double square = 0;
        for (int64_t i = 0; i < c; i++)
            square += (double)x[r * c + i] * x[r * c + i];
        rstd[r] = (real)(1 / sqrt(square / (double)c + (double)eps));
        for (int64_t i = 0; i < c; i++)
            y[r * c + i] = (real)((double)x[r * c + i] * rstd[r] * w[i]);
    }
    return SARA_OK;
}

static void rms_row_dx(real *dx, const real *dy, const real *x, double rstd, const real *w,
                       int64_t c, bool accumulate)
{
    double product = 0;
    for (int64_t i = 0; i < c; i++)
        product += (double)dy[i] * w[i] * x[i] * rstd;
    for (int64_t i = 0; i < c; i++) {
        double d = rstd * ((double)dy[i] * w[i] - x[i] * rstd * product / (double)c);
        dx[i] = (real)(accumulate ? dx[i] + d : d);
    }
}

sara_status KERNEL(rms_norm_backward)(const sara_kernel_env *env, real *dx, real *dw,
                                      const real *dy, const real *x, const real *rstd,
                                      const real *w, int64_t rows, int64_t c, bool accumulate)
{
#pragma omp parallel num_threads(sara_threads(env->ctx))
    {
#pragma omp for schedule(static)
        for (int64_t r = 0; r < (dx ? rows : 0); r++)
            rms_row_dx(dx + r * c, dy + r * c, x + r * c, rstd[r], w, c, accumulate);
#pragma omp for schedule(static)
        for (int64_t i = 0; i < (dw ? c : 0); i++) {
            double product = 0;
            for (int64_t r = 0; r < rows; r++)
                product += (double)dy[r * c + i] * x[r * c + i] * rstd[r];
            dw[i] += (real)product;
        }
    }
    return SARA_OK;
}

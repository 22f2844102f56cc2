/* Plain pooling: windows of neighbouring outputs overlap in the caches. */
#include "nn/kernels.h"

/* Of x, the pixels of output (i, j)'s window that lie in it. */
typedef struct pool_window {
    int64_t top, bottom, left, right; /* to bottom - 1, right - 1 */
} pool_window;

static pool_window pool_window_of(const sara_pooling_shape *s, int64_t i, int64_t j)
{
    int64_t top = i * s->stride - s->padding, left = j * s->stride - s->padding;
    int64_t bottom = top + s->kh, right = left + s->kw;
    return (pool_window){top > 0 ? top : 0, bottom < s->h ? bottom : s->h, left > 0 ? left : 0,
                         right < s->w ? right : s->w};
}

/* The channels y [c] of one output, of a sample's x [h][w][c]. */
typedef void (*pool_pixel_fn)(real *y, const real *x, const sara_pooling_shape *s,
                              const pool_window *p);

static void pool_each(const sara_kernel_env *env, real *y, const real *x,
                      const sara_pooling_shape *s, pool_pixel_fn pixel)
{
#pragma omp parallel for num_threads(sara_threads(env->ctx)) schedule(static)
    for (int64_t r = 0; r < s->n * s->oh; r++)
        for (int64_t j = 0; j < s->ow; j++) {
            pool_window p = pool_window_of(s, r % s->oh, j);
            pixel(y + (r * s->ow + j) * s->c, x + r / s->oh * s->h * s->w * s->c, s, &p);
        }
}

static void max_pixel(real *y, const real *x, const sara_pooling_shape *s, const pool_window *p)
{
    memcpy(y, x + (p->top * s->w + p->left) * s->c, (size_t)s->c * sizeof(*y));
    for (int64_t i = p->top; i < p->bottom; i++)
        for (int64_t j = p->left; j < p->right; j++) {
            const real *from = x + (i * s->w + j) * s->c;
            for (int64_t k = 0; k < s->c; k++)
                y[k] = from[k] <= y[k] || y[k] != y[k] ? y[k] : from[k];
        }
}

sara_status KERNEL(max_pool_forward)(const sara_kernel_env *env, real *y, const real *x,
                                     const sara_pooling_shape *s)
{
    pool_each(env, y, x, s, max_pixel);
    return SARA_OK;
}

/* Of a sample's channel. */
static int64_t max_place(const real *x, const sara_pooling_shape *s, const pool_window *p)
{
    int64_t best = (p->top * s->w + p->left) * s->c;
    for (int64_t i = p->top; i < p->bottom; i++)
        for (int64_t j = p->left; j < p->right; j++) {
            int64_t at = (i * s->w + j) * s->c;
            best = x[at] <= x[best] || x[best] != x[best] ? best : at;
        }
    return best;
}

sara_status KERNEL(max_pool_dx)(const sara_kernel_env *env, real *dx, const real *dy, const real *x,
                                const sara_pooling_shape *s)
{
#pragma omp parallel for num_threads(sara_threads(env->ctx)) schedule(static)
    for (int64_t task = 0; task < s->n * s->c; task++) {
        int64_t in = task / s->c * s->h * s->w * s->c + task % s->c;
        int64_t out = task / s->c * s->oh * s->ow * s->c + task % s->c;
        for (int64_t q = 0; q < s->oh * s->ow; q++) {
            pool_window p = pool_window_of(s, q / s->ow, q % s->ow);
            dx[in + max_place(x + in, s, &p)] += dy[out + q * s->c];
        }
    }
    return SARA_OK;
}

static real pool_share(const pool_window *p)
{
    return (real)1 / (real)((p->bottom - p->top) * (p->right - p->left));
}

static void average_pixel(real *y, const real *x, const sara_pooling_shape *s, const pool_window *p)
{
    memset(y, 0, (size_t)s->c * sizeof(*y));
    for (int64_t i = p->top; i < p->bottom; i++)
        for (int64_t j = p->left; j < p->right; j++) {
            const real *from = x + (i * s->w + j) * s->c;
            for (int64_t k = 0; k < s->c; k++)
                y[k] += from[k];
        }
    for (int64_t k = 0; k < s->c; k++)
        y[k] *= pool_share(p);
}

sara_status KERNEL(average_pool_forward)(const sara_kernel_env *env, real *y, const real *x,
                                         const sara_pooling_shape *s)
{
    pool_each(env, y, x, s, average_pixel);
    return SARA_OK;
}

sara_status KERNEL(average_pool_dx)(const sara_kernel_env *env, real *dx, const real *dy,
                                    const sara_pooling_shape *s)
{
#pragma omp parallel for num_threads(sara_threads(env->ctx)) schedule(static)
    for (int64_t task = 0; task < s->n * s->c; task++) {
        int64_t in = task / s->c * s->h * s->w * s->c + task % s->c;
        int64_t out = task / s->c * s->oh * s->ow * s->c + task % s->c;
        for (int64_t q = 0; q < s->oh * s->ow; q++) {
            pool_window p = pool_window_of(s, q / s->ow, q % s->ow);
            real share = dy[out + q * s->c] * pool_share(&p);
            for (int64_t i = p.top; i < p.bottom; i++)
                for (int64_t j = p.left; j < p.right; j++)
                    dx[in + (i * s->w + j) * s->c] += share;
        }
    }
    return SARA_OK;
}

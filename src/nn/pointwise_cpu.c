/* Plain kernels of the elementwise ops; functions are evaluated in double. */
#include "nn/kernels.h"

#include <math.h>

static double sigmoid(double x)
{
    return 1 / (1 + exp(-x));
}

static double normal(double x) /* Phi(x) */
{
    return 0.5 * erfc(-x * 0.70710678118654752440);
}

#define TANH_GATE 1.59576912160573071176 /* 2 sqrt(2 / pi) */

static double tanh_gate(double x) /* 0.5 (1 + tanh(u)) = sigmoid(2 u) */
{
    return sigmoid(TANH_GATE * (x + 0.044715 * x * x * x));
}

static double activate(double x, sara_activation activation)
{
    switch (activation) {
    case SARA_SILU:
        return x * sigmoid(x);
    case SARA_GELU:
        return x * normal(x);
    case SARA_QUICK_GELU:
        return x * sigmoid(1.702 * x);
    case SARA_RELU:
        return x < 0 ? 0 : x;
    case SARA_GELU_TANH:
        return x * tanh_gate(x);
    default:
        return x;
    }
}

static double sigmoid_product_grad(double x, double slope) /* of x sigmoid(slope x) */
{
    double s = sigmoid(slope * x);
    return s + slope * x * s * (1 - s);
}

static double tanh_gelu_grad(double x)
{
    double s = tanh_gate(x);
    return s + x * s * (1 - s) * TANH_GATE * (1 + 3 * 0.044715 * x * x);
}

static double activate_grad(double x, sara_activation activation)
{
    switch (activation) {
    case SARA_SILU:
        return sigmoid_product_grad(x, 1);
    case SARA_GELU:
        return normal(x) + x * 0.39894228040143267794 * exp(-x * x / 2);
    case SARA_QUICK_GELU:
        return sigmoid_product_grad(x, 1.702);
    case SARA_RELU:
        return x > 0 ? 1 : 0;
    case SARA_GELU_TANH:
        return tanh_gelu_grad(x);
    default:
        return 1;
    }
}

static void pointwise_put(real *to, double value, bool accumulate)
{
    *to = (real)(accumulate ? *to + value : value);
}

sara_status KERNEL(activate_forward)(const sara_kernel_env *env, real *y, const real *x,
                                     int64_t count, sara_activation activation)
{
#pragma omp parallel for num_threads(sara_threads(env->ctx)) schedule(static)
    for (int64_t i = 0; i < count; i++)
        y[i] = (real)activate(x[i], activation);
    return SARA_OK;
}

sara_status KERNEL(activate_backward)(const sara_kernel_env *env, real *dx, const real *dy,
                                      const real *x, int64_t count, sara_activation activation,
                                      bool accumulate)
{
#pragma omp parallel for num_threads(sara_threads(env->ctx)) schedule(static)
    for (int64_t i = 0; i < count; i++)
        pointwise_put(&dx[i], dy[i] * activate_grad(x[i], activation), accumulate);
    return SARA_OK;
}

sara_status KERNEL(geglu_forward)(const sara_kernel_env *env, real *y, const real *x, int64_t rows,
                                  int64_t c)
{
#pragma omp parallel for num_threads(sara_threads(env->ctx)) schedule(static)
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < c; i++)
            y[r * c + i] = (real)(x[2 * r * c + i] * activate(x[(2 * r + 1) * c + i], SARA_GELU));
    return SARA_OK;
}

sara_status KERNEL(geglu_backward)(const sara_kernel_env *env, real *dx, const real *dy,
                                   const real *x, int64_t rows, int64_t c, bool accumulate)
{
#pragma omp parallel for num_threads(sara_threads(env->ctx)) schedule(static)
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < c; i++) {
            int64_t value = 2 * r * c + i, gate = value + c;
            double dvalue = dy[r * c + i] * activate(x[gate], SARA_GELU);
            double dgate = (double)dy[r * c + i] * x[value] * activate_grad(x[gate], SARA_GELU);
            pointwise_put(&dx[value], dvalue, accumulate);
            pointwise_put(&dx[gate], dgate, accumulate);
        }
    return SARA_OK;
}

sara_status KERNEL(gated_gelu_forward)(const sara_kernel_env *env, real *y, const real *a,
                                       const real *b, int64_t count)
{
#pragma omp parallel for num_threads(sara_threads(env->ctx)) schedule(static)
    for (int64_t i = 0; i < count; i++)
        y[i] = (real)(activate(a[i], SARA_GELU_TANH) * b[i]);
    return SARA_OK;
}

sara_status KERNEL(gated_gelu_backward)(const sara_kernel_env *env, real *da, real *db,
                                        const real *dy, const real *a, const real *b, int64_t count,
                                        bool add_a, bool add_b)
{
#pragma omp parallel for num_threads(sara_threads(env->ctx)) schedule(static)
    for (int64_t i = 0; i < count; i++) {
        double inner = (double)dy[i] * b[i] * activate_grad(a[i], SARA_GELU_TANH);
        if (da)
            pointwise_put(&da[i], inner, add_a);
        if (db)
            pointwise_put(&db[i], dy[i] * activate(a[i], SARA_GELU_TANH), add_b);
    }
    return SARA_OK;
}

sara_status KERNEL(add)(const sara_kernel_env *env, real *y, const real *a, const real *b,
                        int64_t count)
{
#pragma omp parallel for num_threads(sara_threads(env->ctx)) schedule(static)
    for (int64_t i = 0; i < count; i++)
        y[i] = a[i] + b[i];
    return SARA_OK;
}

sara_status KERNEL(accumulate)(const sara_kernel_env *env, real *y, const real *x, int64_t count)
{
    return KERNEL(add)(env, y, y, x, count);
}

sara_status KERNEL(add_scaled)(const sara_kernel_env *env, real *y, const real *a, const real *b,
                               int64_t count, real scale)
{
#pragma omp parallel for num_threads(sara_threads(env->ctx)) schedule(static)
    for (int64_t i = 0; i < count; i++)
        y[i] = (a ? a[i] : 0) + scale * b[i];
    return SARA_OK;
}

sara_status KERNEL(multiply)(const sara_kernel_env *env, real *y, const real *a, const real *b,
                             int64_t count, bool accumulate)
{
#pragma omp parallel for num_threads(sara_threads(env->ctx)) schedule(static)
    for (int64_t i = 0; i < count; i++)
        pointwise_put(&y[i], a[i] * b[i], accumulate);
    return SARA_OK;
}

sara_status KERNEL(add_per_sample)(const sara_kernel_env *env, real *y, const real *x,
                                   const real *e, int64_t n, int64_t inner, int64_t c)
{
#pragma omp parallel for num_threads(sara_threads(env->ctx)) schedule(static)
    for (int64_t r = 0; r < n * inner; r++)
        for (int64_t i = 0; i < c; i++)
            y[r * c + i] = x[r * c + i] + e[r / inner * c + i];
    return SARA_OK;
}

sara_status KERNEL(add_per_sample_de)(const sara_kernel_env *env, real *de, const real *dy,
                                      int64_t n, int64_t inner, int64_t c)
{
#pragma omp parallel for num_threads(sara_threads(env->ctx)) schedule(static)
    for (int64_t i = 0; i < n * c; i++) {
        double sum = 0;
        for (int64_t r = 0; r < inner; r++)
            sum += dy[(i / c * inner + r) * c + i % c];
        de[i] += (real)sum;
    }
    return SARA_OK;
}

sara_status KERNEL(clamp_forward)(const sara_kernel_env *env, real *y, const real *x, int64_t count,
                                  real low, real high)
{
#pragma omp parallel for num_threads(sara_threads(env->ctx)) schedule(static)
    for (int64_t i = 0; i < count; i++)
        y[i] = x[i] < low ? low : x[i] > high ? high : x[i];
    return SARA_OK;
}

sara_status KERNEL(clamp_dx)(const sara_kernel_env *env, real *dx, const real *dy, const real *x,
                             int64_t count, real low, real high)
{
#pragma omp parallel for num_threads(sara_threads(env->ctx)) schedule(static)
    for (int64_t i = 0; i < count; i++)
        if (x[i] >= low && x[i] <= high)
            dx[i] += dy[i];
    return SARA_OK;
}

sara_status KERNEL(widen)(const sara_kernel_env *env, real *y, const sara_weight_view *w,
                          int64_t count)
{
#pragma omp parallel for num_threads(sara_threads(env->ctx)) schedule(static)
    for (int64_t i = 0; i < count; i++)
        y[i] = sara_weight_at(w, i);
    return SARA_OK;
}

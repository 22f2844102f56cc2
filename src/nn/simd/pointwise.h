FN void add(float *y, const float *a, const float *b, int64_t count)
{
    for (int64_t i = 0; i < count; i += W)
        vstore_n(y + i, vload_n(a + i, count - i) + vload_n(b + i, count - i), count - i);
}

FN void add_scaled(float *y, const float *a, const float *b, int64_t count, float scale)
{
    for (int64_t i = 0; i < count; i += W) {
        vf sum = vset(scale) * vload_n(b + i, count - i);
        if (a)
            sum += vload_n(a + i, count - i);
        vstore_n(y + i, sum, count - i);
    }
}

INLINE vf vactivate(vf x, sara_activation activation)
{
    vf density, rest, slope;
    switch (activation) {
    case SARA_SILU:
        return x * vsigmoid(x);
    case SARA_GELU:
        return x * vnormal(&density, x);
    case SARA_QUICK_GELU:
        return x * vsigmoid(vset(1.702f) * x);
    case SARA_RELU:
        return vmax(vset(0.0f), x);
    case SARA_GELU_TANH:
        return x * vtanh_gate(&rest, &slope, x);
    default:
        return x;
    }
}

INLINE vf vactivate_grad(vf x, sara_activation activation)
{
    vf density, rest, slope, s;
    switch (activation) {
    case SARA_SILU:
        return vsilu_grad(x);
    case SARA_GELU:
        s = vnormal(&density, x);
        return vfma(x, density, s);
    case SARA_QUICK_GELU:
        s = vsigmoid(vset(1.702f) * x);
        return s * vfma(vset(1.702f) * x, vset(1.0f) - s, vset(1.0f));
    case SARA_RELU:
        return vpositive(x, vset(1.0f), vset(0.0f));
    case SARA_GELU_TANH:
        s = vtanh_gate(&rest, &slope, x);
        return s * vfma(x * slope, rest, vset(1.0f));
    default:
        return vset(1.0f);
    }
}

/* activation is a constant */
INLINE void activate_all(float *y, const float *x, int64_t count, const sara_activation activation)
{
    for (int64_t i = 0; i < count; i += W)
        vstore_n(y + i, vactivate(vload_n(x + i, count - i), activation), count - i);
}

FN void activate(float *y, const float *x, int64_t count, sara_activation activation)
{
    switch (activation) {
    case SARA_SILU:
        activate_all(y, x, count, SARA_SILU);
        break;
    case SARA_GELU:
        activate_all(y, x, count, SARA_GELU);
        break;
    case SARA_QUICK_GELU:
        activate_all(y, x, count, SARA_QUICK_GELU);
        break;
    case SARA_RELU:
        activate_all(y, x, count, SARA_RELU);
        break;
    case SARA_GELU_TANH:
        activate_all(y, x, count, SARA_GELU_TANH);
        break;
    default:
        activate_all(y, x, count, SARA_IDENTITY);
    }
}

INLINE void put(float *p, vf v, int64_t n, bool accumulate)
{
    if (accumulate)
        v += vload_n(p, n);
    vstore_n(p, v, n);
}

INLINE void activate_grad_all(float *dx, const float *dy, const float *x, int64_t count,
                              const sara_activation activation, bool accumulate)
{
    for (int64_t i = 0; i < count; i += W) {
        int64_t n = count - i;
        put(dx + i, vload_n(dy + i, n) * vactivate_grad(vload_n(x + i, n), activation), n,
            accumulate);
    }
}

FN void activate_grad(float *dx, const float *dy, const float *x, int64_t count,
                      sara_activation activation, bool accumulate)
{
    switch (activation) {
    case SARA_SILU:
        activate_grad_all(dx, dy, x, count, SARA_SILU, accumulate);
        break;
    case SARA_GELU:
        activate_grad_all(dx, dy, x, count, SARA_GELU, accumulate);
        break;
    case SARA_QUICK_GELU:
        activate_grad_all(dx, dy, x, count, SARA_QUICK_GELU, accumulate);
        break;
    case SARA_RELU:
        activate_grad_all(dx, dy, x, count, SARA_RELU, accumulate);
        break;
    case SARA_GELU_TANH:
        activate_grad_all(dx, dy, x, count, SARA_GELU_TANH, accumulate);
        break;
    default:
        activate_grad_all(dx, dy, x, count, SARA_IDENTITY, accumulate);
    }
}

FN void geglu(float *y, const float *a, const float *b, int64_t count)
{
    for (int64_t i = 0; i < count; i += W) {
        vf gate = vactivate(vload_n(b + i, count - i), SARA_GELU);
        vstore_n(y + i, vload_n(a + i, count - i) * gate, count - i);
    }
}

FN void geglu_grad(float *da, float *db, const float *dy, const float *a, const float *b,
                   int64_t count, bool accumulate)
{
    for (int64_t i = 0; i < count; i += W) {
        int64_t n = count - i;
        vf g = vload_n(dy + i, n), x = vload_n(b + i, n), density, phi = vnormal(&density, x);
        put(da + i, g * x * phi, n, accumulate);
        put(db + i, g * vload_n(a + i, n) * vfma(x, density, phi), n, accumulate);
    }
}

FN void gated_gelu(float *y, const float *a, const float *b, int64_t count)
{
    for (int64_t i = 0; i < count; i += W) {
        vf gate = vactivate(vload_n(a + i, count - i), SARA_GELU_TANH);
        vstore_n(y + i, gate * vload_n(b + i, count - i), count - i);
    }
}

FN void gated_gelu_grad(float *da, float *db, const float *dy, const float *a, const float *b,
                        int64_t count, bool add_a, bool add_b)
{
    for (int64_t i = 0; i < count; i += W) {
        int64_t n = count - i;
        vf g = vload_n(dy + i, n), x = vload_n(a + i, n);
        if (da)
            put(da + i, g * vload_n(b + i, n) * vactivate_grad(x, SARA_GELU_TANH), n, add_a);
        if (db)
            put(db + i, g * vactivate(x, SARA_GELU_TANH), n, add_b);
    }
}

/* Four vectors of columns at a time, so that their sums stay in registers. */
#define COLUMNS (4 * W)

FN void column_sums(float *out, const float *x, int64_t stride, int64_t rows, int64_t n)
{
    const int64_t block = 64;
    for (int64_t j = 0; j < n; j += COLUMNS) {
        double total[COLUMNS] = {0};
        float part[COLUMNS];
        for (int64_t r = 0; r < rows; r += block) {
            vf sum[4] = {vset(0.0f), vset(0.0f), vset(0.0f), vset(0.0f)};
            for (int64_t i = r; i < rows && i < r + block; i++)
                UNROLL
                for (int u = 0; u < 4; u++)
                    sum[u] += vload_n(x + i * stride + j + u * W, n - j - u * W);
            UNROLL
            for (int u = 0; u < 4; u++)
                vstore(part + u * W, sum[u]);
            for (int u = 0; u < COLUMNS; u++)
                total[u] += part[u];
        }
        for (int64_t u = 0; u < COLUMNS && u < n - j; u++)
            out[j + u] = (float)(out[j + u] + total[u]);
    }
}

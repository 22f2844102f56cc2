FN void softmax(float *scores, float *max, float *sum, float *factor, const sara_simd_scores *shape)
{
    const int64_t stride = shape->stride;
    const vf scaling = vset(shape->scale);
    for (int64_t j = shape->seen < 0 ? 0 : shape->seen; shape->causal && j < shape->rows; j++)
        for (int64_t i = 0; i < shape->columns && i < j - shape->seen; i++)
            scores[j * stride + i] = -INFINITY;
    for (int64_t i = 0; i < shape->columns; i += W) {
        const vlanes n = vfirst(shape->columns - i);
        vf top = vset(-INFINITY), total = vset(0.0f), before = vload_lanes(max + i, n);
        for (int64_t j = 0; j < shape->rows; j++)
            top = vmax(top, vload_lanes(scores + j * stride + i, n));
        vf now = vmax(top * scaling, before);
        for (int64_t j = 0; j < shape->rows; j++) {
            float *at = scores + j * stride + i;
            vf p = vweight(vfma(vload_lanes(at, n), scaling, vset(0.0f) - now));
            vstore_lanes(at, p, n);
            total += p;
        }
        vf shrink = vexp(before - now);
        vstore_lanes(factor + i, shrink, n);
        vstore_lanes(sum + i, vfma(vload_lanes(sum + i, n), shrink, total), n);
        vstore_lanes(max + i, now, n);
    }
}

FN void softmax_grad(float *p, float *dp, const float *lse, const float *delta,
                     const sara_simd_scores *shape)
{
    const vf scaling = vset(shape->scale), sloping = vset(shape->slope);
    for (int64_t i = 0; i < shape->rows; i++) {
        float *row = p + i * shape->stride, *grad = dp + i * shape->stride;
        int64_t first = shape->seen + i + 1;
        for (int64_t j = first < 0 ? 0 : first; shape->causal && j < shape->columns; j++)
            row[j] = -INFINITY;
        for (int64_t j = 0; j < shape->columns; j += W) {
            int64_t n = shape->columns - j;
            vf weight = vweight(vfma(vload_n(row + j, n), scaling, vset(-lse[i])));
            vf slope = (vload_n(grad + j, n) - vset(delta[i])) * sloping;
            vstore_n(row + j, weight, n);
            vstore_n(grad + j, weight * slope, n);
        }
    }
}

FN void scale_columns(float *x, int64_t stride, const float *factor, int64_t rows, int64_t n)
{
    for (int64_t j = 0; j < n; j += W) {
        const vlanes left = vfirst(n - j);
        vf by = vload_lanes(factor + j, left);
        for (int64_t i = 0; i < rows; i++) {
            float *at = x + i * stride + j;
            vstore_lanes(at, by * vload_lanes(at, left), left);
        }
    }
}

FN void copy_rows(float *y, int64_t y_stride, const float *x, int64_t x_stride, int64_t rows,
                  int64_t n)
{
    for (int64_t j = 0; j < n; j += W) {
        const vlanes left = vfirst(n - j);
        for (int64_t i = 0; i < rows; i++)
            vstore_lanes(y + i * y_stride + j, vload_lanes(x + i * x_stride + j, left), left);
    }
}

FN void add_rows(float *y, int64_t y_stride, const float *x, int64_t x_stride, int64_t rows,
                 int64_t n)
{
    for (int64_t j = 0; j < n; j += W) {
        const vlanes left = vfirst(n - j);
        for (int64_t i = 0; i < rows; i++) {
            float *at = y + i * y_stride + j;
            vstore_lanes(at, vload_lanes(at, left) + vload_lanes(x + i * x_stride + j, left), left);
        }
    }
}

FN void row_dots(float *out, const float *a, const float *b, int64_t stride, int64_t rows,
                 int64_t n)
{
    for (int64_t i = 0; i < rows; i++) {
        vf sum = vset(0.0f);
        for (int64_t j = 0; j < n; j += W)
            sum = vfma(vload_n(a + i * stride + j, n - j), vload_n(b + i * stride + j, n - j), sum);
        out[i] = vsum(sum);
    }
}

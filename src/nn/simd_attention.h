/* How many of `width` columns row i sees. */
INLINE int64_t visible(const sara_simd_scores *shape, int64_t i)
{
    int64_t n = shape->valid + i * shape->grow;
    return n < 0 ? 0 : n > shape->limit ? shape->limit : n;
}

FN void softmax(float *scores, float *max, float *sum, float *factor, const sara_simd_scores *shape)
{
    for (int64_t i = 0; i < shape->rows; i++) {
        float *row = scores + i * shape->stride;
        vf top = vset(-INFINITY), total = vset(0.0f), scaling = vset(shape->scale);
        for (int64_t j = visible(shape, i); j < shape->width; j++)
            row[j] = -INFINITY;
        for (int64_t j = 0; j < shape->width; j += W)
            top = vmax(top, vload(row + j));
        float before = max[i], now = vtop(top) * shape->scale;
        now = now > before ? now : before;
        for (int64_t j = 0; j < shape->width; j += W) {
            vf p = vexp(vfma(vload(row + j), scaling, vset(-now)));
            vstore(row + j, p);
            total += p;
        }
        factor[i] = expf(before - now);
        sum[i] = sum[i] * factor[i] + vsum(total);
        max[i] = now;
    }
}

FN void softmax_grad(float *p, float *dp, const float *lse, const float *delta,
                     const sara_simd_scores *shape)
{
    vf scaling = vset(shape->scale);
    for (int64_t i = 0; i < shape->rows; i++) {
        float *row = p + i * shape->stride, *grad = dp + i * shape->stride;
        for (int64_t j = visible(shape, i); j < shape->width; j++)
            row[j] = -INFINITY;
        for (int64_t j = 0; j < shape->width; j += W) {
            vf weight = vexp(vfma(vload(row + j), scaling, vset(-lse[i])));
            vstore(row + j, weight);
            vstore(grad + j, weight * (vload(grad + j) - vset(delta[i])) * scaling);
        }
    }
}

FN void scale(float *y, const float *x, float factor, int64_t count)
{
    for (int64_t i = 0; i < count; i += W)
        vstore_n(y + i, vset(factor) * vload_n(x + i, count - i), count - i);
}

FN float dot(const float *a, const float *b, int64_t count)
{
    vf sum = vset(0.0f);
    for (int64_t i = 0; i < count; i += W)
        sum = vfma(vload_n(a + i, count - i), vload_n(b + i, count - i), sum);
    return vsum(sum);
}

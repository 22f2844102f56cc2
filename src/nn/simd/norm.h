FN void norm_moments(float *sum, float *square, const float *x, int64_t rows, int64_t c)
{
    for (int64_t j = 0; j < c; j += COLUMNS) {
        vf first[4], s[4], q[4];
        UNROLL
        for (int u = 0; u < 4; u++) {
            first[u] = vload_n(x + j + u * W, c - j - u * W);
            s[u] = q[u] = vset(0.0f);
        }
        for (int64_t i = 1; i < rows; i++)
            UNROLL
            for (int u = 0; u < 4; u++) {
                vf d = vload_n(x + i * c + j + u * W, c - j - u * W) - first[u];
                s[u] += d;
                q[u] = vfma(d, d, q[u]);
            }
        UNROLL
        for (int u = 0; u < 4; u++) {
            vstore_n(sum + j + u * W, s[u], c - j - u * W);
            vstore_n(square + j + u * W, q[u], c - j - u * W);
        }
    }
}

FN void group_norm(float *y, const float *x, const sara_simd_norm *norm)
{
    int64_t c = norm->c;
    for (int64_t i = 0; i < norm->rows; i++)
        for (int64_t j = 0; j < c; j += W) {
            int64_t n = c - j;
            vf hat = (vload_n(x + i * c + j, n) - vload_n(norm->mean + j, n)) *
                     vload_n(norm->rstd + j, n);
            vf z = vfma(hat, vload_n(norm->w + j, n), vload_n(norm->b + j, n));
            vstore_n(y + i * c + j, norm->silu ? vactivate(z, SARA_SILU) : z, n);
        }
}

/* hat: (x - mean) rstd of n channels from j; returns dz, the gradient before SiLU */
INLINE vf norm_dz(vf *hat, const float *dy, const float *x, const sara_simd_norm *norm, int64_t i,
                  int64_t j)
{
    int64_t n = norm->c - j, at = i * norm->c + j;
    vf dz = vload_n(dy + at, n);
    *hat = (vload_n(x + at, n) - vload_n(norm->mean + j, n)) * vload_n(norm->rstd + j, n);
    if (norm->silu)
        dz *= vsilu_grad(vfma(*hat, vload_n(norm->w + j, n), vload_n(norm->b + j, n)));
    return dz;
}

FN void group_norm_sums(float *sum, float *product, const float *dy, const float *x,
                        const sara_simd_norm *norm)
{
    for (int64_t j = 0; j < norm->c; j += W) {
        vf s = vset(0.0f), p = vset(0.0f), hat;
        for (int64_t i = 0; i < norm->rows; i++) {
            vf dz = norm_dz(&hat, dy, x, norm, i, j);
            s += dz;
            p = vfma(dz, hat, p);
        }
        vstore_n(sum + j, s, norm->c - j);
        vstore_n(product + j, p, norm->c - j);
    }
}

FN void group_norm_dx(float *dx, const float *dy, const float *x, const float *dmean,
                      const float *drstd, const sara_simd_norm *norm, bool accumulate)
{
    int64_t c = norm->c;
    for (int64_t i = 0; i < norm->rows; i++)
        for (int64_t j = 0; j < c; j += W) {
            int64_t n = c - j;
            vf hat, dz = norm_dz(&hat, dy, x, norm, i, j);
            vf d = vfma(dz, vload_n(norm->w + j, n), vset(0.0f) - vload_n(dmean + j, n));
            d -= hat * vload_n(drstd + j, n);
            put(dx + i * c + j, d * vload_n(norm->rstd + j, n), n, accumulate);
        }
}

/* First a rough mean, then mean and variance of the differences to it: nothing cancels. */
INLINE void row_moments(float *mean, float *rstd, const float *x, int64_t c, float eps)
{
    vf total = vset(0.0f), s = vset(0.0f), q = vset(0.0f);
    int64_t whole = c - c % W, rest = c - whole;
    for (int64_t j = 0; j < c; j += W)
        total += vload_n(x + j, c - j);
    float rough = vsum(total) / (float)c;
    for (int64_t j = 0; j < whole; j += W) {
        vf d = vload(x + j) - vset(rough);
        s += d;
        q = vfma(d, d, q);
    }
    double sum = vsum(s), square = vsum(q);
    for (int64_t j = 0; j < rest; j++) {
        double d = (double)x[whole + j] - rough;
        sum += d;
        square += d * d;
    }
    double shift = sum / (double)c, variance = square / (double)c - shift * shift;
    *mean = (float)(rough + shift);
    *rstd = (float)(1 / sqrt((variance > 0 ? variance : variance * 0) + (double)eps));
}

FN void layer_norm(float *y, float *mean, float *rstd, const float *x, const float *w,
                   const float *b, int64_t rows, int64_t c, float eps)
{
    for (int64_t i = 0; i < rows; i++) {
        const float *row = x + i * c;
        row_moments(&mean[i], &rstd[i], row, c, eps);
        for (int64_t j = 0; j < c; j += W) {
            int64_t n = c - j;
            vf hat = (vload_n(row + j, n) - vset(mean[i])) * vset(rstd[i]);
            vstore_n(y + i * c + j, vfma(hat, vload_n(w + j, n), vload_n(b + j, n)), n);
        }
    }
}

FN void layer_norm_dx(float *dx, const float *dy, const float *x, const float *mean,
                      const float *rstd, const float *w, int64_t rows, int64_t c, bool accumulate)
{
    for (int64_t i = 0; i < rows; i++) {
        vf s = vset(0.0f), p = vset(0.0f), middle = vset(mean[i]), factor = vset(rstd[i]);
        for (int64_t j = 0; j < c; j += W) {
            int64_t n = c - j;
            vf g = vload_n(dy + i * c + j, n) * vload_n(w + j, n);
            s += g;
            p = vfma(g, (vload_n(x + i * c + j, n) - middle) * factor, p);
        }
        vf dmean = vset(vsum(s) / (float)c), drstd = vset(vsum(p) / (float)c);
        for (int64_t j = 0; j < c; j += W) {
            int64_t n = c - j;
            vf g = vload_n(dy + i * c + j, n) * vload_n(w + j, n);
            vf hat = (vload_n(x + i * c + j, n) - middle) * factor;
            put(dx + i * c + j, (g - dmean - hat * drstd) * factor, n, accumulate);
        }
    }
}

FN void layer_norm_sums(float *dw, float *db, const float *dy, const float *x, const float *mean,
                        const float *rstd, int64_t rows, int64_t c)
{
    for (int64_t j = 0; j < c; j += COLUMNS) {
        vf w[4], b[4];
        UNROLL
        for (int u = 0; u < 4; u++)
            w[u] = b[u] = vset(0.0f);
        for (int64_t i = 0; i < rows; i++)
            UNROLL
            for (int u = 0; u < 4; u++) {
                int64_t at = j + u * W, n = c - at;
                vf g = vload_n(dy + i * c + at, n);
                vf hat = (vload_n(x + i * c + at, n) - vset(mean[i])) * vset(rstd[i]);
                b[u] += g;
                w[u] = vfma(g, hat, w[u]);
            }
        UNROLL
        for (int u = 0; u < 4; u++) {
            vstore_n(dw + j + u * W, w[u], c - j - u * W);
            vstore_n(db + j + u * W, b[u], c - j - u * W);
        }
    }
}

FN void rms_norm(float *y, float *rstd, const float *x, const float *w, int64_t rows, int64_t c,
                 float eps)
{
    for (int64_t i = 0; i < rows; i++) {
        const float *row = x + i * c;
        vf square = vset(0.0f);
        for (int64_t j = 0; j < c; j += W) {
            vf v = vload_n(row + j, c - j);
            square = vfma(v, v, square);
        }
        rstd[i] = (float)(1 / sqrt((double)vsum(square) / (double)c + (double)eps));
        for (int64_t j = 0; j < c; j += W) {
            int64_t n = c - j;
            vstore_n(y + i * c + j, vload_n(row + j, n) * vset(rstd[i]) * vload_n(w + j, n), n);
        }
    }
}

FN void rms_norm_dx(float *dx, const float *dy, const float *x, const float *rstd, const float *w,
                    int64_t rows, int64_t c, bool accumulate)
{
    for (int64_t i = 0; i < rows; i++) {
        vf p = vset(0.0f), factor = vset(rstd[i]);
        for (int64_t j = 0; j < c; j += W) {
            int64_t n = c - j;
            vf g = vload_n(dy + i * c + j, n) * vload_n(w + j, n);
            p = vfma(g, vload_n(x + i * c + j, n) * factor, p);
        }
        vf drstd = vset(vsum(p) / (float)c);
        for (int64_t j = 0; j < c; j += W) {
            int64_t n = c - j;
            vf g = vload_n(dy + i * c + j, n) * vload_n(w + j, n);
            vf hat = vload_n(x + i * c + j, n) * factor;
            put(dx + i * c + j, (g - hat * drstd) * factor, n, accumulate);
        }
    }
}

FN void rms_norm_sums(float *dw, const float *dy, const float *x, const float *rstd, int64_t rows,
                      int64_t c)
{
    for (int64_t j = 0; j < c; j += W) {
        int64_t n = c - j;
        vf sum = vset(0.0f);
        for (int64_t i = 0; i < rows; i++)
            sum = vfma(vload_n(dy + i * c + j, n), vload_n(x + i * c + j, n) * vset(rstd[i]), sum);
        vstore_n(dw + j, sum, n);
    }
}

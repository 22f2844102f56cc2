/* Four columns of W rows of x. */
INLINE void transpose_four(float *out, int64_t stride, const float *x, int64_t x_stride)
{
    vf part[4];
    UNROLL
    for (int i = 0; i < 4; i++)
        part[i] = vload_fours(x + i * x_stride, 4 * x_stride);
    vtranspose(part);
    UNROLL
    for (int i = 0; i < 4; i++)
        vstore(out + i * stride, part[i]);
}

/* In panels of rows, which the caches hold while they are read a cache line's width at a time. The
 * last rows and columns are done together with some before them, a second time. */
FN void transpose(float *out, int64_t stride, const float *x, int64_t x_stride, int64_t rows,
                  int64_t n)
{
    const int64_t panel = 512, line = 16;
    if (rows < W || n < 4) {
        for (int64_t k = 0; k < n; k++)
            for (int64_t i = 0; i < rows; i++)
                out[k * stride + i] = x[i * x_stride + k];
        return;
    }
    for (int64_t first = 0; first < rows; first += panel)
        for (int64_t k = 0; k < n; k += line)
            for (int64_t i = first; i < rows && i < first + panel; i += W) {
                int64_t row = i < rows - W ? i : rows - W;
                for (int64_t j = k; j < n && j < k + line; j += 4) {
                    int64_t column = j < n - 4 ? j : n - 4;
                    transpose_four(out + column * stride + row, stride, x + row * x_stride + column,
                                   x_stride);
                }
            }
}

/* The body of a sara_dot_fn: eight entries of one output row at a time share the loads of dy. The
 * including file defines DOT (the name), TARGET, vec, WIDTH, vzero(), vload(p), vfma(a, b, c) and
 * vsum8(sums, v) (the eight horizontal sums). */

TARGET static void dot8(float sums[8], const float *dy, const float *const x[8], size_t length)
{
    const float *x0 = x[0], *x1 = x[1], *x2 = x[2], *x3 = x[3];
    const float *x4 = x[4], *x5 = x[5], *x6 = x[6], *x7 = x[7];
    vec v[8] = {vzero(), vzero(), vzero(), vzero(), vzero(), vzero(), vzero(), vzero()};
    for (size_t p = 0; p < length; p += WIDTH) {
        vec d = vload(dy + p);
        v[0] = vfma(d, vload(x0 + p), v[0]);
        v[1] = vfma(d, vload(x1 + p), v[1]);
        v[2] = vfma(d, vload(x2 + p), v[2]);
        v[3] = vfma(d, vload(x3 + p), v[3]);
        v[4] = vfma(d, vload(x4 + p), v[4]);
        v[5] = vfma(d, vload(x5 + p), v[5]);
        v[6] = vfma(d, vload(x6 + p), v[6]);
        v[7] = vfma(d, vload(x7 + p), v[7]);
    }
    vsum8(sums, v);
}

TARGET void DOT(float *dw, const float *dy, const float *x, const uint32_t *positions, size_t count,
                uint32_t row, const uint32_t *offsets, size_t length)
{
    const float *from[8];
    float sums[8];
    for (size_t e = 0; e < count; e += 8) {
        size_t n = count - e < 8 ? count - e : 8;
        for (size_t k = 0; k < 8; k++) /* the last group is filled up with its last entry */
            from[k] = x + offsets[positions[e + (k < n ? k : n - 1)] - row];
        dot8(sums, dy, from, length);
        for (size_t k = 0; k < n; k++)
            dw[e + k] += sums[k];
    }
}

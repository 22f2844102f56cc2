/* The gradient of a weight at chosen entries: nn/sampled.c. */

#define DOT_GROUP 16
#define DOT_AHEAD 8 /* rows */

/* Four columns of W rows, from column `from` on. */
INLINE void columns_four(float *out, int64_t stride, const float *const *rows, int64_t from)
{
    vf part[4];
    UNROLL
    for (int i = 0; i < 4; i++)
        part[i] = vload_rows(rows + i, from);
    vtranspose(part);
    UNROLL
    for (int i = 0; i < 4; i++)
        vstore(out + i * stride, part[i]);
}

FN void columns(float *out, int64_t stride, const float *const *rows, int64_t from, int64_t count,
                int64_t n)
{
    const int64_t line = 16;
    for (int64_t p = 0; p < count; p += W) {
        int64_t c = 0;
        if (p + W < count)
            for (int64_t k = p + W; k < p + 2 * W; k++)
                for (c = 0; c < n; c += line)
                    __builtin_prefetch(rows[k] + from + c);
        for (c = 0; c + 4 <= n; c += 4)
            columns_four(out + c * stride + p, stride, rows + p, from + c);
        for (; c < n; c++)
            for (int64_t k = p; k < p + W; k++)
                out[c * stride + k] = rows[k][from + c];
    }
}

/* sum[k] (+)= products of dy and x[k], which moves on, for each of count; `vectors` is a constant.
 */
INLINE void dots_block(vf *sum, const float **x, int64_t count, const float *dy, bool add,
                       const int vectors)
{
    vf d[DOT_VECTORS];
    UNROLL
    for (int v = 0; v < vectors; v++)
        d[v] = vload(dy + v * W);
    for (int64_t k = 0; k < count; k++) {
        const float *from = x[k];
        vf s = vset(0.0f);
        if (add)
            s = sum[k];
        UNROLL
        for (int v = 0; v < vectors; v++)
            s = vfma(d[v], vload(from + v * W), s);
        sum[k] = s;
        x[k] = from + vectors * W;
    }
}

/* Functions of their own: within a loop over blocks compilers keep an address per vector. */
#define DOTS(n)                                                                                    \
    static SIMD_TARGET __attribute__((noinline)) void dots_##n(                                    \
        vf *sum, const float **x, int64_t count, const float *dy, bool add)                        \
    {                                                                                              \
        dots_block(sum, x, count, dy, add, n);                                                     \
    }                                                                                              \
    struct dots_##n /* takes the semicolon */

DOTS(1);
DOTS(2);
DOTS(3);
DOTS(4);
DOTS(5);
DOTS(6);
DOTS(7);
DOTS(8);
DOTS(9);
DOTS(10);
DOTS(11);
DOTS(12);
#if DOT_VECTORS > 12
DOTS(13);
DOTS(14);
DOTS(15);
DOTS(16);
DOTS(17);
DOTS(18);
#endif

#undef DOTS

typedef void (*dots_fn)(vf *sum, const float **x, int64_t count, const float *dy, bool add);

static const dots_fn dots_of[DOT_VECTORS] = {
    dots_1,  dots_2,  dots_3,  dots_4,  dots_5,  dots_6,
    dots_7,  dots_8,  dots_9,  dots_10, dots_11, dots_12,
#if DOT_VECTORS > 12
    dots_13, dots_14, dots_15, dots_16, dots_17, dots_18,
#endif
};

/* As many vectors of dy as fit the registers meet all entries of an output row. */
INLINE void dots_row(vf *sum, const float **x, int64_t count, const float *dy, int64_t length)
{
    for (int64_t at = 0; at < length; at += DOT_VECTORS * W) {
        int64_t vectors = (length - at) / W;
        dots_of[(vectors < DOT_VECTORS ? vectors : DOT_VECTORS) - 1](sum, x, count, dy + at,
                                                                     at > 0);
    }
}

INLINE void dots_add(float *dw, const uint32_t *entry, const vf *sum, int64_t count)
{
    float sums[DOT_GROUP];
    for (int64_t k = 0; k < DOT_GROUP; k += W) {
        vf part[4];
        vfold(part, sum + k);
        vtranspose(part);
        vstore(sums + k, (part[0] + part[2]) + (part[1] + part[3]));
    }
    for (int64_t k = 0; k < count; k++)
        dw[entry[k]] += sums[k];
}

/* Positions and gradients of a row's entries, which few others of the tile share. */
INLINE void dots_prefetch(const sara_simd_dots *dots, int64_t o)
{
    const uint32_t line = 16;
    for (uint32_t e = dots->begin[o] / line * line, end = dots->end[o]; e < end; e += line) {
        __builtin_prefetch(dots->positions + e);
        __builtin_prefetch(dots->dw + e, 1);
    }
}

/* Sums of entries are made across lanes sixteen at a time, whatever rows they are of. */
FN void sampled_dots(const sara_simd_dots *dots, int64_t first, int64_t last)
{
    vf sum[DOT_GROUP];
    const float *x[DOT_GROUP];
    uint32_t entry[DOT_GROUP];
    int64_t filled = 0;
    for (int k = 0; k < DOT_GROUP; k++)
        sum[k] = vset(0.0f);
    for (int64_t o = first; o < last; o++) {
        dots_prefetch(dots, o + DOT_AHEAD < last ? o + DOT_AHEAD : last - 1);
        const uint32_t base = dots->base + (uint32_t)o * dots->row;
        for (uint32_t e = dots->begin[o], end = dots->end[o]; e < end;) {
            int64_t n = end - e < DOT_GROUP - filled ? end - e : DOT_GROUP - filled;
            for (int64_t k = 0; k < n; k++, e++) {
                entry[filled + k] = e;
                x[filled + k] = dots->x + dots->offsets[dots->positions[e] - base];
            }
            dots_row(sum + filled, x + filled, n, dots->dy + o * dots->length, dots->length);
            filled += n;
            if (filled == DOT_GROUP) {
                dots_add(dots->dw, entry, sum, DOT_GROUP);
                filled = 0;
            }
        }
    }
    dots_add(dots->dw, entry, sum, filled);
}

/* A tile of c: its corner and those of the rows of a and the columns of b it is the product of;
 * `tail` columns of the last vector exist. */
typedef struct gemm_part {
    float *c;
    const float *a, *b;
    int64_t ldc, a_row, a_column, ldb, k, tail;
    bool accumulate;
} gemm_part;

/* A tile of `rows` x `vectors`, constants, in registers. */
INLINE void gemm_tile(const gemm_part *part, const int rows, const int vectors)
{
    const float *a = part->a, *b = part->b;
    const int64_t a_row = part->a_row, a_column = part->a_column, ldb = part->ldb;
    const vlanes tail = vfirst(part->tail);
    vf sum[GEMM_ROWS][GEMM_VECTORS];
    UNROLL
    for (int i = 0; i < rows; i++)
        UNROLL
    for (int v = 0; v < vectors; v++)
        sum[i][v] = vset(0.0f);
    for (int64_t p = part->k; p > 0; p--, a += a_column, b += ldb) {
        vf right[GEMM_VECTORS];
        UNROLL
        for (int v = 0; v < vectors - 1; v++)
            right[v] = vload(b + v * W);
        right[vectors - 1] = vload_lanes(b + (vectors - 1) * W, tail);
        UNROLL
        for (int i = 0; i < rows; i++) {
            vf left = vset(a[i * a_row]);
            UNROLL
            for (int v = 0; v < vectors; v++)
                sum[i][v] = vfma(left, right[v], sum[i][v]);
        }
    }
    UNROLL
    for (int i = 0; i < rows; i++)
        UNROLL
    for (int v = 0; v < vectors; v++) {
        float *at = part->c + i * part->ldc + v * W;
        vlanes n = v < vectors - 1 ? vfirst(W) : tail;
        if (part->accumulate)
            sum[i][v] += vload_lanes(at, n);
        vstore_lanes(at, sum[i][v], n);
    }
}

#define GEMM_CASE(rows)                                                                            \
    case rows:                                                                                     \
        gemm_tile(part, (rows) < GEMM_ROWS ? (rows) : GEMM_ROWS, vectors);                         \
        break

/* m rows of c from part's corner on; vectors is a constant. */
INLINE void gemm_panel(gemm_part *part, int64_t m, const int vectors)
{
    for (; m >= GEMM_ROWS; m -= GEMM_ROWS) {
        gemm_tile(part, GEMM_ROWS, vectors);
        part->a += GEMM_ROWS * part->a_row;
        part->c += GEMM_ROWS * part->ldc;
    }
    switch (m) {
        GEMM_CASE(1);
        GEMM_CASE(2);
        GEMM_CASE(3);
        GEMM_CASE(4);
        GEMM_CASE(5);
    default:
        break;
    }
}

#undef GEMM_CASE

/* Panels of up to GEMM_VECTORS vectors, as equal as can be. */
FN void gemm(float *c, int64_t ldc, const float *a, int64_t a_row, int64_t a_column, const float *b,
             int64_t ldb, int64_t m, int64_t n, int64_t k, bool accumulate)
{
    int64_t vectors = (n + W - 1) / W, panels = (vectors + GEMM_VECTORS - 1) / GEMM_VECTORS;
    for (int64_t j = 0; j < n; panels--) {
        int64_t take = (vectors + panels - 1) / panels, width = n - j < take * W ? n - j : take * W;
        gemm_part part = {c + j,     a, b + j, ldc, a_row, a_column, ldb, k, width - (take - 1) * W,
                          accumulate};
        switch (take) {
        case 1:
            gemm_panel(&part, m, 1);
            break;
        case 2:
            gemm_panel(&part, m, 2);
            break;
#if GEMM_VECTORS > 2
        case 3:
            gemm_panel(&part, m, 3);
            break;
#endif
#if GEMM_VECTORS > 3
        case 4:
            gemm_panel(&part, m, 4);
            break;
#endif
        }
        j += width;
        vectors -= take;
    }
}

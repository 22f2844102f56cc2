/* A tile of `rows` x `vectors` in registers. The last two arguments are constants. */
INLINE void gemm_tile(float *c, int64_t ldc, const float *a, int64_t a_row, int64_t a_column,
                      const float *b, int64_t ldb, int64_t k, bool accumulate, const int rows,
                      const int vectors)
{
    vf sum[GEMM_ROWS][2];
    UNROLL
    for (int i = 0; i < rows; i++)
        sum[i][0] = sum[i][1] = vset(0.0f);
    for (int64_t p = 0; p < k; p++) {
        vf right[2];
        UNROLL
        for (int v = 0; v < vectors; v++)
            right[v] = vload(b + p * ldb + v * W);
        UNROLL
        for (int i = 0; i < rows; i++) {
            vf left = vset(a[i * a_row + p * a_column]);
            UNROLL
            for (int v = 0; v < vectors; v++)
                sum[i][v] = vfma(left, right[v], sum[i][v]);
        }
    }
    UNROLL
    for (int i = 0; i < rows; i++)
        UNROLL
        for (int v = 0; v < vectors; v++) {
            float *at = c + i * ldc + v * W;
            if (accumulate)
                sum[i][v] += vload(at);
            vstore(at, sum[i][v]);
        }
}

#define GEMM_CASE(rows)                                                                            \
    case rows:                                                                                     \
        gemm_tile(c, ldc, a, a_row, a_column, b, ldb, k, accumulate,                               \
                  (rows) < GEMM_ROWS ? (rows) : GEMM_ROWS, vectors);                               \
        break

/* `rows` (up to GEMM_ROWS) rows of c; vectors is a constant, 1 or 2. */
INLINE void gemm_rows(float *c, int64_t ldc, const float *a, int64_t a_row, int64_t a_column,
                      const float *b, int64_t ldb, int64_t k, bool accumulate, int64_t rows,
                      const int vectors)
{
    switch (rows) {
        GEMM_CASE(1);
        GEMM_CASE(2);
        GEMM_CASE(3);
        GEMM_CASE(4);
        GEMM_CASE(5);
        GEMM_CASE(6);
        GEMM_CASE(7);
    default:
        GEMM_CASE(8);
    }
}

#undef GEMM_CASE

FN void gemm(float *c, int64_t ldc, const float *a, int64_t a_row, int64_t a_column, const float *b,
             int64_t ldb, int64_t m, int64_t n, int64_t k, bool accumulate)
{
    for (int64_t j = 0; j < n; j += 2 * W)
        for (int64_t i = 0; i < m; i += GEMM_ROWS) {
            int64_t rows = m - i < GEMM_ROWS ? m - i : GEMM_ROWS;
            float *to = c + i * ldc + j;
            const float *left = a + i * a_row;
            if (n - j > W)
                gemm_rows(to, ldc, left, a_row, a_column, b + j, ldb, k, accumulate, rows, 2);
            else
                gemm_rows(to, ldc, left, a_row, a_column, b + j, ldb, k, accumulate, rows, 1);
        }
}

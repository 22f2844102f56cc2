/* The compiler makes vectors of the one formula, whose bits stay. */
FN void adamw(float *masters, const float *gradient, const float *added, float *moment1,
              float *moment2, int64_t count, const sara_adamw *numbers)
{
    const sara_adamw a = *numbers;
    if (added)
#pragma omp simd
        for (int64_t i = 0; i < count; i++)
            masters[i] =
                sara_adamw_entry(&a, masters[i], gradient[i], added[i], &moment1[i], &moment2[i]);
    else
#pragma omp simd
        for (int64_t i = 0; i < count; i++)
            masters[i] = sara_adamw_entry(&a, masters[i], gradient[i], 0, &moment1[i], &moment2[i]);
}

/* One after the other within each array; the arrays side by side, as an addition waits for the one
 * before it. */
FN void square_sums(double sums[SARA_SIMD_SUMS], const float *const arrays[SARA_SIMD_SUMS],
                    int64_t count, float scale)
{
    const float *x[SARA_SIMD_SUMS];
    double sum[SARA_SIMD_SUMS];
    UNROLL
    for (int i = 0; i < SARA_SIMD_SUMS; i++) {
        x[i] = arrays[i];
        sum[i] = sums[i];
    }
    for (int64_t k = 0; k < count; k++)
        UNROLL
    for (int i = 0; i < SARA_SIMD_SUMS; i++) {
        double scaled = (double)(x[i][k] * scale);
        sum[i] += scaled * scaled;
    }
    UNROLL
    for (int i = 0; i < SARA_SIMD_SUMS; i++)
        sums[i] = sum[i];
}

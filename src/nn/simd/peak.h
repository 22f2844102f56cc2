/* As many independent chains as hide the latency of a multiply-add and fit 16 registers. */
#define CHAINS 12

FN float peak(int64_t rounds, double *flops)
{
    vf sum[CHAINS], factor = vset(0.75f), addend = vset(0.25f);
    UNROLL
    for (int i = 0; i < CHAINS; i++)
        sum[i] = vset((float)i);
    for (int64_t r = 0; r < rounds; r++)
        UNROLL
    for (int i = 0; i < CHAINS; i++)
        sum[i] = vfma(sum[i], factor, addend);
    for (int i = 1; i < CHAINS; i++)
        sum[0] += sum[i];
    *flops = 2.0 * W * CHAINS * (double)rounds;
    return vsum(sum[0]);
}

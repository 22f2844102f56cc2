/* The host's arithmetic peak, measured. */
#include "nn/simd/simd.h"

#define ROUNDS  2000000 /* some milliseconds */
#define SECONDS 0.2

/* All threads at once; floating operations a second. */
static double run_once(const sara_simd *simd, int threads)
{
    double flops = 0, begun = sara_clock();
    float sum = 0;
#pragma omp parallel num_threads(threads) reduction(+ : flops, sum)
    {
        double own;
        sum += simd->peak(ROUNDS, &own);
        flops += own;
    }
    double seconds = sara_clock() - begun;
    return sum > 0 && seconds > 0 ? flops / seconds : 0;
}

double sara_nn_peak_flops(const sara_context *ctx)
{
    const sara_simd *simd = sara_simd_best();
    double best = 0, end = sara_clock() + SECONDS;
    do {
        double rate = run_once(simd, sara_threads(ctx));
        best = rate > best ? rate : best;
    } while (sara_clock() < end);
    return best;
}

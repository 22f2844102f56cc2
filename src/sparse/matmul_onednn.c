#include "sparse/low_rank.h"

#include <oneapi/dnnl/dnnl.h>

sara_status sara_gemm(sara_context *ctx, sara_block c, sara_block a, sara_block b, int64_t m,
                      int64_t n, int64_t k, float alpha, float beta)
{
    dnnl_status_t result = dnnl_sgemm(a.transposed ? 'T' : 'N', b.transposed ? 'T' : 'N', m, n, k,
                                      alpha, a.at, a.ld, b.at, b.ld, beta, c.at, c.ld);
    if (result == dnnl_success)
        return SARA_OK;
    return sara_fail(ctx, result == dnnl_out_of_memory ? SARA_ERROR_MEMORY : SARA_ERROR_DEVICE,
                     "dnnl_sgemm of [%lld,%lld] by [%lld,%lld]: status %d", (long long)m,
                     (long long)k, (long long)k, (long long)n, (int)result);
}

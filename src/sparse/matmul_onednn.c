#include "sparse/low_rank.h"

#include <oneapi/dnnl/dnnl.h>

sara_status sara_matmul(sara_context *ctx, float *c, const float *a, const float *b, int64_t m,
                        int64_t n, int64_t k, bool transposed)
{
    dnnl_status_t result = dnnl_sgemm('N', transposed ? 'T' : 'N', m, n, k, 1.0f, a, k, b,
                                      transposed ? k : n, 0.0f, c, n);
    if (result == dnnl_success)
        return SARA_OK;
    return sara_fail(ctx, result == dnnl_out_of_memory ? SARA_ERROR_MEMORY : SARA_ERROR_DEVICE,
                     "dnnl_sgemm of [%lld,%lld] by [%lld,%lld]: status %d", (long long)m,
                     (long long)k, (long long)k, (long long)n, (int)result);
}

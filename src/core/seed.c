/* Seeds that nobody chose. */
#include "core/core.h"

#include <errno.h>
#include <sys/random.h>

sara_status sara_draw_seed(sara_context *ctx, uint64_t *seed, int64_t count)
{
    const uint64_t end = (uint64_t)1 << 32;
    uint64_t bits = 0, used = count < 1 ? 1 : (uint64_t)count;
    char reason[128];
    ssize_t got;
    if (used > end)
        return sara_fail(ctx, SARA_ERROR_USAGE, "%lld seeds in a row, expected at most 2^32",
                         (long long)count);
    do
        got = getrandom(&bits, sizeof(bits), 0);
    while (got < 0 && errno == EINTR);
    if (got != (ssize_t)sizeof(bits))
        return sara_fail(ctx, SARA_ERROR_IO, "drawing a seed: getrandom: %s; give one that is not "
                         "negative", got < 0 ? sara_errno_text(reason, errno) : "too few bytes");
    *seed = bits % (end - used + 1); /* off from even by 2^-32 at most */
    return SARA_OK;
}

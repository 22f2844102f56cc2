/* Seeds from the system's entropy. */
#include "support/support.h"

#include <errno.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Stands in for the C library's: bits, or failures before them. */
static bool faked;
static uint64_t bits;
static int failures, failure;
static size_t most = 8;

ssize_t getrandom(void *buffer, size_t size, unsigned flags)
{
    if (!faked)
        return syscall(SYS_getrandom, buffer, size, flags);
    if (failures-- > 0) {
        errno = failure;
        return -1;
    }
    memcpy(buffer, &bits, size < most ? size : most);
    return (ssize_t)(size < most ? size : most);
}

static uint64_t draw(sara_context *ctx, uint64_t from, int64_t count)
{
    uint64_t seed = 1;
    bits = from;
    assert_ok(ctx, sara_draw_seed(ctx, &seed, count));
    return seed;
}

static void test_range(void **state)
{
    (void)state;
    const uint64_t end = (uint64_t)1 << 32;
    sara_context *ctx = test_context();
    faked = true;
    failures = 0;
    assert_int_equal(draw(ctx, 0, 1), 0);
    assert_int_equal(draw(ctx, end - 1, 1), end - 1);
    assert_int_equal(draw(ctx, UINT64_MAX, 1), end - 1);
    assert_int_equal(draw(ctx, 0x123456789abcdef0, 1), 0x9abcdef0);
    assert_int_equal(draw(ctx, end - 1, 0), end - 1);
    assert_int_equal(draw(ctx, end - 5, 5), end - 5); /* up to 4294967295 are five */
    assert_int_equal(draw(ctx, end - 4, 5), 0);
    assert_int_equal(draw(ctx, UINT64_MAX, (int64_t)end), 0);
    uint64_t seed = 7;
    assert_refused(ctx, SARA_ERROR_USAGE, "4294967297 seeds",
                   sara_draw_seed(ctx, &seed, (int64_t)end + 1));
    assert_int_equal(seed, 7);
    faked = false;
    sara_context_free(ctx);
}

static void test_failures(void **state)
{
    (void)state;
    sara_context *ctx = test_context();
    uint64_t seed = 7;
    faked = true;
    failures = 3;
    failure = EINTR;
    assert_int_equal(draw(ctx, 5, 1), 5);
    failures = 1;
    failure = ENOSYS;
    assert_refused(ctx, SARA_ERROR_IO, "drawing a seed: getrandom: Function not implemented",
                   sara_draw_seed(ctx, &seed, 1));
    most = 3;
    failures = 0;
    assert_refused(ctx, SARA_ERROR_IO, "too few bytes", sara_draw_seed(ctx, &seed, 1));
    most = 8;
    faked = false;
    assert_int_equal(seed, 7);
    sara_context_free(ctx);
}

static void test_differ(void **state)
{
    (void)state;
    sara_context *ctx = test_context();
    uint64_t seeds[4];
    for (int i = 0; i < 4; i++)
        assert_ok(ctx, sara_draw_seed(ctx, &seeds[i], 1));
    assert_true(seeds[0] != seeds[1] || seeds[1] != seeds[2] || seeds[2] != seeds[3]);
    sara_context_free(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_range),
        cmocka_unit_test(test_failures),
        cmocka_unit_test(test_differ),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

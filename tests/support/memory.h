/* Allocators of tests: one that counts bytes, and one that fails when it is told to, with what runs
 * a function with each failure. */
#ifndef SARA_TEST_MEMORY_H
#define SARA_TEST_MEMORY_H

#include "support/support.h"

/* Bytes that are taken and not given back, and the most that ever were. */
typedef struct test_taken {
    size_t now, peak;
} test_taken;
sara_allocator test_taken_functions(test_taken *taken); /* which goes on from what it holds */

/* An allocator whose n-th allocation from now on fails, and all after it unless `once`; counts what
 * was made, what of it is alive, and what failed. */
typedef struct test_allocator {
    long left; /* until the failure; negative: never */
    long made, alive, failures;
    bool once;
} test_allocator;
sara_allocator test_allocator_functions(test_allocator *allocator); /* fails not yet */
sara_context *test_allocator_context(test_allocator *allocator);
/* Runs fn with the 1st, 2nd, ... allocation failing, until it succeeds: each failure must be
 * SARA_ERROR_MEMORY and leave nothing allocated. */
typedef sara_status (*test_memory_fn)(sara_context *ctx, const char *argument);
void test_every_allocation(test_memory_fn fn, const char *argument);

#endif

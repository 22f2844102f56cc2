/* An allocator that fails when it is told to, and what runs a function with each failure. */
#ifndef SARA_TEST_MEMORY_H
#define SARA_TEST_MEMORY_H

#include "support/support.h"

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

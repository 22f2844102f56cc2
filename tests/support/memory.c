#include "support/memory.h"

#include <malloc.h>
#include <stdlib.h>

static void *take_counted(void *user, size_t size)
{
    test_taken *taken = user;
    void *memory = malloc(size);
    taken->now += malloc_usable_size(memory);
    taken->peak = taken->now > taken->peak ? taken->now : taken->peak;
    return memory;
}

static void give_counted(void *user, void *memory)
{
    ((test_taken *)user)->now -= malloc_usable_size(memory);
    free(memory);
}

sara_allocator test_taken_functions(test_taken *taken)
{
    return (sara_allocator){take_counted, give_counted, taken};
}

static void *allocate(void *user, size_t size)
{
    test_allocator *allocator = user;
    if (allocator->left == 0) {
        allocator->left -= allocator->once;
        allocator->failures++;
        return NULL;
    }
    if (allocator->left > 0)
        allocator->left--;
    void *memory = malloc(size);
    assert_non_null(memory);
    allocator->made++;
    allocator->alive++;
    return memory;
}

static void release(void *user, void *memory)
{
    ((test_allocator *)user)->alive--;
    free(memory);
}

sara_allocator test_allocator_functions(test_allocator *allocator)
{
    *allocator = (test_allocator){.left = -1};
    return (sara_allocator){allocate, release, allocator};
}

sara_context *test_allocator_context(test_allocator *allocator)
{
    sara_context *ctx = NULL;
    sara_allocator functions = test_allocator_functions(allocator);
    sara_context_options options = {.allocator = &functions, .threads = 1};
    assert_ok(ctx, sara_context_new(&ctx, &options));
    return ctx;
}

void test_every_allocation(test_memory_fn fn, const char *argument)
{
    test_allocator allocator;
    sara_context *ctx = test_allocator_context(&allocator);
    long before = allocator.alive, n = 0;
    for (bool failed = true; failed; n++) {
        allocator.left = n;
        allocator.failures = 0;
        sara_status status = fn(ctx, argument);
        failed = allocator.failures > 0;
        allocator.left = -1;
        if (failed)
            test_assert_status(ctx, status, SARA_ERROR_MEMORY, argument, __FILE__, __LINE__);
        else
            test_assert_status(ctx, status, SARA_OK, argument, __FILE__, __LINE__);
        assert_int_equal(allocator.alive, before);
    }
    assert_true(n > 1); /* something was allocated at all */
    sara_context_free(ctx);
    assert_int_equal(allocator.alive, 0);
}

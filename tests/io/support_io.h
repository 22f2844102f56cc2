/* What the io tests share: hostile safetensors files and an allocator that fails. */
#ifndef SARA_TEST_SUPPORT_IO_H
#define SARA_TEST_SUPPORT_IO_H

#include "support/support.h"

/* A safetensors file of an arbitrary header and data bytes 0, 1, 2, ...; free() the path. */
char *test_safetensors(const char *folder, const char *header, size_t data_size);
char *test_join(const char *folder, const char *name); /* free() */
/* Whether the folder holds exactly `count` names. */
void test_assert_names(sara_context *ctx, const char *folder, size_t count);

/* An allocator whose n-th allocation from now on fails (and all after it); counts what is alive. */
typedef struct test_allocator {
    long left; /* until the failure; negative: never */
    long alive;
} test_allocator;
sara_context *test_allocator_context(test_allocator *allocator);
/* Runs fn with the 1st, 2nd, ... allocation failing, until it succeeds: each failure must be
 * SARA_ERROR_MEMORY and leave nothing allocated. */
typedef sara_status (*test_memory_fn)(sara_context *ctx, const char *argument);
void test_every_allocation(test_memory_fn fn, const char *argument);

#endif

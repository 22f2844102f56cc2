/* What the io tests share: hostile safetensors files. */
#ifndef SARA_TEST_SUPPORT_IO_H
#define SARA_TEST_SUPPORT_IO_H

#include "support/memory.h"

/* A safetensors file of an arbitrary header and data bytes 0, 1, 2, ...; free() the path. */
char *test_safetensors(const char *folder, const char *header, size_t data_size);
char *test_join(const char *folder, const char *name); /* free() */
/* Whether the folder holds exactly `count` names. */
void test_assert_names(sara_context *ctx, const char *folder, size_t count);

#endif

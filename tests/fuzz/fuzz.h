/* What the fuzzing targets share. Each is one file with LLVMFuzzerTestOneInput(), linked with
 * libFuzzer, or with replay.c, which runs it on the committed corpus in every test run. */
#ifndef SARA_FUZZ_H
#define SARA_FUZZ_H

#include "io/io.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* One thread, no log; sara_context_free(). */
sara_context *fuzz_context(void);
/* A path in a folder of this process, which is in memory where the system has such a place and is
 * removed at the end; static, until the next call with that name. */
const char *fuzz_folder(void);
const char *fuzz_path(char out[256], const char *name);
/* A file of the folder; size 0 with data NULL: none of that name. */
void fuzz_put(const char *name, const uint8_t *data, size_t size);
/* Ends the process: what must hold does not. */
#define fuzz_assert(condition) fuzz_check((condition), #condition, __FILE__, __LINE__)
void fuzz_check(bool condition, const char *text, const char *file, int line);

#endif

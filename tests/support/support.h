/* What the tests share: a context that fails loudly, golden files, relative errors. */
#ifndef SARA_TEST_SUPPORT_H
#define SARA_TEST_SUPPORT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "io/io.h"

/* Fails the test with the context's line unless the call returns SARA_OK. */
#define assert_ok(ctx, call) test_assert_status((ctx), (call), SARA_OK, #call, __FILE__, __LINE__)
/* The call returns `expected` and the context's line contains `text`. */
#define assert_refused(ctx, expected, text, call)                                                  \
    do {                                                                                           \
        test_assert_status((ctx), (call), (expected), #call, __FILE__, __LINE__);                  \
        test_assert_contains(sara_context_error(ctx), (text), __FILE__, __LINE__);                 \
    } while (0)
/* !(error <= tolerance) fails, so that NaN does. */
#define assert_close(error, tolerance, what)                                                       \
    test_assert_close((error), (tolerance), (what), __FILE__, __LINE__)

void test_assert_status(sara_context *ctx, sara_status got, sara_status expected, const char *call,
                        const char *file, int line);
void test_assert_contains(const char *text, const char *part, const char *file, int line);
void test_assert_close(double error, double tolerance, const char *what, const char *file,
                       int line);

/* setlocale(), which fails the test where ctest's fixture has not made the locale. */
void test_set_locale(const char *name);
sara_context *test_context(void); /* two threads, no log; sara_context_free() */
/* ||a - b|| / ||b|| in double; ||a|| where b is zero. */
double test_relative_l2(const float *a, const float *b, size_t count);
/* A float tensor of a safetensors file as f32, *count elements; sara_free(). */
float *test_load_f32(sara_context *ctx, const sara_safetensors *file, const char *name,
                     size_t *count);
sara_safetensors *test_open(sara_context *ctx, const char *path);
/* A new empty folder under the build's temporary place; removed by test_folder_remove. */
char *test_folder(void);
void test_folder_remove(char *folder); /* frees the string too */
/* A file in a folder with the given bytes; returns its path, free(). */
char *test_file(const char *folder, const char *name, const void *data, size_t size);
/* The same, and the folders that the name leads through. */
void test_put(const char *folder, const char *name, const void *data, size_t size);

/* The golden files of families (tests/golden/families) are a part of a larger set, which the
 * environment's SARA_GOLDEN_FAMILIES names. *out: the path of a name in it, "sdxl/unet". */
typedef struct test_name {
    char text[512];
} test_name;
test_name test_family(const char *name);
bool test_families_whole(void); /* the larger set is there */

/* Which of many like cases are tried, every so many: `every`, or with SARA_LONG=1 each. */
long test_stride(long every);

#endif

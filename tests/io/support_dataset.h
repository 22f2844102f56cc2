/* What the tests of dataset folders share: a folder that is filled by name, and what was logged. */
#ifndef SARA_TEST_SUPPORT_DATASET_H
#define SARA_TEST_SUPPORT_DATASET_H

#include "support_images.h"

typedef struct dataset_test {
    sara_context *ctx;
    char *path; /* of the folder */
    sara_dataset_options options;
    sara_dataset data;
    char *log; /* the lines of the last scan */
} dataset_test;

int dataset_set_up(void **state);
int dataset_tear_down(void **state);
#define DATASET_TEST(name) cmocka_unit_test_setup_teardown(name, dataset_set_up, dataset_tear_down)

/* Writes a file, and the folders that its name leads through. Scanning opens no images, so that
 * empty files stand for them. */
void dataset_put(const dataset_test *test, const char *name, const char *content);
char *dataset_path(const dataset_test *test, const char *name); /* free() */
void dataset_link(const dataset_test *test, const char *name, const char *target);
sara_status dataset_scan(dataset_test *test); /* forgets the data and the lines before */
/* Line by line what a scan is to find: "name: caption", with " xN" behind it for repeats. */
void dataset_assert(dataset_test *test, const char *const *lines, size_t count);
#define DATASET_ASSERT(test, ...)                                                                  \
    dataset_assert((test), (const char *const[]){__VA_ARGS__},                                     \
                   sizeof((const char *const[]){__VA_ARGS__}) / sizeof(const char *))
/* The log has the text. */
void dataset_assert_logged(const dataset_test *test, const char *text);

#endif

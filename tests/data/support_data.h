/* What the tests of the data layer share: a context and a scratch folder. */
#ifndef SARA_TEST_SUPPORT_DATA_H
#define SARA_TEST_SUPPORT_DATA_H

#include "data/data.h"
#include "support/support.h"

typedef struct data_test {
    sara_context *ctx;
    char *folder;
    sara_arena strings;
    char *log; /* lines since the last data_forget_log() */
} data_test;

int data_set_up(void **state);
int data_tear_down(void **state);
#define DATA_TEST(name) cmocka_unit_test_setup_teardown(name, data_set_up, data_tear_down)
/* In the scratch folder; lives as long as the test. */
const char *data_path(data_test *test, const char *name);
void data_put(data_test *test, const char *name, const char *content);
void data_forget_log(data_test *test);
/* A picture of this size, of one colour. */
void data_put_image(data_test *test, const char *name, int width, int height);

#endif

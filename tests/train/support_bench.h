/* Benchmarks of a tiny U-Net, for the tests of them. */
#ifndef SARA_TESTS_TRAIN_SUPPORT_BENCH_H
#define SARA_TESTS_TRAIN_SUPPORT_BENCH_H

#include "support/memory.h"

#include "train/train.h"

/* A context that keeps the losses it logs and interrupts itself after a step. */
typedef struct test_bench_state {
    sara_context *ctx;
    sara_bench_options options;
    double losses[16];
    int steps, interrupt_at; /* interrupt_at 0: never */
    char *folder;
} test_bench_state;

int test_bench_setup(void **state);
int test_bench_teardown(void **state);
json_t *test_bench_run(test_bench_state *f);
double test_bench_number(const json_t *object, const char *key);
double test_bench_number_in(const json_t *report, const char *object, const char *key);

#define TEST_BENCH(name)                                                                           \
    cmocka_unit_test_setup_teardown(name, test_bench_setup, test_bench_teardown)

#endif

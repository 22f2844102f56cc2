/* What the tests of training share: a run in a folder of its own, its log, interruptions. */
#ifndef SARA_TEST_SUPPORT_TRAIN_H
#define SARA_TEST_SUPPORT_TRAIN_H

#include "support/support.h"
#include "train/train.h"

#define TEST_REPLAY_STEPS 10

/* The state of a test: its context, a scratch folder with the run folder `output` in it,
 * options. */
typedef struct test_run {
    sara_context *ctx;
    char *folder, *output;
    sara_train_options options;
    char *log;                /* lines that the library logged */
    int64_t interrupt_at;     /* interrupts when this step is reported; -1: never */
    int64_t encoded;          /* images whose encoding was reported */
    const char *interrupt_on; /* interrupts when a logged line contains it; NULL: never */
    sara_arena strings;
} test_run;

/* cmocka's set-up and tear-down: the U-Net and the replay of SD1's kind, output "run". */
int test_run_setup(void **state);
/* The same with a U-Net of 11,000 parameters, too small for a low-rank term, and made-up data. */
int test_run_setup_tiny(void **state);
int test_run_teardown(void **state);
#define TEST_CASE(name) cmocka_unit_test_setup_teardown(name, test_run_setup, test_run_teardown)
#define TEST_TINY(name)                                                                            \
    cmocka_unit_test_setup_teardown(name, test_run_setup_tiny, test_run_teardown)
/* A string that lives as long as the test. */
const char *test_text(test_run *run, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Takes another run folder in the scratch folder. */
void test_run_output(test_run *run, const char *name);
sara_status test_run_train(test_run *run); /* forgets the log lines before */
/* A whole run, "whole", and one interrupted after every second step, "interrupted": the same adapter
 * and log. */
void test_run_interrupted(test_run *run);
void test_run_forget_log(test_run *run);

/* The bytes of a file of the run folder, NUL-terminated; lives as long as the test. */
const char *test_run_read(test_run *run, const char *name, size_t *size);
void test_run_write(test_run *run, const char *name, const char *data, size_t size);
bool test_run_has(test_run *run, const char *name);
/* SHA-256 of the run's adapter. */
const char *test_run_sha256(test_run *run);
/* log.jsonl with the numbers of "seconds" left out. */
const char *test_run_lines(test_run *run);
/* The field of each line that has a step; returns their count, at most limit. */
size_t test_run_column(test_run *run, double *out, size_t limit, const char *field);
/* Events of that name in log.jsonl. */
size_t test_run_events(test_run *run, const char *event);
/* Flips a bit in the middle of a file of the run folder. */
void test_run_flip_bit(test_run *run, const char *name);

/* A replay file of the entries of the options' replay in the given order; an entry given as -1 - i
 * is entry i with NaN latents. rank_names as in the original or left out. */
const char *test_run_replay(test_run *run, const char *name, const int *order, size_t count,
                            bool rank_names);
/* Loads the run's adapter; sara_adapter_free(). */
void test_run_adapter(test_run *run, sara_adapter *adapter);
/* Bit-identical positions and values, whatever the metadata. */
void test_adapters_equal(const sara_adapter *a, const sara_adapter *b);

/* Copies a file to that name in the scratch folder. */
void test_run_copy(test_run *run, const char *name, const char *from);
/* The emoji model, and a dataset folder in the scratch folder: the first `count` images of
 * examples/emoji/ink. */
void test_run_use_images(test_run *run, size_t count);
/* The same for a run of four steps of two images. */
void test_run_take_images(test_run *run, size_t count);

#endif

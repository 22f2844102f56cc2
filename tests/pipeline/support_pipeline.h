/* What tests of the pipeline share: model folders made from examples/emoji/base, adapters. */
#ifndef SARA_TEST_SUPPORT_PIPELINE_H
#define SARA_TEST_SUPPORT_PIPELINE_H

#include "pipeline/pipeline.h"
#include "support/support.h"

#define TEST_BASE SARA_TEST_EMOJI "/base"
#define TEST_TINY SARA_TEST_GOLDEN "/variants/unet_tiny"

enum { TEST_DENOISER, TEST_VAE, TEST_TEXT }; /* parts of Stable Diffusion's families */

/* The state of a test. */
typedef struct test_pipe {
    sara_context *ctx;
    char *folder;         /* scratch */
    char *log;            /* lines that the library logged */
    int64_t interrupt_at; /* interrupts when this step is reported; -1: never */
    sara_arena strings;
} test_pipe;

int test_pipe_setup(void **state);
int test_pipe_teardown(void **state);
#define TEST_CASE(name) cmocka_unit_test_setup_teardown(name, test_pipe_setup, test_pipe_teardown)

/* A string that lives as long as the test. */
const char *test_text(test_pipe *pipe, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* A path in the scratch folder. */
const char *test_path(test_pipe *pipe, const char *name);
void test_write(test_pipe *pipe, const char *path, const char *text);
/* The base in a scratch folder as links to its components, but for model_index.json. */
const char *test_linked_model(test_pipe *pipe, const char *name);
/* Puts another folder in a component's place. */
void test_relink(test_pipe *pipe, const char *folder, const char *component, const char *target);
sara_model *test_model(test_pipe *pipe, const char *path, bool unet_only); /* sara_model_free() */
sara_model *test_model_stored(test_pipe *pipe, const char *path, bool unet_only,
                              const char *weight_dtype);

/* An adapter file for a model: in each parameter every `stride`-th entry, at value + shift. */
const char *test_adapter(test_pipe *pipe, const char *name, sara_model *model, size_t stride,
                         float shift);
/* All values of the U-Net, one after the other; lives as long as the test. */
float *test_values(test_pipe *pipe, const sara_model *model, size_t *count);

/* Of files: the tensors of b that a has too, which are at least `least`, are the same in both. */
void test_holds(test_pipe *pipe, const char *a, const char *b, size_t least);

#endif

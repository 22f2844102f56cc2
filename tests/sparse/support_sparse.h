/* What the tests of the sparse layer share: small parameter sets and a failing allocator. */
#ifndef SARA_TEST_SPARSE_H
#define SARA_TEST_SPARSE_H

#include "support/support.h"
#include "sparse/sparse.h"

/* A parameter of a set: values NULL gives normal noise times 0.02 that depends on its index. */
typedef struct test_tensor {
    const char *name;
    int64_t rows, cols; /* cols 0: rank 1 */
    const float *values;
} test_tensor;

/* Names ascending. sara_params_free() */
sara_params test_params(sara_context *ctx, const test_tensor *tensors, size_t count);
/* A copy of all values, one after the other, *count of them; sara_free() */
float *test_snapshot(sara_context *ctx, const sara_params *params, size_t *count);
/* The parameters hold the snapshot's bits. */
void test_assert_snapshot(const sara_params *params, const float *snapshot);

#define TEST_MICRO_BATCHES 2
/* Adds the gradients of a step's micro-batches as backward would: make_reference.py's. */
void test_add_gradients(sara_params *params, uint32_t step);

/* SaRA on the entries below a threshold. */
typedef struct test_options {
    sara_optimizer_options optimizer;
    sara_adaptation_options adaptation;
} test_options;
typedef struct test_training {
    sara_optimizer *optimizer;
    sara_adaptation *adaptation;
} test_training;
test_training test_train(sara_context *ctx, sara_params *params, const test_options *options);
void test_train_free(test_training *training);
/* sara_optimizer_step() with the adaptation's hooks. */
sara_status test_step(test_training *training, sara_step_report *report, double learning_rate,
                      double grad_scale, const char *matrix, bool loss_finite);

/* Where the float32 value of an entry lies, in the host's memory. */
float *test_value_at(const sara_trainable *item, size_t index);
/* Of master and parameter, which rounds it. */
void test_set_value(const sara_trainable *item, size_t index, float value);

/* Runs fn in contexts whose n-th allocation fails, for n = 0, 1, ... until it succeeds. Each
 * failure must be SARA_ERROR_MEMORY and leave nothing allocated. Returns how many there were. */
typedef sara_status (*test_scenario)(sara_context *ctx, void *user);
int test_fail_allocations(test_scenario scenario, void *user);

#endif

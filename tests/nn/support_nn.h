/* What the tests of ops share: both devices, draws, a loss, parameters. */
#ifndef SARA_TEST_SUPPORT_NN_H
#define SARA_TEST_SUPPORT_NN_H

#include "support/support.h"

#include "nn/kernels.h"

/* A device with a tape on it. */
typedef struct test_nn {
    sara_context *ctx;
    sara_device *device;
    sara_tape *tape;
} test_nn;
test_nn test_nn_open(const char *device);
void test_nn_close(test_nn *nn);

/* Both devices with their environments. */
typedef struct test_pair {
    test_nn fast, plain;
    sara_kernel_env fe, pe;
} test_pair;
test_pair test_pair_open(void);
void test_pair_close(test_pair *pair);

/* A square kernel; pads: top, left, bottom, right. */
sara_conv_shape test_conv_shape(int64_t n, int64_t h, int64_t w, int64_t in, int64_t out, int64_t k,
                                int stride, const int pads[4]);
size_t test_conv_x(const sara_conv_shape *shape); /* elements of x, w and y */
size_t test_conv_w(const sara_conv_shape *shape);
size_t test_conv_y(const sara_conv_shape *shape);

/* Normal draws, different for each seed; malloc'd, free(). */
float *test_nn_random(size_t count, uint64_t seed);
float *test_nn_zeros(size_t count);
float *test_nn_copy(const float *data, size_t count);

/* A parameter with its values drawn; wants nothing. test_nn_param_free() frees value, grad and
 * positions. */
sara_param test_nn_param(test_nn *nn, const char *name, sara_shape shape, uint64_t seed);
void test_nn_param_free(test_nn *nn, sara_param *param);
/* Asks for a dense gradient, or for one at every entry whose draw is below density. */
void test_nn_want_dense(sara_param *param);
void test_nn_want_sampled(sara_param *param, double density);
/* Ascending positions below entries, each with probability density; *count of them; free(). */
uint32_t *test_nn_positions(size_t *count, size_t entries, double density, uint64_t seed);

/* loss [1] = sum(y * weights) */
void test_nn_project(test_nn *nn, sara_var **loss, sara_var *y, const float *weights);

#endif

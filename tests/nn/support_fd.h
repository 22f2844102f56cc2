/* Checks a backward kernel against central finite differences of its forward, in double. Used by
 * tests/nn/test_*_double.c, which are compiled with SARA_DOUBLE and call KERNEL(...) functions.
 *
 *     fill y's projection dy; run the backward kernel for its gradients; then
 *     test_fd_input inputs[] = {{"x", x, dx, x_count}, {"w", w, dw, w_count}};
 *     test_fd_check(forward, &problem, y_count, dy, inputs, 2);
 */
#ifndef SARA_TEST_SUPPORT_FD_H
#define SARA_TEST_SUPPORT_FD_H

#include "support/support.h"

typedef struct test_fd_input {
    const char *name;
    double *data;           /* what forward reads; moved and restored */
    const double *gradient; /* of sum(dy * y), by the kernel under test */
    size_t count;
} test_fd_input;

/* Computes y from the inputs' present data. */
typedef void (*test_fd_forward)(void *problem, double *y);

/* Every entry of every input; relative L2 error of each input's gradient at most 1e-6. */
void test_fd_check(test_fd_forward forward, void *problem, size_t y_count, const double *dy,
                   const test_fd_input *inputs, int input_count);

/* Normal draws, different for each seed; malloc'd, free(). */
double *test_fd_random(size_t count, uint64_t seed);
double *test_fd_zeros(size_t count);

#endif

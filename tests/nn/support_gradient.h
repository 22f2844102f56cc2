/* Checks an op, or several in a row, on the tape: the gradients of inputs and parameters against
 * central finite differences in float, for every kind of gradient a parameter may want.
 */
#ifndef SARA_TEST_SUPPORT_GRADIENT_H
#define SARA_TEST_SUPPORT_GRADIENT_H

#include "nn/support_nn.h"

#define TEST_GRAPH_MAX 5

/* Inputs are drawn; a parameter's values are what test_nn_param drew. */
typedef struct test_graph {
    const char *name;
    sara_status (*build)(sara_tape *tape, sara_var **y, sara_var *const *in,
                         sara_param *const *params);
    sara_shape in[TEST_GRAPH_MAX];
    int in_count;
    sara_shape params[TEST_GRAPH_MAX];
    int param_count;
} test_graph;

/* On both devices. Relative L2 error at most 2e-3; sampled gradients equal the dense ones' entries,
 * and what wants nothing gets nothing. */
void test_graph_check(const test_graph *graph);

#endif

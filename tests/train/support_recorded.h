/* Ten steps that another program has recorded (tests/golden/make_*.py). */
#ifndef SARA_TEST_SUPPORT_RECORDED_H
#define SARA_TEST_SUPPORT_RECORDED_H

#include "support_train.h"

/* golden/METHOD_KIND.safetensors; the run takes its options, the U-Net and the replay of the kind
 * ("sd1", "sd2"). sara_safetensors_close(). */
sara_safetensors *test_recorded_open(test_run *run, const char *method, const char *kind);
/* The run's losses are those that are recorded, within 1e-5, its norms within 1e-4. */
void test_recorded_losses(test_run *run, const sara_safetensors *file);
/* Every stride-th value of each tensor of the file `result`: how far all are from the recorded
 * ones, by how far these are from those of the file `from`, is at most the tolerance. */
void test_recorded_values(test_run *run, const sara_safetensors *file, const char *from,
                          const char *result, double tolerance);

/* What is not trained stays, to the bit, and wants no gradient; activations that are computed again
 * change nothing. */
void test_recorded_frozen(test_run *run);

#endif

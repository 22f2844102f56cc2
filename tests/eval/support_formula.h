/* Numbers that the tests and the scripts that record for them both make (formula.py). */
#ifndef SARA_TEST_EVAL_FORMULA_H
#define SARA_TEST_EVAL_FORMULA_H

#include "support/support.h"

/* Entry i of a stream, in [0, 1). */
float test_formula(uint32_t i, uint32_t stream);
/* offset + scale of entries 0 .. count - 1 */
void test_fill(float *out, size_t count, uint32_t stream, float offset, float scale);

#endif

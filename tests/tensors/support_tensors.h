/* What the tests of the tensors layer share: tensors of "another program" in all three dtypes. */
#ifndef SARA_TEST_TENSORS_H
#define SARA_TEST_TENSORS_H

#include "support/support.h"
#include "tensors/tensors.h"

#define COUNT(array) (sizeof(array) / sizeof(*(array)))

/* Plain memory, as another program's; free(). */
void *test_memory(size_t count, size_t size);
/* Normal noise times scale, rounded to the dtype; free(). */
void *test_values(const char *dtype, size_t count, uint64_t seed, float scale);
/* An entry of such memory. */
float test_value(const char *dtype, const void *data, size_t index);
/* Every `stride`-th index from `first` on, below count; *selected of them; free(). */
uint32_t *test_positions(size_t count, size_t first, size_t stride, size_t *selected);
sara_tensor_view test_view(const char *name, const char *dtype, const void *data, size_t count);

#endif

/* Mixed precision: linear layers and convolutions multiply bf16, converted from float32 on the fly,
 * and sum in float32 (Kalamkar et al. 2019, arXiv 1905.12322). All else stays float32. */
#ifndef SARA_NN_BF16_H
#define SARA_NN_BF16_H

#include "nn/kernels.h"

/* NULL if the processor, and oneDNN on it, multiplies bf16; else what is lacking, as a clause. */
const char *sara_bf16_lacks(void);
/* count floats to bf16, rounded to nearest even; only where nothing is lacking. */
void sara_bf16_narrow(uint16_t *out, const float *in, int64_t count, int threads);

#endif

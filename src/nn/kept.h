/* The state of the dry devices: what the kernels would keep from one pass to the next. */
#ifndef SARA_NN_KEPT_H
#define SARA_NN_KEPT_H

#include "nn/kernels.h"

typedef struct sara_kept sara_kept;

SARA_NODISCARD sara_status sara_kept_new(sara_context *ctx, sara_kept **out);
void sara_kept_free(sara_kept *kept); /* NULL is fine */
/* A kernel's first call takes what its needs say, further ones with the same weight or of the same
 * shape find what is there. kernel: its name, by address. */
SARA_NODISCARD sara_status sara_kept_add(sara_kept *kept, const char *kernel,
                                         const sara_kernel_case *c,
                                         const sara_kernel_needs *needs);
void sara_kept_forget(sara_kept *kept, const sara_param *param);
size_t sara_kept_bytes(const sara_kept *kept); /* at most at once */

#endif

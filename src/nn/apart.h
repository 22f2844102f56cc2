/* The device "cpu-apart", which proves that nobody but a device's kernels and its copies touch its
 * memory. It computes as "cpu" does. All its memory lies in mapped regions that are
 * inaccessible at the addresses that it gives out, and only its kernels and copies know where the
 * bytes are; kernels refuse data that lies elsewhere, as copies refuse the wrong side. */
#ifndef SARA_NN_APART_H
#define SARA_NN_APART_H

#include "nn/kernels.h"

/* *out: sara_nn_device_close(). Errors as of sara_nn_device_open(). */
SARA_NODISCARD sara_status sara_apart_open(sara_context *ctx, sara_device **out);

#endif

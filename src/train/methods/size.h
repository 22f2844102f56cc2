/* What methods share of --trainable, the size that is asked for. */
#ifndef SARA_TRAIN_METHODS_SIZE_H
#define SARA_TRAIN_METHODS_SIZE_H

#include "train/trainer.h"

#define SARA_METHOD_RANK 4 /* where neither a rank nor a size is given */
#define SARA_SIZE_HIGHEST 65536 /* of ranks and widths; as high as no layer's shorter side */

/* How many entries of the denoiser --trainable stands for; that is given, or `automatic` is it. */
SARA_NODISCARD sara_status sara_size_entries(const trainer *t, double *out, const char *automatic);

/* A rank or a width, each of which has so many entries, beside a fixed number. */
typedef struct sara_size_unit {
    int64_t given, automatic; /* given 0: it is not */
    int64_t entries, fixed;
} sara_size_unit;
/* As given, or the one that comes nearest to --trainable, or the automatic one. */
SARA_NODISCARD sara_status sara_size_choose(const trainer *t, int64_t *out,
                                            const sara_size_unit *unit);

#endif

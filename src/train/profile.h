/* The trace as a file that chrome://tracing and Perfetto open (--profile). */
#ifndef SARA_TRAIN_PROFILE_H
#define SARA_TRAIN_PROFILE_H

#include "train/train.h"

/* Opens the file, a new one or an older trace, whose name ends in .json. Refuses others, and a path
 * within one of the inputs (files or folders; NULL entries are skipped). */
SARA_NODISCARD sara_status sara_profile_open(sara_context *ctx, sara_writer **out, const char *path,
                                             const char *const *inputs, size_t count);
/* Writes the context's trace and commits the file. */
SARA_NODISCARD sara_status sara_profile_save(sara_context *ctx, sara_writer **writer);

#endif

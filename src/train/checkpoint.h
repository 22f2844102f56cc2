/* What a checkpoint folder holds: the files of the run's method, of which state.safetensors
 * (moments) is one, and manifest.json (counters, what the run is, SHA-256 of the other files and of
 * itself). */
#ifndef SARA_TRAIN_CHECKPOINT_H
#define SARA_TRAIN_CHECKPOINT_H

#include "train/method.h"

#define SARA_CHECKPOINT_ADAPTER "adapter.safetensors"
#define SARA_CHECKPOINT_STATE   "state.safetensors"

/* checkpoint.c: writes checkpoint-N (N: optimiser steps), then prunes to the limit. */
SARA_NODISCARD sara_status sara_checkpoint_save(trainer *t);
/* Puts the counters where they were; the method's load() does it with what is trained. */
SARA_NODISCARD sara_status sara_checkpoint_count(trainer *t);

/* state.c: the moments of all trainables, and an I32 vector of the method's for each, of as many
 * values as are trained; NULL: none. */
typedef struct sara_state_extra {
    const char *name; /* of the tensors: PARAMETER.name */
    void (*make)(const void *user, void *out, size_t index); /* for the trainable at index */
    const void *user;
} sara_state_extra;
SARA_NODISCARD sara_status sara_state_save(sara_context *ctx, const char *folder,
                                           const sara_trainables *trainables,
                                           const sara_state_extra *extra);
SARA_NODISCARD sara_status sara_state_load(sara_context *ctx, const char *folder,
                                           const sara_trainables *trainables);
SARA_NODISCARD sara_status sara_state_open(sara_context *ctx, sara_safetensors **out,
                                           const char *folder);

/* manifest.c. The manifest of the files in the folder, also written there; json_decref(). */
SARA_NODISCARD sara_status sara_manifest_write(const trainer *t, json_t **out, const char *folder);
/* Verifies the manifest and the files of its run's method; SARA_ERROR_USAGE: a newer program's.
 * json_decref(). */
SARA_NODISCARD sara_status sara_manifest_read(sara_context *ctx, json_t **out, const char *folder);
/* Gives one of an earlier version the defaults of the options that it lacks. */
SARA_NODISCARD sara_status sara_manifest_complete(sara_context *ctx, json_t *manifest);

#endif

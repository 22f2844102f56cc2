/* What a checkpoint folder holds: adapter.safetensors (masters), state.safetensors (moments, active
 * entries) and manifest.json (counters, what the run is, SHA-256 of the other files and of itself).
 */
#ifndef SARA_TRAIN_CHECKPOINT_H
#define SARA_TRAIN_CHECKPOINT_H

#include "train/train.h"

#define SARA_CHECKPOINT_ADAPTER "adapter.safetensors"
#define SARA_CHECKPOINT_STATE   "state.safetensors"

/* state.c. Loading leaves the counters to sara_optimizer_restore(). */
SARA_NODISCARD sara_status sara_state_save(sara_context *ctx, const char *folder,
                                           const sara_optimizer *optimizer,
                                           const sara_adaptation *adaptation);
SARA_NODISCARD sara_status sara_state_load(sara_context *ctx, const char *folder,
                                           sara_optimizer *optimizer,
                                           sara_adaptation *adaptation);

/* manifest.c. The manifest of the files in the folder, also written there; json_decref(). */
SARA_NODISCARD sara_status sara_manifest_write(sara_context *ctx, json_t **out, const char *folder,
                                               const sara_optimizer *optimizer,
                                               const sara_run_state *state, const json_t *identity);
/* Verifies the manifest and the files that it names; json_decref(). */
SARA_NODISCARD sara_status sara_manifest_read(sara_context *ctx, json_t **out, const char *folder);

#endif

/* Micro-batches that a file holds, which may have unlike shapes. */
#ifndef SARA_TRAIN_REPLAY_H
#define SARA_TRAIN_REPLAY_H

#include "train/train.h"

typedef struct sara_replay {
    sara_context *ctx;
    sara_batch *parts; /* of the file: one micro-batch each, or all of them, stacked */
    size_t part_count;
    bool stacked; /* there is one part, whose arrays have the axis of micro-batches before others */
    sara_batch *shapes;
    json_t *rank_names;
    sara_source source; /* with both of them */
} sara_replay;

/* SARA_ERROR_INPUT: it is no replay, or none for this model's denoiser. */
SARA_NODISCARD sara_status sara_replay_open(sara_context *ctx, sara_replay **out,
                                            const sara_model *model,
                                            const sara_objective *objective, const char *path);
void sara_replay_free(sara_replay *replay); /* NULL is fine */
/* Its arrays are the replay's. */
SARA_NODISCARD sara_status sara_replay_get(const sara_replay *replay, sara_batch *out,
                                           int64_t index);

#endif

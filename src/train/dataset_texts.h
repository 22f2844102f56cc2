/* The captions of a data set: what text encoders make of each distinct one, in memory or on the
 * disk. */
#ifndef SARA_TRAIN_DATASET_TEXTS_H
#define SARA_TRAIN_DATASET_TEXTS_H

#include "train/cache_files.h"

typedef struct sara_dataset_texts {
    sara_context *ctx;
    sara_model *model;
    const char **captions; /* the distinct ones; borrowed from the data set */
    size_t *of;            /* [images]: which of them an image has */
    size_t count;
    int64_t length; /* states of a caption */
    /* [count]; without arrays where they are on the disk, under their names */
    sara_text_states *states;
    char (*names)[65];
    sara_text_states read; /* the one that was read last */
    sara_cache_files files;
    char sha256[65]; /* of the ids of all captions */
} sara_dataset_texts;

/* Numbers them and reads their ids; a warning where some are cut. sara_dataset_texts_free(), even
 * after an error. */
SARA_NODISCARD sara_status sara_dataset_texts_open(sara_dataset_texts *texts, sara_model *model,
                                                   const sara_dataset *dataset);
void sara_dataset_texts_free(sara_dataset_texts *texts);
/* Encodes those that are not on the disk. */
SARA_NODISCARD sara_status sara_dataset_texts_fill(sara_dataset_texts *texts);
/* Of an image; *out lives until the next call. */
SARA_NODISCARD sara_status sara_dataset_texts_get(sara_dataset_texts *texts,
                                                  const sara_text_states **out, size_t image);
/* That all of them take; on the disk: that one takes. */
size_t sara_dataset_texts_bytes(const sara_dataset_texts *texts, bool on_disk);

#endif

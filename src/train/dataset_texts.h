/* The captions of a data set: what text encoders make of each distinct one, in memory or on the
 * disk. */
#ifndef SARA_TRAIN_DATASET_TEXTS_H
#define SARA_TRAIN_DATASET_TEXTS_H

#include "train/cache_files.h"

/* Captions that vary: those that the next micro-batches have. */
typedef struct sara_text_stretch {
    char **captions; /* [count], each once */
    sara_text_states *states;
    size_t count, capacity, states_capacity;
    size_t *slots; /* [mask + 1]: 1 + a number, by the caption's hash; 0: free */
    size_t mask;
} sara_text_stretch;

typedef struct sara_dataset_texts {
    sara_context *ctx;
    sara_model *model;
    const sara_data *data; /* borrowed */
    const char **captions; /* the distinct ones of all images; borrowed from the data set */
    bool *fixed;           /* [count]: an image has just this one, always */
    size_t *of;            /* [images]: which of them an image has */
    size_t count;
    int64_t length; /* states of a caption */
    size_t bytes;   /* of the states of one */
    /* [count]; without arrays where they are on the disk, under their names */
    sara_text_states *states;
    char (*names)[65];
    sara_text_states read; /* the one that was read last */
    sara_text_stretch stretch;
    sara_cache_files files;
    char sha256[65]; /* of the ids of all captions */
} sara_dataset_texts;

/* Numbers them and reads their ids; a warning where some are cut. sara_dataset_texts_free(), even
 * after an error. */
SARA_NODISCARD sara_status sara_dataset_texts_open(sara_dataset_texts *texts, sara_model *model,
                                                   const sara_data *data);
void sara_dataset_texts_free(sara_dataset_texts *texts);
/* Encodes those that never vary and are not on the disk. */
SARA_NODISCARD sara_status sara_dataset_texts_fill(sara_dataset_texts *texts);
/* Of an image in an epoch, its sample's number in the run; one that varies is of the stretch. *out
 * lives until the next call. */
SARA_NODISCARD sara_status sara_dataset_texts_get(sara_dataset_texts *texts,
                                                  const sara_text_states **out, size_t image,
                                                  uint64_t number, uint64_t epoch);
/* What is kept at most: that all take, with those of a stretch; on the disk: that one takes. */
size_t sara_dataset_texts_bytes(const sara_dataset_texts *texts, bool on_disk);

/* A stretch: forgotten, then collected until it is full, then encoded. */
void sara_dataset_texts_forget(sara_dataset_texts *texts);
bool sara_dataset_texts_full(const sara_dataset_texts *texts);
SARA_NODISCARD sara_status sara_dataset_texts_want(sara_dataset_texts *texts, size_t image,
                                                   uint64_t number, uint64_t epoch);
/* Interrupted, no more than the first `least`; *whole: whether all are there. */
SARA_NODISCARD sara_status sara_dataset_texts_encode_wanted(sara_dataset_texts *texts, bool *whole,
                                                            size_t least);
/* The states of one that is in the stretch. */
SARA_NODISCARD sara_status sara_dataset_texts_find(const sara_dataset_texts *texts,
                                                   const sara_text_states **out, size_t image,
                                                   uint64_t number, uint64_t epoch);
/* dataset_texts.c, for dataset_stretch.c: to states, or from the disk where it is there. */
SARA_NODISCARD sara_status sara_dataset_texts_encode(sara_dataset_texts *texts,
                                                     sara_text_states *states, const char *caption,
                                                     char name[65], bool keep);
/* captions.c: the distinct captions in the order in which they first come: distinct [count], of
 * which *distinct_count are filled; numbers [count]: which of them each is. */
SARA_NODISCARD sara_status sara_captions_number(sara_context *ctx, size_t *numbers,
                                                const char **distinct, size_t *distinct_count,
                                                const char *const *captions, size_t count);
/* The slot of a caption, or the free one where it belongs. slots [mask + 1]: 1 + a number of
 * `distinct`; 0: free */
size_t sara_captions_find(const size_t *slots, size_t mask, const char *const *distinct,
                          const char *caption);

#endif

/* The inside of a data set's cache, for dataset_cache.c and dataset_moments.c. */
#ifndef SARA_TRAIN_DATASET_CACHE_H
#define SARA_TRAIN_DATASET_CACHE_H

#include "train/dataset_texts.h"

struct sara_dataset_cache {
    sara_context *ctx;
    sara_model *model;
    sara_dataset dataset;
    /* Of each image [1 or 2][2][channels][height][width]: mean, log-variance; as is, flipped. NULL:
     * drawn anew, or in files. */
    float **moments;
    char (*contents)[65]; /* [images]: hashes of the files */
    int64_t *ends;        /* of an item's elements in an epoch, counted from its start */
    sara_dataset_texts texts;
    sara_cache_files files;  /* of moments */
    sara_image_sizes *sizes; /* of each image */
    bool center_crop, random_flip;
    uint64_t seed;
    int64_t channels, side, size; /* of a latent; size in floats */
    sara_tape *tape;
    float *pixels; /* [3][resolution][resolution] */
    float *fresh;  /* [2][size]: moments of an image that are not in memory */
    sara_source source;
};

/* Whether the image's crop is drawn at each step, so that nothing is kept of it. */
bool sara_dataset_crops_anew(const sara_dataset_cache *cache, size_t index);
/* Encodes the images that are not in files. */
SARA_NODISCARD sara_status sara_dataset_moments_fill(sara_dataset_cache *cache);
/* Of an element's image, [2][size]; *out lives until the next call. */
SARA_NODISCARD sara_status sara_dataset_moments_of(sara_dataset_cache *cache, const float **out,
                                                   size_t index, int64_t element);
/* Of an element's picture, as diffusers' train_text_to_image_sdxl.py tells them: its size in the
 * file, where its crop lies after it was resized, and mirrored if it is, and the crop's size. */
void sara_dataset_time_ids_of(const sara_dataset_cache *cache, float out[SARA_TIME_IDS],
                              size_t index, int64_t element);

#endif

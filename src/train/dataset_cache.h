/* The inside of a data set's cache: what images and captions are encoded to. */
#ifndef SARA_TRAIN_DATASET_CACHE_H
#define SARA_TRAIN_DATASET_CACHE_H

#include "train/dataset_texts.h"

/* Which images a micro-batch takes: of the subject, or of its class. */
typedef enum sara_dataset_part {
    SARA_DATASET_INSTANCE,
    SARA_DATASET_CLASS,
    SARA_DATASET_PARTS
} sara_dataset_part;

typedef struct sara_dataset_cache {
    sara_context *ctx;
    sara_model *model;
    sara_data_config config;
    sara_data data;
    /* Of each image [1 or 2][2][channels][height][width]: mean, log-variance; as is, flipped. NULL:
     * drawn anew, or in files. */
    float **moments;
    /* Of each image [1 or 2][height][width] of latents. NULL: drawn anew, in files, or all 1. */
    float **masks;
    bool masked; /* some image has a mask */
    sara_dataset_texts texts;
    sara_cache_files files; /* of moments and masks */
    uint64_t seed;
    int64_t channels;
    int factor;                   /* pixels of a latent */
    int most;                     /* samples of a part of a micro-batch, at most */
    bool together;                /* both parts are one batch: one shape alone */
    sara_order_element *elements; /* [most]: of the micro-batch that is made */
    sara_tape *tape;
    float *pixels;      /* [3][height][width] of the largest shape */
    float *fresh;       /* [2][channels][height][width] of it: of an image that is not in memory */
    float *fresh_mask;  /* [height][width] of it */
    sara_batch *shapes; /* [source.shape_count] */
    int64_t stretch_first, stretch_end; /* micro-batches whose varying captions are encoded */
    int64_t end;                        /* of micro-batches that are known to come */
    sara_source source;
} sara_dataset_cache;

/* An image in a micro-batch. number: that of the sample in the whole run, from which all is drawn
 * that differs from one use of the image to the next. */
typedef struct sara_dataset_sample {
    size_t image;
    uint64_t number;
} sara_dataset_sample;

SARA_NODISCARD sara_status sara_dataset_cache_new(sara_context *ctx, sara_dataset_cache **out,
                                                  sara_model *model,
                                                  const sara_train_options *options);
/* See sara_batches_open_files(). */
SARA_NODISCARD sara_status sara_dataset_cache_open_files(sara_dataset_cache *cache,
                                                         const sara_train_options *options,
                                                         const json_t *identity);
/* See sara_batches_fill(). */
SARA_NODISCARD sara_status sara_dataset_cache_fill(sara_dataset_cache *cache, int64_t first,
                                                   int64_t end);
void sara_dataset_cache_free(sara_dataset_cache *cache);
/* The shape of a part of a micro-batch; of none: of rank 0. */
sara_batch sara_dataset_cache_shape(sara_dataset_cache *cache, sara_dataset_part part,
                                    int64_t index);
/* The number of a micro-batch's first sample of a part. */
uint64_t sara_dataset_cache_number(const sara_dataset_cache *cache, sara_dataset_part part,
                                   int64_t index);
/* Latents and condition of a part of a micro-batch, to the batch's samples from `first` on. */
SARA_NODISCARD sara_status sara_dataset_cache_get(sara_dataset_cache *cache,
                                                  const sara_batch *batch, int64_t first,
                                                  sara_dataset_part part, int64_t index);

/* ------------------------------------------------------------------------------- used within it */

const sara_subset *sara_dataset_subset(const sara_dataset_cache *cache, size_t image);
/* Floats of an image's latent. */
int64_t sara_dataset_latent_size(const sara_dataset_cache *cache, size_t image);
/* Whether the image is encoded at each step, so that nothing is kept of it. */
bool sara_dataset_encodes_anew(const sara_dataset_cache *cache, size_t image);
/* Where a sample's crop begins in the resized image, and whether it is mirrored. */
typedef struct sara_dataset_crop {
    int left, top;
    bool flip;
} sara_dataset_crop;
sara_dataset_crop sara_dataset_crop_of(const sara_dataset_cache *cache,
                                       const sara_dataset_sample *sample);
/* Encodes the images that are not in files. */
SARA_NODISCARD sara_status sara_dataset_moments_fill(sara_dataset_cache *cache);
/* [2][latent size]; *out lives until the next call. */
SARA_NODISCARD sara_status sara_dataset_moments_of(sara_dataset_cache *cache, const float **out,
                                                   const sara_dataset_sample *sample);
/* Its mask [latent height][latent width], all 1 where it has none; *out lives until the next
 * call. */
SARA_NODISCARD sara_status sara_dataset_mask_of(sara_dataset_cache *cache, const float **out,
                                                const sara_dataset_sample *sample);
/* dataset_mask.c: of an image and a crop of it, of the latents' size. */
SARA_NODISCARD sara_status sara_dataset_mask_make(const sara_dataset_cache *cache, float *out,
                                                  size_t index, const sara_dataset_crop *crop);
/* out [height][width] in [0, 1]: of the crop of a resized mask, whose red counts, the means over
 * the pixels that each position covers, as torch's interpolate(mode="area"). */
void sara_dataset_mask_average(float *out, int width, int height, const sara_image *mask,
                               const sara_fit *fit, const sara_dataset_crop *crop);
/* Of a sample's picture, as diffusers' train_text_to_image_sdxl.py tells them: its size in the
 * file, where its crop lies after it was resized, and mirrored if it is, and the crop's size. */
void sara_dataset_time_ids_of(const sara_dataset_cache *cache, float out[SARA_TIME_IDS],
                              const sara_dataset_sample *sample);
/* out [3][height][width] in [-1,1]: the crop, mirrored if it is to be. */
void sara_dataset_crop_pixels(float *out, const sara_image *image, const sara_fit *fit,
                              const sara_dataset_crop *crop);
/* The colours of a sample, in place, as kohya's color_aug: for 0.33 of samples the hue by up to 8
 * of OpenCV's 180 steps, or a gamma of 0.95 to 1.05 of values of 0 to 255. */
void sara_dataset_color_pixels(sara_image *image, uint64_t seed, uint64_t number);

#endif

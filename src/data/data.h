/* The data layer: what is trained on, before anything is encoded: which images, in which shapes, in
 * which order, under which captions. */
#ifndef SARA_DATA_H
#define SARA_DATA_H

#include "io/io.h"

/* -------------------------------------------------------------------------------------- buckets */

/* As kohya's sd-scripts have them (library/train_util.py, BucketManager). */
typedef struct sara_bucket_options {
    int width, height; /* the resolution */
    bool enabled;      /* else all images have the resolution's shape */
    bool no_upscale;   /* no image is made larger; least and most are then not looked at */
    int least, most;   /* of a bucket's sides: min_bucket_reso, max_bucket_reso */
    int steps;         /* a bucket's sides are multiples of it: bucket_reso_steps */
} sara_bucket_options;
typedef struct sara_bucket_size {
    int width, height;
} sara_bucket_size;
typedef struct sara_buckets {
    sara_bucket_options options;
    sara_bucket_size *sizes; /* ascending by width, then height; NULL with no_upscale */
    size_t count;
} sara_buckets;
/* How an image is used: resized, then cropped to width x height. */
typedef struct sara_fit {
    int width, height, resized_width, resized_height;
} sara_fit;
/* least and most become multiples of steps, which is told; SARA_ERROR_USAGE where they do not hold
 * the resolution. sara_buckets_free(), even after an error. */
SARA_NODISCARD sara_status sara_buckets_make(sara_context *ctx, sara_buckets *out,
                                             const sara_bucket_options *options);
void sara_buckets_free(sara_context *ctx, sara_buckets *buckets);
/* Of an image of this size; SARA_ERROR_INPUT for one that is too small for a bucket, or that would
 * become longer than SARA_LONGEST_SIDE. */
#define SARA_LONGEST_SIDE 16384
SARA_NODISCARD sara_status sara_buckets_fit(sara_context *ctx, sara_fit *out,
                                            const sara_buckets *buckets, const char *path,
                                            int width, int height);

/* ------------------------------------------------------------------------------------- captions */

/* What becomes of a caption, as kohya's sd-scripts have it (library/train_util.py,
 * process_caption). Texts are borrowed; NULL: none. */
typedef struct sara_caption_rules {
    const char *prefix, *suffix; /* with a space between where there is none */
    const char *separator;       /* of tags; "," */
    const char *keep_tokens_separator, *secondary_separator;
    double dropout_rate;            /* of elements whose caption is empty */
    double tag_dropout_rate;        /* of tags that are left out */
    int64_t dropout_every_n_epochs; /* in every n-th epoch captions are empty; 0: never */
    int64_t keep_tokens;            /* so many tags at the beginning stay where they are */
    bool shuffle;                   /* the order of tags */
    bool wildcard; /* one line of several; {a|b}: one of these; {{ and }}: braces */
} sara_caption_rules;
/* Whether an image's caption differs from element to element. */
bool sara_caption_varies(const sara_caption_rules *rules, const char *caption);
/* *out: the caption of an element in an epoch, which counts from 0; sara_free(). A pure function of
 * its arguments. */
SARA_NODISCARD sara_status sara_caption_make(sara_context *ctx, char **out,
                                             const sara_caption_rules *rules, const char *caption,
                                             uint64_t seed, uint64_t element, uint64_t epoch);

/* ---------------------------------------------------------------------------------------- order */

/* Which of `count` things an element of the endless sequence of epochs is: place element % count in
 * the order of its epoch. The order is a keyed bijection (a Feistel network over the next power of
 * four, walked until it lands inside), so that no shuffled list has to be kept or saved and every
 * epoch visits each thing once. */
uint64_t sara_epoch_place(uint64_t seed, uint64_t count, uint64_t element);

/* The images of each micro-batch, all of one shape. With one shape alone, micro-batch i has the
 * elements i * batch ... of the endless sequence of epochs. With several an epoch is a number of
 * micro-batches: each shape's images in an order of their own, `batch` at a time, the last ones
 * fewer; and these in an order. Each image is in an epoch as often as it is repeated. */
typedef struct sara_order_image {
    int64_t repeats;
    size_t shape; /* of those of sara_order */
} sara_order_image;
typedef struct sara_order_shape {
    size_t *images; /* [count] */
    int64_t *ends;  /* [count] of an image's elements, counted from the shape's start */
    size_t count;
    int batch;        /* of a micro-batch, at most */
    int64_t elements; /* of an epoch */
    int64_t first;    /* of its micro-batches in an epoch that is not shuffled */
} sara_order_shape;
typedef struct sara_order {
    uint64_t seed;
    sara_order_shape *shapes;
    size_t shape_count;
    int64_t elements;      /* of an epoch */
    int64_t micro_batches; /* of an epoch; 0: one shape, whose micro-batches do not end with it */
} sara_order;
/* batches [shape_count]: images of a micro-batch of each shape. At least one image; every shape has
 * one. sara_order_free(), even after an error. */
SARA_NODISCARD sara_status sara_order_make(sara_context *ctx, sara_order *out,
                                           const sara_order_image *images, size_t count,
                                           const int *batches, size_t shape_count, uint64_t seed);
void sara_order_free(sara_context *ctx, sara_order *order);
/* One sample of a micro-batch. */
typedef struct sara_order_element {
    size_t image;
    uint64_t epoch;
} sara_order_element;
/* out [batch of the shape]; returns how many, and the shape in *shape. */
size_t sara_order_get(const sara_order *order, sara_order_element *out, size_t *shape,
                      int64_t micro_batch);
/* Micro-batches that `epochs` take; with one shape these may end within the last. */
int64_t sara_order_length(const sara_order *order, int64_t epochs);

/* -------------------------------------------------------------------------------- configuration */

/* kohya's "dataset": what images of several folders share. */
typedef struct sara_image_set {
    sara_bucket_options buckets;
    int batch_size;
} sara_image_set;
/* Images of a folder and what becomes of them, by kohya's names. Texts are borrowed; NULL: none. */
typedef struct sara_subset {
    size_t set;
    const char *image_dir;
    int64_t num_repeats;
    bool is_reg;                       /* class images, for prior preservation */
    const char *class_tokens;          /* the caption of images that have none of their own */
    const char *instance_prompt;       /* the caption of all images */
    const char *caption_extension;     /* NULL: .txt or .caption */
    const char *caption_column;        /* of metadata; NULL: "text" */
    const char *conditioning_data_dir; /* masks, named as the images */
    bool alpha_mask;                   /* the images' alpha is their mask */
    bool flip_aug, color_aug, random_crop;
    sara_caption_rules captions;
} sara_subset;
typedef struct sara_data_config {
    sara_arena arena;
    sara_image_set *sets;
    sara_subset *subsets;
    size_t set_count, subset_count;
} sara_data_config;
/* kohya's --dataset_config, as TOML or JSON: [general], [[datasets]] and [[datasets.subsets]], of
 * which the innermost that has a key gives its value, and the defaults where none has it. A key
 * that is not known is SARA_ERROR_INPUT naming it. sara_data_config_free(), even after an error.
 */
SARA_NODISCARD sara_status sara_data_config_read(sara_context *ctx, sara_data_config *out,
                                                 const char *path, const sara_image_set *set,
                                                 const sara_subset *subset);
void sara_data_config_free(sara_data_config *config);

/* --------------------------------------------------------------------------------------- images */

typedef struct sara_data_image {
    const char *path;
    const char *caption; /* of an image whose caption never varies what it comes to, else what it
                            is made of */
    const char *mask;    /* the path of its mask, itself with alpha_mask; NULL: it has none */
    int64_t repeats;
    size_t subset;
    size_t shape;      /* of its group's */
    int width, height; /* of the file */
    sara_fit fit;
    bool varies;     /* its caption, from element to element */
    bool refused;    /* it is in no group; a listener has heard why. Sizes may be 0 */
    char sha256[65]; /* of the file, and of its mask's */
} sara_data_image;
typedef struct sara_data_shape {
    int width, height; /* in pixels */
    int batch;         /* images of a micro-batch */
} sara_data_shape;
/* Images that are drawn from together: those of the subject, or those of its class. The orders are
 * functions of seeds that differ by one, so that with as many of both it is not the same pairs that
 * meet in every epoch. */
typedef struct sara_data_group {
    size_t *images; /* [count]: of those of sara_data */
    size_t count;
    sara_data_shape
        *shapes;      /* [order.shape_count], the one of the most pixels a micro-batch first */
    sara_order order; /* of places in images; seed: the data set's, of the class that and 1 */
} sara_data_group;
typedef struct sara_data {
    sara_context *ctx;
    const sara_data_config *config; /* borrowed */
    uint64_t seed;
    sara_dataset *scans; /* [subsets]: what they found */
    sara_arena arena;
    sara_data_image *images;
    size_t count;
    sara_data_group instance, class; /* class: without images where there are none */
    char sha256[65]; /* of what is trained on: names, contents, captions, repeats, settings of a
                        configuration */
} sara_data;
/* Who hears of all that cannot be used, where else the first fault ends it, and sees each image. */
typedef struct sara_data_listener {
    void *user; /* passed to all */
    /* path: of the image, or of what else the line tells of */
    void (*refused)(void *user, const char *path, const char *line);
    /* Before the first is seen: images and their number are known. */
    sara_status (*begun)(void *user, const sara_data *data);
    /* Once each, as it was read, its size, fit and mask's path known; by several threads at once,
     * each with a context of its own. */
    sara_status (*seen)(sara_context *own, void *user, const sara_data_image *image,
                        const sara_image *pixels);
} sara_data_listener;
typedef struct sara_data_options {
    const char *output_dir;     /* is passed over where it lies in a folder of images; NULL */
    const char *dataset_config; /* the configuration's file, for messages; NULL: there is none */
    bool masked_loss;           /* else conditioning_data_dir is not looked into */
    uint64_t seed;
    const sara_data_listener *listener; /* NULL: none */
} sara_data_options;
/* Scans the folders and decodes each image and mask wholly, so that none fails later; the error
 * (SARA_ERROR_INPUT) is the first one's, with the names of others; with a listener there is none,
 * and groups may be empty. sara_data_free(), even after an error. */
SARA_NODISCARD sara_status sara_data_open(sara_context *ctx, sara_data *out,
                                          const sara_data_config *config,
                                          const sara_data_options *options);
void sara_data_free(sara_data *data);
/* The caption of an element; sara_free(). */
SARA_NODISCARD sara_status sara_data_caption(const sara_data *data, char **out, size_t image,
                                             uint64_t element, uint64_t epoch);
/* The image as it is used before it is cropped; sara_image_clear(). */
SARA_NODISCARD sara_status sara_data_image_load(sara_context *ctx, sara_image *out,
                                                const sara_data_image *image);
/* The same of its mask, where it has one: the red channel counts, which alpha stands in too. */
SARA_NODISCARD sara_status sara_data_mask_load(sara_context *ctx, sara_image *out,
                                               const sara_data_image *image);
/* Where a crop in the middle begins, as torchvision's CenterCrop. */
int sara_fit_center(int resized, int cropped);
/* That its files still have the content which was hashed; SARA_ERROR_INPUT. After loading: then
 * that is what was loaded. */
SARA_NODISCARD sara_status sara_data_image_check(sara_context *ctx, const sara_data_image *image);

#endif

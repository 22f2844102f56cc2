/* A data set looked at before training: what would be refused, and what is worth a look. */
#ifndef SARA_CHECK_H
#define SARA_CHECK_H

#include "pipeline/pipeline.h"
#include "sara_data.h"
#include "train/train.h"

#define SARA_CHECK_SHOWN 1000 /* images on a page */

typedef enum sara_check_kind {
    SARA_CHECK_REFUSED, /* training would refuse it */
    SARA_CHECK_CAPTION, /* nearly empty */
    SARA_CHECK_TOKENS,  /* of a caption that is cut */
    SARA_CHECK_SAME,    /* two images look the same */
    SARA_CHECK_ENLARGED,
    SARA_CHECK_CROPPED,
    SARA_CHECK_ALPHA, /* is dropped */
    SARA_CHECK_MASK,  /* is black: nothing is learned */
    SARA_CHECK_BUCKET, /* has too few images for a micro-batch */
    SARA_CHECK_KINDS
} sara_check_kind;
const char *sara_check_kind_name(sara_check_kind kind); /* as reports have it */

typedef struct sara_check_note {
    const char *path; /* of an image, or of what else it is about; "": of the whole */
    const char *text;
    sara_check_kind kind;
    size_t order; /* in which they were made */
} sara_check_note;
/* What is known of an image beside what the data layer tells. */
typedef struct sara_check_look {
    char *thumbnail; /* [thumbnail_size] a JPEG; NULL: not kept */
    size_t thumbnail_size;
    uint64_t hash; /* perceptual, where is_hashed */
    bool is_hashed;
    bool seen;                 /* it could be read */
    bool black_mask;           /* throughout */
    double clear;              /* share of pixels that are not opaque, where alpha is dropped */
    const char *caption;       /* as it is tokenised, without what is left out at random */
    size_t tokens[2], most[2]; /* of CLIP's tokenizers and of T5; most 0: none */
} sara_check_look;
typedef struct sara_check {
    sara_context *ctx;
    sara_data_check_options options;
    sara_train_options train;  /* those of options, without class images that are not there yet */
    sara_model *model;         /* NULL: none is named */
    sara_tokenizer *tokenizer; /* without a model; NULL: none is built in */
    int width, height;         /* the resolution */
    sara_data_config config;
    sara_data data;
    sara_check_look *looks; /* [data.count] */
    sara_arena strings;
    sara_check_note *notes; /* sorted by path once all are there */
    size_t note_count, note_capacity;
    sara_status status; /* why a note could not be kept */
} sara_check;

/* What is refused is kept in any case: the status is c->status, too. */
SARA_NODISCARD sara_status sara_check_add(sara_check *c, sara_check_kind kind, const char *path,
                                          const char *format, ...)
    __attribute__((format(printf, 4, 5)));
/* The notes of a path; *count: how many. NULL: none. */
const sara_check_note *sara_check_notes_of(const sara_check *c, const char *path, size_t *count);
size_t sara_check_count(const sara_check *c, bool refused); /* notes that are, or are not */

/* look.c: an image as it was read, to its look alone. */
SARA_NODISCARD sara_status sara_check_see(sara_context *own, sara_check *c,
                                          const sara_data_image *image, const sara_image *pixels);
/* From all images and captions; notes. */
SARA_NODISCARD sara_status sara_check_compare(sara_check *c);
/* hash.c: *out: 64 bits of the lowest frequencies, equal to imagehash.phash (hash_size 8); false:
 * the image is of one colour. */
SARA_NODISCARD sara_status sara_perceptual_hash(sara_context *ctx, uint64_t *out, bool *is_hashed,
                                                const sara_image *image);
/* result.c: sara_free(). */
SARA_NODISCARD sara_status sara_check_json(const sara_check *c, char **out);
/* sheet.c: options.page. */
SARA_NODISCARD sara_status sara_check_page(const sara_check *c);

#endif

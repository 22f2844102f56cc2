/* The network as tables of layers, for inception.c. */
#ifndef SARA_MODELS_INCEPTION_PARTS_H
#define SARA_MODELS_INCEPTION_PARTS_H

#include "models/inception.h"

/* Where a layer's input is from. */
typedef enum sara_inception_from {
    SARA_FROM_BLOCK,    /* the block's input */
    SARA_FROM_PREVIOUS, /* the layer before it */
    SARA_FROM_SAME      /* what the layer before it has */
} sara_inception_from;

/* A convolution without bias, a batch norm and ReLU; without a name a pooling, whose sides are the
 * kernel's. */
typedef struct sara_inception_row {
    const char *name; /* below the block's */
    int out;          /* 0: the block's own number */
    int kh, kw, stride;
    bool pad;     /* zeros, so that with stride 1 sides stay; a pooling does not count them */
    bool average; /* pooling; else the largest */
    sara_inception_from from;
    bool ends; /* its result is a part of the block's, which are concatenated */
} sara_inception_row;

typedef struct sara_inception_place {
    const char *name;               /* "Mixed_5b", NULL: its layers have none before theirs */
    const sara_inception_row *rows; /* kh 0 ends them */
    int own;                        /* see out */
} sara_inception_place;

#define SARA_INCEPTION_BLOCKS 12
#define SARA_INCEPTION_ROWS   12 /* of a block, at most */
extern const sara_inception_place sara_inception_places[SARA_INCEPTION_BLOCKS];

#endif

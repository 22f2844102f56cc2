/* The inside of the training options: what is known of each. */
#ifndef SARA_TRAIN_OPTIONS_TABLE_H
#define SARA_TRAIN_OPTIONS_TABLE_H

#include "train/train.h"

typedef enum option_kind {
    OPTION_STRING,
    OPTION_INT,
    OPTION_INT64,
    OPTION_UINT64,
    OPTION_DOUBLE,
    OPTION_SWITCH,
    OPTION_SIZE, /* resolution, and resolution_height: one number or two */
    OPTION_PROMPTS
} option_kind;

typedef struct option {
    sara_option_info info;
    option_kind kind;
    size_t offset;
    double low, high; /* of what a user may give */
    double automatic; /* the value that stands for "not given"; NaN: none */
    sara_option_part part;
} option;

extern const option sara_train_option_table[]; /* [sara_train_option_count] */
extern const size_t sara_train_option_count;
#define SARA_OPTION_TINY 1e-30 /* the least value of those that are more than 0 */

#endif

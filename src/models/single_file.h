/* Single-file checkpoints (.safetensors): several networks in one file, each under a prefix of its
 * own and mostly without a config, which is read off its tensors' names and shapes. */
#ifndef SARA_MODELS_SINGLE_FILE_H
#define SARA_MODELS_SINGLE_FILE_H

#include "models/network.h"

#define SARA_MOST_PARTS 8

/* Where a part may be. */
typedef struct sara_single_place {
    const char *prefix;  /* of its tensors; NULL ends a list */
    const char *stem;    /* after it: "text_model." or "" */
    sara_ldm_part names; /* how they go on */
    bool flat;           /* without their dots */
} sara_single_place;

typedef struct sara_single_part {
    const char *name; /* its folder's in a model: of its config in the metadata too */
    const sara_network_class *class;
    const char *prefix; /* of its tensors; NULL: the file does not hold it */
    const char *stem;
    sara_ldm_shape shape;
    bool diffusers; /* its names are diffusers' own; the prefix is "" */
    json_t *config; /* as diffusers' config.json; NULL where there is a fault */
    bool derived;   /* from shapes, and so not told in whole */
    char *source;   /* where the config is from, for errors */
    char *fault;    /* why the part is of no use; NULL: nothing is known */
} sara_single_part;

typedef struct sara_single_file {
    sara_context *ctx;
    char *path;
    sara_safetensors *file;
    bool alone; /* it is asked for one of its parts alone */
    sara_single_part parts[SARA_MOST_PARTS];
} sara_single_file;

/* A class's layout in such files. */
struct sara_single_layout {
    const char *tensor; /* one that is there, for errors */
    /* How names begin of which one is there, after prefix and stem; [2]. */
    const char *const *(*starts)(sara_ldm_part names);
    /* How all of them begin, for files where they have no prefix; a list. NULL: they have one. */
    const char *const *bare;
    /* part->shape from the names; what makes the part useless is its fault. */
    SARA_NODISCARD sara_status (*read_shape)(const sara_single_file *single,
                                             sara_single_part *part);
    /* The config that the shapes imply; json_decref(). A tensor that would tell and is not there is
     * SARA_ERROR_INPUT. */
    SARA_NODISCARD sara_status (*derive)(const sara_single_file *single,
                                         const sara_single_part *part, json_t **out);
    /* Once there is a config; NULL: nothing. */
    SARA_NODISCARD sara_status (*settle)(const sara_single_file *single, sara_single_part *part);
    /* A network's names; SARA_ERROR_INPUT where there are none for such a network. */
    SARA_NODISCARD sara_status (*names_of)(const sara_network *network, sara_ldm_shape *out);
};

/* *out: sara_single_close(). */
SARA_NODISCARD sara_status sara_single_open(sara_context *ctx, sara_single_file **out,
                                            const char *path);
void sara_single_close(sara_single_file *single);
void sara_single_part_clear(sara_context *ctx, sara_single_part *part);
/* Looks in the places, the first first; false, and part->prefix NULL: it is in none. */
bool sara_single_find_place(const sara_single_file *single, sara_single_part *part,
                            const sara_single_place *places);
/* The part's config from the folder of that name in model_config (a diffusers folder, NULL: none),
 * else from the metadata sara.config.NAME, else derived; where that fails it is the part's fault,
 * and an error of the first part alone, without which there is nothing to do. */
SARA_NODISCARD sara_status sara_single_choose_config(sara_single_file *single,
                                                     sara_single_part *part,
                                                     const char *model_config);
/* *out: sara_component_close(). SARA_ERROR_INPUT where the file does not hold the part. */
SARA_NODISCARD sara_status sara_single_component(const sara_single_file *single,
                                                 sara_component *out, int part);

/* For layouts. The tensor of the part; NULL: absent. */
const sara_tensor_info *sara_single_find(const sara_single_file *single,
                                         const sara_single_part *part, const char *name);
/* What follows prefix and stem; NULL: it is no name of the part. flat: memory for it. */
const char *sara_single_name(const sara_single_part *part, const char *name, sara_name *flat);
/* Whether names of the part begin so. */
bool sara_single_has(const sara_single_file *single, const sara_single_part *part,
                     const char *start);
/* One more than the largest number that follows this start in names of the part. */
int sara_single_count(const sara_single_file *single, const sara_single_part *part,
                      const char *start);
/* One dimension of the part's tensor, which is to have `rank`. */
SARA_NODISCARD sara_status sara_single_dim(const sara_single_file *single,
                                           const sara_single_part *part, int64_t *out, int rank,
                                           int index, sara_name name);
/* start<number>end of the first of `count` layers that has it: which are missing is told later. */
sara_name sara_single_first(const sara_single_file *single, const sara_single_part *part,
                            const char *start, int number, int count, const char *end);
/* Takes over made, a config; NULL: memory ran out. */
SARA_NODISCARD sara_status sara_single_made(const sara_single_file *single, json_t *made,
                                            json_t **out);
/* count, at least 1 and at most `most`. */
int sara_single_clamp(int count, int most);
json_t *sara_single_integers(const int64_t *values, int count);
/* A name for each level; reversed: the last level's first. */
json_t *sara_single_kinds(const sara_ldm_shape *shape, const char *without, const char *with,
                          bool reversed);
#define SARA_SINGLE_LAYERS 16 /* most of a level */

#endif

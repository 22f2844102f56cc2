/* Single-file checkpoints of SD1.x and SD2.x: which architecture a file holds, read from its
 * tensors' names and shapes, and its parts as components. */
#ifndef SARA_MODELS_SINGLE_FILE_H
#define SARA_MODELS_SINGLE_FILE_H

#include "models/models.h"

#define SARA_SINGLE_PARTS 3

typedef struct sara_single_part {
    const char *prefix; /* of its tensors; NULL: the file does not hold it */
    const char *stem;   /* after it, "text_model." or "" */
    sara_ldm_shape shape;
    json_t *config; /* as diffusers' config.json */
    char *source;   /* where the config is from, for errors */
} sara_single_part;

struct sara_single_file {
    sara_context *ctx;
    char *path;
    sara_safetensors *file;
    sara_single_part unet, vae, text;
};

/* single_config.c: the configs that the shapes imply, with what a file does not hold as SD1 and SD2
 * have it. *out: json_decref(). */
SARA_NODISCARD sara_status sara_single_unet_config(const sara_single_file *single, json_t **out);
SARA_NODISCARD sara_status sara_single_vae_config(const sara_single_file *single, json_t **out);
SARA_NODISCARD sara_status sara_single_text_config(const sara_single_file *single, json_t **out);
/* The tensor of the part; NULL: absent. */
const sara_tensor_info *sara_single_find(const sara_single_file *single,
                                         const sara_single_part *part, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* A dimension, -1 where info is NULL or has fewer. */
int64_t sara_single_dim(const sara_tensor_info *info, int index);

#endif

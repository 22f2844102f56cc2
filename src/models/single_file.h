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
    bool diffusers; /* its names are diffusers' own; the prefix is "" */
    json_t *config; /* as diffusers' config.json; NULL where there is a fault */
    char *source;   /* where the config is from, for errors */
    char *fault;    /* why the part is of no use; NULL: nothing is known */
} sara_single_part;

struct sara_single_file {
    sara_context *ctx;
    char *path;
    sara_safetensors *file;
    sara_single_part unet, vae, text;
};

/* single_parts.c: finds U-Net, VAE and text encoder and what their names tell. use_ema: the U-Net's
 * averages instead of itself. Without a U-Net it is SARA_ERROR_INPUT. */
SARA_NODISCARD sara_status sara_single_find_parts(sara_single_file *single, bool use_ema);
/* Of a file that is asked for its VAE alone, under LDM's names, with or without a prefix, or
 * diffusers'. */
SARA_NODISCARD sara_status sara_single_find_vae(sara_single_file *single);
bool sara_single_has_averages(const sara_single_file *single);
/* single_config.c: the configs that the shapes imply, with what a file does not hold as SD1 and SD2
 * have it. A tensor that would tell and is not there is SARA_ERROR_INPUT. *out: json_decref(). */
SARA_NODISCARD sara_status sara_single_unet_config(const sara_single_file *single, json_t **out);
SARA_NODISCARD sara_status sara_single_vae_config(const sara_single_file *single, json_t **out);
SARA_NODISCARD sara_status sara_single_text_config(const sara_single_file *single, json_t **out);
/* SARA_ERROR_INPUT where the U-Net takes other than 4 channels, unless these are what its config
 * says; inpainting models' 9 are always refused. */
SARA_NODISCARD sara_status sara_single_check_channels(const sara_single_file *single,
                                                      int64_t configured);
/* The tensor of the part; NULL: absent. */
const sara_tensor_info *sara_single_find(const sara_single_file *single,
                                         const sara_single_part *part, const char *name);
/* Whether names of the part begin so. */
bool sara_single_has(const sara_single_file *single, const sara_single_part *part,
                     const char *start);
/* One more than the largest number that follows this start in names of the part. */
int sara_single_count(const sara_single_file *single, const sara_single_part *part,
                      const char *start);

#endif

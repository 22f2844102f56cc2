/* LoRA files of all tools: kohya's and LyCORIS' names, diffusers' old and new ones, PEFT's. */
#ifndef SARA_PIPELINE_LORA_H
#define SARA_PIPELINE_LORA_H

#include "pipeline/adapter_kind.h"
#include "sparse/lora.h"

/* What one file changes of a model. */
typedef struct sara_lora_set {
    sara_lora_file parts[SARA_MOST_PARTS]; /* of each of the family's parts; count 0: nothing */
    size_t left_out;                       /* layers that the model does not have, by force */
    sara_name foreign; /* what they are of, as the end of a message; "": unknown */
    bool assumed;      /* PEFT's weights say nothing of their alphas: they are the ranks */
} sara_lora_set;
/* For the model's parts, whose values need not be in memory. Layers that it does not have are
 * SARA_ERROR_INPUT with the first and how many, unless force; with it the others are read, of which
 * there must be one. Shapes that do not fit and whatever is damaged are SARA_ERROR_INPUT with the
 * key. *out: sara_lora_set_free(), even after an error. */
SARA_NODISCARD sara_status sara_lora_read(sara_context *ctx, sara_lora_set *out,
                                          const sara_adapter_source *source,
                                          const sara_model *model, bool force);
void sara_lora_set_free(sara_lora_set *set);

/* ------------------------------------------------------------------------- names (lora_names.c) */

/* What a tensor is of its layer. */
typedef enum sara_lora_role {
    SARA_LORA_DOWN,
    SARA_LORA_UP,
    SARA_LORA_MID,
    SARA_LORA_ALPHA,
    SARA_LORA_MAGNITUDE,
    SARA_LORA_DIFF,      /* the whole change of a weight */
    SARA_LORA_DIFF_BIAS, /* of a bias */
    SARA_LORA_ROLES
} sara_lora_role;
/* lora_read_layer.c. A tensor's values, in the arena; what is not finite is SARA_ERROR_INPUT. */
SARA_NODISCARD sara_status sara_lora_read_factor(const sara_adapter_source *source,
                                                 sara_arena *arena, float **out,
                                                 const sara_tensor_info *info);
/* Of a tensor of one number, also of integers. */
SARA_NODISCARD sara_status sara_lora_read_alpha(const sara_adapter_source *source, double *alpha,
                                                const sara_tensor_info *info);
/* SARA_ERROR_INPUT where a layer of low rank, of which there is some tensor, lacks a factor. */
SARA_NODISCARD sara_status sara_lora_check_pair(const sara_adapter_source *source,
                                                const sara_tensor_info *const of[SARA_LORA_ROLES]);
/* How much of a tensor's name is its layer's; 0: it is none of a LoRA's. */
size_t sara_lora_key(const char *name, sara_lora_role *role);
/* What else the tensor is of, that is not read: "a LoHa"; NULL: unknown. */
const char *sara_lora_other(const char *name);

/* All names that files have for a part's weights, and which these are. */
typedef struct sara_lora_name {
    const char *text; /* without prefix and dots: "down_blocks_0_attentions_0_proj_in" */
    size_t param;     /* index */
    int third;    /* which of a tensor's three weights, one below the other; -1: it is its own */
    bool swapped; /* its halves, along the outputs, are the other way round in the file */
} sara_lora_name;
typedef struct sara_lora_names {
    sara_lora_name *items; /* ascending by text and by which third */
    size_t count;
} sara_lora_names;
/* [SARA_MOST_PARTS], of the parts that the model has. */
SARA_NODISCARD sara_status sara_lora_names_make(sara_arena *arena, sara_lora_names *out,
                                                const sara_model *model);
/* A layer's name in a file, without what tells its part. *part: which; -1: it does not say, -2: one
 * that the family does not have. */
const char *sara_lora_strip(const sara_family *family, int *part, const char *layer);
/* A layer's weight and its *part; where the name stands for three the first, behind which the
 * others are. NULL: the model does not have it. */
SARA_NODISCARD sara_status sara_lora_find(sara_context *ctx, const sara_lora_name **out, int *part,
                                          const sara_family *family, const sara_lora_names *names,
                                          const char *layer);

/* --------------------------------------------------------------- PEFT's configs (lora_config.c) */

/* A folder's adapter_config.json, or of a file of diffusers the metadata lora_adapter_metadata,
 * which has one for each part under its folder's name. */
typedef struct sara_lora_config {
    sara_context *ctx;
    const char *source;   /* for errors */
    const json_t *object; /* NULL: there is none */
    const char *prefix;   /* of its keys: "", "unet." */
} sara_lora_config;
/* SARA_ERROR_INPUT for what it asks for and is not supported. */
SARA_NODISCARD sara_status sara_lora_config_check(const sara_lora_config *config);
/* SARA_ERROR_INPUT where a layer without a magnitude, of which `name` is a tensor, should have one.
 */
SARA_NODISCARD sara_status sara_lora_config_plain(const sara_lora_config *config, const char *name);
/* What a layer's product is multiplied by; 1 without a config. layer: as PEFT names it. */
SARA_NODISCARD sara_status sara_lora_config_scale(const sara_lora_config *config, double *scale,
                                                  const char *layer, int64_t rank);

#endif

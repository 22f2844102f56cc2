/* The inside of exporting adapters; not for other layers. */
#ifndef SARA_PIPELINE_EXPORT_H
#define SARA_PIPELINE_EXPORT_H

#include "pipeline/metadata.h"

typedef enum sara_export_format {
    SARA_EXPORT_COMFYUI,
    SARA_EXPORT_A1111,
    SARA_EXPORT_LORA,
    SARA_EXPORT_PEFT,
    SARA_EXPORT_SHIRA
} sara_export_format;

/* What is changed of one tensor. */
typedef struct sara_change {
    const sara_param *param;
    int part;            /* of the family, whose parameter it is */
    uint32_t *positions; /* NULL: all entries, in their order */
    float *values;       /* [count] the changes; NULL: sara_change_open() makes them */
    size_t count;
    int64_t differing; /* of these, that are changed */
} sara_change;
/* Of a tensor whose entries are all changed: out [its count]. */
typedef sara_status (*sara_change_fn)(const void *user, float *out, const sara_change *change);

typedef struct sara_changes {
    sara_arena arena;
    sara_change *items; /* of tensors with a change, part by part in the parameters' order */
    size_t count;
    int64_t entries, inexact;
    double sum2;   /* of the squared changes */
    double error2; /* of the squared differences to what is stored */
    sara_change_fn make;
    const void *user;
} sara_changes;
/* Of the adapters on the model's parts. Values are rounded to the dtype. In float32 the base's
 * value plus that is the new one, unless the latter is so much smaller than the change that no
 * float32 added to the base's value gives it. one_by_one: those of whole tensors, as float32, are
 * made when they are opened. */
SARA_NODISCARD sara_status sara_changes_new(sara_context *ctx, sara_changes *out,
                                            const sara_model *model, sara_dtype dtype,
                                            bool one_by_one);
void sara_changes_free(sara_changes *changes);
/* *out: the change with its values; sara_change_close(). */
SARA_NODISCARD sara_status sara_change_open(sara_context *ctx, sara_change *out,
                                            const sara_changes *changes, const sara_change *change);
void sara_change_close(sara_context *ctx, sara_change *open, const sara_change *change);

typedef struct sara_export {
    sara_context *ctx;
    const sara_model *model;
    const char *out;
    sara_export_format format;
    int rank;
    sara_dtype dtype;
    int64_t date;
    sara_changes changes;
    const sara_params *text_params[SARA_MOST_PARTS]; /* of text encoders; NULL: none */
    int64_t text_left_out; /* entries of text encoders, beside the report's */
    sara_export_report report;
} sara_export;

/* Each writes its file or folder and fills in what the report says of it. */
SARA_NODISCARD sara_status sara_export_dense(sara_export *e);
SARA_NODISCARD sara_status sara_export_low_rank(sara_export *e);
SARA_NODISCARD sara_status sara_export_shira(sara_export *e);

/* export_names.c: "conv_in" of "conv_in.weight" and "conv_in.bias", both ends told apart. */
SARA_NODISCARD sara_status sara_export_layer(sara_arena *arena, const char **out, bool *is_bias,
                                             const char *param_name);
/* ComfyUI's name of a layer of the denoiser, and kohya's, of a text encoder too: lora_te_, of
 * families with several lora_te1_ and so on. Kohya's are as the family has them, or diffusers' of a
 * denoiser that single files have no names for. */
SARA_NODISCARD sara_status sara_export_ldm_name(sara_arena *arena, const char **out,
                                                const char *layer, const sara_ldm_shape *shape);
SARA_NODISCARD sara_status sara_export_kohya_name(sara_arena *arena, const char **out,
                                                  const char *layer, const sara_model *model,
                                                  int part);
/* What UIs expect of a LoRA file, with the date. module, rank and args: ss_network_*. */
SARA_NODISCARD sara_status sara_export_metadata(sara_metadata_list *list, const sara_export *e,
                                                const char *module, int rank, const char *args);

#endif

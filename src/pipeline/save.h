/* The inside of saving a model; not for other layers. */
#ifndef SARA_PIPELINE_SAVE_H
#define SARA_PIPELINE_SAVE_H

#include "pipeline/pipeline.h"

/* Values that a tensor is made of: of a parameter, or of a tensor of a file. */
typedef struct sara_save_value {
    const sara_param *param;
    const sara_weights *weights; /* param NULL */
    const sara_tensor_info *info;
} sara_save_value;
typedef enum sara_save_form {
    SARA_SAVE_JOINED,  /* values of one shape one below the other; one alone as it is */
    SARA_SAVE_SWAPPED, /* of one value its second half, then the first */
    SARA_SAVE_TURNED   /* a matrix transposed */
} sara_save_form;
/* How a tensor is made when it is written. */
typedef struct sara_save_recipe {
    sara_save_value values[3];
    int count; /* 0: its data lie where its source says */
    sara_save_form form;
} sara_save_recipe;

/* Tensors to be written to one file. What has another dtype or another form there, and what is not
 * in memory, is made when it is written, one after the other. */
typedef struct sara_save_list {
    sara_context *ctx;
    sara_arena names;
    sara_tensor_source *sources;
    sara_save_recipe *recipes; /* as many */
    size_t count, capacity, recipe_capacity;
    const sara_applied *applied; /* what it has changed is written instead of the file's; NULL */
    sara_weights **weights;      /* closed with the list */
    size_t weights_count, weights_capacity;
    void **owned;
    size_t owned_count, owned_capacity;
} sara_save_list;
void sara_save_list_init(sara_save_list *list, sara_context *ctx);
void sara_save_list_free(sara_save_list *list);
/* The list closes them, even after an error. */
SARA_NODISCARD sara_status sara_save_list_keep(sara_save_list *list, sara_weights *weights);
/* Of a tensor of a file, or the parameter that adapters have changed. */
sara_save_value sara_save_list_value(const sara_save_list *list, const sara_weights *weights,
                                     const sara_tensor_info *info);
/* In a file of this dtype; NULL: as the model's file stores it. Only floating tensors are
 * converted. */
sara_dtype sara_save_value_dtype(const sara_save_value *value, const sara_dtype *dtype);
/* name and shape NULL: the parameter's or the tensor's own. */
SARA_NODISCARD sara_status sara_save_list_param(sara_save_list *list, const char *name,
                                                const sara_shape *shape, const sara_param *param,
                                                const sara_dtype *dtype);
SARA_NODISCARD sara_status sara_save_list_weight(sara_save_list *list, const char *name,
                                                 const sara_shape *shape,
                                                 const sara_weights *weights,
                                                 const sara_tensor_info *info,
                                                 const sara_dtype *dtype);
SARA_NODISCARD sara_status sara_save_list_made(sara_save_list *list, const char *name,
                                               sara_dtype dtype, const sara_shape *shape,
                                               const sara_save_recipe *recipe);
/* Of data that outlive the list. */
SARA_NODISCARD sara_status sara_save_list_add(sara_save_list *list, const char *name,
                                              sara_dtype dtype, const sara_shape *shape,
                                              const void *data);
/* The tensor at `index` once more, under another name. */
SARA_NODISCARD sara_status sara_save_list_again(sara_save_list *list, const char *name,
                                                size_t index);
/* Data of a device: becomes a copy that the list frees where the memory is not the host's. */
SARA_NODISCARD sara_status sara_save_list_fetch(sara_save_list *list, const void **data,
                                                sara_device *device, size_t bytes);
/* SARA_ERROR_USAGE where fp16 cannot hold a value; nothing is left then. */
SARA_NODISCARD sara_status sara_save_list_write(const sara_save_list *list, const char *path,
                                                const sara_metadata *metadata,
                                                size_t metadata_count);
/* save_names.c. *out: sara_free(); "prefix" + the name in the file. Fails where there is none. */
SARA_NODISCARD sara_status sara_save_name_in_file(sara_context *ctx, char **out, const char *prefix,
                                                  const sara_ldm_shape *shape, const char *name);
/* The narrowest that holds the values of both. */
sara_dtype sara_save_common_dtype(sara_dtype a, sara_dtype b);
/* All parameters and buffers under their names in single files, which begin with `prefix`. */
SARA_NODISCARD sara_status sara_save_list_network(sara_save_list *list, const sara_network *network,
                                                  const char *prefix, const sara_dtype *dtype);

/* save_folder.c: a diffusers folder; to is new and may be left half-written after an error.
 * save_single.c: one file. dtype NULL: as the model's files store them. */
SARA_NODISCARD sara_status sara_save_folder(sara_context *ctx, const char *to,
                                            const sara_model *model, const sara_dtype *dtype);
SARA_NODISCARD sara_status sara_save_single(sara_context *ctx, const char *to,
                                            const sara_model *model, const sara_dtype *dtype);
/* Between files: what there is of the copy is removed. */
SARA_NODISCARD sara_status sara_save_check_interrupted(sara_context *ctx);

#endif

/* The inside of saving a model; not for other layers. */
#ifndef SARA_PIPELINE_SAVE_H
#define SARA_PIPELINE_SAVE_H

#include "pipeline/pipeline.h"

/* Tensors to be written to one file, with values of their own where the file's dtype is another. */
typedef struct sara_save_list {
    sara_context *ctx;
    sara_arena names;
    sara_tensor_source *sources;
    size_t count, capacity;
    const sara_applied *applied; /* what it has changed is written instead of the file's; NULL */
    void **owned;
    size_t owned_count, owned_capacity;
} sara_save_list;
void sara_save_list_init(sara_save_list *list, sara_context *ctx);
void sara_save_list_free(sara_save_list *list);
/* name and shape NULL: the parameter's or the tensor's own. dtype NULL: as the model's file stores
 * it; else only floating tensors are converted. SARA_ERROR_USAGE where fp16 cannot hold a value. */
SARA_NODISCARD sara_status sara_save_list_param(sara_save_list *list, const char *name,
                                                const sara_shape *shape, const sara_param *param,
                                                const sara_dtype *dtype);
SARA_NODISCARD sara_status sara_save_list_weight(sara_save_list *list, const char *name,
                                                 const sara_shape *shape,
                                                 const sara_weights *weights,
                                                 const sara_tensor_info *info,
                                                 const sara_dtype *dtype);
/* save_names.c. *out: sara_free(); "prefix" + the name in the file. Fails where there is none. */
SARA_NODISCARD sara_status sara_save_name_in_file(sara_context *ctx, char **out, const char *prefix,
                                                  const sara_ldm_shape *shape, const char *name);
/* The narrowest that holds the values of both. */
sara_dtype sara_save_common_dtype(sara_dtype a, sara_dtype b);
/* The parts one below the other as one tensor; they have one dtype and shape. swapped: of one part
 * its second half, then the first. */
SARA_NODISCARD sara_status sara_save_list_joined(sara_save_list *list, const char *name,
                                                 const sara_save_list *parts, bool swapped);
/* All parameters and buffers under their names in single files, which begin with `prefix`. */
SARA_NODISCARD sara_status sara_save_list_network(sara_save_list *list, const sara_network *network,
                                                  const char *prefix, const sara_dtype *dtype);
/* Adds memory that the list frees, for data that the caller makes. */
SARA_NODISCARD sara_status sara_save_list_own(sara_save_list *list, void **data, size_t bytes);
/* Data of a device: becomes a copy that the list frees where the memory is not the host's. */
SARA_NODISCARD sara_status sara_save_list_fetch(sara_save_list *list, const void **data,
                                                sara_device *device, size_t bytes);
SARA_NODISCARD sara_status sara_save_list_add(sara_save_list *list, const char *name,
                                              sara_dtype dtype, const sara_shape *shape,
                                              const void *data);

/* save_folder.c: a diffusers folder; to is new and may be left half-written after an error.
 * save_single.c: one file. dtype NULL: as the model's files store them. */
SARA_NODISCARD sara_status sara_save_folder(sara_context *ctx, const char *to,
                                            const sara_model *model, const sara_dtype *dtype);
SARA_NODISCARD sara_status sara_save_single(sara_context *ctx, const char *to,
                                            const sara_model *model, const sara_dtype *dtype);
/* Between files: what there is of the copy is removed. */
SARA_NODISCARD sara_status sara_save_check_interrupted(sara_context *ctx);

#endif

/* The inside of a weight source; not for other layers. */
#ifndef SARA_IO_WEIGHTS_H
#define SARA_IO_WEIGHTS_H

#include "io/file.h"

#define SARA_SCALED_MARKER "scaled_fp8" /* a tensor without content, as ComfyUI names it */

typedef struct sara_weight {
    sara_tensor_info info;          /* first; its name belongs to the file, or to the arena below */
    const sara_tensor_info *stored; /* what the file says of it */
    const sara_safetensors *file;
    const struct sara_weight *scale; /* what its values are multiplied by; NULL: nothing */
    bool transposed;                 /* the file has its matrix so */
    bool identity;                   /* the file has none: it is the identity matrix */
    bool swapped; /* its halves, along the first axis, are the other way round in the file */
} sara_weight;

struct sara_weights {
    sara_context *ctx;
    char *path; /* of the file or index */
    sara_safetensors **files;
    size_t file_count, file_capacity;
    sara_weight *items; /* ascending by name's bytes */
    size_t count, capacity;
    sara_arena names;
    char *prefix; /* of a part's tensors; NULL: names are the file's */
    sara_ldm_shape shape;
    bool bare;   /* the part's names have no text_model. */
    bool scaled; /* a marker above the part says that its 8-bit tensors have scales */
    sara_weight *scales;
    size_t scale_count;
};

/* weights_scale.c. The length of what the tensor marks as scaled: all names that begin like its
 * own; -1: it is no marker. */
int sara_weights_marked_by(const char *name);
/* Takes the scales of 8-bit tensors out of the sorted items, for these to be read
 * multiplied by them; the dtype of these items is F32 then. */
SARA_NODISCARD sara_status sara_weights_take_scales(sara_weights *weights);
/* An item with a scale; as: under the file's name and dtype. */
SARA_NODISCARD sara_status sara_weights_read_scaled(const sara_weights *weights, void *out,
                                                    sara_dtype dtype, const sara_weight *item,
                                                    const sara_tensor_info *as);
/* Whether the scales of such an item are finite. */
SARA_NODISCARD sara_status sara_weights_check_scales(const sara_weights *weights,
                                                     const sara_weight *item);
/* The path of the file, or where it is sharded of the index. *out: sara_free(). */
SARA_NODISCARD sara_status sara_weights_find_place(sara_context *ctx, char **out, bool *sharded,
                                                   const char *folder, const char *stem,
                                                   const char *variant);
SARA_NODISCARD sara_status sara_weights_new(sara_context *ctx, sara_weights **out);
void sara_weights_sort(sara_weights *weights);
/* Takes the file over even if it fails. */
SARA_NODISCARD sara_status sara_weights_own(sara_weights *weights, sara_safetensors *file);
/* Adds the file and its tensors at the end; takes the file over even if it fails. */
SARA_NODISCARD sara_status sara_weights_add(sara_weights *weights, sara_safetensors *file);
/* Opens the shards that the index at weights->path names, in `folder`. */
SARA_NODISCARD sara_status sara_weights_add_shards(sara_weights *weights, const char *folder);

#endif

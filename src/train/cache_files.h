/* What encoders made of images and captions, on the disk, where later runs find it: a file each,
 * whose name is a hash of all that decides its content. */
#ifndef SARA_TRAIN_CACHE_FILES_H
#define SARA_TRAIN_CACHE_FILES_H

#include "train/train.h"

typedef struct sara_cache_files {
    sara_context *ctx;
    char *folder;   /* NULL: nothing of the kind is kept on the disk */
    char scope[65]; /* hash of the parts of the model that make it, and of their settings */
    size_t found, made;
} sara_cache_files;

/* Where the options' caches lie: cache_dir, else .sara-cache in `images`, the first image folder,
 * else, where that cannot be written, which is said, cache in the output folder. The folder is
 * made; SARA_ERROR_IO. *out: sara_free() */
SARA_NODISCARD sara_status sara_cache_folder(sara_context *ctx, char **out,
                                             const sara_train_options *options, const char *images);
/* kind: the folder's name within. stage: the parts of the model that make it; identity: the run's,
 * which has their hashes. sara_cache_files_close(), even after an error. */
SARA_NODISCARD sara_status sara_cache_files_open(sara_cache_files *out, const char *folder,
                                                 const char *kind, const sara_model *model,
                                                 sara_stage stage, const json_t *identity);
void sara_cache_files_close(sara_cache_files *files);
/* The name of what is made of `key`. */
SARA_NODISCARD sara_status sara_cache_files_name(const sara_cache_files *files, char name[65],
                                                 const char *key);
/* Whether the file is there, with these tensors, and whole; a damaged one is named in the log. */
SARA_NODISCARD sara_status sara_cache_files_find(sara_cache_files *files, bool *there,
                                                 const char *name,
                                                 const sara_tensor_source *tensors, size_t count);
SARA_NODISCARD sara_status sara_cache_files_write(sara_cache_files *files, const char *name,
                                                  const sara_tensor_source *tensors, size_t count);
/* One tensor, F32 as it was written: out [count]. */
SARA_NODISCARD sara_status sara_cache_files_read(const sara_cache_files *files, const char *name,
                                                 const char *tensor, float *out, size_t count);
/* cache_states.c: the states of a text that has `length` of them, pooled ones too where the
 * denoiser takes such. */
SARA_NODISCARD sara_status sara_cache_states_find(sara_cache_files *files, bool *there,
                                                  const char *name, const sara_model *model,
                                                  int64_t length);
SARA_NODISCARD sara_status sara_cache_states_write(sara_cache_files *files, const char *name,
                                                   const sara_model *model,
                                                   const sara_text_states *states);
/* states->length of them, into arrays that are made where there are none; sara_text_states_free(),
 * even after an error. */
SARA_NODISCARD sara_status sara_cache_states_read(const sara_cache_files *files, const char *name,
                                                  const sara_model *model,
                                                  sara_text_states *states);
/* One line of how much was found and made; what: "latents". */
void sara_cache_files_tell(const sara_cache_files *files, const char *what);

#endif

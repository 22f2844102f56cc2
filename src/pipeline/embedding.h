/* Textual inversion: files of vectors that stand in a prompt where their names do. */
#ifndef SARA_PIPELINE_EMBEDDING_H
#define SARA_PIPELINE_EMBEDDING_H

#include "pipeline/pipeline.h"

#define SARA_MOST_VECTORS 1024 /* of a file; a text encoder takes less */

/* embedding_file.c: what a file holds. */
typedef struct sara_embedding_file {
    sara_safetensors *file;
    const char *form;  /* "diffusers", "A1111", "clip_l + clip_g" */
    const char *token; /* that diffusers' form names; NULL: it is another */
    int64_t count;     /* of vectors */
    /* Of the first text encoder and of the second; NULL: it is for one alone. */
    const sara_tensor_info *tensors[SARA_EMBEDDED_ENCODERS];
    bool t5; /* there are vectors for T5 too, which are not used */
} sara_embedding_file;
/* Whether a file looks like one, be it sound or not. */
bool sara_embedding_is(const sara_safetensors *file);
/* Of a file that is open and stays the caller's. */
SARA_NODISCARD sara_status sara_embedding_describe(sara_context *ctx, sara_embedding_file *out,
                                                   sara_safetensors *file);
/* sara_safetensors_close(out->file), even after an error. */
SARA_NODISCARD sara_status sara_embedding_open(sara_context *ctx, sara_embedding_file *out,
                                               const char *path);
/* 0: it has no vectors for that encoder. */
int64_t sara_embedding_width(const sara_embedding_file *file, int encoder);
/* Its vectors, which must be finite. *out: sara_embedding_free(), even after an error. */
SARA_NODISCARD sara_status sara_embedding_load(sara_context *ctx, sara_embedding *out,
                                               const sara_embedding_file *file, const char *name);
/* Likewise. */
SARA_NODISCARD sara_status sara_embedding_copy(sara_context *ctx, sara_embedding *out,
                                               const sara_embedding *from);
void sara_embedding_free(sara_context *ctx, sara_embedding *embedding);

/* embedding_folder.c: the files of a folder and of those in it. */
typedef struct sara_embedding_entry {
    const char *path;
    const char *below;    /* of path: what is below the folder, ending included */
    const char *name;     /* the file's, without folder and ending */
    bool pickled;         /* .pt or .bin, which are not read */
    const char *token;    /* that the file names itself by; NULL: none, or not read yet */
    size_t id, ids;       /* of name: the first among the folder's, and how many */
    sara_embedding *kept; /* NULL: it is not */
} sara_embedding_entry;
typedef struct sara_embedding_folder {
    sara_context *ctx;
    sara_arena arena;
    const char *path;
    sara_embedding_entry *entries; /* a folder's own, then those of folders in it, by name */
    size_t count, capacity;
    int32_t *ids;
    size_t id_count, id_capacity;
    bool has_ids, has_tokens;
    size_t *found; /* the entries of the last search */
    size_t found_count;
} sara_embedding_folder;
/* No file is opened. */
SARA_NODISCARD sara_status sara_embedding_folder_open(sara_context *ctx,
                                                      sara_embedding_folder **out,
                                                      const char *path);
void sara_embedding_folder_free(sara_embedding_folder *folder);
/* Searches, whose results are in `found`. By a path below the folder, or the last parts of one,
 * with an ending or without: */
void sara_embedding_find_path(sara_embedding_folder *folder, const char *name, size_t size);
/* By the token that a file names itself by, for which the first search opens all: */
SARA_NODISCARD sara_status sara_embedding_find_token(sara_embedding_folder *folder,
                                                     const char *token, size_t size);
/* By the most ids of its name that the ids, of which there are `count`, begin with; *length of
 * them: */
SARA_NODISCARD sara_status sara_embedding_find_ids(sara_embedding_folder *folder, size_t *length,
                                                   const sara_tokenizer *tokenizer,
                                                   const int32_t *ids, size_t count);

/* embedding_choose.c: of the entries found, the first that fits the model, loaded; tell: logs that
 * others do too. by: how they were found, for messages. *out: sara_embedding_free(), even after an
 * error. */
SARA_NODISCARD sara_status sara_embedding_choose(sara_context *ctx, sara_embedding *out,
                                                 const sara_model *model,
                                                 sara_embedding_folder *folder, bool tell);
/* The number of its CLIP text encoders, of which the first are in parts[]. */
int sara_embedding_parts(const sara_model *model, int parts[SARA_EMBEDDED_ENCODERS]);

#endif

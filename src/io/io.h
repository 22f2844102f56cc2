/* The io layer: files in and out. Nothing here knows what the tensors mean.
 *
 * Every reader treats its file as hostile: sizes are checked before they are believed, and an
 * error names the file, the field and the offset. Every writer is atomic: a temporary name in the
 * same folder, fsync, rename, fsync of the folder.
 */
#ifndef SARA_IO_H
#define SARA_IO_H

#include "core/core.h"

#include <jansson.h>
#include <stdio.h>

/* ------------------------------------------------------------------------------------- files */

/* A regular file of at most `limit` bytes (a FIFO, directory, device or longer file is refused),
 * NUL-terminated beyond *size. A Git LFS pointer is refused with a hint. Free with sara_free(). */
SARA_NODISCARD sara_status sara_file_read(sara_context *ctx, char **out, size_t *size,
                                          const char *path, size_t limit);
/* Strict: no overlong forms, surrogates or code points above 10FFFF. */
bool sara_text_is_utf8(const char *text, size_t size);
bool sara_path_exists(const char *path);
/* Also of a link that leads nowhere or in circles, so that opening it tells. */
bool sara_path_is_named(const char *path);
bool sara_path_is_directory(const char *path);
bool sara_path_is_link(const char *path);
/* Whether a file lies, or would lie, in a folder, or is it (folder may be a file, too). Links are
 * followed; a link in the folder lies there wherever it leads to. False where one of them cannot be
 * found: opening it tells. */
SARA_NODISCARD sara_status sara_path_is_within(sara_context *ctx, bool *out, const char *path,
                                               const char *folder);
bool sara_path_is_same(const char *a, const char *b); /* both are there and are one file */
/* The folder that path is in: "." where it names none. */
SARA_NODISCARD sara_status sara_path_parent(sara_context *ctx, char **out, const char *path);
/* Whether the open file is still the one that is there: others may have removed its name. */
bool sara_file_is_at(int fd, const char *path);
/* And its parents. */
SARA_NODISCARD sara_status sara_directory_make(sara_context *ctx, const char *path);
/* The same, and files can be made in it. */
SARA_NODISCARD sara_status sara_directory_make_writable(sara_context *ctx, const char *path);
/* Names (not paths) in bytewise order, without . and ..; free with sara_directory_free(). */
SARA_NODISCARD sara_status sara_directory_list(sara_context *ctx, char ***names, size_t *count,
                                               const char *path);
void sara_directory_free(sara_context *ctx, char **names, size_t count);
/* Adds the bytes of a file, or of all files in a folder. */
SARA_NODISCARD sara_status sara_path_bytes(sara_context *ctx, int64_t *bytes, const char *path);
/* With all that is in it. */
SARA_NODISCARD sara_status sara_directory_remove(sara_context *ctx, const char *path);
/* The same of what was half-written, after an error whose line stays; a failure is logged. */
void sara_directory_discard(sara_context *ctx, const char *path);
SARA_NODISCARD sara_status sara_directory_sync(sara_context *ctx, const char *path); /* fsync */
/* rename, then fsync of the parent folder. Before it, where `from` is a folder, fsync of that: the
 * names in it are on the disk before its own is. */
SARA_NODISCARD sara_status sara_rename_durably(sara_context *ctx, const char *from, const char *to);

/* What is written beside `path` under a hidden name. It is locked while this process is at it; what
 * nobody has locked was left by a killed one. */
typedef struct sara_partial {
    char *path;
    int fd; /* of a file for writing */
} sara_partial;
/* Makes an empty one, of a folder also the parents, and takes away what was left of the same path.
 * sara_partial_discard(), even after an error. */
SARA_NODISCARD sara_status sara_partial_make(sara_context *ctx, sara_partial *out, const char *path,
                                             bool folder);
/* Takes away the files of any path in the folder that nobody is writing. */
SARA_NODISCARD sara_status sara_partial_sweep(sara_context *ctx, const char *folder);
/* As sara_rename_durably(). */
SARA_NODISCARD sara_status sara_partial_publish(sara_context *ctx, sara_partial *partial,
                                                const char *path);
/* Removes it, after an error whose line stays; nothing is done to what was published. */
void sara_partial_discard(sara_context *ctx, sara_partial *partial);

/* A file under a temporary name until commit. abort after an error or instead of commit; both
 * free the writer and NULL *writer. */
typedef struct sara_writer sara_writer;
SARA_NODISCARD sara_status sara_writer_open(sara_context *ctx, sara_writer **out, const char *path);
SARA_NODISCARD sara_status sara_writer_write(sara_writer *writer, const void *data, size_t size);
SARA_NODISCARD sara_status sara_writer_commit(sara_writer **writer);
void sara_writer_abort(sara_writer **writer);
SARA_NODISCARD sara_status sara_file_write(sara_context *ctx, const char *path, const void *data,
                                           size_t size);
SARA_NODISCARD sara_status sara_file_copy(sara_context *ctx, const char *from, const char *to);

/* ------------------------------------------------------------------------------------ sha256 */

typedef struct sara_sha256 sara_sha256;
SARA_NODISCARD sara_status sara_sha256_new(sara_context *ctx, sara_sha256 **out);
SARA_NODISCARD sara_status sara_sha256_add(sara_sha256 *hash, const void *data, size_t size);
/* 64 lower-case hex digits and NUL; frees the hash. */
SARA_NODISCARD sara_status sara_sha256_end(sara_sha256 **hash, char out[65]);
void sara_sha256_abort(sara_sha256 **hash);
SARA_NODISCARD sara_status sara_sha256_file(sara_context *ctx, char out[65], const char *path);

/* -------------------------------------------------------------------------------------- json */

/* Parses JSON text (UTF-8, no duplicate keys, depth at most 128, at most 1 million values, numbers
 * of 64 bits). lenient: NaN, Infinity and -Infinity are read as in Python's json, as diffusers'
 * configs hold them; jansson has no such numbers, so they become values that sara_json_number()
 * and sara_config_double() know. `source` names the text in errors, which give line and column.
 * json_decref() the result. */
SARA_NODISCARD sara_status sara_json_parse(sara_context *ctx, json_t **out, const char *text,
                                           size_t size, const char *source, bool lenient);
SARA_NODISCARD sara_status sara_json_load(sara_context *ctx, json_t **out, const char *path,
                                          bool lenient); /* at most 64 MiB */
/* As json_dumps(), with NaN, Infinity and -Infinity read leniently as Python's json writes them.
 * Without JSON_REAL_PRECISION numbers get 15 to 17 digits: as few as read back to the same bits.
 * free(); NULL: out of memory. */
char *sara_json_dump(const json_t *value, size_t flags);
/* A string of a path or another text that may be no UTF-8, which JSON cannot have: such bytes are
 * \xNN, as in messages. json_decref(). */
SARA_NODISCARD sara_status sara_json_text(sara_context *ctx, json_t **out, const char *text);
/* Writes an object as folder/name, atomically, with jansson's flags. The folder is made. */
SARA_NODISCARD sara_status sara_json_save(sara_context *ctx, const char *folder, const char *name,
                                          const json_t *object, size_t flags);
/* The value of an integer, a real, or a NaN or Infinity read leniently; false for all else. */
bool sara_json_number(double *out, const json_t *value);
/* Typed access to a config's fields. A missing or null field gives `fallback`; a wrong type, or a
 * number outside [low, high], is SARA_ERROR_INPUT naming source, field and value. */
typedef struct sara_config {
    sara_context *ctx;
    const json_t *object;
    const char *source;
} sara_config;
SARA_NODISCARD sara_status sara_config_int(const sara_config *config, int64_t *out, const char *key,
                                           int64_t fallback, int64_t low, int64_t high);
SARA_NODISCARD sara_status sara_config_double(const sara_config *config, double *out,
                                              const char *key, double fallback, double low,
                                              double high);
SARA_NODISCARD sara_status sara_config_bool(const sara_config *config, bool *out, const char *key,
                                            bool fallback);
/* Borrowed from the object; fallback may be NULL. */
SARA_NODISCARD sara_status sara_config_string(const sara_config *config, const char **out,
                                              const char *key, const char *fallback);
/* A list of integers, or one integer repeated to `expected` entries (expected 0: any length up to
 * max). Missing or null: *count = 0. */
SARA_NODISCARD sara_status sara_config_ints(const sara_config *config, int64_t *out, int *count,
                                            const char *key, int expected, int max, int64_t low,
                                            int64_t high);

/* ------------------------------------------------------------------------------- safetensors */

typedef struct sara_tensor_info {
    const char *name;
    sara_dtype dtype;
    sara_shape shape;
    uint64_t offset, size; /* bytes, from the start of the file */
} sara_tensor_info;

/* An open file; data is read with pread, so that a file truncated meanwhile is an error. */
typedef struct sara_safetensors sara_safetensors;
/* Strict (docs/reliability.md), at most 250,000 tensors; pickle, zip, GGUF and Git LFS pointers are
 * named with a hint. */
SARA_NODISCARD sara_status sara_safetensors_open(sara_context *ctx, sara_safetensors **out,
                                                 const char *path);
void sara_safetensors_close(sara_safetensors *file);
size_t sara_safetensors_count(const sara_safetensors *file);
/* In the order of the names' bytes. */
const sara_tensor_info *sara_safetensors_at(const sara_safetensors *file, size_t index);
/* NULL: absent. */
const sara_tensor_info *sara_safetensors_find(const sara_safetensors *file, const char *name);
const char *sara_safetensors_metadata(const sara_safetensors *file, const char *key);
const char *sara_safetensors_path(const sara_safetensors *file);
uint64_t sara_safetensors_size(const sara_safetensors *file); /* of the file, in bytes */
/* As stored, info->size bytes. */
SARA_NODISCARD sara_status sara_safetensors_read(const sara_safetensors *file, void *out,
                                                 const sara_tensor_info *info);
/* Floating dtypes only, converted to F32, F16 or BF16 (to nearest even), with no copy of the whole
 * in between. SARA_ERROR_INPUT if F16 cannot hold a finite value. */
SARA_NODISCARD sara_status sara_safetensors_read_as(const sara_safetensors *file, void *out,
                                                    sara_dtype dtype, const sara_tensor_info *info);
SARA_NODISCARD sara_status sara_safetensors_check_dtype(const sara_safetensors *file,
                                                        const sara_tensor_info *info);
/* SARA_ERROR_IO where the file was written to since it was opened, or its name is another's. One
 * that is removed stays readable. */
SARA_NODISCARD sara_status sara_safetensors_check_unchanged(const sara_safetensors *file);
SARA_NODISCARD sara_status sara_safetensors_read_f32(const sara_safetensors *file, float *out,
                                                     const sara_tensor_info *info);
/* Finds, checks dtype and shape (rank 0..; a -1 dimension matches any) and reads as stored into a
 * new tensor. A missing name is SARA_ERROR_INPUT. */
SARA_NODISCARD sara_status sara_safetensors_load(const sara_safetensors *file, sara_tensor *out,
                                                 const char *name, sara_dtype dtype,
                                                 const sara_shape *shape);

/* Metadata that grows. */
typedef struct sara_metadata_list {
    sara_arena arena; /* keys and values */
    sara_metadata *items;
    size_t count, capacity;
} sara_metadata_list;
void sara_metadata_list_init(sara_metadata_list *list, sara_context *ctx);
void sara_metadata_list_free(sara_metadata_list *list); /* one that is all zeros too */
/* A key has one value, the last; both are copied. add: one of at most 1023 bytes as sara_print()
 * makes it. */
SARA_NODISCARD sara_status sara_metadata_list_set(sara_metadata_list *list, const char *key,
                                                  const char *value);
SARA_NODISCARD sara_status sara_metadata_list_add(sara_metadata_list *list, const char *key,
                                                  const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* All of a file's metadata, ascending by key's bytes. */
const sara_metadata *sara_safetensors_metadata_all(const sara_safetensors *file, size_t *count);
typedef struct sara_tensor_source {
    const char *name;
    sara_dtype dtype;
    sara_shape shape;
    const void *data; /* as stored */
} sara_tensor_source;
/* Writes what the safetensors library writes: wider dtypes first so that every tensor is aligned,
 * then by name's bytes; metadata sorted by key; header padded with spaces to 8 bytes. Equal content
 * gives equal files. Atomic. */
SARA_NODISCARD sara_status sara_safetensors_save(sara_context *ctx, const char *path,
                                                 const sara_tensor_source *tensors, size_t count,
                                                 const sara_metadata *metadata,
                                                 size_t metadata_count);
/* The same, but the data of tensors[index], where it is NULL, is made when it is written, so that
 * never more than one tensor's is in memory. */
typedef sara_status (*sara_tensor_fill_fn)(const void *user, size_t index, void *data);
SARA_NODISCARD sara_status sara_safetensors_save_made(sara_context *ctx, const char *path,
                                                      const sara_tensor_source *tensors,
                                                      size_t count, const sara_metadata *metadata,
                                                      size_t metadata_count,
                                                      sara_tensor_fill_fn fill, const void *user);

/* ------------------------------------------------------------------- names of single files */

/* A single-file checkpoint names its tensors as the LDM repository does (Rombach et al. 2022), with
 * a prefix for each part; diffusers' folders name the same tensors otherwise. Both names here are
 * without the prefix. */
typedef enum sara_ldm_part {
    SARA_LDM_UNET,
    SARA_LDM_VAE,
    SARA_LDM_CLIP,      /* SD1's text encoder, under transformers' names in both layouts */
    SARA_LDM_OPEN_CLIP, /* SD2's, whose attention keeps query, key and value in one tensor */
    SARA_LDM_MMDIT,     /* SD3's transformer, which does so too */
    SARA_LDM_T5         /* under transformers' names in both layouts */
} sara_ldm_part;
/* What the numbers in the names depend on. */
typedef struct sara_ldm_shape {
    sara_ldm_part part;
    int levels;        /* resolutions of the U-Net or the VAE */
    int layers;        /* residual blocks of a level on the way down; blocks of a transformer */
    bool attention[8]; /* of the U-Net: whether the level (0: the largest) has transformers */
    bool flat;       /* LDM names are without their dots, as those of a U-Net's averages (LitEma) */
    bool projection; /* a text encoder's is a part of it; OpenCLIP keeps it transposed */
} sara_ldm_shape;
/* A U-Net's LDM name without its dots, and back; false: it is none. */
sara_name sara_ldm_flatten(const char *name);
bool sara_ldm_unflatten(sara_name *out, const char *flat);
/* *out: sara_free(); NULL if no tensor of the other layout corresponds. The in_proj tensors of
 * SARA_LDM_OPEN_CLIP are what to_q, to_k and to_v have in common: from diffusers all three give
 * its name, to diffusers "self_attn.in_proj.weight" stands for them; so do "to_qkv" and
 * "add_qkv_proj" of SARA_LDM_MMDIT. */
SARA_NODISCARD sara_status sara_ldm_to_diffusers(sara_context *ctx, char **out,
                                                 const sara_ldm_shape *shape, const char *name);
SARA_NODISCARD sara_status sara_ldm_from_diffusers(sara_context *ctx, char **out,
                                                   const sara_ldm_shape *shape, const char *name);

/* Of such a name that stands for three, one below the other, these; false: it stands for none. */
bool sara_ldm_split(const sara_ldm_shape *shape, sara_name thirds[3], const char *name);
/* Of diffusers' name of one of the three: which it is, and all; -1: it is none. */
int sara_ldm_third(const sara_ldm_shape *shape, sara_name thirds[3], const char *name);
/* Whether the halves of diffusers' tensor, along its first axis, are the other way round in single
 * files (scale and shift, shift and scale). */
bool sara_ldm_is_swapped(const sara_ldm_shape *shape, const char *name);

/* --------------------------------------------------------------------------- weight sources */

/* The tensors of one module under their checkpoint keys: one file, or the shards of an index. */
typedef struct sara_weights sara_weights;
/* folder/stem[.variant].safetensors, or the shards of its .index[.variant].json; variant NULL: the
 * plain ones. Else the error says which variants are, or how to convert .bin. */
SARA_NODISCARD sara_status sara_weights_open(sara_context *ctx, sara_weights **out,
                                             const char *folder, const char *stem,
                                             const char *variant);
/* Whether sara_weights_open() would find something. */
SARA_NODISCARD sara_status sara_weights_are_there(sara_context *ctx, bool *out, const char *folder,
                                                  const char *stem, const char *variant);
/* What the folder holds of the stem: "plain, fp16", "none". *out: sara_free(). */
SARA_NODISCARD sara_status sara_weights_describe(sara_context *ctx, char **out, const char *folder,
                                                 const char *stem);
/* All tensors of a file under its own names. */
SARA_NODISCARD sara_status sara_weights_open_file(sara_context *ctx, sara_weights **out,
                                                  const char *path);
/* The tensors of one part of a single-file checkpoint, those whose names begin with `prefix`, under
 * diffusers' names and with diffusers' shapes: a fused in_proj becomes three, the VAE's attention
 * matrices. Of SARA_LDM_OPEN_CLIP layers from shape->layers on are left out, as the projection is:
 * diffusers does not have them. A tensor without another name keeps its own. */
SARA_NODISCARD sara_status sara_weights_open_part(sara_context *ctx, sara_weights **out,
                                                  const char *path, const char *prefix,
                                                  const sara_ldm_shape *shape);
void sara_weights_close(sara_weights *weights);
size_t sara_weights_count(const sara_weights *weights);
const sara_tensor_info *sara_weights_at(const sara_weights *weights, size_t index); /* by name */
const sara_tensor_info *sara_weights_find(const sara_weights *weights, const char *name);
SARA_NODISCARD sara_status sara_weights_read_as(const sara_weights *weights, void *out,
                                                sara_dtype dtype, const sara_tensor_info *info);
SARA_NODISCARD sara_status sara_weights_read_f32(const sara_weights *weights, float *out,
                                                 const sara_tensor_info *info);
SARA_NODISCARD sara_status sara_weights_read(const sara_weights *weights, void *out,
                                             const sara_tensor_info *info); /* as stored */
/* Whether that can be read as floating point: the tensor's dtype, and what scales it. */
SARA_NODISCARD sara_status sara_weights_check(const sara_weights *weights,
                                              const sara_tensor_info *info);
/* SARA_ERROR_IO naming the first file that is not as it was when it was opened: it was written to,
 * or its name is another file's. One that is removed stays readable. */
SARA_NODISCARD sara_status sara_weights_check_unchanged(const sara_weights *weights);
const char *sara_weights_path(const sara_weights *weights); /* of the file or index */
/* Errors tell of a part's tensors as the file has them. info: of sara_weights_at() or _find() */
const sara_tensor_info *sara_weights_in_file(const sara_tensor_info *info);
/* What the tensor's shape in the file has to be for it to have this one here. */
sara_shape sara_weights_shape_in_file(const sara_tensor_info *info, const sara_shape *shape);
/* The name in the file of a tensor that need not be there. */
SARA_NODISCARD sara_status sara_weights_name_in_file(const sara_weights *weights, sara_name *out,
                                                     const char *name);
/* Of key and value of a fused in_proj: it is the query's tensor that errors tell of. */
bool sara_weights_is_told_of(const sara_weights *weights, const char *name);

/* ------------------------------------------------------------------------------------ images */

#define SARA_IMAGE_MAX_SIDE 16384
/* PNG, JPEG and WebP by content, at most 16384 pixels a side and 128 megapixels, converted to RGB
 * as PIL's convert("RGB") after ImageOps.exif_transpose (alpha is dropped, as PIL does; palettes
 * and 16-bit colour as PIL). Refused: 16-bit grey (PIL clips it to white), animated WebP, and
 * damage that PIL reads over. Free with sara_image_clear(). */
SARA_NODISCARD sara_status sara_image_read(sara_context *ctx, sara_image *out, const char *path);
/* The same with the image's alpha, as PIL's convert("RGBA") has it, in all three channels; 255
 * where the file has none. */
SARA_NODISCARD sara_status sara_image_read_alpha(sara_context *ctx, sara_image *out,
                                                 const char *path);
void sara_image_clear(sara_context *ctx, sara_image *image);
typedef enum sara_resample { /* the values are PIL's */
                             SARA_RESAMPLE_LANCZOS = 1,
                             SARA_RESAMPLE_BILINEAR = 2,
                             SARA_RESAMPLE_BICUBIC = 3
} sara_resample;
/* Equal to PIL's Image.resize((width, height), resample) on RGB, which stretches its filters where
 * an axis becomes smaller. */
SARA_NODISCARD sara_status sara_image_resize(sara_context *ctx, sara_image *out,
                                             const sara_image *in, int width, int height,
                                             sara_resample resample);
/* The same without rounding to bytes, equal to PIL's resize of each channel in its mode F: *out
 * [height][width][3], which may leave 0 .. 255; sara_free(). */
SARA_NODISCARD sara_status sara_image_resize_exact(sara_context *ctx, float **out,
                                                   const sara_image *in, int width, int height,
                                                   sara_resample resample);
/* A JPEG of the image for a page, no side of it longer than `side`. *out [*size]: sara_free(). */
SARA_NODISCARD sara_status sara_image_thumbnail(sara_context *ctx, char **out, size_t *size,
                                                const sara_image *image, int side);

/* ---------------------------------------------------------------------------- dataset folders */

/* Where what is made of a folder's images may lie; it is passed over without a word. */
#define SARA_DATASET_CACHE ".sara-cache"

typedef struct sara_dataset_item {
    const char *path;
    const char *name; /* from the folder */
    const char *caption;
    int64_t repeats; /* how often an epoch has it */
    bool refused;    /* it cannot be used, of which options->refused heard; its caption is "" */
} sara_dataset_item;
typedef struct sara_dataset {
    sara_dataset_item *items; /* in the metadata's order, else by file name's bytes; a folder's own
                                 before those of folders in it */
    size_t count;
    sara_arena arena;
} sara_dataset;
typedef struct sara_dataset_options {
    const char *folder;
    const char *caption_column;    /* of metadata; NULL: "text" */
    const char *caption_extension; /* with or without dot; NULL: .txt or .caption */
    const char *instance_prompt;   /* the caption of all images, which wins over files; NULL */
    bool captions_aside;    /* with instance_prompt: what holds captions is not told to be unused */
    const char *class_tokens; /* the caption of images that have no other; NULL */
    bool flat;                /* folders below are not read, but for what metadata names there */
    const char *output_dir; /* is passed over where it lies in the folder; NULL */
    const char *masks_dir;  /* likewise */
    const char *instead;    /* what else captions may come from, for messages; NULL: one for all by
                            --instance_prompt */
    /* Hears of each file that cannot be used, with the line that tells why, and the scan goes on;
     * NULL: the first ends it. */
    void (*refused)(void *user, const char *path, const char *line);
    void *user; /* passed to it */
} sara_dataset_options;
/* By its extension, of a kind that is read; no hidden file. */
bool sara_path_is_image(const char *path);
/* The images of a folder and of those below, with captions from metadata.jsonl or metadata.csv,
 * from files beside the images, or from folders named as kohya's N_name (docs/formats.md, "Data
 * sets"). Images are not opened. What lies there and is not used is logged. */
SARA_NODISCARD sara_status sara_dataset_scan(sara_context *ctx, sara_dataset *out,
                                             const sara_dataset_options *options);
void sara_dataset_free(sara_dataset *dataset);

#endif

/* sara - fine-tunes Stable Diffusion with SaRA (ICLR 2025, arXiv 2409.06633).
 *
 *     #include <sara.h>
 *     #include <stdio.h>
 *
 *     int main(void) {
 *         sara_context *ctx = NULL;
 *         sara_train_options train;
 *         sara_status status = sara_context_new(&ctx, NULL);
 *         if (status == SARA_OK) {
 *             sara_train_options_init(&train);
 *             train.pretrained_model_name_or_path = "examples/emoji/base";
 *             train.train_data_dir = "examples/emoji/ink";
 *             train.output_dir = "run";
 *             train.max_train_steps = 100;
 *             status = sara_train(ctx, NULL, &train);
 *         }
 *         if (status != SARA_OK)
 *             fprintf(stderr, "%s\n", sara_context_error(ctx));
 *         sara_context_free(ctx);
 *         return status;
 *     }
 *
 * Every fallible function returns a sara_status and leaves one line in the context that names the
 * thing and both values. `T **out` means that the caller owns the result; a returned `T *` is
 * borrowed. A context and what was made with it belong to one thread at a time; the one exception
 * is sara_context_interrupt().
 *
 * Training and its benchmark are declared in sara_train.h, which this header includes.
 *
 * Structs grow at their end, and programs need not be compiled anew: options begin with their size,
 * which sara_..._options_init() sets (0, as {0} has it: the first version's, so that what came
 * later, denoiser, device and method among it, is not read), and functions that fill a report are
 * macros that pass its size.
 */
#ifndef SARA_H
#define SARA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#pragma GCC visibility push(default)
#define SARA_NODISCARD __attribute__((warn_unused_result))
#else
#define SARA_NODISCARD
#endif

/* ------------------------------------------------------------------------------------ status */

/* The values are the program's exit codes. */
typedef enum sara_status {
    SARA_OK = 0,
    SARA_ERROR_USAGE = 2,    /* an option or argument is wrong */
    SARA_ERROR_INPUT = 3,    /* a file's content is wrong */
    SARA_ERROR_IO = 4,       /* opening, reading, writing, syncing or renaming failed */
    SARA_ERROR_MEMORY = 5,   /* an allocation failed */
    SARA_ERROR_DIVERGED = 6, /* ten training steps in a row were not finite */
    SARA_INTERRUPTED = 7,    /* stopped by sara_context_interrupt(); the work so far is saved */
    SARA_ERROR_DEVICE = 8    /* a device or its library failed, or an op has no kernel there */
} sara_status;

const char *sara_version(void); /* "0.1.0" */

/* ----------------------------------------------------------------------------------- context */

typedef struct sara_context sara_context;

/* allocate returns NULL on failure and memory aligned as by malloc otherwise. */
typedef struct sara_allocator {
    void *(*allocate)(void *user, size_t size);
    void (*release)(void *user, void *memory);
    void *user;
} sara_allocator;

typedef enum sara_log_level { SARA_LOG_INFO, SARA_LOG_WARNING } sara_log_level;
/* One line without its newline, already safe to print on a terminal. */
typedef void (*sara_log_fn)(void *user, sara_log_level level, const char *line);

/* Where long work stands; a step is an optimiser step, a denoising step or a file. */
typedef struct sara_progress {
    const char *phase; /* "train", "generate", "check", "cache", "load" */
    int64_t step, total;
    double loss;         /* of this step; NaN where there is none */
    double learning_rate; /* NaN where there is none */
    double steps_per_second, seconds_left;
} sara_progress;
typedef void (*sara_progress_fn)(void *user, const sara_progress *progress);

typedef struct sara_context_options {
    size_t size; /* of this struct; 0: of its first version */
    const sara_allocator *allocator; /* NULL: malloc and free; copied */
    int threads;                     /* 0: OMP_NUM_THREADS or the processors available */
    sara_log_fn log;                 /* NULL: silent */
    sara_progress_fn progress;       /* NULL: none */
    void *user;                      /* passed to log and progress */
    uint64_t memory_limit; /* bytes that the process may use in all; 0: what the system has free */
} sara_context_options;
void sara_context_options_init_sized(sara_context_options *options, size_t size);
#define sara_context_options_init(options)                                                         \
    sara_context_options_init_sized((options), sizeof(*(options)))

/* *out is set even on failure unless memory ran out, so that the error can be read and freed. */
SARA_NODISCARD sara_status sara_context_new(sara_context **out,
                                            const sara_context_options *options);
void sara_context_free(sara_context *ctx);
/* The line of the last failure, "" if there was none; "out of memory" for NULL. */
const char *sara_context_error(const sara_context *ctx);
/* Asks running work, or what is called next, to save and return SARA_INTERRUPTED, which meets the
 * request. Safe in a signal handler. */
void sara_context_interrupt(sara_context *ctx);

/* ------------------------------------------------------------------------------------- model */

/* U-Net, and unless unet_only VAE, text encoder, tokenizer and scheduler: from a diffusers folder
 * or a single-file checkpoint (.safetensors) of SD1.x or SD2.x. */
typedef struct sara_model sara_model;

typedef struct sara_model_options {
    size_t size; /* of this struct; 0: of its first version */
    /* "fp16": of a folder's parts *.fp16.safetensors, the plain files of parts that have none, as
     * diffusers does; one that no part has is SARA_ERROR_INPUT. NULL: none */
    const char *variant;
    bool unet_only; /* the path is a bare unet/ folder, or of a file the U-Net is enough */
    /* "epsilon", "v_prediction" (also "v"), "sample" or, of a flow scheduler, "flow_prediction"
     * instead of the model's own */
    const char *prediction_type;
    /* What a single file does not hold; NULL: as in the published models. */
    const char *model_config; /* a diffusers folder whose configs and scheduler hold */
    const char *tokenizer;    /* a tokenizer/ folder */
    /* Another VAE than the model's own: a diffusers folder of one, a model's folder or a file, with
     * its config in the file or beside it, else what its shapes tell; NULL: its own. A part that a
     * single file lacks is taken from model_config where that has it. */
    const char *vae;
    bool use_ema_weights;     /* of a file: the averages of the U-Net's weights (model_ema.*) */
    /* What the U-Net's weights are in memory: "fp32", "fp16", "bf16" (rounded to nearest even if
     * the file holds more) or "auto", as in the file; NULL: fp32. Arithmetic is in float32. A model
     * whose weights were rounded cannot be saved. */
    const char *weight_dtype;
    /* A folder with another U-Net of the same family, as full fine-tuning writes it, or a model's
     * folder: it stands in for the model's own. NULL: its own */
    const char *denoiser;
    const char *device; /* where its weights lie and it computes: "cpu"; NULL: that */
    const char *encoder_dtype; /* as weight_dtype, of text encoders and VAE; NULL: "auto" */
    bool no_t5;         /* of SD3: without its third text encoder, zeros being its states */
} sara_model_options;
void sara_model_options_init_sized(sara_model_options *options, size_t size);
#define sara_model_options_init(options)                                                           \
    sara_model_options_init_sized((options), sizeof(*(options)))

/* options may be NULL; one that has no effect on this kind of model is SARA_ERROR_USAGE. Errors:
 * also SARA_ERROR_IO, SARA_ERROR_INPUT, SARA_ERROR_MEMORY. All parts are checked, and read when
 * they are first needed: their files stay open, and one that is written to or replaced meanwhile is
 * SARA_ERROR_IO then. Of unet_only the denoiser is read at once. */
SARA_NODISCARD sara_status sara_model_load(sara_context *ctx, sara_model **out, const char *path,
                                           const sara_model_options *options);
void sara_model_free(sara_model *model);
/* Gives back the memory of text encoders and VAE, which are read again when they are needed. */
void sara_model_release(sara_model *model);
/* Whether a file holds averages of its U-Net's weights; false of a folder. Errors as of loading. */
SARA_NODISCARD sara_status sara_model_has_ema_weights(sara_context *ctx, bool *out,
                                                      const char *path);
/* Whether weight files of the variant are there of any part of a folder that is loaded with
 * unet_only or without; false of a file. Errors: SARA_ERROR_MEMORY. */
SARA_NODISCARD sara_status sara_model_has_variant(sara_context *ctx, bool *out, const char *path,
                                                  bool unet_only, const char *variant);

/* A model's tokenizers by their folders, "tokenizer", "tokenizer_2", ..., from number 0; NULL past
 * the last. */
const char *sara_model_tokenizer_name(const sara_model *model, int number);
/* A text's ids as generation uses them: CLIP's padded and cut to the context length, T5's to 256.
 * *ids: sara_free(). SARA_ERROR_USAGE for a number that no tokenizer has. */
SARA_NODISCARD sara_status sara_model_tokenize_by(sara_context *ctx, int32_t **ids, size_t *count,
                                                  const sara_model *model, int number,
                                                  const char *text);
/* The same by the first. */
SARA_NODISCARD sara_status sara_model_tokenize(sara_context *ctx, int32_t **ids, size_t *count,
                                               const sara_model *model, const char *text);
void sara_free(sara_context *ctx, void *memory);

#define SARA_HISTOGRAM_BINS 24
typedef struct sara_component_report {
    char name[32], class_name[64], dtype[8];
    int64_t tensors, parameters;
} sara_component_report;

/* Histogram bin i counts the U-Net's entries with 10^((i-20)/4) <= |p| < 10^((i-19)/4); the first
 * bin also holds all below, the last all above. */
typedef struct sara_model_report {
    sara_component_report components[8];
    int component_count;
    int64_t histogram[SARA_HISTOGRAM_BINS];
    double thresholds[16];  /* round values and the budgets' thresholds, ascending */
    int64_t selected[16];   /* entries with |p| < thresholds[i] */
    int threshold_count;
    char base_sha256[65];
    char base_precision[8];   /* "fp16", "bf16" or "fp32": the first that holds all its values */
    char architecture[32];    /* as in modelspec.architecture: "stable-diffusion-v1" */
    char prediction_type[24]; /* "" of a bare unet/ folder, which has no scheduler */
    char denoiser[24];        /* what messages call components[0]: "U-Net" */
} sara_model_report;
SARA_NODISCARD sara_status sara_model_inspect_sized(sara_context *ctx, sara_model_report *report,
                                                    size_t report_size, const sara_model *model);
#define sara_model_inspect(ctx, report, model)                                                     \
    sara_model_inspect_sized((ctx), (report), sizeof(sara_model_report), (model))

/* What saving lost: norms over the changed entries, in double. */
typedef struct sara_save_report {
    int64_t changed;       /* entries that differ from the base in memory */
    int64_t rounded_away;  /* of those, entries that equal the base's once stored */
    double change_norm;    /* L2 of the change */
    double rounding_error; /* L2 of (stored change - change) / L2 of the change; 0 if none */
} sara_save_report;

/* Checks what can be said before the model is loaded: dtype, that out can be written and is new,
 * and that it does not lie inside the model's own folder (model_path NULL: not known). */
SARA_NODISCARD sara_status sara_save_check(sara_context *ctx, const char *out, const char *dtype,
                                           const char *model_path);
/* Writes the model, atomically and to a new name: as a single-file checkpoint where out ends in
 * .safetensors, else as a diffusers folder (every other file of a source folder carried along),
 * which may be there empty. dtype: "fp32", "fp16", "bf16" or NULL for the base's. report may be
 * NULL. */
SARA_NODISCARD sara_status sara_model_save_sized(sara_context *ctx, sara_save_report *report,
                                                 size_t report_size, const sara_model *model,
                                                 const char *out, const char *dtype);
#define sara_model_save(ctx, report, model, out, dtype)                                            \
    sara_model_save_sized((ctx), (report), sizeof(sara_save_report), (model), (out), (dtype))

/* ---------------------------------------------------------------------------------- adapters */

/* "FILE[:strength]": the path (sara_free()), and the strength, 1 if it is left out. A file that is
 * there with the whole name, colon and all, is meant. SARA_ERROR_USAGE where it is beyond 100. */
SARA_NODISCARD sara_status sara_adapter_split(sara_context *ctx, char **path, double *strength,
                                              const char *text);
/* Loads an adapter file and applies it to the model: P0 + strength (P - P0), at strength 1 the
 * adapter's values bit-exactly. Several may be applied; overlaps add up as changes, in any order
 * to the same bits. Another base is refused (SARA_ERROR_INPUT) unless force. A LoRA or DoRA of
 * another tool is taken too (docs/formats.md), a file or PEFT's folder, on the text encoder as
 * well: for any base; layers that the model does not have are refused unless force. */
SARA_NODISCARD sara_status sara_model_apply(sara_context *ctx, sara_model *model,
                                            const char *adapter_path, double strength, bool force);
/* Reads the adapter and checks all that sara_model_apply() would refuse; changes nothing. */
SARA_NODISCARD sara_status sara_model_check_adapter(sara_context *ctx, sara_model *model,
                                                    const char *adapter_path, bool force);
/* Takes every adapter off again, bit-exactly. It fails only where a device with memory of its own
 * does. */
sara_status sara_model_remove(sara_model *model);

typedef struct sara_metadata {
    const char *key, *value;
} sara_metadata;

typedef struct sara_adapter_block {
    char name[24]; /* "down_blocks.0", "mid_block", "up_blocks.3"; "others": all that is in none */
    int64_t tensors, entries;
    double change_norm; /* L2 of the values minus the base's; NaN without a base */
} sara_adapter_block;

#define SARA_MAX_BLOCKS 64
/* Strings are the report's own. */
typedef struct sara_adapter_report {
    /* As in the file; method and base_precision "" if it has none. */
    const char *method, *target, *base_sha256, *base_precision;
    char dtype[8];                             /* of the values: "F32", "F16", "BF16", "mixed" */
    int64_t file_bytes, position_bytes;
    int64_t tensors, entries;
    sara_adapter_block blocks[SARA_MAX_BLOCKS]; /* those with entries, in the U-Net's order */
    int block_count;
    const sara_metadata *metadata; /* all of the file's, ascending by key */
    size_t metadata_count;
    double change_norm; /* of all blocks; NaN without a base */
    /* Of LoRA files, whose blocks are of layers: method is "LoRA", "LoCon", "DoRA" or "whole
     * changes", target and base_sha256 may be "", and the change of what is no DoRA is known
     * without a base. Of AdaptFormers (method "adaptformer") there is no change. */
    const char *layout;            /* "kohya", "diffusers" or "PEFT"; "": it is none of these */
    int64_t layers, text_layers;   /* text_layers: of these, those of text encoders */
    int64_t rank_low, rank_high;   /* 0: there is none */
    double alpha_low, alpha_high;  /* of the layers that have one; NaN: none has */
    double relative;               /* change_norm by the norm of what is changed; NaN: no base */
    int64_t width;                 /* of an AdaptFormer's bottlenecks; 0: it is none */
    double scale;                  /* of these */
    /* Of a textual inversion (method "embedding", layout "diffusers", "A1111" or "clip_l, clip_g"),
     * which is no adapter and has neither target nor blocks. */
    int64_t vectors;      /* 0: it is none */
    int64_t widths[2];    /* of the first text encoder's and the second's; 0: it is for one alone */
    const char *token;    /* by which it names itself; "": by none */
    const char *families; /* whose text encoders are as wide; "": of none that is published */
} sara_adapter_report;

/* What an adapter file holds, a LoRA of others too. It is read and checked as for applying; with a
 * base (NULL: none) also against that: another base than the adapter's is SARA_ERROR_INPUT unless
 * force. The change is one of the base's weights in memory, without adapters that are applied to
 * it. *out: sara_adapter_report_free(). Errors: SARA_ERROR_IO, SARA_ERROR_INPUT, SARA_ERROR_USAGE
 * if adapters are applied to the base, SARA_ERROR_MEMORY. */
SARA_NODISCARD sara_status sara_adapter_inspect(sara_context *ctx, sara_adapter_report **out,
                                                const char *path, sara_model *base, bool force);
void sara_adapter_report_free(sara_context *ctx, sara_adapter_report *report);

/* ---------------------------------------------------------------------- adapters of other tools */

typedef struct sara_extract_options {
    size_t size; /* of this struct; 0: of its first version */
    double top_fraction; /* keep this share of all entries, those that changed most; 0: not given */
    double tolerance;    /* keep changes of a magnitude above it; negative: not given */
    const char *save_precision; /* of the values: "fp32", "fp16" or "bf16"; NULL: fp32, of a LoRA
                                   fp16 */
    /* NULL or "sara": an adapter of sara's. "lora": of all linear layers and convolutions that
     * differ, of the text encoder too, the best approximation of a rank in kohya's layout. */
    const char *format;
    int rank;     /* of "lora", at least 1; else 0 */
    int64_t date; /* of "lora": seconds since 1970 for modelspec.date; 0: now */
} sara_extract_options;

typedef struct sara_extract_report {
    int64_t parameters, differing, kept; /* entries of the U-Net, of a LoRA of both parts; kept: of
                                            those that differ, that are of a layer in the file */
    double change_norm; /* L2 of the change from base to tuned */
    double left_out;    /* L2 of what the adapter lacks of it / change_norm */
    int64_t layers;     /* of a LoRA; 0: it is none */
} sara_extract_report;

void sara_extract_options_init_sized(sara_extract_options *options, size_t size);
#define sara_extract_options_init(options)                                                         \
    sara_extract_options_init_sized((options), sizeof(*(options)))
/* Checks the options without the models, and that path can be written and is new. */
SARA_NODISCARD sara_status sara_extract_check(sara_context *ctx, const char *path,
                                              const sara_extract_options *options);
/* Writes the adapter that makes base's U-Net tuned's, atomically, or a LoRA near to that. Without
 * top_fraction and tolerance every entry that differs is kept, and base with the adapter has
 * tuned's bits; where more than half differ that is SARA_ERROR_USAGE. Models of different
 * architectures, and two that are the same, are SARA_ERROR_INPUT. report may be NULL. */
SARA_NODISCARD sara_status sara_model_extract_sized(sara_context *ctx, sara_extract_report *report,
                                                    size_t report_size, sara_model *base,
                                                    const sara_model *tuned, const char *path,
                                                    const sara_extract_options *options);
#define sara_model_extract(ctx, report, base, tuned, path, options)                                \
    sara_model_extract_sized((ctx), (report), sizeof(sara_extract_report), (base), (tuned),        \
                             (path), (options))

typedef struct sara_export_options {
    size_t size; /* of this struct; 0: of its first version */
    /* "comfyui" and "a1111": the change of each tensor, whole, as ComfyUI and A1111 (and Forge,
     * stable-diffusion.cpp) load LoRA files; "lora": its best approximation of a rank in kohya's
     * layout, for all of those and diffusers; "peft": the same as a folder for PEFT; "shira": of
     * one adapter that --method shira has trained, a folder of PEFT's SHiRA in float32. */
    const char *format;
    int rank;                   /* of "lora" and "peft", at least 1; else 0 */
    const char *save_precision; /* "fp32", "fp16" or "bf16"; NULL: fp16 */
    int64_t date;               /* seconds since 1970 for modelspec.date; 0: now */
} sara_export_options;

/* Norms are L2 over all entries. */
typedef struct sara_export_report {
    int64_t changed;    /* entries that the adapters change */
    int64_t left_out;   /* of those, the entries that the format has no place for: in a LoRA biases
                           and norms; a text encoder's are told in a warning, and not counted */
    int64_t inexact;    /* "comfyui", "a1111": entries for which base + change, added up in float32,
                           is not the adapter's value to the bit */
    int64_t layers;     /* written */
    double change_norm; /* of the change */
    double kept;        /* of what the file holds of it / change_norm; 1 unless a LoRA */
    double error;       /* of what it lacks / change_norm: what is cut off, else rounding */
} sara_export_report;

void sara_export_options_init_sized(sara_export_options *options, size_t size);
#define sara_export_options_init(options)                                                          \
    sara_export_options_init_sized((options), sizeof(*(options)))
/* Checks the options without the model, and that out ends in .safetensors (of "peft": does not),
 * can be written and is new. */
SARA_NODISCARD sara_status sara_export_check(sara_context *ctx, const char *out,
                                             const sara_export_options *options);
/* Writes what the adapters applied to the model change, as another tool's LoRA file (of "peft":
 * folder), atomically. Without any change, or where the model's weights are 16-bit in memory, that
 * is SARA_ERROR_USAGE. report may be NULL.
 * Errors: also SARA_INTERRUPTED, after which nothing is written. */
SARA_NODISCARD sara_status sara_model_export_sized(sara_context *ctx, sara_export_report *report,
                                                   size_t report_size, const sara_model *model,
                                                   const char *out,
                                                   const sara_export_options *options);
#define sara_model_export(ctx, report, model, out, options)                                        \
    sara_model_export_sized((ctx), (report), sizeof(sara_export_report), (model), (out), (options))

/* -------------------------------------------------------------------------------- generation */

typedef struct sara_image {
    int width, height;
    uint8_t *pixels; /* RGB, [height][width][3] */
} sara_image;

/* A number that stands for the model's own: the guidance of Stable Diffusion is 7.0. */
#define SARA_OF_MODEL (-1e9)

typedef struct sara_generate_options {
    size_t size; /* of this struct; 0: of its first version */
    const char *prompt;          /* required */
    const char *negative_prompt; /* NULL: empty */
    /* <lora:NAME:WEIGHT> in a prompt, as in stable-diffusion.cpp, applies the adapter
     * NAME.safetensors of this folder for this call and is taken out of the text. WEIGHT: 1 if it
     * is left out; those of one name add up. NULL: a prompt with such tags is refused. */
    const char *lora_model_dir;
    bool lora_force;  /* also adapters that were made for another base; of a LoRA what fits */
    bool lora_ignore; /* the tags are taken out and their adapters not applied */
    int width, height;           /* multiples of the VAE's factor; 0: sample_size times that, or the
                                    given latents' */
    int steps;                   /* 20 */
    double guidance_scale;       /* at most 1 means no guidance; SARA_OF_MODEL */
    uint64_t seed;               /* 42; image i uses seed + i; see sara_draw_seed() */
    int batch_count;             /* 1 */
    const char *sampling_method; /* NULL: the model's scheduler; see sara_sampling_methods() */
    bool karras;                 /* Karras sigmas whatever the scheduler's config says */
    const char *init_latents;    /* safetensors, key `latents` [N,4,h,w], unit variance */
    const char *save_latents;    /* safetensors, key `latents`: final, before 1/scaling_factor */
    /* (a), (a:1.4) and [a] in a prompt weigh its parts as in A1111 (docs/formats.md); true: all of
     * it is text */
    bool no_prompt_weights;
    /* Prompts longer than the text encoder takes: in chunks, as in A1111, where the word BREAK
     * begins a new one; false: cut */
    bool long_prompt;
    /* What a model is told that takes it (SDXL; others refuse it), each {height, width} or {top,
     * left}: the size that the picture had, where it was cropped then, and the size that it was to
     * have; {0, 0}: the picture's own, uncropped. negative_*: without the prompt; where all of
     * these are 0, the same as with it. */
    int original_size[2], crops_coords_top_left[2], target_size[2];
    int negative_original_size[2], negative_crops_coords_top_left[2], negative_target_size[2];
    int max_sequence_length; /* of SD3: ids of T5 that a prompt is padded and cut to, at most 512;
                                0: 256 */
    /* Parts of the model are given back as soon as their work is done: text encoders before the
     * denoiser is read, that before the pictures are decoded. What comes after reads them again. */
    bool release_parts;
    /* Files of textual inversion (.safetensors) in this folder and below, which stand in prompts
     * where their names do (docs/formats.md, "Embeddings"): a file's name among the words,
     * embedding:NAME, or the token that it names itself by. Files are read when they are named.
     * NULL: none, and a prompt with embedding:NAME is refused. */
    const char *embedding_dir;
} sara_generate_options;

void sara_generate_options_init_sized(sara_generate_options *options, size_t size);
#define sara_generate_options_init(options)                                                        \
    sara_generate_options_init_sized((options), sizeof(*(options)))
/* A seed from the system's entropy, as for `-s -1`: it and the count - 1 after it lie within 32
 * bits, so that other programs take them. Any options' seed may be drawn so. SARA_ERROR_IO where
 * the system has none, SARA_ERROR_USAGE for a count over 2^32. */
SARA_NODISCARD sara_status sara_draw_seed(sara_context *ctx, uint64_t *seed, int64_t count);
/* NULL-terminated names for sampling_method. */
const char *const *sara_sampling_methods(void);
/* Checks what can be said without a model: the prompts, their weights, their tags, whether the
 * tags' files are there and save_latents can be written. Logs the weights that it finds.
 * SARA_ERROR_USAGE, or SARA_ERROR_IO for a file. */
SARA_NODISCARD sara_status sara_generate_check(sara_context *ctx,
                                               const sara_generate_options *options);
/* *out: how many images sara_generate() draws: batch_count, or the latents that init_latents holds.
 * Errors: those of reading its header. */
SARA_NODISCARD sara_status sara_generate_count(sara_context *ctx, int *out,
                                               const sara_generate_options *options);
/* All that sara_generate() would refuse before it draws, sizes, samplers and the tags' adapters
 * included: for several prompts in a row. */
SARA_NODISCARD sara_status sara_generate_check_model(sara_context *ctx, sara_model *model,
                                                     const sara_generate_options *options);
/* Encodes the options' prompts ahead: the model keeps what they come to, and sara_generate() with
 * the same prompts takes that. After those of several options, sara_model_release() gives the text
 * encoder's memory back before anything is drawn. */
SARA_NODISCARD sara_status sara_generate_encode(sara_context *ctx, sara_model *model,
                                                const sara_generate_options *options);
/* *images: *count images, freed with sara_images_free(). The model is afterwards as before, but for
 * parts that were not in memory yet, which stay there, and those that went: by the options, or the
 * denoiser where there is no room for the decoder beside it. */
SARA_NODISCARD sara_status sara_generate(sara_context *ctx, sara_image **images, int *count,
                                         sara_model *model, const sara_generate_options *options);
/* The ids of the options' prompt by the tokenizer of this number: CLIP's chunk after chunk, each
 * padded, T5's as sara_model_tokenize_by() has them. Where a vector of an embedding stands, names
 * has "toy[0]", its name and number, and the id is negative; else NULL. *ids, *names:
 * sara_free(). */
SARA_NODISCARD sara_status sara_model_tokenize_prompt(sara_context *ctx, int32_t **ids,
                                                      char ***names, size_t *count,
                                                      sara_model *model, int number,
                                                      const sara_generate_options *options);
void sara_images_free(sara_context *ctx, sara_image *images, int count);
/* The text that image UIs read and show ("a cat\nSteps: 20, Sampler: ..."), for the image at index
 * of a generation: the prompt as given, the adapters applied and those of its tags, the beginning
 * of the base's hash. *out: sara_free(). */
SARA_NODISCARD sara_status sara_generate_text(sara_context *ctx, char **out, sara_model *model,
                                              const sara_generate_options *options, int width,
                                              int height, int index);
/* Writes a PNG atomically. text: UTF-8 for the PNG's `parameters` text or NULL. */
SARA_NODISCARD sara_status sara_image_save(sara_context *ctx, const sara_image *image,
                                           const char *path, const char *text);
/* Side by side: *out is a grid of count images of one size, columns wide, with white gaps of two
 * pixels, all enlarged `enlarge` times. sara_images_free(ctx, out, 1). */
SARA_NODISCARD sara_status sara_image_grid(sara_context *ctx, sara_image **out,
                                           const sara_image *images, int count, int columns,
                                           int enlarge);

#if defined(__GNUC__)
#pragma GCC visibility pop
#endif
#ifdef __cplusplus
}
#endif
#include <sara_train.h>

#endif

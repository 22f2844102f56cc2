/* Training and its benchmark. sara.h includes this and tells of contexts, errors and ownership. */
#ifndef SARA_TRAIN_H
#define SARA_TRAIN_H

#include <sara.h>

#ifdef __cplusplus
extern "C" {
#endif
#if defined(__GNUC__)
#pragma GCC visibility push(default)
#endif

/* ---------------------------------------------------------------------------------- training */

#define SARA_MAX_PROMPTS 16

/* Names and meanings are diffusers' where it has them; strings are borrowed. */
typedef struct sara_train_options {
    size_t size; /* of this struct; 0: of its first version */
    const char *pretrained_model_name_or_path; /* a diffusers folder or a .safetensors file */
    const char *unet_only;                     /* a bare unet/ folder or such a file instead */
    const char *variant, *model_config, *tokenizer, *vae; /* see sara_model_options */
    bool use_ema_weights;
    const char *train_data_dir;  /* images with captions: docs/formats.md, "Data sets" */
    const char *replay;          /* micro-batches from a safetensors file instead */
    const char *output_dir;
    const char *caption_column;  /* "text" */
    const char *caption_prefix;  /* NULL: none */
    const char *caption_extension; /* of files beside images; NULL: .txt or .caption */
    const char *instance_prompt; /* one caption for all images; NULL: captions from files */
    int resolution;              /* a multiple of the VAE's factor; 0: sample_size times that. A
                                    square's side, or the width beside resolution_height */
    bool center_crop, random_flip;
    /* "FILE[:strength]": train the entries of this adapter, from base + strength (value - base) on,
     * instead of a selection; the result stands alone. No reselection unless progressive_iter is
     * above 0. An adapter without sara.threshold needs learning_rate. NULL: start from the base. */
    const char *adapter;
    double threshold;            /* 0: from trainable */
    /* How many entries are trained (of "full" all are); of "lora", "dora", "adaptformer" and
     * "shira" the rank or width that comes nearest.
     * "5.8%", "0.058", "20M", "50000"; "1", "1.0": one entry, "100%": all; NULL: of "sara" and
     * "ltsft" 5.8%, of the others the default of rank or adapter_width */
    const char *trainable;
    double learning_rate;        /* 0: 1e-3 exp(-350 threshold); "full": 1e-5, others: 1e-4 */
    double lambda_rank;          /* 5e-4 */
    int64_t progressive_iter;    /* -1: half of the steps, never with an adapter; 0: never */
    int64_t max_train_steps;     /* 0: 5000, the replay's length, or the resumed run's */
    int64_t num_train_epochs;    /* 0: from max_train_steps */
    int train_batch_size;        /* 4 */
    int gradient_accumulation_steps; /* 1 */
    bool gradient_checkpointing; /* recompute activations in backward */
    int gradient_checkpointing_levels; /* of so many of the largest resolutions alone; 0: of all if
                                          gradient_checkpointing, else of none */
    const char *mixed_precision; /* "no"; "bf16": needs AVX512-BF16, else SARA_ERROR_DEVICE */
    const char *weight_dtype;    /* "fp32"; "fp16", "bf16" or "auto": see sara_model_options */
    const char *lr_scheduler;    /* "cosine" */
    int64_t lr_warmup_steps;
    int lr_num_cycles;           /* 1 */
    double lr_power;             /* 1.0 */
    double adam_beta1, adam_beta2, adam_epsilon, adam_weight_decay;
    double max_grad_norm;        /* 1.0; 0: no clipping */
    const char *prediction_type; /* NULL: the scheduler config's */
    const char *validation_prompts[SARA_MAX_PROMPTS];
    int validation_prompt_count;
    int64_t validation_steps;    /* 500 */
    double validation_guidance_scale;    /* SARA_OF_MODEL */
    bool no_prompt_weights, long_prompt; /* of the validation prompts; see sara_generate_options */
    int64_t checkpointing_steps; /* 500 */
    int checkpoints_total_limit; /* 3; 0: unlimited */
    const char *resume_from_checkpoint; /* "latest" or a path; NULL: start anew */
    uint64_t seed;               /* 42 */
    bool draw_seed; /* a drawn seed instead, which is told; a resumed run keeps its own */
    const char *profile;         /* a file for the first steps' trace, in Chrome's format */
    const char *method; /* "sara"; "full": all entries are trained, and the run folder gets the
                           denoiser's component folder (unet/) instead of an adapter; "lora" and
                           "dora": branches of low rank beside its weights */
    const char *device; /* see sara_model_options; mixed_precision goes with "cpu" */
    /* Of "sara": which entries the budget takes: "smallest", "largest", "random", "gradient" (of
     * the largest sums of gradients over mask_steps micro-batches) or "lift" (of the largest
     * magnitudes in each matrix's best approximation of rank `rank`, arXiv 2506.00772) */
    const char *mask;         /* "smallest" */
    int mask_steps;           /* 0: 64 */
    int rank;                 /* of "lora", "dora" and "shira", and of the mask "lift"; 0: 4, or by
                                 trainable; "lift": 128 */
    double lora_alpha;        /* 0: the rank */
    const char *lora_targets; /* "attention", "linear" or "all"; NULL: attention, of "shira", which
                                 has no "all", linear */
    const char *save_as;      /* of "lora" and "dora": "kohya" or "peft"; NULL: kohya */
    int adapter_width;        /* of "adaptformer": of the bottleneck; 0: 64, or by trainable */
    double adapter_scale;     /* of "adaptformer": 0.1 */
    int64_t ltsft_steps;      /* of "ltsft": those of its first phase; 0: half of all steps */
    /* After every so many steps the log says how many of the denoiser's entries that were small in
     * the base are still small, and how many large ones became it; 0: never. Of methods that change
     * weights. */
    int64_t track_drift;
    const char *report_to;   /* beside the log: "none" or "tensorboard"; NULL: none */
    const char *logging_dir; /* TensorBoard's event files, within output_dir unless it is absolute;
                                NULL: "logs" */
    /* Of rectified flow: how noise levels are drawn and weighed, "logit_normal", "mode",
     * "sigma_sqrt", "cosmap" or "none" (also "uniform"); NULL: logit_normal */
    const char *weighting_scheme;
    double logit_mean, logit_std; /* of logit_normal: 0, 1 */
    double mode_scale;            /* of mode: 1.29 */
    int precondition_outputs;     /* 1: the loss is that of x0, not of the velocity (0) */
    /* Encoded images and captions are files in cache_dir, from which they are read when they are
     * wanted, by later runs too; names and files depend on content, settings and encoders. */
    bool cache_latents_to_disk, cache_text_encoder_outputs_to_disk;
    const char *cache_dir; /* NULL: .sara-cache in train_data_dir; where that cannot be written,
                              cache in output_dir */
    const char *encoder_dtype; /* "auto"; see sara_model_options */
    bool no_t5;            /* see sara_model_options */
    int max_sequence_length; /* of captions, see sara_generate_options; validation has 256. 0: 77 */
    const char *embedding_dir; /* of the validation prompts, see sara_generate_options; captions are
                                  text throughout. Files are read once */
    /* Data sets as people have them, by kohya's names; docs/formats.md, "Data sets". */
    bool random_crop, color_aug;
    bool enable_bucket, bucket_no_upscale;
    int min_bucket_reso, max_bucket_reso, bucket_reso_steps; /* 256, 1024, 64 */
    const char *dataset_config; /* a TOML or JSON file instead of train_data_dir */
    /* Each position's loss is multiplied by a mask of its image: a file of that name in
     * conditioning_data_dir, or the image's alpha; a configuration's subsets name theirs. */
    bool masked_loss, alpha_mask;
    const char *conditioning_data_dir;
    /* DreamBooth's prior preservation: beside train_batch_size images as many of their class, whose
     * loss counts prior_loss_weight. */
    bool with_prior_preservation;
    const char *class_data_dir, *class_prompt;
    int num_class_images; /* with class_prompt: what is missing in class_data_dir is drawn by the
                             base before anything is trained; 0: 100 with with_prior_preservation,
                             else none is drawn */
    double prior_loss_weight;                       /* 1 */
    const char *caption_suffix, *caption_separator; /* NULL; "," */
    bool shuffle_caption, enable_wildcard;
    int keep_tokens;
    const char *keep_tokens_separator, *secondary_separator; /* NULL */
    double caption_dropout_rate, caption_tag_dropout_rate;
    int caption_dropout_every_n_epochs;
    /* The denoiser's values stay in their files and are read a recomputed region at a time; goes
     * with gradient_checkpointing, which it switches on. Results are the same to the bit. */
    bool disk_offload;
    int resolution_height; /* where it is not resolution; 0: it is */
} sara_train_options;

typedef struct sara_train_result {
    int64_t steps;        /* optimiser steps done in all, with those of the resumed run */
    int64_t skipped;      /* of these, steps skipped because they were not finite */
    int64_t parameters, selected;
    double threshold; /* NaN where the run's adapter has none */
    double learning_rate;
    double first_loss, last_loss; /* means over up to 20 steps */
    char result[64]; /* in output_dir: the adapter's file or folder, of "full" the folder "unet" */
} sara_train_result;

void sara_train_options_init_sized(sara_train_options *options, size_t size);
#define sara_train_options_init(options)                                                           \
    sara_train_options_init_sized((options), sizeof(*(options)))
/* A TOML file as JSON text, for options from a file. Errors name file and line. *json:
 * sara_free(). */
SARA_NODISCARD sara_status sara_read_toml(sara_context *ctx, char **json, const char *path);
/* Sets one option by its name or an alias ('-' and '_' alike) from text, as the command line does;
 * the text is borrowed. A prompt list grows. Errors: SARA_ERROR_USAGE naming the option and the
 * value. */
SARA_NODISCARD sara_status sara_train_options_set(sara_context *ctx, sara_train_options *options,
                                                  const char *name, const char *value);
typedef struct sara_option_info {
    const char *name, *metavar, *help; /* metavar NULL: a switch */
} sara_option_info;
/* The options that sara_train_options_set() knows, from index 0; NULL past the last. */
const sara_option_info *sara_train_option_at(size_t index);
/* The one of a name or of an alias, other trainers' name of it ("network_dim"); NULL: none. */
const sara_option_info *sara_train_option_find(const char *name);
/* Whether an option (its name, no alias) goes with a method; most go with all. No method of that
 * name: false. */
bool sara_train_option_goes_with(const char *option, const char *method);

/* Trains and writes the run folder (docs/formats.md). result may be NULL.
 * Errors: SARA_ERROR_DIVERGED, SARA_INTERRUPTED and all others. */
SARA_NODISCARD sara_status sara_train_sized(sara_context *ctx, sara_train_result *result,
                                            size_t result_size, const sara_train_options *options);
#define sara_train(ctx, result, options)                                                           \
    sara_train_sized((ctx), (result), sizeof(sara_train_result), (options))

/* --------------------------------------------------------------------------------- benchmark */

typedef struct sara_bench_options {
    size_t size; /* of this struct; 0: of its first version */
    const char *shape;     /* random weights: "sd15", "sd21", "sdxl", "sd3-medium", "tiny", ... */
    /* Or a diffusers folder, whose unet/ is read, a bare unet/ folder, or a .safetensors file. */
    const char *model;
    const char *variant, *model_config; /* see sara_model_options */
    bool use_ema_weights;
    const char *method;    /* as in sara_train_options, or "forward": no gradient ("sara") */
    int latent;            /* 64: height and width of the latents */
    int batch, steps;      /* 1, 3 */
    const char *trainable; /* see sara_train_options */
    double lambda_rank;    /* 5e-4 */
    bool gradient_checkpointing;
    int gradient_checkpointing_levels; /* of so many of the largest resolutions alone; 0: all */
    const char *mixed_precision; /* "no" or "bf16" */
    const char *weight_dtype; /* "fp32"; as in sara_model_options */
    bool rank; /* times the low-rank term of every matrix too; the method's rank is method_rank */
    uint64_t seed;         /* 42: of weights, latents and texts */
    const char *profile; /* a file for what was computed when, in Chrome's trace format; or NULL */
    const char *device;  /* see sara_model_options */
    /* Of methods, as in sara_train_options; 0 and NULL: their defaults */
    int method_rank; /* its rank */
    const char *mask;
    int mask_steps;
    double lora_alpha;
    const char *lora_targets;
    int adapter_width;
    double adapter_scale;
    int text_length; /* states of a text; 0: 77, of SD3 154, of "forward" 333 */
    bool disk_offload; /* with a model, as in sara_train_options; of "forward" too */
} sara_bench_options;

void sara_bench_options_init_sized(sara_bench_options *options, size_t size);
#define sara_bench_options_init(options)                                                           \
    sara_bench_options_init_sized((options), sizeof(*(options)))
/* Times training steps on random latents. *report: a JSON object (docs/formats.md), sara_free().
 * Errors: SARA_ERROR_USAGE naming option and value, SARA_INTERRUPTED, those of loading. */
SARA_NODISCARD sara_status sara_bench(sara_context *ctx, char **report,
                                      const sara_bench_options *options);

#if defined(__GNUC__)
#pragma GCC visibility pop
#endif
#ifdef __cplusplus
}
#endif
#endif

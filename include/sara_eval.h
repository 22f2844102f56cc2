/* Measures pictures and models: what `sara eval`, `sara compare` and `sara inspect --analyze` do.
 *
 * Reports are JSON texts (docs/formats.md), so that they can grow. Options begin with their size,
 * as in sara.h.
 */
#ifndef SARA_EVAL_H
#define SARA_EVAL_H

#include <sara.h>

#ifdef __cplusplus
extern "C" {
#endif
#if defined(__GNUC__)
#pragma GCC visibility push(default)
#endif

/* -------------------------------------------------------------------------------- evaluation */

/* Pictures of a folder, or drawn by a model, are measured against prompts, references and what a
 * base draws. A measure is made where what it needs is given. */
typedef struct sara_eval_options {
    size_t size; /* of this struct; 0: of its first version */
    /* The pictures: a folder, whose captions are found as data sets' are (docs/formats.md), or,
     * where it is NULL, generate->batch_count for each prompt, drawn with `generate` (its prompt is
     * not read, image i of all has seed + i) by the model at model_path with model options `model`
     * and the adapters. */
    const char *images;
    const char *model_path;
    const sara_model_options *model;         /* NULL: the defaults */
    const char *const *adapters;             /* "FILE[:strength]", [adapter_count] */
    int adapter_count;
    bool force;                              /* see sara_model_apply() */
    const sara_generate_options *generate;   /* NULL: the defaults */
    const char *prompts;    /* a file, one prompt a line; of a folder instead of its captions, in
                               the order of the files' names */
    const char *prompt_prefix; /* put before each prompt where it is drawn; NULL: none */
    const char *output;     /* a new folder that drawn pictures are kept in, with metadata.jsonl */
    const char *references; /* a folder: FID, KID, CMMD, CLIP-I, DINO similarity */
    /* Drift: a folder with the pictures before, of the same names as those measured; NULL and
     * drift: they are drawn by the model without its adapters and with its own denoiser. */
    const char *before;
    bool drift;
    const char *clip;           /* a folder of a CLIPModel */
    const char *clip_tokenizer; /* a tokenizer/ folder; NULL: the CLIP folder's, else CLIP's own */
    int clip_resize; /* pictures become squares of this side before CLIP's own preprocessing, as in
                        SaRA's published protocol (512); 0: they do not */
    const char *dino;      /* a folder of a ViTModel (DINO) or of a Dinov2Model */
    const char *inception; /* InceptionV3's weights, as scripts/convert_inception.py writes them */
    /* What FID and KID are taken of: "torch-fidelity" or "clean" (InceptionV3, as they do), "clip",
     * "dino": that backbone's features. NULL: torch-fidelity if inception is given, else clip, else
     * dino */
    const char *fid;
    int kid_subset_size; /* 1000, at most the smaller set */
    int kid_subsets;     /* 100 */
    const char *page; /* FILE.html: the measures, each picture's, and the first pictures; NULL */
} sara_eval_options;
void sara_eval_options_init_sized(sara_eval_options *options, size_t size);
#define sara_eval_options_init(options)                                                            \
    sara_eval_options_init_sized((options), sizeof(*(options)))
/* *report: a JSON object, sara_free(); it is there, too, where the page alone cannot be written.
 * Errors: SARA_ERROR_USAGE where nothing can be measured or options contradict, SARA_ERROR_INPUT
 * naming the file, SARA_INTERRUPTED, those of loading. */
SARA_NODISCARD sara_status sara_eval(sara_context *ctx, char **report,
                                     const sara_eval_options *options);

/* What a model's small entries are good for (figure 2b of arXiv 2409.06633): pictures that are
 * drawn from the same seeds with those of the denoiser set to zero that are below a threshold, for
 * each of several. */
typedef struct sara_zero_sweep_options {
    size_t size; /* of this struct; 0: of its first version */
    /* The model, prompts, what they are drawn with and measured by; no images, adapters, output,
     * before and drift. references NULL: FID is of the pictures of the model as it is. */
    const sara_eval_options *eval;
    const char *thresholds; /* "1e-5,1e-4,1e-3", ascending; the model as it is comes first, as 0 */
    const char *output;     /* FILE.json, the report; FILE.html, a page with plots; NULL: none */
} sara_zero_sweep_options;
void sara_zero_sweep_options_init_sized(sara_zero_sweep_options *options, size_t size);
#define sara_zero_sweep_options_init(options)                                                      \
    sara_zero_sweep_options_init_sized((options), sizeof(*(options)))
/* *report: a JSON object (docs/formats.md), sara_free(), and errors as of sara_eval(). */
SARA_NODISCARD sara_status sara_zero_sweep(sara_context *ctx, char **report,
                                           const sara_zero_sweep_options *options);

/* -------------------------------------------------------------------------------- comparison */

/* Methods beside each other, by a JSON file (docs/comparison.md). Each training run, evaluation and
 * timing is a child process of its own, which runs `program` as the shell would: paths are those of
 * the current folder. What is finished is kept, so that the same call goes on where another ended,
 * in whatever way. Children end when the caller does. */
typedef struct sara_compare_options {
    size_t size; /* of this struct; 0: of its first version */
    const char *config;
    const char *output_dir; /* NULL: the config's */
    const char *program;    /* the path of sara itself */
    bool dry_run; /* nothing but a few timed steps is run: what would be, how long and how large */
    bool cost;    /* memory and seconds of a step of methods by batch too */
    const char *strengths; /* "0,0.5,1,1.5,2": grids of an adapter at these strengths too; NULL */
} sara_compare_options;
void sara_compare_options_init_sized(sara_compare_options *options, size_t size);
#define sara_compare_options_init(options)                                                         \
    sara_compare_options_init_sized((options), sizeof(*(options)))
/* Writes compare.json, table.md and report.html into the output folder. *report: compare.json, or
 * of dry_run the plan; sara_free(). A run that fails is a row with its error. Errors:
 * SARA_ERROR_INPUT naming the config's key and value, SARA_ERROR_IO where the folder is another
 * comparison's or a child cannot be started, SARA_INTERRUPTED once the child has saved its work. */
SARA_NODISCARD sara_status sara_compare(sara_context *ctx, char **report,
                                        const sara_compare_options *options);

/* ---------------------------------------------------------------------------------- analysis */

/* The denoiser's entries as they are in memory (figure 2 of arXiv 2409.06633): of all, of each kind
 * of layer and of each block moments, a histogram of |p|, and what the paper's budgets and
 * thresholds select. page (NULL: none): a file that is written, HTML with plots. *report: a JSON
 * object (docs/formats.md), sara_free(). SARA_ERROR_INPUT: an entry is not finite. */
SARA_NODISCARD sara_status sara_analyze(sara_context *ctx, char **report, const sara_model *model,
                                        const char *page);

#if defined(__GNUC__)
#pragma GCC visibility pop
#endif
#ifdef __cplusplus
}
#endif
#endif

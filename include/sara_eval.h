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
     * where it is NULL, one for each prompt, drawn with `generate` (its prompt is not read, image i
     * has seed + i) by the model at model_path with model options `model` and the adapters. */
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
    /* What FID and KID are taken of: "torch-fidelity" or "clean" (InceptionV3, as these do), "clip",
     * "dino": that backbone's features. NULL: torch-fidelity if inception is given, else clip, else
     * dino */
    const char *fid;
    int kid_subset_size; /* 1000, at most the smaller set */
    int kid_subsets;     /* 100 */
} sara_eval_options;
void sara_eval_options_init_sized(sara_eval_options *options, size_t size);
#define sara_eval_options_init(options)                                                            \
    sara_eval_options_init_sized((options), sizeof(*(options)))
/* *report: a JSON object, sara_free(). Errors: SARA_ERROR_USAGE where nothing can be measured or
 * options contradict, SARA_ERROR_INPUT naming the file, SARA_INTERRUPTED, those of loading. */
SARA_NODISCARD sara_status sara_eval(sara_context *ctx, char **report,
                                     const sara_eval_options *options);

#if defined(__GNUC__)
#pragma GCC visibility pop
#endif
#ifdef __cplusplus
}
#endif
#endif

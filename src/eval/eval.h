/* One evaluation: pictures, what they are measured against, and the features of all. */
#ifndef SARA_EVAL_EVAL_H
#define SARA_EVAL_EVAL_H

#include "sara_eval.h"

#include "eval/backbone.h"
#include "eval/metrics.h"
#include "pipeline/pipeline.h"

typedef enum sara_eval_by {
    SARA_BY_CLIP,
    SARA_BY_DINO,
    SARA_BY_INCEPTION,
    SARA_BACKBONES /* how many there are; of a measure: it is not made */
} sara_eval_by;
typedef enum sara_eval_set {
    SARA_SET_PICTURES,
    SARA_SET_REFERENCES,
    SARA_SET_BEFORE,
    SARA_EVAL_SETS
} sara_eval_set;

typedef struct sara_eval_picture {
    const char *name;   /* of its file, from the folder */
    const char *path;   /* NULL: it is drawn */
    const char *text;   /* by which it is scored; NULL: it is not */
    const char *prompt; /* by which it is drawn */
} sara_eval_picture;

/* Zero at first but for ctx; sara_evaluation_close() in any case. Strings are the caller's options'
 * or the arena's. */
typedef struct sara_evaluation {
    sara_context *ctx;
    sara_arena arena;
    sara_eval_options options;
    sara_generate_options generate;
    sara_eval_picture *pictures; /* [count] ascending by name's bytes */
    size_t count;
    const char **references; /* [reference_count] paths, likewise */
    size_t reference_count;
    const char **before;     /* [count] of the pictures' partners; NULL: none, or they are drawn */
    sara_eval_by fid, drift; /* by what these are measured */
    const char *convention;  /* of fid */
    sara_backbone *backbones[SARA_BACKBONES];               /* NULL: not given */
    sara_features features[SARA_BACKBONES][SARA_EVAL_SETS]; /* values NULL: not needed */
    sara_features texts;                                    /* CLIP's, of the pictures' */
    sara_model *model;                                      /* draws */
    FILE *rows;       /* metadata.jsonl of the output; NULL: nothing is kept */
    bool made_output; /* the folder was not there */
    size_t kept;      /* pictures in it */
    bool own;         /* the references are what was drawn first */
    int draws, drawn; /* how often all are drawn, and how often they were; draws 0: once */
} sara_evaluation;

/* eval_options.c: what is asked for, as far as it can be checked without files; which backbone
 * makes which measure. SARA_ERROR_USAGE. */
SARA_NODISCARD sara_status sara_evaluation_read(sara_evaluation *e, const sara_eval_options *given);
/* What is given of the model's, else the defaults. */
sara_model_options sara_evaluation_model_options(const sara_evaluation *e);
bool sara_evaluation_has_denoiser(const sara_evaluation *e); /* another than the model's own */
/* What the option of a backbone was given, NULL: nothing; *name (may be NULL): the option's. */
const char *sara_evaluation_backbone(const sara_evaluation *e, sara_eval_by by, const char **name);
bool sara_evaluation_has_references(const sara_evaluation *e);
/* Whether a measure needs the features of a set. */
bool sara_evaluation_needs(const sara_evaluation *e, sara_eval_by by, sara_eval_set set);

/* A file's prompts, one a line, in the arena: of UTF-8, with or without its mark; lines end as on
 * any system, blank ones are none. SARA_ERROR_INPUT: another text, or no prompt in it. */
SARA_NODISCARD sara_status sara_evaluation_prompts(sara_context *ctx, sara_arena *arena,
                                                   const char ***out, size_t *count,
                                                   const char *path);
/* eval_input.c: prompts, pictures with their texts, references, and pictures before. */
SARA_NODISCARD sara_status sara_evaluation_find(sara_evaluation *e);

/* eval_features.c. Opens the backbones, with room for the features that are needed. */
SARA_NODISCARD sara_status sara_evaluation_open_backbones(sara_evaluation *e);
SARA_NODISCARD sara_status sara_evaluation_measure_texts(sara_evaluation *e);
/* Of all files of a set; and of one picture. */
SARA_NODISCARD sara_status sara_evaluation_measure_files(sara_evaluation *e, sara_eval_set set);
SARA_NODISCARD sara_status sara_evaluation_measure(sara_evaluation *e, sara_eval_set set,
                                                   size_t index, const sara_image *image);

/* eval_draw.c. The model with its adapters, and all that drawing would refuse. */
SARA_NODISCARD sara_status sara_evaluation_load(sara_evaluation *e);
/* Draws and measures all; those of the set of pictures are kept where that is wanted. */
SARA_NODISCARD sara_status sara_evaluation_draw(sara_evaluation *e, sara_eval_set set);

/* eval_output.c: the folder of drawn pictures. */
SARA_NODISCARD sara_status sara_evaluation_open_output(sara_evaluation *e);
/* image: of the generation with these options, the one at `place` in it. */
SARA_NODISCARD sara_status sara_evaluation_keep(sara_evaluation *e, size_t index,
                                                const sara_image *image,
                                                const sara_generate_options *options, int place);
void sara_evaluation_close_output(sara_evaluation *e); /* one without pictures goes */

/* eval_report.c: what the features come to, as docs/formats.md has it; json_decref(). */
SARA_NODISCARD sara_status sara_evaluation_report(sara_evaluation *e, json_t **out);
/* FID and KID of two sets, by the options; *kid_mean and *kid_deviation. */
SARA_NODISCARD sara_status sara_evaluation_distance(const sara_evaluation *e, double *fid,
                                                    double *kid_mean, double *kid_deviation,
                                                    const sara_features *a, const sara_features *b);

/* eval_page.c: the report as a page. */
SARA_NODISCARD sara_status sara_evaluation_page(const sara_evaluation *e, const json_t *report,
                                                const char *path);

/* eval.c: from the options to what can be told before anything is drawn, features of files
 * included. */
SARA_NODISCARD sara_status sara_evaluation_open(sara_evaluation *e,
                                                const sara_eval_options *options);
void sara_evaluation_close(sara_evaluation *e);
/* *out: as JSON, sara_free(). */
SARA_NODISCARD sara_status sara_evaluation_text(sara_context *ctx, char **out,
                                                const json_t *report);

#endif

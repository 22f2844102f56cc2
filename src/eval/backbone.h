/* Networks that make features of pictures, each with its own preprocessing; a kind is a record. */
#ifndef SARA_EVAL_BACKBONE_H
#define SARA_EVAL_BACKBONE_H

#include "io/io.h"
#include "models/network.h"

typedef struct sara_backbone sara_backbone;

typedef struct sara_backbone_options {
    const char *path;       /* a folder, of Inception a file */
    const char *tokenizer;  /* of CLIP; NULL: the folder's own, else CLIP's */
    const char *convention; /* of Inception: "torch-fidelity" or "clean" */
    int resize;             /* of CLIP: see sara_eval_options.clip_resize */
} sara_backbone_options;

typedef struct sara_backbone_kind {
    const char *name; /* "clip", "dino", "inception" */
    SARA_NODISCARD sara_status (*open)(sara_backbone *backbone,
                                       const sara_backbone_options *options);
    void (*close)(sara_backbone *backbone);
    /* out [width] of one picture */
    SARA_NODISCARD sara_status (*image)(sara_backbone *backbone, float *out,
                                        const sara_image *image);
    /* out [width]; NULL: it knows no texts */
    SARA_NODISCARD sara_status (*text)(sara_backbone *backbone, float *out, const char *text);
} sara_backbone_kind;
extern const sara_backbone_kind sara_backbone_clip, sara_backbone_dino, sara_backbone_inception;

struct sara_backbone {
    const sara_backbone_kind *kind;
    sara_context *ctx;
    int64_t width;      /* of its features */
    double logit_scale; /* of CLIP: exp() of the model's */
    void *state;        /* the kind's own */
};

/* Errors name the option by which it was given. *out: sara_backbone_close(). */
SARA_NODISCARD sara_status sara_backbone_open(sara_context *ctx, sara_backbone **out,
                                              const sara_backbone_kind *kind,
                                              const sara_backbone_options *options);
void sara_backbone_close(sara_backbone *backbone);
/* Features as the network gives them, of CLIP not yet of unit length. SARA_ERROR_INPUT: one is not
 * finite. */
SARA_NODISCARD sara_status sara_backbone_image(sara_backbone *backbone, float *out,
                                               const sara_image *image);
SARA_NODISCARD sara_status sara_backbone_text(sara_backbone *backbone, float *out,
                                              const char *text);

#endif

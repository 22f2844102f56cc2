/* What becomes of a picture before InceptionV3 sees it: FID's conventions resize it differently. */
#ifndef SARA_EVAL_INCEPTION_PICTURE_H
#define SARA_EVAL_INCEPTION_PICTURE_H

#include "io/io.h"

typedef struct sara_fid_convention {
    const char *name; /* "torch-fidelity", "clean" */
    /* *out [299][299][3] in 0 .. 255, sara_free() */
    SARA_NODISCARD sara_status (*resize)(sara_context *ctx, float **out, const sara_image *image);
} sara_fid_convention;

/* NULL: torch-fidelity; SARA_ERROR_USAGE: there is none of this name. */
SARA_NODISCARD sara_status sara_fid_convention_find(sara_context *ctx,
                                                    const sara_fid_convention **out,
                                                    const char *name);
/* *out [3][299][299] in [-1,1), sara_free(). */
SARA_NODISCARD sara_status sara_fid_picture(sara_context *ctx, float **out,
                                            const sara_fid_convention *convention,
                                            const sara_image *image);

#endif

/* How CLIP's vision tower and vision transformers begin: a picture's patches, a token for the
 * whole, positions (Dosovitskiy et al. 2021), and DINOv2's registers (Darcet et al. 2023). */
#ifndef SARA_MODELS_PATCHES_H
#define SARA_MODELS_PATCHES_H

#include "models/config.h"
#include "models/layers.h"

/* What becomes of the positions of a picture that is not of the trained size. */
typedef enum sara_patches_resize {
    SARA_PATCHES_REFUSE, /* it is refused */
    SARA_PATCHES_CUBIC,  /* torch's interpolate(mode="bicubic") */
    SARA_PATCHES_SMOOTH  /* the same with antialias=True */
} sara_patches_resize;

typedef struct sara_patches {
    int64_t side;  /* of the pictures that it was trained on, in pixels */
    int64_t patch; /* side of one */
    int64_t width; /* of a token */
    int64_t register_count;
    sara_patches_resize resize;
    sara_layer projection;         /* a convolution; no bias: NULL */
    sara_param *token, *positions; /* [..,C]: [C]; [1 + patches,C] */
    sara_param *registers;         /* [..,C]: [register_count,C]; NULL: none */
} sara_patches;

/* image_size, patch_size and num_channels; what a config leaves out is as *patches has it. */
SARA_NODISCARD sara_status sara_patches_read(sara_patches *patches, const sara_model_config *file);
int64_t sara_patches_positions(const sara_patches *patches); /* with the token's */
/* y [N,T,C], the token first and registers after it, from pixels [N,3,H,W]. SARA_ERROR_INPUT where
 * a size is refused. Where positions are interpolated they get no gradient. */
SARA_NODISCARD sara_status sara_patches_forward(sara_tape *tape, sara_var **y,
                                                const sara_patches *patches, sara_var *pixels);
/* y [N,C]: the first token's states of x [N,T,C]. */
SARA_NODISCARD sara_status sara_patches_token(sara_tape *tape, sara_var **y, sara_var *x);

#endif

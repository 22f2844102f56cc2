/* What backbones have in common, and those of networks in transformers' folders. */
#ifndef SARA_EVAL_VISION_H
#define SARA_EVAL_VISION_H

#include "eval/backbone.h"
#include "eval/preprocess.h"

/* features [N,width] of pixels [N,3,H,W] */
typedef sara_status (*sara_vision_fn)(sara_tape *tape, sara_var **features, sara_network *network,
                                      sara_var *pixels);

typedef struct sara_vision {
    sara_device *device;
    sara_tape *tape;
    sara_network *network;
    sara_vision_fn forward;
    sara_preprocess preprocess;
    int resize;                /* pictures become squares of this side first; 0: they do not */
    sara_tokenizer *tokenizer; /* NULL: none */
} sara_vision;

/* A state of `size` bytes, zeros, that begins with a sara_vision, with device and tape, becomes
 * backbone->state; sara_vision_close() gives all back, even after an error. */
SARA_NODISCARD sara_status sara_vision_start(sara_backbone *backbone, size_t size,
                                             sara_vision_fn forward);
/* out [width] of pixels [3,height,width] */
SARA_NODISCARD sara_status sara_vision_run(sara_backbone *backbone, float *out, const float *pixels,
                                           int height, int width);
/* Opens the network and reads it; backbone->state becomes *out at once, so that
 * sara_vision_close() gives all back, even after an error. fallback: see sara_preprocess_read(). */
SARA_NODISCARD sara_status sara_vision_open(sara_backbone *backbone, sara_vision **out,
                                            const sara_network_class *class, sara_vision_fn forward,
                                            const sara_preprocess *fallback, const char *folder);
void sara_vision_close(sara_backbone *backbone);
SARA_NODISCARD sara_status sara_vision_image(sara_backbone *backbone, float *out,
                                             const sara_image *image);

#endif

/* What becomes of a picture before a network sees it, as transformers' image processors with PIL do
 * it (CLIPImageProcessor, ViTImageProcessor, BitImageProcessor); those with torchvision round some
 * pixels otherwise, by a unit or two of 255. */
#ifndef SARA_EVAL_PREPROCESS_H
#define SARA_EVAL_PREPROCESS_H

#include "io/io.h"

typedef struct sara_preprocess {
    const char *name; /* "CLIP", before "ImageProcessor" in files */
    bool resize, crop, rescale, normalize;
    bool square; /* a number as `size` is height and width; else the shorter edge */
    int edge;    /* the shorter edge becomes so long; 0: size rules */
    int height, width, crop_height, crop_width;
    sara_resample resample;
    double factor;
    float mean[3], std[3];
} sara_preprocess;
/* As the classes' defaults are. */
extern const sara_preprocess sara_preprocess_clip, sara_preprocess_vit, sara_preprocess_bit;

/* The folder's preprocessor_config.json, else what processor_config.json has as image_processor,
 * with the defaults of the class that it names; where it names none, and where there is no file,
 * those of `fallback`, in the latter case with pictures of that side. */
SARA_NODISCARD sara_status sara_preprocess_read(sara_context *ctx, sara_preprocess *out,
                                                const char *folder, const sara_preprocess *fallback,
                                                int side);
/* What a picture of any size will have; false: it depends on the picture. */
bool sara_preprocess_size(const sara_preprocess *p, int *height, int *width);
/* *out [3][height][width], sara_free(). */
SARA_NODISCARD sara_status sara_preprocess_picture(sara_context *ctx, float **out, int *height,
                                                   int *width, const sara_preprocess *p,
                                                   const sara_image *image);

#endif

/* InceptionV3 as FID has it: TensorFlow's network of 2015-12-05 in PyTorch's names, as
 * torch-fidelity's FeatureExtractorInceptionV3 ports it. */
#ifndef SARA_MODELS_INCEPTION_H
#define SARA_MODELS_INCEPTION_H

#include "models/network.h"

#define SARA_INCEPTION_SIDE  299
#define SARA_INCEPTION_WIDTH 2048

extern const sara_network_class sara_inception_class;

/* From a .safetensors, as scripts/convert_inception.py writes it; SARA_ERROR_INPUT names tensors
 * that are missing or misshapen. *out: sara_network_free(). */
SARA_NODISCARD sara_status sara_inception_load(sara_device *device, sara_network **out,
                                               const char *path);
/* features [N,2048], of the last pooling, from image [N,3,H,W] in [-1,1]; the sides, 299 by FID's
 * definition, are at least 75. */
SARA_NODISCARD sara_status sara_inception_forward(sara_tape *tape, sara_var **features,
                                                  sara_network *network, sara_var *image);

#endif

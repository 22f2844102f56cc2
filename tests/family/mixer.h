/* A denoiser of a few linear layers and norms, which takes pooled states too, and the family that
 * it makes with Stable Diffusion's VAE and text encoder: what a new one comes to. */
#ifndef SARA_TEST_MIXER_H
#define SARA_TEST_MIXER_H

#include "pipeline/family.h"

extern const sara_network_class test_mixer_class; /* shape: "mixer" */
extern const sara_family test_mixer_family;

#endif

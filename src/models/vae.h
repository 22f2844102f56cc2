/* AutoencoderKL. Inference only: the tape need not record. */
#ifndef SARA_MODELS_VAE_H
#define SARA_MODELS_VAE_H

#include "models/network.h"

extern const sara_network_class sara_vae_class;

/* The name that a layer of the attention has before diffusers 0.18 where `name` is the newer, and
 * the other way round; false: it is none. */
bool sara_vae_other_name(sara_name *out, const char *name);
/* image [N,3,H,W] in [-1,1]; mean and log-variance (clamped to [-30,20]) [N,C,h,w]. */
SARA_NODISCARD sara_status sara_vae_encode(sara_tape *tape, sara_var **mean, sara_var **logvar,
                                           sara_network *vae, sara_var *image);
/* latent [N,C,h,w] already divided by scaling_factor; image [N,3,H,W]. */
SARA_NODISCARD sara_status sara_vae_decode(sara_tape *tape, sara_var **image, sara_network *vae,
                                           sara_var *latent);

#endif

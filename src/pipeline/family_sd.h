/* Stable Diffusion 1.x, 2.x, and models of their kind with text encoders of other widths; SDXL. */
#ifndef SARA_PIPELINE_FAMILY_SD_H
#define SARA_PIPELINE_FAMILY_SD_H

#include "pipeline/family.h"

extern const sara_family sara_family_sd1, sara_family_sd2, sara_family_sd;
extern const sara_family sara_family_sdxl;

/* What all of these have in common. */
extern const sara_single_place sara_sd_denoiser_places[], sara_sd_denoiser_averages[];
extern const sara_single_place sara_sd_vae_places[];
/* Any of the whole timesteps, each as likely. */
double sara_sd_draw_timestep(const sara_objective *objective, uint64_t seed, uint64_t element);

#endif

/* Stable Diffusion 1.x, 2.x, and models of their kind with text encoders of other widths. */
#ifndef SARA_PIPELINE_FAMILY_SD_H
#define SARA_PIPELINE_FAMILY_SD_H

#include "pipeline/family.h"

extern const sara_family sara_family_sd1, sara_family_sd2, sara_family_sd;

#endif

/* Stable Diffusion 3 and 3.5; those without T5 are families of their own, with a part less. */
#ifndef SARA_PIPELINE_FAMILY_SD3_H
#define SARA_PIPELINE_FAMILY_SD3_H

#include "pipeline/family.h"

extern const sara_family sara_family_sd3, sara_family_sd35_medium, sara_family_sd35_large;
extern const sara_family sara_family_sd3_without, sara_family_sd35_medium_without;
extern const sara_family sara_family_sd35_large_without;

#endif

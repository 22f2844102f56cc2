/* SD3Transformer2DModel: SD3's MMDiT (Esser et al. 2024) and those of SD3.5. */
#ifndef SARA_MODELS_MMDIT_H
#define SARA_MODELS_MMDIT_H

#include "models/network.h"

/* shapes: "sd3-medium", "sd35-medium", "sd35-large" */
extern const sara_network_class sara_mmdit_class;

#endif

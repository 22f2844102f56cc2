/* UNet2DConditionModel as SD1.x and SD2.x use it (LDM, Rombach et al. 2022, appendix E), and as
 * SDXL does (Podell et al. 2023). */
#ifndef SARA_MODELS_UNET_H
#define SARA_MODELS_UNET_H

#include "models/network.h"

extern const sara_network_class sara_unet_class; /* shapes: "sd15", "sd21" and "tiny" */

#endif

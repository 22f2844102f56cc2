/* Vision transformers (Dosovitskiy et al. 2021): ViTModel, which DINO's weights are published for
 * (Caron et al. 2021), and DINOv2 (Oquab et al. 2023), also with registers (Darcet et al. 2023). */
#ifndef SARA_MODELS_VIT_H
#define SARA_MODELS_VIT_H

#include "models/network.h"

/* info.vision. Only DINOv2's take pictures of other sizes, to whose patches the positions are
 * interpolated as transformers 5 does it. */
extern const sara_network_class sara_vit_class, sara_dinov2_class, sara_dinov2_registers_class;

/* features [N,width] of pixels [N,3,H,W]: the class token's last_hidden_state. */
SARA_NODISCARD sara_status sara_vit_features(sara_tape *tape, sara_var **features,
                                             sara_network *vit, sara_var *pixels);

#endif

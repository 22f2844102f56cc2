/* What methods share that train whole parameters, the denoiser's or sets of their own. */
#ifndef SARA_TRAIN_METHODS_WHOLE_H
#define SARA_TRAIN_METHODS_WHOLE_H

#include "train/trainer.h"

/* For prepare(): has sara_trainer_use() make an optimiser of all that the set holds. */
SARA_NODISCARD sara_status sara_whole_use(trainer *t, const sara_params *params);
/* For load(): gives all that is trained the values that the file of the checkpoint's folder has
 * under its name, and the moments. */
SARA_NODISCARD sara_status sara_whole_load(const trainer *t, const char *folder, const char *file);

/* Of the denoiser's own parameters: a folder in the checkpoint's, and the moments. */
#define SARA_WHOLE_FOLDER "denoiser"
#define SARA_WHOLE_CONFIG SARA_WHOLE_FOLDER "/config.json"
#define SARA_WHOLE_FILE   SARA_WHOLE_FOLDER "/" SARA_DIFFUSERS_STEM ".safetensors"
SARA_NODISCARD sara_status sara_whole_save(const trainer *t, const char *folder);

#endif

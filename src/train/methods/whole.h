/* What methods share that train whole parameters, the denoiser's or sets of their own. */
#ifndef SARA_TRAIN_METHODS_WHOLE_H
#define SARA_TRAIN_METHODS_WHOLE_H

#include "train/trainer.h"

/* For prepare(): has sara_trainer_use() make an optimiser of all that the set holds. */
SARA_NODISCARD sara_status sara_whole_use(trainer *t, const sara_params *params);
/* For load(): gives all that is trained the values that the file has under its name. */
SARA_NODISCARD sara_status sara_whole_load(const trainer *t, const char *path);

#endif

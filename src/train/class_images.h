/* Class images of DreamBooth's prior preservation that are not there yet. */
#ifndef SARA_TRAIN_CLASS_IMAGES_H
#define SARA_TRAIN_CLASS_IMAGES_H

#include "train/train.h"

/* Draws what is missing of num_class_images with class_prompt by the model, which is still the
 * base: class-000000.png and so on in class_data_dir, which is made; number i is what
 * sara_generate() draws with the run's seed + i. Images that lie there otherwise count. Nothing
 * where the options ask for no class images. Before it the subject's images are read, so that none
 * is drawn for a run that cannot begin. Interrupted it is SARA_INTERRUPTED, and the next call goes
 * on. *bytes: of memory that the process was planned to need meanwhile; 0: nothing was drawn. */
SARA_NODISCARD sara_status sara_class_images_draw(sara_context *ctx, size_t *bytes,
                                                  sara_model *model,
                                                  const sara_train_options *options);

#endif

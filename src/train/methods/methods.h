/* The methods that there are. */
#ifndef SARA_TRAIN_METHODS_H
#define SARA_TRAIN_METHODS_H

#include "train/method.h"

extern const sara_method sara_method_sara, sara_method_full, sara_method_lora, sara_method_dora,
    sara_method_adaptformer, sara_method_ltsft, sara_method_shira;

#endif

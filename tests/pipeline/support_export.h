/* What the tests of exports share: a model with an adapter on it, and the file of another tool. */
#ifndef SARA_TEST_SUPPORT_EXPORT_H
#define SARA_TEST_SUPPORT_EXPORT_H

#include "support_pipeline.h"

/* The model, and its values before and after. */
typedef struct test_adapted {
    sara_model *model;
    const float *before, *after;
    size_t count;
} test_adapted;

test_adapted test_adapt(test_pipe *pipe, const char *path, bool unet_only, size_t stride,
                        float shift);
/* The same on a U-Net of zeros, where no change is too small for float32. */
test_adapted test_adapt_zeros(test_pipe *pipe, float shift);
/* Of 2023-11-14T22:13:20Z. */
sara_export_options test_export_options(const char *format, int rank, const char *precision);
/* Writes it to that name in the scratch folder; returns the path. */
const char *test_export(test_pipe *pipe, const test_adapted *a, const char *name,
                        sara_export_report *report, sara_export_options options);
/* "down_blocks.0.resnets.0.conv1.weight" as a LoRA file's key. */
const char *test_kohya_key(test_pipe *pipe, const char *name, const char *weight, const char *bias);

#endif

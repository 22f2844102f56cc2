/* Single files of the tiny base, for the tests of them. */
#ifndef SARA_TESTS_PIPELINE_SUPPORT_SINGLE_H
#define SARA_TESTS_PIPELINE_SUPPORT_SINGLE_H

#include "support_pipeline.h"

#define TEST_SINGLE_TOKENIZER TEST_BASE "/tokenizer"

sara_model *test_single_load(test_pipe *pipe, const char *path, const char *prediction_type,
                             const char *weight_dtype);
const char *test_single_save(test_pipe *pipe, const sara_model *model, const char *name,
                             const char *dtype);
void test_single_same_base(test_pipe *pipe, sara_model *a, sara_model *b);
/* A folder whose single file has OpenCLIP's names. */
const char *test_single_open_clip(test_pipe *pipe);
/* The base as a file, with one tensor named or shaped otherwise, or left out (name NULL), and
 * without metadata. */
const char *test_single_variant(test_pipe *pipe, const char *name, const char *tensor,
                                const char *other, const sara_shape *shape);
void test_single_refuse(test_pipe *pipe, sara_status status, const char *error, const char *path,
                        const char *model_config);

#endif

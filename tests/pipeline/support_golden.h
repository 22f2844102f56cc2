/* tests/golden/pipeline: a small whole model, and what diffusers' pipeline makes of it. */
#ifndef SARA_TEST_SUPPORT_GOLDEN_H
#define SARA_TEST_SUPPORT_GOLDEN_H

#include "support_pipeline.h"

#define TEST_GOLDEN_MODEL SARA_TEST_GOLDEN "/pipeline"

/* *metadata: json_decref(); sara_safetensors_close(). */
sara_safetensors *test_golden_open(test_pipe *pipe, json_t **metadata, const char *key);
/* A new scratch folder with that model; its scheduler's config and class; unet NULL: as it is. */
const char *test_golden_model(test_pipe *pipe, const char *name, const char *class_name,
                              const json_t *scheduler, const json_t *unet);
/* As above, by a case of make_pipeline.py. */
const char *test_golden_case(test_pipe *pipe, const char *name, const json_t *row);

#endif

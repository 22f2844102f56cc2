/* What the tests of models share: changed copies of model folders, runs that end at a failing
 * allocation. */
#ifndef SARA_TEST_SUPPORT_MODELS_H
#define SARA_TEST_SUPPORT_MODELS_H

#include "models/network.h"
#include "support/support.h"

#define VARIANTS      SARA_TEST_GOLDEN "/variants"
#define VISION_MODELS SARA_TEST_GOLDEN "/../eval/data/models"

/* A new folder with the source's config.json as changed by the JSON object edits, and its other
 * files too if with_files; test_folder_remove(). */
char *test_model_copy(const char *source, const char *edits, bool with_files);

/* Runs work in contexts whose n-th allocation fails, for every n until it succeeds; otherwise it
 * must give SARA_ERROR_MEMORY and back all memory. */
void test_allocation_failures(sara_status (*work)(sara_context *ctx));

/* golden's tensor as a leaf of the tape; *data owns its memory (sara_free). */
sara_var *test_leaf(sara_tape *tape, const sara_safetensors *golden, const char *name,
                    float **data);
/* Relative L2 between a variable and golden's tensor, whose shapes must agree. */
double test_var_error(sara_context *ctx, const sara_var *var, const sara_safetensors *golden,
                      const char *name);
/* golden's input_ids [*batch][*count]; sara_free(). */
int32_t *test_load_ids(sara_context *ctx, const sara_safetensors *golden, int64_t *batch,
                       int64_t *count);

#endif

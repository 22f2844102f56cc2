/* tests/golden/lora: files as other tools write them, and what diffusers draws with them. */
#ifndef SARA_TEST_SUPPORT_LORA_H
#define SARA_TEST_SUPPORT_LORA_H

#include "support_golden.h"

#define TEST_LORA SARA_TEST_GOLDEN "/lora"

/* The model of golden/pipeline with the recorded scheduler; sd2: the one like SD2. */
const char *test_lora_folder(test_pipe *pipe, const char *name, bool sd2);
sara_model *test_lora_model(test_pipe *pipe, bool sd2); /* sara_model_free() */
/* The latents that the model draws from the recorded start with the recorded prompts, `tags` added
 * to one; of tags the folder is TEST_LORA. *size of them; sara_free() */
float *test_lora_draw(test_pipe *pipe, sara_model *model, const char *tags, size_t *size);
/* Those are as recorded under the name. */
void test_lora_expect(test_pipe *pipe, sara_model *model, const char *tags, const char *name);

#endif

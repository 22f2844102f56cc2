/* Writes LoRA files. */
#ifndef SARA_PIPELINE_LORA_WRITE_H
#define SARA_PIPELINE_LORA_WRITE_H

#include "pipeline/pipeline.h"
#include "sparse/lora.h"

typedef struct sara_lora_output {
    const char *path;
    const sara_lora_file *lora; /* layers of factors */
    const sara_params *params;  /* of the network, which has the weights' shapes */
    sara_dtype dtype;           /* of the factors */
    /* Of kohya's file. */
    const sara_metadata *metadata;
    size_t metadata_count;
    /* Of PEFT's config, which names the layers that have others. */
    int64_t rank;
    double alpha;
    const sara_model *model;
    /* Kohya's file: layers of text encoders too, and these' parameters; by part [SARA_MOST_PARTS],
     * without the first. NULL: there are none. */
    const sara_lora_file *texts;
    const sara_params *const *text_params;
} sara_lora_output;

/* Kohya's layout, for diffusers and UIs: lora_unet_X.lora_down.weight, .lora_up.weight and
 * .alpha; where there are any .lora_mid.weight and, of shape [out,1] or [out,1,1,1], .dora_scale.
 * Takes the place of a file that is there. */
SARA_NODISCARD sara_status sara_lora_write_kohya(sara_context *ctx, const sara_lora_output *output);
/* A folder that PEFT's PeftModel.from_pretrained(network, FOLDER) loads; in one that is there the
 * two files are written anew. SARA_ERROR_USAGE for a layer that PEFT has nothing for. */
SARA_NODISCARD sara_status sara_lora_write_peft(sara_context *ctx, const sara_lora_output *output);

/* What kohya's files say of their network: ss_network_* and the kind of model. */
SARA_NODISCARD sara_status sara_metadata_list_add_kohya(sara_metadata_list *list,
                                                        const sara_model *model, const char *module,
                                                        const char *rank, const char *alpha,
                                                        const char *args);

#endif

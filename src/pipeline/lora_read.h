/* The inside of reading LoRA files. */
#ifndef SARA_PIPELINE_LORA_READ_H
#define SARA_PIPELINE_LORA_READ_H

#include "pipeline/lora.h"

/* What the file has of one parameter, by the name that it has there. */
typedef struct sara_lora_tensors {
    const sara_tensor_info *of[SARA_LORA_ROLES];
    const sara_lora_name *name;
} sara_lora_tensors;

typedef struct sara_lora_reading {
    sara_context *ctx;
    const sara_adapter_source *source;
    const sara_model *model;
    bool force;
    sara_lora_names names[SARA_MOST_PARTS];
    sara_lora_tensors *of[SARA_MOST_PARTS]; /* [the part's parameters] */
    const char *missing, *missing_last;     /* layers that the model does not have; NULL: none */
    size_t missing_count;
    sara_lora_config config;
    bool config_is_of_parts;
    json_t *header; /* what the file's own config was parsed to; NULL: there is none */
    sara_arena arena;
} sara_lora_reading;

/* SARA_ERROR_INPUT "PATH: fault", with what kind of model the file is for where that is known. */
sara_status sara_lora_refuse_foreign(const sara_lora_reading *r, const char *fault);
/* lora_read_layer.c. *kept false: it changes nothing. */
SARA_NODISCARD sara_status sara_lora_read_layer(const sara_lora_reading *r, sara_lora_layer *out,
                                                bool *kept, sara_arena *arena,
                                                const sara_param *param,
                                                const sara_lora_tensors *tensors);

#endif

/* The kinds of adapter files, a record each; nothing else knows which there are. */
#ifndef SARA_PIPELINE_ADAPTER_KIND_H
#define SARA_PIPELINE_ADAPTER_KIND_H

#include "pipeline/pipeline.h"

typedef struct sara_adapter_kind sara_adapter_kind;

/* A file that is open: one by itself, or that of a folder of PEFT's or diffusers'. */
typedef struct sara_adapter_source {
    sara_context *ctx;
    char *path; /* as given */
    sara_safetensors *file;
    json_t *config;    /* PEFT's adapter_config.json; NULL: there is none */
    char *config_path; /* its own, for errors */
    const sara_adapter_kind *kind;
} sara_adapter_source;

struct sara_adapter_kind {
    const char *name; /* "LoRA", in messages */
    /* Why a model with it cannot be merged or exported; NULL: it is a change of weights. */
    const char *no_weights;
    /* By metadata, tensors' names or PEFT's config. The first kind for which it holds is taken. */
    bool (*is)(const sara_adapter_source *source);
    /* Whether it can be applied to the model; force as of sara_model_apply(). */
    SARA_NODISCARD sara_status (*check)(sara_context *ctx, sara_model *model,
                                        const sara_adapter_source *source, bool force);
    /* To the parts of the model that these stages need. A part's adapters are its
     * sara_model_part.applied, which counts them. */
    SARA_NODISCARD sara_status (*apply)(sara_context *ctx, sara_model *model,
                                        const sara_adapter_source *source, double strength,
                                        bool force, unsigned stages);
    /* Fills in what the file holds; base NULL: none. Strings belong to the arena. NULL: as sara's
     * own. */
    SARA_NODISCARD sara_status (*describe)(sara_adapter_report *out, sara_arena *arena,
                                           const sara_adapter_source *source, sara_model *base,
                                           bool force);
};

/* inspect_adapter.c, for describe(): adds to the block that has this layer; the metadata. */
void sara_adapter_report_add(sara_adapter_report *report, const char *layer, bool text,
                             int64_t entries, double change2);
SARA_NODISCARD sara_status sara_adapter_report_metadata(sara_adapter_report *report,
                                                        sara_arena *arena,
                                                        const sara_adapter_source *source);
/* inspect_lora.c */
SARA_NODISCARD sara_status sara_lora_describe(sara_adapter_report *out, sara_arena *arena,
                                              const sara_adapter_source *source, sara_model *base,
                                              bool force);

/* NULL ends it. */
extern const sara_adapter_kind *const sara_adapter_kinds[];
extern const sara_adapter_kind sara_adapter_kind_own, sara_adapter_kind_lora,
    sara_adapter_kind_beside, sara_adapter_kind_shira, sara_adapter_kind_embedding;

/* path: a file, or a folder with adapter_config.json and adapter_model.safetensors (PEFT's) or with
 * pytorch_lora_weights.safetensors (diffusers'). What is of no kind is SARA_ERROR_INPUT that says
 * what it is, if that is known. *out: sara_adapter_source_close(), even after an error. */
SARA_NODISCARD sara_status sara_adapter_source_open(sara_context *ctx, sara_adapter_source *out,
                                                    const char *path);
void sara_adapter_source_close(sara_adapter_source *source);

#endif

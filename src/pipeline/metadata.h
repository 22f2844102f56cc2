/* Metadata of what the pipeline writes; not for other layers. */
#ifndef SARA_PIPELINE_METADATA_H
#define SARA_PIPELINE_METADATA_H

#include "pipeline/pipeline.h"

/* modelspec.* (Stability AI's specification 1.0.0) but for a date. kind: "lora", "sara". */
SARA_NODISCARD sara_status sara_metadata_list_add_model(sara_metadata_list *list,
                                                        const sara_model *model, const char *kind,
                                                        const char *title);

/* SARA_ERROR_USAGE if there is something of this name already; and what would keep a file from
 * being written there. */
SARA_NODISCARD sara_status sara_check_new_file(sara_context *ctx, const char *path);
/* Whether any entry is another than the base's. */
SARA_NODISCARD sara_status sara_model_is_changed(const sara_model *model, bool *changed);
/* extract_lora.c: whether a LoRA holds the change of the part too, which is not the denoiser: text
 * encoders', but for those that are never whole in memory. */
bool sara_extract_lora_holds(const sara_family *family, int part);
/* extract_others.c: logs a warning for each of text encoder and VAE, where both models have it,
 * that is not the same in both; with_text: what is extracted holds the text encoder's change. */
SARA_NODISCARD sara_status sara_extract_warn(sara_context *ctx, const sara_model *base,
                                             const sara_model *tuned, bool with_text);
/* extract_lora.c: a LoRA instead, of checked options. */
SARA_NODISCARD sara_status sara_extract_lora(sara_context *ctx, sara_extract_report *report,
                                             const sara_model *base, const sara_model *tuned,
                                             const char *path, const sara_extract_options *options,
                                             sara_dtype dtype);

#endif

/* What reading and writing adapter files share. */
#ifndef SARA_SPARSE_ADAPTER_H
#define SARA_SPARSE_ADAPTER_H

#include "sparse/sparse.h"

#define SARA_ADAPTER_FORMAT "1"
#define SARA_POSITIONS_SUFFIX ".positions"
#define SARA_VALUES_SUFFIX ".values"

/* Checks sara.target, sara.base_sha256 and, where given, sara.base_precision and sara.selected, the
 * latter against the number of entries. The error has the given status and begins with source. */
SARA_NODISCARD sara_status sara_adapter_check_metadata(sara_context *ctx, const char *source,
                                                       sara_status failure,
                                                       const sara_metadata *metadata,
                                                       size_t metadata_count,
                                                       const sara_adapter_entry *entries,
                                                       size_t count);
/* SARA_ERROR_INPUT for a file without sara.format, saying what it looks like: a LoRA, a whole
 * checkpoint. */
SARA_NODISCARD sara_status sara_adapter_refuse_other(sara_context *ctx,
                                                     const sara_safetensors *file);
/* NULL: absent */
const char *sara_metadata_find(const sara_metadata *metadata, size_t count, const char *key);

#endif

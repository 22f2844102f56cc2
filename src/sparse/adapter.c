#include "sparse/adapter.h"

#include <inttypes.h>
#include <stdio.h>

const char *sara_metadata_find(const sara_metadata *metadata, size_t count, const char *key)
{
    for (size_t i = 0; i < count; i++)
        if (strcmp(metadata[i].key, key) == 0)
            return metadata[i].value;
    return NULL;
}

const char *sara_adapter_metadata(const sara_adapter *adapter, const char *key)
{
    return sara_metadata_find(adapter->metadata, adapter->metadata_count, key);
}

void sara_adapter_free(sara_adapter *adapter)
{
    sara_arena_free(&adapter->arena);
    memset(adapter, 0, sizeof(*adapter));
}

static bool is_sha256(const char *text)
{
    return strlen(text) == 64 && strspn(text, "0123456789abcdef") == 64;
}

static bool is_precision(const char *text)
{
    sara_dtype dtype;
    return sara_dtype_parse(&dtype, text) && strcmp(sara_precision_name(dtype), text) == 0;
}

sara_status sara_adapter_check_metadata(sara_context *ctx, const char *source, sara_status failure,
                                        const sara_metadata *metadata, size_t metadata_count,
                                        const sara_adapter_entry *entries, size_t count)
{
    const char *target = sara_metadata_find(metadata, metadata_count, "sara.target");
    const char *base = sara_metadata_find(metadata, metadata_count, "sara.base_sha256");
    const char *selected = sara_metadata_find(metadata, metadata_count, "sara.selected");
    const char *precision = sara_metadata_find(metadata, metadata_count, "sara.base_precision");
    char total[32];
    uint64_t sum = 0;
    if (!target || !*target)
        return sara_fail(ctx, failure, "%s: metadata sara.target is missing", source);
    if (!base)
        return sara_fail(ctx, failure, "%s: metadata sara.base_sha256 is missing", source);
    if (!is_sha256(base))
        return sara_fail(ctx, failure, "%s: metadata sara.base_sha256 is \"%.80s\", expected 64 "
                         "lower-case hexadecimal digits", source, base);
    if (precision && !is_precision(precision))
        return sara_fail(ctx, failure,
                         "%s: metadata sara.base_precision is \"%.40s\", expected "
                         "fp32, fp16 or bf16",
                         source, precision);
    for (size_t i = 0; i < count; i++)
        sum += entries[i].count;
    snprintf(total, sizeof(total), "%" PRIu64, sum);
    if (selected && strcmp(selected, total) != 0)
        return sara_fail(ctx, failure, "%s: metadata sara.selected is %.40s, but there are %s "
                         "positions", source, selected, total);
    return SARA_OK;
}

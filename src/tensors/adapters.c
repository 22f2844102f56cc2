#include "tensors/tensors.h"

sara_status sara_adapter_write(sara_context *ctx, const char *path, const sara_adapter_part *parts,
                               size_t count, const sara_metadata *metadata, size_t metadata_count,
                               const char *dtype)
{
    sara_status status;
    sara_adapter_entry *entries = NULL;
    sara_dtype values;
    if (!sara_dtype_parse(&values, dtype))
        return sara_fail(ctx, SARA_ERROR_USAGE, "dtype %.40s, expected fp32, fp16 or bf16", dtype);
    TRY(sara_alloc(ctx, &entries, count, sizeof(*entries)));
    for (size_t i = 0; i < count; i++)
        entries[i] = (sara_adapter_entry){parts[i].name, (uint32_t *)(uintptr_t)parts[i].positions,
                                          (float *)(uintptr_t)parts[i].values, parts[i].count};
    TRY(sara_adapter_save(ctx, path, entries, count, metadata, metadata_count, values));
done:
    sara_free(ctx, entries);
    return status;
}

struct sara_adapter_file {
    sara_adapter adapter;
    sara_adapter_part *parts;
};

sara_status sara_adapter_open(sara_context *ctx, sara_adapter_file **out, const char *path)
{
    sara_status status;
    sara_adapter_file *file = NULL;
    *out = NULL;
    TRY(sara_alloc_zero(ctx, &file, 1, sizeof(*file)));
    TRY(sara_adapter_load(ctx, &file->adapter, path));
    TRY(sara_alloc(ctx, &file->parts, file->adapter.count, sizeof(*file->parts)));
    for (size_t i = 0; i < file->adapter.count; i++) {
        const sara_adapter_entry *entry = &file->adapter.entries[i];
        file->parts[i] =
            (sara_adapter_part){entry->name, entry->positions, entry->values, entry->count};
    }
    *out = file;
    file = NULL;
done:
    sara_adapter_close(ctx, file);
    return status;
}

void sara_adapter_close(sara_context *ctx, sara_adapter_file *file)
{
    if (!file)
        return;
    sara_adapter_free(&file->adapter);
    sara_free(ctx, file->parts);
    sara_free(ctx, file);
}

const sara_adapter_part *sara_adapter_part_at(const sara_adapter_file *file, size_t index)
{
    return index < file->adapter.count ? &file->parts[index] : NULL;
}

const sara_metadata *sara_adapter_metadata_at(const sara_adapter_file *file, size_t index)
{
    return index < file->adapter.metadata_count ? &file->adapter.metadata[index] : NULL;
}

#include "sparse/adapter.h"

#include "sparse/varint.h"

#include <math.h>

static sara_status check_entry(sara_context *ctx, const sara_adapter_entry *entry)
{
    for (size_t i = 1; i < entry->count; i++)
        if (entry->positions[i] <= entry->positions[i - 1])
            return sara_fail(ctx, SARA_ERROR_USAGE, "%s: position %u after %u, expected ascending",
                             entry->name, (unsigned)entry->positions[i],
                             (unsigned)entry->positions[i - 1]);
    return SARA_OK;
}

/* A finite value may be too large for a 16-bit type. */
static sara_status check_stored(sara_context *ctx, const sara_adapter_entry *entry,
                                const float *stored, sara_dtype dtype)
{
    for (size_t i = 0; i < entry->count; i++)
        if (!isfinite(stored[i]))
            return sara_fail(ctx, SARA_ERROR_INPUT, "%s: position %u: value %g is not finite in %s",
                             entry->name, (unsigned)entry->positions[i], (double)entry->values[i],
                             sara_dtype_name(dtype));
    return SARA_OK;
}

/* Both tensors of one entry; their memory comes from the arena. */
static sara_status encode_entry(sara_context *ctx, sara_arena *arena, sara_tensor_source *out,
                                const sara_adapter_entry *entry, sara_dtype dtype)
{
    sara_status status;
    char *name = NULL;
    float *stored = NULL;
    uint8_t *bytes, *values;
    size_t size = sara_positions_size(entry->positions, entry->count);
    TRY(check_entry(ctx, entry));
    TRY(sara_arena_alloc(arena, &bytes, size, 1));
    sara_positions_encode(bytes, entry->positions, entry->count);
    TRY(sara_arena_alloc(arena, &values, entry->count, sara_dtype_size(dtype)));
    sara_convert_from_f32(values, dtype, entry->values, entry->count);
    TRY(sara_alloc(ctx, &stored, entry->count, sizeof(*stored)));
    sara_convert_to_f32(stored, values, dtype, entry->count);
    TRY(check_stored(ctx, entry, stored, dtype));
    TRY(sara_format(ctx, &name, "%s" SARA_POSITIONS_SUFFIX, entry->name));
    TRY(sara_arena_strdup(arena, &out[0].name, name));
    sara_free(ctx, name);
    TRY(sara_format(ctx, &name, "%s" SARA_VALUES_SUFFIX, entry->name));
    TRY(sara_arena_strdup(arena, &out[1].name, name));
    out[0].dtype = SARA_U8;
    out[0].shape = sara_shape1((int64_t)size);
    out[0].data = bytes;
    out[1].dtype = dtype;
    out[1].shape = sara_shape1((int64_t)entry->count);
    out[1].data = values;
done:
    sara_free(ctx, name);
    sara_free(ctx, stored);
    return status;
}

/* The caller's metadata with sara.format set. */
static sara_status complete_metadata(sara_arena *arena, sara_metadata **out, size_t *out_count,
                                     const sara_metadata *metadata, size_t count)
{
    sara_status status;
    size_t next = 0;
    TRY(sara_arena_alloc(arena, out, count + 1, sizeof(**out)));
    (*out)[next++] = (sara_metadata){"sara.format", SARA_ADAPTER_FORMAT};
    for (size_t i = 0; i < count; i++)
        if (strcmp(metadata[i].key, "sara.format") != 0)
            (*out)[next++] = metadata[i];
    *out_count = next;
done:
    return status;
}

sara_status sara_adapter_save(sara_context *ctx, const char *path,
                              const sara_adapter_entry *entries, size_t count,
                              const sara_metadata *metadata, size_t metadata_count,
                              sara_dtype values_dtype)
{
    sara_status status;
    sara_arena arena;
    sara_tensor_source *tensors;
    sara_metadata *all;
    size_t used = 0, all_count;
    sara_arena_init(&arena, ctx);
    if (values_dtype != SARA_F32 && values_dtype != SARA_F16 && values_dtype != SARA_BF16)
        return sara_fail(ctx, SARA_ERROR_USAGE, "%s: values as %s, expected F32, F16 or BF16", path,
                         sara_dtype_name(values_dtype));
    TRY(sara_adapter_check_metadata(ctx, path, SARA_ERROR_USAGE, metadata, metadata_count, entries,
                                    count));
    TRY(complete_metadata(&arena, &all, &all_count, metadata, metadata_count));
    TRY(sara_arena_alloc(&arena, &tensors, 2 * count, sizeof(*tensors)));
    for (size_t i = 0; i < count; i++)
        if (entries[i].count > 0) {
            TRY(encode_entry(ctx, &arena, tensors + used, &entries[i], values_dtype));
            used += 2;
        }
    TRY(sara_safetensors_save(ctx, path, tensors, used, all, all_count));
done:
    sara_arena_free(&arena);
    return status;
}

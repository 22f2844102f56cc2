#include "sparse/adapter.h"

#include "sparse/varint.h"

#include <math.h>
#include <stdlib.h>

/* The file being read; errors begin with its path. */
typedef struct loader {
    sara_context *ctx;
    const sara_safetensors *file;
    const char *path;
    sara_adapter *adapter;
} loader;

static bool has_suffix(const char *name, const char *suffix)
{
    size_t length = strlen(name), tail = strlen(suffix);
    return length > tail && strcmp(name + length - tail, suffix) == 0;
}

static sara_status check_format(const loader *l)
{
    const char *format = sara_safetensors_metadata(l->file, "sara.format");
    if (!format)
        return sara_adapter_refuse_other(l->ctx, l->file);
    if (strcmp(format, SARA_ADAPTER_FORMAT) == 0)
        return SARA_OK;
    bool newer = strspn(format, "0123456789") == strlen(format) && strtoull(format, NULL, 10) > 1;
    return sara_fail(l->ctx, SARA_ERROR_INPUT, "%s: metadata sara.format is \"%.40s\"%s, expected "
                     "\"" SARA_ADAPTER_FORMAT "\"", l->path, format,
                     newer ? ", newer than this program" : "");
}

/* The tensor `name` + suffix, of rank 1; a missing one is an error. */
static sara_status find_tensor(const loader *l, const sara_tensor_info **out, const char *name,
                               const char *suffix)
{
    sara_status status;
    sara_shape_text text;
    char *key = NULL;
    TRY(sara_format(l->ctx, &key, "%s%s", name, suffix));
    *out = sara_safetensors_find(l->file, key);
    if (!*out)
        status = sara_fail(l->ctx, SARA_ERROR_INPUT, "%s: %s is missing", l->path, key);
    else if ((*out)->shape.rank != 1)
        status = sara_fail(l->ctx, SARA_ERROR_INPUT, "%s: %s: shape %s, expected one dimension",
                           l->path, key, sara_shape_format(&text, &(*out)->shape));
done:
    sara_free(l->ctx, key);
    return status;
}

static sara_status read_positions(const loader *l, sara_adapter_entry *entry,
                                  const sara_tensor_info *info)
{
    sara_status status;
    uint8_t *bytes = NULL;
    size_t size = (size_t)info->size;
    if (info->dtype != SARA_U8)
        return sara_fail(l->ctx, SARA_ERROR_INPUT, "%s: %s: dtype %s, expected U8", l->path,
                         info->name, sara_dtype_name(info->dtype));
    if (size < entry->count) /* before memory is taken for them */
        return sara_fail(l->ctx, SARA_ERROR_INPUT, "%s: %s: fewer positions than values, %zu bytes "
                         "for %zu", l->path, info->name, size, entry->count);
    TRY(sara_alloc(l->ctx, &bytes, size, 1));
    TRY(sara_safetensors_read(l->file, bytes, info));
    TRY(sara_arena_alloc(&l->adapter->arena, &entry->positions, entry->count,
                         sizeof(*entry->positions)));
    sara_positions_fault fault = sara_positions_decode(entry->positions, entry->count, bytes, size);
    if (fault.what)
        status = sara_fail(l->ctx, SARA_ERROR_INPUT, "%s: %s: byte %zu: %s", l->path, info->name,
                           fault.offset, fault.what);
done:
    sara_free(l->ctx, bytes);
    return status;
}

static sara_status read_adapter_values(const loader *l, sara_adapter_entry *entry,
                                       const sara_tensor_info *info)
{
    sara_status status;
    if (info->dtype != SARA_F32 && info->dtype != SARA_F16 && info->dtype != SARA_BF16)
        return sara_fail(l->ctx, SARA_ERROR_INPUT, "%s: %s: dtype %s, expected F32, F16 or BF16",
                         l->path, info->name, sara_dtype_name(info->dtype));
    TRY(sara_arena_alloc(&l->adapter->arena, &entry->values, entry->count,
                         sizeof(*entry->values)));
    TRY(sara_safetensors_read_f32(l->file, entry->values, info));
    for (size_t i = 0; i < entry->count; i++)
        if (!isfinite(entry->values[i]))
            return sara_fail(l->ctx, SARA_ERROR_INPUT, "%s: %s: value %zu is %s", l->path,
                             info->name, i, isnan(entry->values[i]) ? "NaN" : "infinite");
done:
    return status;
}

static sara_status read_adapter_entry(const loader *l, sara_adapter_entry *entry, const char *key)
{
    sara_status status;
    const sara_tensor_info *positions, *values;
    char *name = NULL;
    TRY(sara_strdup(l->ctx, &name, key));
    name[strlen(name) - strlen(SARA_POSITIONS_SUFFIX)] = '\0';
    TRY(sara_arena_strdup(&l->adapter->arena, &entry->name, name));
    TRY(find_tensor(l, &positions, name, SARA_POSITIONS_SUFFIX));
    TRY(find_tensor(l, &values, name, SARA_VALUES_SUFFIX));
    entry->count = (size_t)values->shape.dims[0];
    TRY(read_positions(l, entry, positions));
    TRY(read_adapter_values(l, entry, values));
    if (l->adapter->count == 1)
        l->adapter->dtype = values->dtype;
    l->adapter->mixed |= values->dtype != l->adapter->dtype;
    l->adapter->position_bytes += positions->size;
done:
    sara_free(l->ctx, name);
    return status;
}

static int compare_loaded_entries(const void *a, const void *b)
{
    return strcmp(((const sara_adapter_entry *)a)->name, ((const sara_adapter_entry *)b)->name);
}

static sara_status read_entries(const loader *l)
{
    sara_status status;
    sara_adapter *adapter = l->adapter;
    size_t tensors = sara_safetensors_count(l->file);
    TRY(sara_arena_alloc(&adapter->arena, &adapter->entries, tensors, sizeof(*adapter->entries)));
    for (size_t i = 0; i < tensors; i++) {
        const char *key = sara_safetensors_at(l->file, i)->name;
        if (has_suffix(key, SARA_POSITIONS_SUFFIX)) {
            sara_adapter_entry *entry = &adapter->entries[adapter->count++];
            memset(entry, 0, sizeof(*entry));
            TRY(read_adapter_entry(l, entry, key));
        } else if (!has_suffix(key, SARA_VALUES_SUFFIX)) {
            return sara_fail(l->ctx, SARA_ERROR_INPUT, "%s: %.200s is neither *.positions nor "
                             "*.values", l->path, key);
        }
    }
    /* Each .positions has its .values; what is left over would be .values alone. */
    for (size_t i = 0; i < tensors && 2 * adapter->count != tensors; i++) {
        const sara_tensor_info *info = sara_safetensors_at(l->file, i), *partner;
        if (!has_suffix(info->name, SARA_VALUES_SUFFIX))
            continue;
        char *name = NULL;
        TRY(sara_strdup(l->ctx, &name, info->name));
        name[strlen(name) - strlen(SARA_VALUES_SUFFIX)] = '\0';
        status = find_tensor(l, &partner, name, SARA_POSITIONS_SUFFIX);
        sara_free(l->ctx, name);
        TRY(status);
    }
    if (adapter->count > 1)
        qsort(adapter->entries, adapter->count, sizeof(*adapter->entries), compare_loaded_entries);
done:
    return status;
}

static sara_status copy_metadata(const loader *l)
{
    sara_status status;
    sara_adapter *adapter = l->adapter;
    size_t count;
    const sara_metadata *all = sara_safetensors_metadata_all(l->file, &count);
    TRY(sara_arena_alloc(&adapter->arena, &adapter->metadata, count, sizeof(*all)));
    for (size_t i = 0; i < count; i++) {
        TRY(sara_arena_strdup(&adapter->arena, &adapter->metadata[i].key, all[i].key));
        TRY(sara_arena_strdup(&adapter->arena, &adapter->metadata[i].value, all[i].value));
    }
    adapter->metadata_count = count;
done:
    return status;
}

sara_status sara_adapter_load(sara_context *ctx, sara_adapter *out, const char *path)
{
    sara_status status;
    sara_safetensors *file = NULL;
    sara_adapter result = {0};
    loader l = {ctx, NULL, path, &result};
    memset(out, 0, sizeof(*out));
    sara_arena_init(&result.arena, ctx);
    TRY(sara_safetensors_open(ctx, &file, path));
    l.file = file;
    TRY(check_format(&l));
    result.file_bytes = sara_safetensors_size(file);
    TRY(copy_metadata(&l));
    TRY(read_entries(&l));
    TRY(sara_adapter_check_metadata(ctx, path, SARA_ERROR_INPUT, result.metadata,
                                    result.metadata_count, result.entries, result.count));
    *out = result;
    sara_arena_init(&result.arena, ctx);
done:
    sara_safetensors_close(file);
    sara_adapter_free(&result);
    return status;
}

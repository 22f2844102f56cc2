#include "sparse/adaptation.h"
#include "sparse/adapter.h"
#include "sparse/varint.h"

#include <math.h>

static sara_status check_saved_entry(sara_context *ctx, const sara_adapter_entry *entry)
{
    for (size_t i = 1; i < entry->count; i++)
        if (entry->positions[i] <= entry->positions[i - 1])
            return sara_fail(ctx, SARA_ERROR_USAGE, "%s: position %u after %u, expected ascending",
                             entry->name, (unsigned)entry->positions[i],
                             (unsigned)entry->positions[i - 1]);
    return SARA_OK;
}

/* The entries of a file and where their values are: with the entry, or dense[position]. */
typedef struct saving {
    const sara_adapter_entry *entries;
    const float *const *dense; /* [entries], NULL: none are dense */
    size_t count;
    sara_dtype dtype; /* of the values in the file */
    size_t *kept;     /* indices of the entries that are not empty */
} saving;

static float value_at(const saving *s, size_t entry, size_t i)
{
    const sara_adapter_entry *e = &s->entries[entry];
    return e->values ? e->values[i] : s->dense[entry][e->positions[i]];
}

/* Tensors are made when they are written: 2 k are the positions of entry kept[k], 2 k + 1 its
 * values. */
static sara_status fill_tensor(const void *user, size_t index, void *data)
{
    const saving *s = user;
    const sara_adapter_entry *entry = &s->entries[s->kept[index / 2]];
    size_t size = sara_dtype_size(s->dtype);
    if (index % 2 == 0) {
        sara_positions_encode(data, entry->positions, entry->count);
        return SARA_OK;
    }
    for (size_t i = 0; i < entry->count; i++) {
        float value = value_at(s, s->kept[index / 2], i);
        sara_convert_from_f32((char *)data + i * size, s->dtype, &value, 1);
    }
    return SARA_OK;
}

/* A finite value may be too large for a 16-bit type. */
static sara_status check_saved_values(sara_context *ctx, const saving *s, size_t entry)
{
    const sara_adapter_entry *e = &s->entries[entry];
    for (size_t i = 0; i < e->count; i++) {
        float value = value_at(s, entry, i), stored;
        uint32_t bits;
        sara_convert_from_f32(&bits, s->dtype, &value, 1);
        sara_convert_to_f32(&stored, &bits, s->dtype, 1);
        if (!isfinite(stored))
            return sara_fail(ctx, SARA_ERROR_INPUT, "%s: position %u: value %g is not finite in %s",
                             e->name, (unsigned)e->positions[i], (double)value,
                             sara_dtype_name(s->dtype));
    }
    return SARA_OK;
}

/* Both tensors of one entry; their names come from the arena. */
static sara_status describe_entry(sara_context *ctx, sara_arena *arena, sara_tensor_source *out,
                                  const saving *s, size_t index)
{
    const sara_adapter_entry *entry = &s->entries[index];
    sara_status status;
    char *name = NULL;
    int64_t size = (int64_t)sara_positions_size(entry->positions, entry->count);
    TRY(check_saved_entry(ctx, entry));
    TRY(check_saved_values(ctx, s, index));
    out[0] = (sara_tensor_source){NULL, SARA_U8, sara_shape1(size), NULL};
    out[1] = (sara_tensor_source){NULL, s->dtype, sara_shape1((int64_t)entry->count), NULL};
    TRY(sara_format(ctx, &name, "%s" SARA_POSITIONS_SUFFIX, entry->name));
    TRY(sara_arena_strdup(arena, &out[0].name, name));
    sara_free(ctx, name);
    name = NULL;
    TRY(sara_format(ctx, &name, "%s" SARA_VALUES_SUFFIX, entry->name));
    TRY(sara_arena_strdup(arena, &out[1].name, name));
done:
    sara_free(ctx, name);
    return status;
}

/* The caller's metadata with sara.format set. */
static sara_status complete_metadata(sara_metadata_list *out, const sara_metadata *metadata,
                                     size_t count)
{
    sara_status status = SARA_OK;
    for (size_t i = 0; i < count; i++)
        TRY(sara_metadata_list_set(out, metadata[i].key, metadata[i].value));
    TRY(sara_metadata_list_set(out, "sara.format", SARA_ADAPTER_FORMAT));
done:
    return status;
}

static sara_status save_entries(sara_context *ctx, const char *path, saving *s,
                                const sara_metadata *metadata, size_t metadata_count)
{
    sara_status status;
    sara_arena arena;
    sara_tensor_source *tensors;
    sara_metadata_list all;
    size_t kept = 0;
    sara_arena_init(&arena, ctx);
    sara_metadata_list_init(&all, ctx);
    if (s->dtype != SARA_F32 && s->dtype != SARA_F16 && s->dtype != SARA_BF16)
        return sara_fail(ctx, SARA_ERROR_USAGE, "%s: values as %s, expected F32, F16 or BF16", path,
                         sara_dtype_name(s->dtype));
    TRY(sara_adapter_check_metadata(ctx, path, SARA_ERROR_USAGE, metadata, metadata_count,
                                    s->entries, s->count));
    TRY(complete_metadata(&all, metadata, metadata_count));
    TRY(sara_arena_alloc(&arena, &tensors, 2 * s->count, sizeof(*tensors)));
    TRY(sara_arena_alloc(&arena, &s->kept, s->count, sizeof(*s->kept)));
    for (size_t i = 0; i < s->count; i++)
        if (s->entries[i].count > 0) {
            TRY(describe_entry(ctx, &arena, tensors + 2 * kept, s, i));
            s->kept[kept++] = i;
        }
    TRY(sara_safetensors_save_made(ctx, path, tensors, 2 * kept, all.items, all.count, fill_tensor,
                                   s));
done:
    sara_metadata_list_free(&all);
    sara_arena_free(&arena);
    return status;
}

sara_status sara_adapter_save(sara_context *ctx, const char *path,
                              const sara_adapter_entry *entries, size_t count,
                              const sara_metadata *metadata, size_t metadata_count,
                              sara_dtype values_dtype)
{
    saving s = {.entries = entries, .count = count, .dtype = values_dtype};
    return save_entries(ctx, path, &s, metadata, metadata_count);
}

/* The mask's masters for the host: kept since a reselection, or read into *values, or NULL where
 * the float32 parameter holds them. */
static sara_status mask_masters(const sara_trainables *t, float **out,
                                sara_trainable_values *values, const sara_mask *mask,
                                const sara_trainable *item)
{
    sara_status status = SARA_OK;
    *out = mask->masters;
    if (!mask->masters && item->masters) {
        TRY(sara_trainable_read(t, values, item));
        *out = (float *)(uintptr_t)values->values;
    }
done:
    return status;
}

/* What of the trainables the host reads while a file is written. */
typedef struct saved_arrays {
    sara_adapter_entry *entries;
    const float **dense;
    sara_trainable_values *masters;
    sara_param *params; /* of float32 parameters */
} saved_arrays;

static void saved_arrays_free(const sara_trainables *t, saved_arrays *arrays)
{
    for (size_t i = 0; i < t->count; i++) {
        if (arrays->masters)
            sara_trainable_read_end(t, &arrays->masters[i]);
        if (arrays->params)
            sara_param_read_end(t->ctx, &arrays->params[i], t->items[i].param);
    }
    sara_free(t->ctx, arrays->params);
    sara_free(t->ctx, arrays->masters);
    sara_free(t->ctx, arrays->dense);
    sara_free(t->ctx, arrays->entries);
}

/* In any case: saved_arrays_free(). */
static sara_status saved_arrays_read(const sara_adaptation *a, saved_arrays *out)
{
    const sara_trainables *t = &a->optimizer->trainables;
    sara_status status;
    *out = (saved_arrays){0};
    TRY(sara_alloc(a->ctx, &out->entries, t->count, sizeof(*out->entries)));
    TRY(sara_alloc(a->ctx, &out->dense, t->count, sizeof(const float *)));
    TRY(sara_alloc_zero(a->ctx, &out->masters, t->count, sizeof(*out->masters)));
    TRY(sara_alloc_zero(a->ctx, &out->params, t->count, sizeof(*out->params)));
    for (size_t i = 0; i < t->count; i++) {
        const sara_trainable *item = &t->items[i];
        const sara_mask mask = sara_adaptation_mask(a, i);
        uint32_t *positions = (uint32_t *)(uintptr_t)mask.positions;
        float *masters;
        TRY(mask_masters(t, &masters, &out->masters[i], &mask, item));
        out->entries[i] =
            (sara_adapter_entry){item->param->name, positions, masters, mask.count};
        if (!masters)
            TRY(sara_param_read(a->ctx, &out->params[i], item->param));
        out->dense[i] = out->params[i].value.data;
    }
done:
    return status;
}

sara_status sara_adaptation_save(sara_adaptation *a, const char *path,
                                 const sara_metadata *metadata, size_t metadata_count,
                                 sara_dtype values_dtype)
{
    const sara_trainables *t = &a->optimizer->trainables;
    saved_arrays arrays = {0};
    sara_status status;
    TRY(sara_adaptation_note_masters(a));
    TRY(saved_arrays_read(a, &arrays));
    saving s = {.entries = arrays.entries,
                .dense = arrays.dense,
                .count = t->count,
                .dtype = values_dtype};
    TRY(save_entries(a->ctx, path, &s, metadata, metadata_count));
done:
    saved_arrays_free(t, &arrays);
    return status;
}

/* What an adapter file holds, and how far it moves its base. */
#include "pipeline/adapter_kind.h"

#include <math.h>
#include <stdio.h>

/* The report and what its strings belong to. */
typedef struct report {
    sara_adapter_report shown; /* first: what callers have is a pointer to it */
    sara_adapter adapter;
} report;

/* The square of the L2 norm of values minus the parameter's. */
static sara_status change_of(sara_context *ctx, double *out, const sara_adapter_entry *entry,
                             const sara_param *param)
{
    sara_param copy;
    sara_status status;
    *out = 0;
    TRY(sara_param_read(ctx, &copy, param));
    for (size_t i = 0; i < entry->count; i++) {
        double change = (double)entry->values[i] - sara_param_get(&copy, entry->positions[i]);
        *out += change * change;
    }
    sara_param_read_end(ctx, &copy, param);
done:
    return status;
}

static sara_status adapter_add_up(sara_context *ctx, sara_adapter_report *out,
                                  const sara_adapter *adapter, const sara_block_list *lists,
                                  const sara_params *params)
{
    sara_adapter_block blocks[SARA_MAX_BLOCKS] = {0};
    double total = 0;
    sara_status status = SARA_OK;
    for (size_t i = 0; i < adapter->count; i++) {
        const sara_adapter_entry *entry = &adapter->entries[i];
        sara_name label;
        sara_adapter_block *block = &blocks[sara_block_place(lists, entry->name, &label)];
        double change = 0;
        snprintf(block->name, sizeof(block->name), "%.23s", label.text);
        if (params)
            TRY(change_of(ctx, &change, entry, sara_params_find(params, entry->name)));
        block->tensors++;
        block->entries += (int64_t)entry->count;
        block->change_norm += change;
        out->entries += (int64_t)entry->count;
        total += change;
    }
    for (int place = 0; place < SARA_MAX_BLOCKS; place++) {
        sara_adapter_block *block = &blocks[place];
        if (block->tensors == 0)
            continue;
        block->change_norm = params ? sqrt(block->change_norm) : (double)NAN;
        out->blocks[out->block_count++] = *block;
    }
    out->change_norm = params ? sqrt(total) : (double)NAN;
done:
    return status;
}

/* Of the denoiser that it is for. */
static const sara_block_list *blocks_of(const sara_adapter *adapter)
{
    const char *target = sara_adapter_metadata(adapter, "sara.target");
    const sara_family *family = target ? sara_family_of_target(target) : sara_families[0];
    return family->parts[0].class->blocks;
}

static void adapter_describe(sara_adapter_report *out, const sara_adapter *adapter)
{
    const char *method = sara_adapter_metadata(adapter, "sara.method");
    const char *precision = sara_adapter_metadata(adapter, "sara.base_precision");
    out->method = method ? method : "";
    out->target = sara_adapter_metadata(adapter, "sara.target");
    out->base_sha256 = sara_adapter_metadata(adapter, "sara.base_sha256");
    out->base_precision = precision ? precision : "";
    snprintf(out->dtype, sizeof(out->dtype), "%s",
             adapter->mixed   ? "mixed"
             : adapter->count ? sara_dtype_name(adapter->dtype)
                              : "");
    out->file_bytes = (int64_t)adapter->file_bytes;
    out->position_bytes = (int64_t)adapter->position_bytes;
    out->tensors = (int64_t)adapter->count;
    out->metadata = adapter->metadata;
    out->metadata_count = adapter->metadata_count;
}

static sara_status adapter_check_base(sara_context *ctx, const sara_adapter *adapter,
                                      sara_model *base, bool force, const char *path)
{
    const sara_base *own;
    sara_status status;
    TRY(sara_model_base(ctx, &own, base));
    status = sara_adapter_check(ctx, adapter, &base->denoiser->params, own, force);
    if (status != SARA_OK)
        sara_fail_in(ctx, status, path);
done:
    return status;
}

/* ------------------------------------------------------------------------------ of other kinds */

#define TEXT_PLACE (SARA_MAX_BLOCKS - 1)

void sara_adapter_report_add(sara_adapter_report *out, const char *layer, bool text,
                             int64_t entries, double change2)
{
    sara_name label = sara_name_of("text_encoder");
    int place = text ? TEXT_PLACE
                     : sara_block_place(sara_families[0]->parts[0].class->blocks, layer, &label);
    sara_adapter_block *block = &out->blocks[place];
    snprintf(block->name, sizeof(block->name), "%.23s", label.text);
    block->tensors++;
    block->entries += entries;
    block->change_norm += change2;
    out->entries += entries;
    out->change_norm += change2;
}

/* The places that have something, one after the other; norms of their squares. */
static void close_up(sara_adapter_report *out)
{
    for (int place = 0; place < SARA_MAX_BLOCKS; place++) {
        sara_adapter_block block = out->blocks[place];
        if (block.tensors == 0)
            continue;
        block.change_norm = sqrt(block.change_norm);
        out->blocks[out->block_count++] = block;
    }
    out->change_norm = sqrt(out->change_norm);
}

static sara_status put_text(sara_arena *arena, const char **out, const sara_safetensors *file,
                            const char *key)
{
    const char *value = sara_safetensors_metadata(file, key);
    return sara_arena_strdup(arena, out, value ? value : "");
}

/* Of all tensors, or "mixed". */
static const char *dtype_of(const sara_safetensors *file)
{
    const sara_tensor_info *first = sara_safetensors_at(file, 0);
    for (size_t i = 1; i < sara_safetensors_count(file); i++)
        if (sara_safetensors_at(file, i)->dtype != first->dtype)
            return "mixed";
    return sara_dtype_name(first->dtype);
}

sara_status sara_adapter_report_metadata(sara_adapter_report *out, sara_arena *arena,
                                         const sara_adapter_source *source)
{
    size_t count;
    const sara_metadata *all = sara_safetensors_metadata_all(source->file, &count);
    sara_metadata *copy;
    sara_status status;
    TRY(sara_arena_alloc(arena, &copy, count, sizeof(*copy)));
    for (size_t i = 0; i < count; i++) {
        TRY(sara_arena_strdup(arena, &copy[i].key, all[i].key));
        TRY(sara_arena_strdup(arena, &copy[i].value, all[i].value));
    }
    out->metadata = copy;
    out->metadata_count = count;
    TRY(put_text(arena, &out->method, source->file, "sara.method"));
    TRY(put_text(arena, &out->target, source->file, "sara.target"));
    TRY(put_text(arena, &out->base_sha256, source->file, "sara.base_sha256"));
    TRY(put_text(arena, &out->base_precision, source->file, "sara.base_precision"));
    out->tensors = (int64_t)sara_safetensors_count(source->file);
    out->file_bytes = (int64_t)sara_safetensors_size(source->file);
    if (out->tensors > 0)
        snprintf(out->dtype, sizeof(out->dtype), "%s", dtype_of(source->file));
done:
    return status;
}

static sara_status check_unchanged(sara_context *ctx, const sara_model *base, const char *path)
{
    if (base->adapter_count == 0)
        return SARA_OK;
    return sara_fail(ctx, SARA_ERROR_USAGE,
                     "%s: has adapters applied; take them off before %s is compared with it",
                     base->path, path);
}

static sara_status inspect_own(sara_context *ctx, report *result, const char *path,
                               sara_model *base, bool force)
{
    sara_status status;
    TRY(sara_family_read_adapter(ctx, &result->adapter, path, NULL));
    if (base)
        TRY(adapter_check_base(ctx, &result->adapter, base, force, path));
    adapter_describe(&result->shown, &result->adapter);
    TRY(adapter_add_up(ctx, &result->shown, &result->adapter, blocks_of(&result->adapter),
                       base ? &base->denoiser->params : NULL));
done:
    return status;
}

sara_status sara_adapter_inspect(sara_context *ctx, sara_adapter_report **out, const char *path,
                                 sara_model *base, bool force)
{
    sara_adapter_source source = {.ctx = ctx};
    report *result = NULL;
    sara_status status;
    *out = NULL;
    TRY(sara_alloc_zero(ctx, &result, 1, sizeof(*result)));
    sara_arena_init(&result->adapter.arena, ctx);
    result->shown.layout = result->shown.token = result->shown.families = "";
    result->shown.alpha_low = result->shown.alpha_high = result->shown.relative = (double)NAN;
    TRY(sara_adapter_source_open(ctx, &source, path));
    if (base)
        TRY(check_unchanged(ctx, base, path));
    if (source.kind->describe) {
        TRY(source.kind->describe(&result->shown, &result->adapter.arena, &source, base, force));
        close_up(&result->shown);
    } else {
        TRY(inspect_own(ctx, result, path, base, force));
    }
    *out = &result->shown;
    result = NULL;
done:
    sara_adapter_source_close(&source);
    sara_adapter_report_free(ctx, result ? &result->shown : NULL);
    return status;
}

void sara_adapter_report_free(sara_context *ctx, sara_adapter_report *shown)
{
    if (!shown)
        return;
    sara_adapter_free(&((report *)shown)->adapter);
    sara_free(ctx, shown);
}

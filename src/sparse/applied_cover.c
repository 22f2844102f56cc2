/* The original values of what adapters cover. */
#include "sparse/applied.h"

sara_param sara_cover_original(const sara_cover *cover, const sara_param *param)
{
    sara_param original = *param;
    original.value = cover->whole;
    return original;
}

void sara_cover_free(sara_context *ctx, sara_cover *cover, const sara_param *param)
{
    sara_param original = sara_cover_original(cover, param);
    sara_free(ctx, cover->positions);
    sara_free(ctx, cover->originals);
    if (cover->whole.data)
        sara_param_release(ctx, &original);
    memset(cover, 0, sizeof(*cover));
}

static size_t count_union(const sara_cover *cover, const sara_applied_entry *entry)
{
    size_t count = 0, a = 0, b = 0;
    while (a < cover->count || b < entry->count) {
        bool from_a =
            a < cover->count && (b == entry->count || cover->positions[a] <= entry->positions[b]);
        bool from_b =
            b < entry->count && (a == cover->count || entry->positions[b] <= cover->positions[a]);
        a += from_a;
        b += from_b;
        count++;
    }
    return count;
}

static sara_status extend_positions(sara_context *ctx, sara_cover *out, const sara_cover *cover,
                                    const sara_applied_entry *entry, const sara_param *copy)
{
    sara_status status;
    size_t a = 0, b = 0;
    out->count = count_union(cover, entry);
    TRY(sara_alloc(ctx, &out->positions, out->count, sizeof(*out->positions)));
    TRY(sara_alloc(ctx, &out->originals, out->count, sizeof(*out->originals)));
    for (size_t i = 0; i < out->count; i++) {
        bool known =
            a < cover->count && (b == entry->count || cover->positions[a] <= entry->positions[b]);
        uint32_t position = known ? cover->positions[a] : entry->positions[b];
        out->positions[i] = position;
        out->originals[i] = known ? cover->originals[a] : sara_param_get(copy, position);
        a += known;
        b += b < entry->count && entry->positions[b] == position;
    }
    SARA_ASSERT(a == cover->count && b == entry->count);
done:
    return status;
}

static sara_status prepare_whole(sara_context *ctx, sara_cover *out, const sara_param *param)
{
    sara_dtype dtype = param->as_floats ? SARA_F32 : param->value.dtype;
    sara_param other = *param;
    sara_status status;
    TRY(param->device ? sara_param_alloc(&other, param->device, dtype, &param->value.shape)
                      : sara_tensor_new(ctx, &other.value, dtype, &param->value.shape));
    out->whole = other.value;
done:
    return status;
}

sara_status sara_cover_prepare(sara_context *ctx, sara_cover *out, const sara_cover *cover,
                               const sara_applied_entry *entry, const sara_param *param)
{
    sara_param copy = {0};
    sara_status status;
    if (cover->whole.data)
        return SARA_OK;
    if (entry->low)
        return prepare_whole(ctx, out, param);
    TRY(sara_param_read(ctx, &copy, param));
    TRY(extend_positions(ctx, out, cover, entry, &copy));
done:
    sara_param_read_end(ctx, &copy, param);
    return status;
}

/* The parameter's own memory has the changes at positions that were covered until now. */
static sara_status take_originals(sara_context *ctx, const sara_cover *cover, sara_param *param)
{
    sara_param copy = {0};
    sara_status status = SARA_OK;
    if (cover->count == 0)
        return SARA_OK;
    TRY(sara_param_read(ctx, &copy, param));
    for (size_t i = 0; i < cover->count; i++)
        sara_param_set(&copy, cover->positions[i], cover->originals[i]);
    TRY(sara_param_write(param, &copy));
done:
    sara_param_read_end(ctx, &copy, param);
    return status;
}

sara_status sara_cover_install(sara_context *ctx, sara_cover *cover, sara_cover *prepared,
                               sara_param *param)
{
    sara_status status = SARA_OK;
    if (!prepared->whole.data && !prepared->positions)
        return SARA_OK;
    if (prepared->whole.data) {
        sara_tensor other = prepared->whole;
        TRY(take_originals(ctx, cover, param));
        prepared->whole = param->value;
        param->value = other;
    }
    sara_cover_free(ctx, cover, param);
    *cover = *prepared;
    memset(prepared, 0, sizeof(*prepared));
done:
    return status;
}

void sara_cover_take_off(sara_context *ctx, sara_cover *cover, sara_param *param)
{
    sara_tensor other = param->value;
    param->value = cover->whole;
    param->version++;
    cover->whole = other;
    sara_cover_free(ctx, cover, param);
}

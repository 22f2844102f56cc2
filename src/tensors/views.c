#include "tensors/tensors.h"

sara_status sara_view_param(sara_context *ctx, sara_param *out, const sara_tensor_view *view)
{
    sara_dtype dtype = SARA_F32;
    while (dtype < SARA_DTYPE_COUNT && strcmp(sara_dtype_name(dtype), view->dtype) != 0)
        dtype++;
    if (dtype != SARA_F32 && dtype != SARA_F16 && dtype != SARA_BF16)
        return sara_fail(ctx, SARA_ERROR_USAGE, "%s: dtype %.40s, expected F32, F16 or BF16",
                         view->name, view->dtype);
    if (view->entries < 0 || view->entries > (int64_t)UINT32_MAX + 1)
        return sara_fail(ctx, SARA_ERROR_USAGE, "%s: %lld entries, expected 0 to 4294967296",
                         view->name, (long long)view->entries);
    *out = (sara_param){.name = view->name,
                        .value = {dtype, sara_shape1(view->entries), view->data},
                        .stored = dtype};
    return SARA_OK;
}

sara_status sara_view_selected(sara_context *ctx, sara_param *out, const sara_tensor_view *view,
                               const uint32_t *positions, size_t count)
{
    if (count > 0 && (int64_t)positions[count - 1] >= view->entries)
        return sara_fail(ctx, SARA_ERROR_USAGE, "%s: position %u of %lld entries", view->name,
                         (unsigned)positions[count - 1], (long long)view->entries);
    return sara_view_param(ctx, out, view);
}

sara_status sara_views_open(sara_context *ctx, sara_params *out, const sara_tensor_view *views,
                            size_t count)
{
    sara_status status;
    sara_params result = {0};
    *out = result;
    TRY(sara_params_new(ctx, &result, count));
    for (size_t i = 0; i < count; i++)
        TRY(sara_view_param(ctx, &result.items[i], &views[i]));
    *out = result;
    result.items = NULL;
done:
    sara_free(ctx, result.items);
    return status;
}

void sara_views_close(sara_context *ctx, sara_params *params)
{
    sara_free(ctx, params->items);
    *params = (sara_params){0};
}

struct sara_tensor_selection {
    sara_selection selection;
};

sara_status sara_tensors_select(sara_context *ctx, sara_tensor_selection **out, double *threshold,
                                const sara_tensor_view *tensors, size_t count,
                                sara_budget_kind kind, double value)
{
    const sara_budget budget = {kind, value};
    sara_params params = {0};
    sara_tensor_selection *result = NULL;
    sara_status status;
    *out = NULL;
    TRY(sara_alloc_zero(ctx, &result, 1, sizeof(*result)));
    TRY(sara_views_open(ctx, &params, tensors, count));
    TRY(sara_select(ctx, &result->selection, &params, &budget));
    *threshold = result->selection.threshold;
    *out = result;
    result = NULL;
done:
    sara_views_close(ctx, &params);
    sara_tensors_selection_free(ctx, result);
    return status;
}

void sara_tensors_selection_free(sara_context *ctx, sara_tensor_selection *selection)
{
    if (!selection)
        return;
    sara_selection_free(ctx, &selection->selection);
    sara_free(ctx, selection);
}

const uint32_t *sara_tensors_positions(const sara_tensor_selection *selection, size_t index,
                                       size_t *count)
{
    const sara_selected *item = &selection->selection.items[index];
    *count = item->count;
    return item->positions;
}

#include "sparse/magnitude.h"

/* What one pass over a parameter finds. */
typedef struct scan {
    size_t below;      /* entries below the limit */
    uint32_t smallest; /* magnitude */
    uint32_t largest;
} scan;

static void scan_block(scan *found, const float *values, size_t count, uint32_t limit)
{
    for (size_t i = 0; i < count; i++) {
        uint32_t magnitude = sara_magnitude(values[i]);
        found->below += magnitude < limit;
        found->smallest = magnitude < found->smallest ? magnitude : found->smallest;
        found->largest = magnitude > found->largest ? magnitude : found->largest;
    }
}

static scan scan_param(const sara_param *param, uint32_t limit)
{
    size_t count = (size_t)sara_shape_count(&param->value.shape);
    float buffer[SARA_PARAM_BLOCK];
    scan found = {0, UINT32_MAX, 0};
    for (size_t at = 0, part; at < count; at += part) {
        part = sara_param_part(count, at);
        scan_block(&found, sara_param_block(param, buffer, at, part), part, limit);
    }
    return found;
}

sara_status sara_param_check_finite(sara_context *ctx, const sara_param *param)
{
    int64_t count = sara_shape_count(&param->value.shape);
    sara_param copy = {0};
    sara_status status;
    TRY(sara_param_read(ctx, &copy, param));
    for (int64_t i = 0; i < count; i++) {
        float value = sara_param_get(&copy, (size_t)i);
        if (sara_magnitude(value) >= SARA_MAGNITUDE_INFINITY)
            TRY(sara_fail(ctx, SARA_ERROR_INPUT, "%s: entry %lld is %s", param->name, (long long)i,
                          sara_magnitude(value) > SARA_MAGNITUDE_INFINITY ? "NaN"
                          : value > 0                                     ? "infinite"
                                                                          : "minus infinity"));
    }
done:
    sara_param_read_end(ctx, &copy, param);
    return status;
}

static int64_t count_in_param(const sara_param *param, uint32_t magnitude)
{
    size_t count = (size_t)sara_shape_count(&param->value.shape);
    float buffer[SARA_PARAM_BLOCK];
    int64_t found = 0;
    for (size_t at = 0, part; at < count; at += part) {
        part = sara_param_part(count, at);
        const float *values = sara_param_block(param, buffer, at, part);
        for (size_t i = 0; i < part; i++)
            found += sara_magnitude(values[i]) == magnitude;
    }
    return found;
}

static sara_status count_of_magnitude(sara_context *ctx, long long *found,
                                      const sara_params *params, uint32_t magnitude)
{
    sara_param copy = {0};
    sara_status status = SARA_OK;
    *found = 0;
    for (size_t i = 0; i < params->count; i++) {
        TRY(sara_param_read(ctx, &copy, &params->items[i]));
        *found += count_in_param(&copy, magnitude);
        sara_param_read_end(ctx, &copy, &params->items[i]);
    }
done:
    return status;
}

/* As with a budget of one entry where many are exactly 0: equal ones are selected all or not. */
static sara_status fail_empty(sara_context *ctx, const sara_params *params, double threshold,
                              uint32_t smallest)
{
    long long equal;
    sara_status status;
    TRY(count_of_magnitude(ctx, &equal, params, smallest));
    status = sara_fail(ctx, SARA_ERROR_USAGE,
                       "threshold %.9g selects nothing: the smallest magnitude is %.9g, that of "
                       "%lld %s; a larger threshold or a budget of at least %lld selects %s",
                       threshold, (double)sara_magnitude_value(smallest), equal,
                       equal == 1 ? "entry" : "entries", equal, equal == 1 ? "it" : "them");
done:
    return status;
}

/* Refuses what cannot be trained and a selection without entries. */
static sara_status check_scans(sara_context *ctx, const scan *scans, const sara_params *params,
                               double threshold)
{
    sara_status status = SARA_OK;
    uint32_t smallest = SARA_MAGNITUDE_INFINITY;
    size_t below = 0;
    for (size_t i = 0; i < params->count; i++) {
        if (scans[i].largest >= SARA_MAGNITUDE_INFINITY)
            TRY(sara_param_check_finite(ctx, &params->items[i]));
        smallest = scans[i].smallest < smallest ? scans[i].smallest : smallest;
        below += scans[i].below;
    }
    if (below == 0)
        status = fail_empty(ctx, params, threshold, smallest);
done:
    return status;
}

static void select_collect(sara_selected *item, const sara_param *param, uint32_t limit)
{
    size_t count = (size_t)sara_shape_count(&param->value.shape), next = 0;
    float buffer[SARA_PARAM_BLOCK];
    for (size_t at = 0, part; at < count && next < item->count; at += part) {
        part = sara_param_part(count, at);
        const float *values = sara_param_block(param, buffer, at, part);
        for (size_t i = 0; i < part && next < item->count; i++)
            if (sara_magnitude(values[i]) < limit)
                item->positions[next++] = (uint32_t)(at + i);
    }
    SARA_ASSERT(next == item->count); /* as many as were counted */
}

static sara_status check_sizes(sara_context *ctx, const sara_params *params)
{
    for (size_t i = 0; i < params->count; i++) {
        int64_t count = sara_shape_count(&params->items[i].value.shape);
        if (count > (int64_t)UINT32_MAX + 1)
            return sara_fail(ctx, SARA_ERROR_INPUT, "%s: %lld entries, at most 4294967296",
                             params->items[i].name, (long long)count);
    }
    return SARA_OK;
}

/* What is scanned, then collected. */
typedef struct selecting {
    scan *scans;
    sara_selected *items;
    uint32_t limit;
} selecting;

static void scan_one(void *user, const sara_param *param, size_t index)
{
    const selecting *s = user;
    s->scans[index] = scan_param(param, s->limit);
}

static void collect_one(void *user, const sara_param *param, size_t index)
{
    const selecting *s = user;
    select_collect(&s->items[index], param, s->limit);
}

/* result's items are allocated and zero. */
static sara_status select_fill(sara_context *ctx, sara_selection *result, const sara_params *params,
                               scan *scans)
{
    sara_status status = SARA_OK;
    const sara_ranking values = sara_ranking_of_values(params);
    selecting s = {scans, result->items, sara_threshold_magnitude(result->threshold)};
    TRY(sara_ranking_each(ctx, &values, scan_one, &s));
    TRY(check_scans(ctx, scans, params, result->threshold));
    for (size_t i = 0; i < params->count; i++) {
        result->items[i] = (sara_selected){&params->items[i], NULL, scans[i].below};
        result->total += (int64_t)scans[i].below;
    }
    TRY(sara_selection_alloc(ctx, result));
    TRY(sara_ranking_each(ctx, &values, collect_one, &s));
done:
    return status;
}

sara_status sara_selection_alloc(sara_context *ctx, sara_selection *selection)
{
    size_t total = (size_t)selection->total, next = 0;
    sara_status status;
    TRY(sara_alloc(ctx, &selection->positions, total, sizeof(*selection->positions)));
    for (size_t i = 0; i < selection->item_count; i++) {
        sara_selected *item = &selection->items[i];
        item->positions = item->count > 0 ? selection->positions + next : NULL;
        next += item->count;
    }
    SARA_ASSERT(next == total);
done:
    return status;
}

sara_status sara_select(sara_context *ctx, sara_selection *out, const sara_params *params,
                        const sara_budget *budget)
{
    sara_status status;
    sara_selection result = {0};
    scan *scans = NULL;
    memset(out, 0, sizeof(*out));
    TRY(check_sizes(ctx, params));
    TRY(sara_budget_resolve(ctx, &result.threshold, params, budget));
    TRY(sara_alloc(ctx, &scans, params->count, sizeof(*scans)));
    TRY(sara_alloc_zero(ctx, &result.items, params->count, sizeof(*result.items)));
    result.item_count = params->count;
    TRY(select_fill(ctx, &result, params, scans));
    *out = result;
    memset(&result, 0, sizeof(result));
done:
    sara_free(ctx, scans);
    sara_selection_free(ctx, &result);
    return status;
}

void sara_selection_free(sara_context *ctx, sara_selection *selection)
{
    sara_free(ctx, selection->positions);
    sara_free(ctx, selection->items);
    memset(selection, 0, sizeof(*selection));
}

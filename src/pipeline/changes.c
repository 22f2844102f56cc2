/* What the adapters applied to a model change, tensor by tensor. */
#include "pipeline/export.h"

#include <math.h>

typedef struct gathering {
    sara_changes *changes;
    const sara_params *params; /* of the part that is visited */
    sara_change *all;          /* one for each of these */
    sara_dtype dtype;
    const sara_param *fault; /* NULL: none */
    uint32_t fault_position;
    float fault_value;
} gathering;

static bool changes_differs(float a, float b)
{
    return memcmp(&a, &b, sizeof(a)) != 0;
}

static void count_change(void *user, const sara_param *param, uint32_t position, float original,
                         float current)
{
    gathering *g = user;
    (void)position;
    g->all[param - g->params->items].differing += changes_differs(original, current);
}

static float stored(float value, sara_dtype dtype)
{
    uint16_t half;
    if (dtype == SARA_F32)
        return value;
    sara_convert_from_f32(&half, dtype, &value, 1);
    sara_convert_to_f32(&value, &half, dtype, 1);
    return value;
}

static void add_change(void *user, const sara_param *param, uint32_t position, float original,
                       float current)
{
    gathering *g = user;
    sara_change *item = &g->all[param - g->params->items];
    if (!item->positions && item->values)
        item->values[position] = 0;
    if (!changes_differs(original, current))
        return;
    float exact = current - original, value = stored(exact, g->dtype);
    double change = (double)current - (double)original, error = (double)value - change;
    if (!isfinite(value) && !g->fault) {
        g->fault = param;
        g->fault_position = position;
        g->fault_value = exact;
    }
    if (item->positions) {
        item->positions[item->count] = position;
        item->values[item->count++] = value;
    } else if (item->values) {
        item->values[position] = value;
    }
    g->changes->inexact += original + value != current;
    g->changes->sum2 += change * change;
    g->changes->error2 += error * error;
}

/* A part's items: where their changes go. */
static sara_status changes_reserve(gathering *g, const sara_applied *applied, int part,
                                   bool one_by_one)
{
    sara_status status = SARA_OK;
    for (size_t i = 0; i < g->params->count; i++) {
        sara_change *item = &g->all[i];
        size_t count = (size_t)item->differing;
        item->param = &g->params->items[i];
        item->part = part;
        g->changes->entries += item->differing;
        if (count > 0 && sara_applied_is_whole(applied, item->param)) {
            item->count = (size_t)sara_shape_count(&item->param->value.shape);
            if (!one_by_one)
                TRY(sara_arena_alloc(&g->changes->arena, &item->values, item->count,
                                     sizeof(*item->values)));
            continue;
        }
        TRY(sara_arena_alloc(&g->changes->arena, &item->positions, count,
                             sizeof(*item->positions)));
        TRY(sara_arena_alloc(&g->changes->arena, &item->values, count, sizeof(*item->values)));
    }
done:
    return status;
}

static sara_status changes_gather(gathering *g, const sara_model *model, int part, bool one_by_one)
{
    const sara_applied *applied = model->parts[part].applied;
    sara_status status;
    TRY(sara_model_need_changed(model, part));
    TRY(sara_applied_visit(applied, count_change, g));
    TRY(changes_reserve(g, applied, part, one_by_one));
    TRY(sara_applied_visit(applied, add_change, g));
done:
    return status;
}

static void put_change(void *user, const sara_param *param, uint32_t position, float original,
                       float current)
{
    float *out = user;
    (void)param;
    out[position] = changes_differs(original, current) ? current - original : 0;
}

static sara_status make_applied(const void *user, float *out, const sara_change *change)
{
    const sara_model *model = user;
    return sara_applied_visit_param(model->parts[change->part].applied, change->param, put_change,
                                    out);
}

static sara_status check_gathered(sara_context *ctx, const gathering *g)
{
    if (g->changes->entries == 0)
        return sara_fail(ctx, SARA_ERROR_USAGE,
                         "no adapter changes the model: there is nothing to export");
    if (g->fault)
        return sara_fail(ctx, SARA_ERROR_USAGE,
                         "%s: the change of entry %u, %g, is not finite in %s", g->fault->name,
                         (unsigned)g->fault_position, (double)g->fault_value,
                         sara_dtype_name(g->dtype));
    return SARA_OK;
}

static size_t count_parameters(const sara_model *model)
{
    size_t count = 0;
    for (int i = 0; i < model->family->part_count; i++)
        count += model->parts[i].applied ? model->parts[i].network->params.count : 0;
    return count;
}

sara_status sara_changes_new(sara_context *ctx, sara_changes *out, const sara_model *model,
                             sara_dtype dtype, bool one_by_one)
{
    sara_changes result = {.make = make_applied, .user = model};
    gathering g = {.changes = &result, .dtype = dtype};
    size_t all = count_parameters(model), used = 0;
    sara_status status;
    memset(out, 0, sizeof(*out));
    sara_arena_init(&result.arena, ctx);
    TRY(sara_arena_alloc(&result.arena, &result.items, all, sizeof(*result.items)));
    if (all > 0)
        memset(result.items, 0, all * sizeof(*result.items));
    for (int i = 0; i < model->family->part_count; i++) {
        if (!model->parts[i].applied)
            continue;
        g.params = &model->parts[i].network->params;
        g.all = result.items + used;
        TRY(changes_gather(&g, model, i, one_by_one));
        used += g.params->count;
    }
    TRY(check_gathered(ctx, &g));
    for (size_t i = 0; i < all; i++)
        if (result.items[i].differing > 0)
            result.items[result.count++] = result.items[i];
    *out = result;
    sara_arena_init(&result.arena, ctx);
done:
    sara_changes_free(&result);
    return status;
}

void sara_changes_free(sara_changes *changes)
{
    sara_arena_free(&changes->arena);
    memset(changes, 0, sizeof(*changes));
}

sara_status sara_change_open(sara_context *ctx, sara_change *out, const sara_changes *changes,
                             const sara_change *change)
{
    sara_status status = SARA_OK;
    *out = *change;
    if (change->values)
        return SARA_OK;
    TRY(sara_alloc(ctx, &out->values, change->count, sizeof(*out->values)));
    TRY(changes->make(changes->user, out->values, change));
done:
    if (status != SARA_OK)
        sara_change_close(ctx, out, change);
    return status;
}

void sara_change_close(sara_context *ctx, sara_change *open, const sara_change *change)
{
    if (open->values != change->values)
        sara_free(ctx, open->values);
    *open = (sara_change){0};
}

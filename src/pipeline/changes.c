/* What the adapters applied to a model change, tensor by tensor. */
#include "pipeline/export.h"

#include <math.h>

typedef struct gathering {
    sara_changes *changes;
    const sara_params *params;
    sara_change *all; /* one for each parameter */
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
    g->all[param - g->params->items].count += changes_differs(original, current);
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
    if (!changes_differs(original, current))
        return;
    float exact = current - original, value = stored(exact, g->dtype);
    double change = (double)current - (double)original, error = (double)value - change;
    if (!isfinite(value) && !g->fault) {
        g->fault = param;
        g->fault_position = position;
        g->fault_value = exact;
    }
    item->positions[item->count] = position;
    item->values[item->count++] = value;
    g->changes->inexact += original + value != current;
    g->changes->sum2 += change * change;
    g->changes->error2 += error * error;
}

static sara_status changes_reserve(gathering *g)
{
    sara_status status = SARA_OK;
    for (size_t i = 0; i < g->params->count; i++) {
        sara_change *item = &g->all[i];
        item->param = &g->params->items[i];
        g->changes->entries += (int64_t)item->count;
        TRY(sara_arena_alloc(&g->changes->arena, &item->positions, item->count,
                             sizeof(*item->positions)));
        TRY(sara_arena_alloc(&g->changes->arena, &item->values, item->count,
                             sizeof(*item->values)));
        item->count = 0;
    }
done:
    return status;
}

sara_status sara_changes_new(sara_context *ctx, sara_changes *out, const sara_model *model,
                             sara_dtype dtype)
{
    sara_status status;
    sara_changes result = {.items = NULL};
    gathering g = {.changes = &result, .params = &model->denoiser->params, .dtype = dtype};
    memset(out, 0, sizeof(*out));
    sara_arena_init(&result.arena, ctx);
    TRY(sara_arena_alloc(&result.arena, &g.all, g.params->count, sizeof(*g.all)));
    memset(g.all, 0, g.params->count * sizeof(*g.all));
    if (model->parts[0].applied)
        TRY(sara_applied_visit(model->parts[0].applied, count_change, &g));
    TRY(changes_reserve(&g));
    if (result.entries == 0) {
        status = sara_fail(ctx, SARA_ERROR_USAGE,
                           "no adapter changes the model: there is nothing to export");
        goto done;
    }
    TRY(sara_applied_visit(model->parts[0].applied, add_change, &g));
    if (g.fault) {
        status = sara_fail(ctx, SARA_ERROR_USAGE,
                           "%s: the change of entry %u, %g, is not finite "
                           "in %s",
                           g.fault->name, (unsigned)g.fault_position, (double)g.fault_value,
                           sara_dtype_name(dtype));
        goto done;
    }
    result.items = g.all;
    for (size_t i = 0; i < g.params->count; i++)
        if (g.all[i].count > 0)
            result.items[result.count++] = g.all[i];
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

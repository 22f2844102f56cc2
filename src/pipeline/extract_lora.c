/* A LoRA from two models: of each layer that differs the best approximation of a rank. */
#include "pipeline/export.h"

#include <math.h>

/* The two models' parameters, part by part. */
typedef struct pair {
    sara_context *ctx;
    const sara_model *base, *tuned;
    const sara_params *from[SARA_MOST_PARTS], *to[SARA_MOST_PARTS]; /* NULL: not compared */
    sara_arena *arena;
    sara_network *opened[2 * SARA_MOST_PARTS]; /* that neither model had in memory */
    size_t opened_count;
} pair;

/* Reads a part's values where the model has them not at hand, which was loaded for its denoiser. */
static sara_status open_part(pair *p, const sara_params **out, const sara_model *model, int part)
{
    const sara_network *network = model->parts[part].network;
    sara_component component;
    sara_status status = SARA_OK;
    if (network && network->there) {
        *out = &network->params;
        return SARA_OK;
    }
    sara_network **opened = &p->opened[p->opened_count];
    TRY(sara_model_component(model, &component, part));
    TRY(sara_network_open(model->device, opened, model->family->parts[part].class, &component,
                          SARA_STORE_AUTO));
    p->opened_count++;
    TRY(sara_network_read(*opened));
    *out = &(*opened)->params;
done:
    sara_component_close(&component);
    return status;
}

/* The parameter of a text encoder, of which newer transformers leave text_model. out. */
static const sara_param *find_either(const sara_params *params, const char *name)
{
    static const char start[] = "text_model.";
    const sara_param *param = sara_params_find(params, name);
    if (!param && strncmp(name, start, strlen(start)) == 0)
        return sara_params_find(params, name + strlen(start));
    return param ? param : sara_params_find(params, sara_name_of("%s%s", start, name).text);
}

/* The tuned parameters under the base's names, in the same order. */
static sara_status rename_part(pair *p, int part)
{
    const sara_params *to = p->to[part];
    sara_params *renamed;
    sara_status status;
    TRY(sara_arena_alloc(p->arena, &renamed, 1, sizeof(*renamed)));
    *renamed = *to;
    TRY(sara_arena_alloc(p->arena, &renamed->items, to->count, sizeof(*renamed->items)));
    for (size_t i = 0; i < to->count; i++) {
        const sara_param *base = find_either(p->from[part], to->items[i].name);
        renamed->items[i] = to->items[i];
        renamed->items[i].name = base ? base->name : to->items[i].name;
    }
    p->to[part] = renamed;
done:
    return status;
}

bool sara_extract_lora_holds(const sara_family *family, int part)
{
    return (family->parts[part].stages & SARA_STAGE_TEXT) && !family->parts[part].class->streamed;
}

static sara_status open_pair(pair *p)
{
    const sara_family *family = p->base->family;
    sara_status status = SARA_OK;
    p->from[0] = &p->base->denoiser->params;
    p->to[0] = &p->tuned->denoiser->params;
    for (int i = 1; i < family->part_count && family == p->tuned->family; i++) {
        if (!sara_extract_lora_holds(family, i) || !sara_model_has_part(p->base, i) ||
            !sara_model_has_part(p->tuned, i))
            continue;
        TRY(open_part(p, &p->from[i], p->base, i));
        TRY(open_part(p, &p->to[i], p->tuned, i));
        TRY(rename_part(p, i));
    }
done:
    return status;
}

static void close_pair(pair *p)
{
    for (size_t i = 0; i < p->opened_count; i++)
        sara_network_free(p->opened[i]);
}

/* ---------------------------------------------------------------------------------- the changes */

static sara_status make_difference(const void *user, float *out, const sara_change *change)
{
    const pair *p = user;
    const sara_param *to =
        &p->to[change->part]->items[change->param - p->from[change->part]->items];
    sara_param a = {0}, b = {0};
    sara_status status;
    TRY(sara_param_read(p->ctx, &a, change->param));
    TRY(sara_param_read(p->ctx, &b, to));
    for (size_t i = 0; i < change->count; i++)
        out[i] = sara_param_get(&b, i) - sara_param_get(&a, i);
done:
    if (b.value.data)
        sara_param_read_end(p->ctx, &b, to);
    if (a.value.data)
        sara_param_read_end(p->ctx, &a, change->param);
    return status;
}

static sara_status count_difference(const pair *p, sara_change *item)
{
    float *values = NULL;
    sara_status status;
    TRY(sara_alloc(p->ctx, &values, item->count, sizeof(*values)));
    TRY(make_difference(p, values, item));
    for (size_t i = 0; i < item->count; i++)
        item->differing += values[i] != 0;
done:
    sara_free(p->ctx, values);
    return status;
}

static sara_status gather_differences(const pair *p, sara_changes *out)
{
    size_t all = 0;
    sara_status status;
    for (int part = 0; part < SARA_MOST_PARTS; part++)
        all += p->from[part] ? p->from[part]->count : 0;
    TRY(sara_arena_alloc(&out->arena, &out->items, all, sizeof(*out->items)));
    for (int part = 0; part < SARA_MOST_PARTS; part++) {
        sara_difference_size size;
        if (!p->from[part])
            continue;
        status = sara_difference_measure(p->ctx, &size, p->from[part], p->to[part]);
        if (status != SARA_OK) {
            sara_fail_in(p->ctx, status, p->base->family->parts[part].folder);
            goto done;
        }
        out->entries += size.differing;
        out->sum2 += size.sum2;
        for (size_t i = 0; i < p->from[part]->count && size.differing > 0; i++) {
            const sara_param *param = &p->from[part]->items[i];
            sara_change *item = &out->items[out->count];
            *item = (sara_change){.param = param,
                                  .part = part,
                                  .count = (size_t)sara_shape_count(&param->value.shape)};
            TRY(count_difference(p, item));
            out->count += item->differing > 0;
        }
    }
    if (out->entries == 0)
        status =
            sara_fail(p->ctx, SARA_ERROR_INPUT, "no entry differs: there is nothing to extract");
done:
    return status;
}

/* ------------------------------------------------------------------------------------- the file */

static int64_t pair_entries(const pair *p)
{
    int64_t entries = 0;
    for (int part = 0; part < SARA_MOST_PARTS; part++)
        entries += p->from[part] ? sara_params_entries(p->from[part]) : 0;
    return entries;
}

sara_status sara_extract_lora(sara_context *ctx, sara_extract_report *report,
                              const sara_model *base, const sara_model *tuned, const char *path,
                              const sara_extract_options *options, sara_dtype dtype)
{
    pair p = {.ctx = ctx, .base = base, .tuned = tuned};
    sara_export e = {.ctx = ctx,
                     .model = base,
                     .out = path,
                     .format = SARA_EXPORT_LORA,
                     .rank = options->rank,
                     .dtype = dtype,
                     .date = options->date,
                     .changes = {.make = make_difference, .user = &p}};
    sara_status status;
    sara_arena_init(&e.changes.arena, ctx);
    p.arena = &e.changes.arena;
    TRY(open_pair(&p));
    TRY(gather_differences(&p, &e.changes));
    memcpy(e.text_params, p.from, sizeof(e.text_params));
    TRY(sara_export_low_rank(&e));
    *report = (sara_extract_report){.parameters = pair_entries(&p),
                                    .differing = e.changes.entries,
                                    .kept = e.changes.entries - e.report.left_out - e.text_left_out,
                                    .change_norm = sqrt(e.changes.sum2),
                                    .left_out = e.report.error,
                                    .layers = e.report.layers};
done:
    sara_changes_free(&e.changes);
    close_pair(&p);
    return status;
}

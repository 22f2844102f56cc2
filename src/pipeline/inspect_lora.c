/* What a LoRA file holds: of itself, and beside its model. */
#include "pipeline/lora.h"

#include <math.h>
#include <stdlib.h>

#define PEFT_LAYER "base_model.model." /* before its layers' names */

/* A tensor and whose it is. */
typedef struct lora_part {
    const char *layer; /* as the file names it */
    sara_lora_role role;
    const sara_tensor_info *info;
} lora_part;

/* A layer's tensors, which lie together. */
typedef struct lora_group {
    const sara_tensor_info *of[SARA_LORA_ROLES];
    const char *layer;
} lora_group;

typedef struct described {
    sara_adapter_report *out;
    const sara_adapter_source *source;
    bool dora, locon, low_rank, whole;
} described;

static int compare_parts(const void *a, const void *b)
{
    const lora_part *x = a, *y = b;
    int order = strcmp(x->layer, y->layer);
    return order ? order : (x->role > y->role) - (x->role < y->role);
}

static sara_status list_parts(const sara_adapter_source *source, sara_arena *arena, lora_part **out)
{
    size_t count = sara_safetensors_count(source->file);
    char *layer = NULL;
    sara_status status;
    TRY(sara_arena_alloc(arena, out, count, sizeof(**out)));
    for (size_t i = 0; i < count; i++) {
        const sara_tensor_info *info = sara_safetensors_at(source->file, i);
        lora_part *part = &(*out)[i];
        int length = (int)sara_lora_key(info->name, &part->role);
        const char *other = sara_lora_other(info->name);
        if (length == 0) {
            status = sara_fail(source->ctx, SARA_ERROR_INPUT, "%s: %.200s: is %s%s", source->path,
                               info->name, other ? "of " : "no part of a LoRA", other ? other : "");
            goto done;
        }
        part->info = info;
        TRY(sara_format(source->ctx, &layer, "%.*s", length, info->name));
        TRY(sara_arena_strdup(arena, &part->layer, layer));
        sara_free(source->ctx, layer);
        layer = NULL;
    }
    if (count > 0)
        qsort(*out, count, sizeof(**out), compare_parts);
done:
    sara_free(source->ctx, layer);
    return status;
}

/* ----------------------------------------------------------------------------------- one layer */

static int64_t group_rank(const lora_group *g)
{
    const sara_tensor_info *down = g->of[SARA_LORA_DOWN];
    return down && down->shape.rank > 0 ? down->shape.dims[0] : 0;
}

static sara_status alpha_of_group(const described *d, double *alpha, const lora_group *g)
{
    const sara_tensor_info *info = g->of[SARA_LORA_ALPHA];
    *alpha = (double)NAN;
    return info ? sara_lora_read_alpha(d->source, alpha, info) : SARA_OK;
}

/* What a layer's product is multiplied by; NaN: that is not known without a model. */
static sara_status scale_of(const described *d, double *scale, const lora_group *g, double alpha)
{
    const sara_adapter_source *source = d->source;
    const sara_lora_config config = {source->ctx, source->config_path, source->config, ""};
    const char *layer = g->layer;
    while (strncmp(layer, PEFT_LAYER, strlen(PEFT_LAYER)) == 0)
        layer += strlen(PEFT_LAYER);
    *scale = isnan(alpha) ? 1 : alpha / (double)group_rank(g);
    if (isnan(alpha) && source->config)
        return sara_lora_config_scale(&config, scale, layer, group_rank(g));
    if (sara_safetensors_metadata(source->file, "lora_adapter_metadata"))
        *scale = (double)NAN;
    return SARA_OK;
}

/* The square of the norm of scale up down; NaN where that is not all. */
static sara_status square_of(const described *d, double *out, float *const *values,
                             const lora_group *g, double scale)
{
    const sara_tensor_info *down = g->of[SARA_LORA_DOWN], *up = g->of[SARA_LORA_UP];
    sara_context *ctx = d->source->ctx;
    int64_t rank = group_rank(g);
    sara_status status = SARA_OK;
    *out = (double)NAN;
    if (!down || !up || g->of[SARA_LORA_MID] || g->of[SARA_LORA_MAGNITUDE] || isnan(scale))
        return SARA_OK;
    int64_t downs = sara_shape_count(&down->shape), ups = sara_shape_count(&up->shape);
    if (rank < 1 || downs % rank != 0 || ups % rank != 0 || ups < rank || downs < rank)
        return sara_fail(ctx, SARA_ERROR_INPUT, "%s: %.200s: does not fit %.200s", d->source->path,
                         up->name, down->name);
    TRY(sara_product_gain(ctx, out, values[SARA_LORA_UP], values[SARA_LORA_DOWN], scale, ups / rank,
                          downs / rank, rank, NULL, NULL, 0));
    *out = fmax(0, -*out); /* of what comes no nearer to zero */
done:
    return status;
}

/* Whether the layer is whole, and its values; beside a model applying it tells. */
static sara_status measure_group(described *d, double *out, const lora_group *g, double scale)
{
    float *values[SARA_LORA_ROLES] = {NULL};
    sara_arena arena;
    sara_status status = SARA_OK;
    sara_arena_init(&arena, d->source->ctx);
    if (!g->of[SARA_LORA_DIFF] && !g->of[SARA_LORA_DIFF_BIAS])
        TRY(sara_lora_check_pair(d->source, g->of));
    for (int role = 0; role < SARA_LORA_ROLES; role++)
        if (g->of[role] && role != SARA_LORA_ALPHA)
            TRY(sara_lora_read_factor(d->source, &arena, &values[role], g->of[role]));
    TRY(square_of(d, out, values, g, scale));
done:
    sara_arena_free(&arena);
    return status;
}

static void widen_ranges(const described *d, int64_t rank, double alpha)
{
    sara_adapter_report *out = d->out;
    if (rank > 0 && (!out->rank_low || rank < out->rank_low))
        out->rank_low = rank;
    out->rank_high = rank > out->rank_high ? rank : out->rank_high;
    out->alpha_low = fmin(out->alpha_low, alpha); /* of a NaN and a number the number */
    out->alpha_high = fmax(out->alpha_high, alpha);
}

static sara_status add_group(described *d, const lora_group *g, bool measured)
{
    int part;
    const char *name = sara_lora_strip(sara_families[0], &part, g->layer);
    const sara_tensor_info *down = g->of[SARA_LORA_DOWN];
    double alpha, scale, square = 0;
    int64_t entries = 0;
    sara_status status;
    for (int role = 0; role < SARA_LORA_ROLES; role++)
        entries += g->of[role] ? sara_shape_count(&g->of[role]->shape) : 0;
    TRY(alpha_of_group(d, &alpha, g));
    TRY(scale_of(d, &scale, g, alpha));
    if (!measured)
        TRY(measure_group(d, &square, g, scale));
    widen_ranges(d, group_rank(g), alpha);
    d->dora |= g->of[SARA_LORA_MAGNITUDE] != NULL;
    d->low_rank |= down != NULL;
    d->whole |= g->of[SARA_LORA_DIFF] != NULL || g->of[SARA_LORA_DIFF_BIAS] != NULL;
    d->locon |= down && down->shape.rank == 4 && down->shape.dims[2] * down->shape.dims[3] > 1;
    sara_adapter_report_add(d->out, name, part > 0, entries, square);
    d->out->layers++;
    d->out->text_layers += part > 0;
done:
    return status;
}

/* ------------------------------------------------------------------------------- the whole file */

static const char *layout_of(const sara_adapter_source *source)
{
    const char *name = sara_safetensors_at(source->file, 0)->name;
    if (source->config || strncmp(name, PEFT_LAYER, strlen(PEFT_LAYER)) == 0)
        return "PEFT";
    for (size_t i = 0; i < sara_safetensors_count(source->file); i++) {
        name = sara_safetensors_at(source->file, i)->name;
        if (strstr(name, ".lora_down.") || strstr(name, ".diff") || strstr(name, "_norm"))
            return "kohya";
    }
    return "diffusers";
}

static const char *lora_method_of(const described *d)
{
    return d->dora ? "DoRA" : d->locon ? "LoCon" : d->low_rank ? "LoRA" : "whole changes";
}

/* How far it moves a model, at strength 1, and how large what it moves is. */
typedef struct measure {
    sara_adapter_report *out;
    const sara_model *base;
    const sara_param *last;
    double change2, original2;
} measure;

static void measure_change(void *user, const sara_param *param, uint32_t position, float original,
                           float current)
{
    measure *m = user;
    double change = (double)current - (double)original;
    (void)position;
    m->last = param;
    m->change2 += change * change;
    m->original2 += (double)original * (double)original;
}

static sara_status measure_part(measure *m, int part, double *original2)
{
    const sara_applied *applied = m->base->parts[part].applied;
    const sara_params *params = &m->base->parts[part].network->params;
    sara_status status;
    TRY(sara_model_need_part(m->base, part));
    for (size_t i = 0; i < params->count; i++) {
        m->change2 = m->original2 = 0;
        m->last = NULL;
        TRY(sara_applied_visit_param(applied, &params->items[i], measure_change, m));
        if (!m->last)
            continue;
        sara_adapter_report_add(m->out, params->items[i].name, part > 0, 0, m->change2);
        *original2 += m->original2;
    }
done:
    return status;
}

/* A block's tensors are those of the file alone. */
static sara_status measure_base(sara_adapter_report *out, const sara_adapter_source *source,
                                sara_model *base, bool force)
{
    measure m = {.out = out, .base = base};
    int64_t tensors[SARA_MAX_BLOCKS];
    double original2 = 0;
    sara_status status;
    for (int i = 0; i < SARA_MAX_BLOCKS; i++)
        tensors[i] = out->blocks[i].tensors;
    TRY(sara_model_apply(source->ctx, base, source->path, 1, force));
    for (int part = 0; part < base->family->part_count; part++)
        if (base->parts[part].applied)
            TRY(measure_part(&m, part, &original2));
    out->relative = original2 > 0 ? sqrt(out->change_norm / original2) : (double)NAN;
done:
    for (int i = 0; i < SARA_MAX_BLOCKS; i++)
        out->blocks[i].tensors = tensors[i] ? tensors[i] : out->blocks[i].tensors;
    if (sara_model_remove(base) != SARA_OK)
        sara_log(source->ctx, SARA_LOG_WARNING, "the adapter is still on the model");
    return status;
}

sara_status sara_lora_describe(sara_adapter_report *out, sara_arena *arena,
                               const sara_adapter_source *source, sara_model *base, bool force)
{
    described d = {.out = out, .source = source};
    size_t count = sara_safetensors_count(source->file);
    lora_part *parts;
    sara_status status;
    TRY(sara_adapter_report_metadata(out, arena, source));
    TRY(list_parts(source, arena, &parts));
    for (size_t i = 0; i < count;) {
        lora_group group = {.layer = parts[i].layer};
        for (; i < count && strcmp(parts[i].layer, group.layer) == 0; i++)
            group.of[parts[i].role] = parts[i].info;
        TRY(add_group(&d, &group, base != NULL));
    }
    if (count > 0)
        out->layout = layout_of(source);
    out->method = lora_method_of(&d);
    if (base)
        TRY(measure_base(out, source, base, force));
done:
    return status;
}

/* Adapters on a model. */
#include "pipeline/adapter_kind.h"

#include <math.h>
#include <stdlib.h>

#define ENDING ".safetensors"

sara_status sara_adapter_split(sara_context *ctx, char **path, double *strength, const char *text)
{
    const char *colon = strrchr(text, ':');
    char *end = NULL;
    *path = NULL;
    *strength = 1;
    if (!colon || !colon[1] || sara_path_exists(text))
        return sara_strdup(ctx, path, text);
    double number = sara_parse_double(colon + 1, &end);
    if (*end)
        return sara_strdup(ctx, path, text);
    if (!(fabs(number) <= SARA_STRONGEST))
        return sara_fail(ctx, SARA_ERROR_USAGE, "--adapter %s: strength %g, expected %g to %g",
                         text, number, -SARA_STRONGEST, SARA_STRONGEST);
    *strength = number;
    return sara_format(ctx, path, "%.*s", (int)(colon - text), text);
}

sara_status sara_adapter_name(sara_context *ctx, char **out, const char *path)
{
    size_t whole = strlen(path), ending = strlen(ENDING), length;
    const char *name;
    while (whole > 1 && path[whole - 1] == '/')
        whole--;
    for (name = path + whole; name > path && name[-1] != '/';)
        name--;
    length = whole - (size_t)(name - path);
    if (length > ending && strncmp(name + length - ending, ENDING, ending) == 0)
        length -= ending;
    return sara_format(ctx, out, "%.*s", (int)length, name);
}

sara_status sara_family_check_target(sara_context *ctx, const char *path, const char *target,
                                     const sara_family *family)
{
    char *targets = NULL;
    sara_status status;
    if (!target ||
        (family ? strcmp(target, family->target) == 0 : sara_family_of_target(target) != NULL))
        return SARA_OK;
    TRY(sara_family_targets(ctx, &targets, family));
    status = sara_fail(ctx, SARA_ERROR_INPUT, "%s: sara.target is %s, expected %s", path, target,
                       targets);
done:
    sara_free(ctx, targets);
    return status;
}

sara_status sara_family_read_adapter(sara_context *ctx, sara_adapter *out, const char *path,
                                     const sara_family *family)
{
    sara_status status;
    TRY(sara_adapter_load(ctx, out, path));
    status = sara_family_check_target(ctx, path, sara_adapter_metadata(out, "sara.target"), family);
    if (status != SARA_OK)
        sara_adapter_free(out);
done:
    return status;
}

/* ----------------------------------------------------------------------------------- sara's own */

static bool is_own(const sara_adapter_source *source)
{
    return sara_safetensors_metadata(source->file, "sara.format") != NULL;
}

static sara_status check_own(sara_context *ctx, sara_model *model,
                             const sara_adapter_source *source, bool force)
{
    sara_adapter adapter = {0};
    const sara_base *base;
    sara_status status;
    TRY(sara_family_read_adapter(ctx, &adapter, source->path, model->family));
    TRY(sara_model_base(ctx, &base, model));
    status = sara_adapter_check(ctx, &adapter, &model->denoiser->params, base, force);
    if (status != SARA_OK)
        sara_fail_in(ctx, status, source->path);
done:
    sara_adapter_free(&adapter);
    return status;
}

sara_status sara_model_apply_entries(sara_context *ctx, sara_model *model,
                                     const sara_adapter *adapter, const char *path, double strength,
                                     bool force)
{
    const sara_base *base;
    sara_status status;
    TRY(sara_model_base(ctx, &base, model));
    TRY(sara_model_begin_applied(model, 0, base));
    sara_applied_know_base(model->parts[0].applied, base);
    status = sara_applied_add(model->parts[0].applied, adapter, strength, force);
    if (status != SARA_OK)
        sara_fail_in(ctx, status, path);
done:
    return status;
}

/* They change the denoiser alone. */
static sara_status apply_own(sara_context *ctx, sara_model *model,
                             const sara_adapter_source *source, double strength, bool force,
                             unsigned stages)
{
    sara_adapter adapter = {0};
    sara_status status;
    if (!(stages & SARA_STAGE_DENOISE))
        return SARA_OK;
    TRY(sara_family_read_adapter(ctx, &adapter, source->path, model->family));
    TRY(sara_model_apply_entries(ctx, model, &adapter, source->path, strength, force));
done:
    sara_adapter_free(&adapter);
    return status;
}

const sara_adapter_kind sara_adapter_kind_own = {
    .name = "SaRA", .is = is_own, .check = check_own, .apply = apply_own};

/* ------------------------------------------------------------------------------------ all kinds */

sara_status sara_model_check_adapter(sara_context *ctx, sara_model *model, const char *adapter_path,
                                     bool force)
{
    sara_adapter_source source;
    sara_status status;
    TRY(sara_adapter_source_open(ctx, &source, adapter_path));
    TRY(source.kind->check(ctx, model, &source, force));
done:
    sara_adapter_source_close(&source);
    return status;
}

/* Takes off what was put on after there were so many on each part. */
static sara_status truncate_parts(sara_model *model, const size_t counts[SARA_MOST_PARTS])
{
    sara_status status = SARA_OK;
    for (int i = 0; i < SARA_MOST_PARTS; i++) {
        sara_status next = SARA_OK;
        if (model->parts[i].applied)
            next = sara_applied_truncate(model->parts[i].applied, counts[i]);
        status = next != SARA_OK ? next : status;
    }
    return status;
}

static void count_applied(const sara_model *model, size_t counts[SARA_MOST_PARTS])
{
    for (int i = 0; i < SARA_MOST_PARTS; i++)
        counts[i] = model->parts[i].applied ? sara_applied_count(model->parts[i].applied) : 0;
}

static int64_t shira_rank_of(const sara_adapter_source *source)
{
    const char *method = sara_safetensors_metadata(source->file, "sara.method");
    const char *rank = sara_safetensors_metadata(source->file, "sara.rank");
    return method && rank && strcmp(method, "shira") == 0 ? strtoll(rank, NULL, 10) : 0;
}

sara_status sara_model_apply_to(sara_context *ctx, sara_model *model, const char *adapter_path,
                                double strength, bool force, unsigned stages)
{
    sara_adapter_source source = {.ctx = ctx};
    sara_model_adapter added = {.strength = strength};
    sara_status status;
    TRY(sara_adapter_source_open(ctx, &source, adapter_path));
    TRY(sara_adapter_name(ctx, &added.name, adapter_path));
    TRY(sara_grow(ctx, &model->adapters, &model->adapter_capacity, model->adapter_count + 1,
                  sizeof(*model->adapters)));
    count_applied(model, added.before);
    added.kind = source.kind;
    added.shira_rank = shira_rank_of(&source);
    status = source.kind->apply(ctx, model, &source, strength, force, stages);
    if (status != SARA_OK) {
        truncate_parts(model, added.before);
        goto done;
    }
    model->adapters[model->adapter_count++] = added;
    added.name = NULL;
done:
    sara_free(ctx, added.name);
    sara_adapter_source_close(&source);
    return status;
}

sara_status sara_prompts_apply(sara_context *ctx, sara_model *model, const sara_prompts *prompts,
                               const sara_generate_options *options, unsigned stages)
{
    sara_status status = SARA_OK;
    for (size_t i = 0; i < prompts->count && !options->lora_ignore; i++)
        TRY(sara_model_apply_to(ctx, model, prompts->loras[i].path, prompts->loras[i].strength,
                                options->lora_force, stages));
done:
    return status;
}

sara_status sara_model_apply(sara_context *ctx, sara_model *model, const char *adapter_path,
                             double strength, bool force)
{
    return sara_model_apply_to(ctx, model, adapter_path, strength, force, ~0U);
}

sara_status sara_model_visit_changes(const sara_model *model, sara_applied_fn fn, void *user)
{
    sara_status status = SARA_OK;
    for (int i = 0; i < model->family->part_count; i++) {
        const sara_applied *applied = model->parts[i].applied;
        if (!applied || sara_applied_count(applied) == 0)
            continue;
        TRY(sara_model_need_changed(model, i));
        TRY(sara_applied_visit(applied, fn, user));
    }
done:
    return status;
}

sara_status sara_model_check_weights(sara_context *ctx, const sara_model *model)
{
    for (size_t i = 0; i < model->adapter_count; i++)
        if (model->adapters[i].kind->no_weights)
            return sara_fail(ctx, SARA_ERROR_USAGE, "%s: %s", model->adapters[i].name,
                             model->adapters[i].kind->no_weights);
    return SARA_OK;
}

sara_status sara_model_truncate(sara_model *model, size_t count)
{
    sara_status status = SARA_OK;
    if (count >= model->adapter_count)
        return SARA_OK;
    status = truncate_parts(model, model->adapters[count].before);
    while (model->adapter_count > count)
        sara_free(model->ctx, model->adapters[--model->adapter_count].name);
    return status;
}

void sara_model_untag(sara_model *model, sara_status failed, size_t count)
{
    if (failed != SARA_OK && sara_model_truncate(model, count) != SARA_OK)
        sara_log(model->ctx, SARA_LOG_WARNING, "the prompt's adapters are still on the model");
}

sara_status sara_model_remove(sara_model *model)
{
    return sara_model_truncate(model, 0);
}

/* Adapters on a model. */
#include "pipeline/pipeline.h"

#include <math.h>

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
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    size_t length = strlen(name), ending = strlen(ENDING);
    if (length > ending && strcmp(name + length - ending, ENDING) == 0)
        length -= ending;
    return sara_format(ctx, out, "%.*s", (int)length, name);
}

sara_status sara_family_read_adapter(sara_context *ctx, sara_adapter *out, const char *path,
                                     const sara_family *family)
{
    char *targets = NULL;
    sara_status status;
    TRY(sara_adapter_load(ctx, out, path));
    const char *target = sara_adapter_metadata(out, "sara.target");
    if (target &&
        !(family ? strcmp(target, family->target) == 0 : sara_family_of_target(target) != NULL)) {
        status = sara_family_targets(ctx, &targets, family);
        if (status == SARA_OK)
            status = sara_fail(ctx, SARA_ERROR_INPUT, "%s: sara.target is %s, expected %s", path,
                               target, targets);
        sara_adapter_free(out);
    }
done:
    sara_free(ctx, targets);
    return status;
}

sara_status sara_model_check_adapter(sara_context *ctx, sara_model *model, const char *adapter_path,
                                     bool force)
{
    const sara_params *params = &model->denoiser->params;
    sara_adapter adapter = {0};
    const sara_base *base;
    sara_status status;
    TRY(sara_family_read_adapter(ctx, &adapter, adapter_path, model->family));
    TRY(sara_model_base(ctx, &base, model));
    status = sara_adapter_check(ctx, &adapter, params, base, force);
    if (status != SARA_OK)
        sara_fail_in(ctx, status, adapter_path);
done:
    sara_adapter_free(&adapter);
    return status;
}

sara_status sara_model_apply(sara_context *ctx, sara_model *model, const char *adapter_path,
                             double strength, bool force)
{
    sara_adapter adapter = {0};
    char *name = NULL;
    const sara_base *base;
    sara_status status;
    TRY(sara_family_read_adapter(ctx, &adapter, adapter_path, model->family));
    if (!model->applied) {
        TRY(sara_model_base(ctx, &base, model));
        TRY(sara_applied_new(ctx, &model->applied, &model->denoiser->params, base));
    }
    TRY(sara_adapter_name(ctx, &name, adapter_path));
    TRY(sara_grow(ctx, &model->adapters, &model->adapter_capacity, model->adapter_count + 1,
                  sizeof(*model->adapters)));
    status = sara_applied_add(model->applied, &adapter, strength, force);
    if (status != SARA_OK) {
        sara_fail_in(ctx, status, adapter_path);
        goto done;
    }
    model->adapters[model->adapter_count++] = (sara_model_adapter){name, strength};
    name = NULL;
done:
    sara_free(ctx, name);
    sara_adapter_free(&adapter);
    return status;
}

sara_status sara_model_truncate(sara_model *model, size_t count)
{
    sara_status status = SARA_OK;
    if (model->applied)
        status = sara_applied_truncate(model->applied, count);
    while (model->adapter_count > count)
        sara_free(model->ctx, model->adapters[--model->adapter_count].name);
    return status;
}

sara_status sara_model_remove(sara_model *model)
{
    return sara_model_truncate(model, 0);
}

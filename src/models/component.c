#include "models/models.h"

sara_status sara_component_open(sara_context *ctx, sara_component *out, const char *folder,
                                const char *stem, const char *variant)
{
    sara_component component = {.ctx = ctx, .stem = stem, .variant = variant};
    sara_status status;
    *out = (sara_component){.ctx = ctx};
    TRY(sara_strdup(ctx, &component.path, folder));
    TRY(sara_path_join(ctx, &component.source, folder, "config.json"));
    TRY(sara_json_load(ctx, &component.config, component.source, true));
    *out = component;
    component = (sara_component){.ctx = ctx};
done:
    sara_component_close(&component);
    return status;
}

sara_status sara_component_weights(const sara_component *c, sara_weights **out)
{
    return c->stem      ? sara_weights_open(c->ctx, out, c->path, c->stem, c->variant)
           : !c->prefix ? sara_weights_open_file(c->ctx, out, c->path)
                        : sara_weights_open_part(c->ctx, out, c->path, c->prefix, &c->shape);
}

void sara_component_close(sara_component *component)
{
    json_decref(component->config);
    sara_free(component->ctx, component->source);
    sara_free(component->ctx, component->path);
    sara_free(component->ctx, component->fault);
    *component = (sara_component){.ctx = component->ctx};
}

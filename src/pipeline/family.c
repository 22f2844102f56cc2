#include "pipeline/family.h"

#define MOST_NAMES 64

/* Names, each once. */
typedef struct name_list {
    const char *items[MOST_NAMES];
    int count;
} name_list;

static void name_list_add(name_list *list, const char *name)
{
    for (int i = 0; i < list->count; i++)
        if (strcmp(list->items[i], name) == 0)
            return;
    if (list->count < MOST_NAMES)
        list->items[list->count++] = name;
}

/* "a, b or c" where between is " or ". *out: sara_free() */
static sara_status name_list_join(sara_context *ctx, char **out, const name_list *list,
                                  const char *between)
{
    sara_buffer text = {.ctx = ctx};
    sara_status status = SARA_OK;
    for (int i = 0; i < list->count; i++) {
        TRY(sara_buffer_put(&text, i == 0 ? "" : i < list->count - 1 ? ", " : between));
        TRY(sara_buffer_put(&text, list->items[i]));
    }
    *out = text.data;
    text.data = NULL;
done:
    sara_buffer_free(&text);
    return status;
}

sara_status sara_family_names(sara_context *ctx, char **out, const char *between)
{
    name_list names = {.count = 0};
    for (int i = 0; sara_families[i]; i++)
        if (sara_families[i]->name)
            name_list_add(&names, sara_families[i]->name);
    return name_list_join(ctx, out, &names, between);
}

/* ------------------------------------------------------------------------------------ a folder */

static sara_status refuse_index(sara_context *ctx, const char *file, const char *class_name)
{
    char *names = NULL, *kinds = NULL;
    name_list pipelines = {.count = 0};
    sara_status status;
    for (int i = 0; sara_families[i]; i++)
        name_list_add(&pipelines, sara_families[i]->pipeline);
    TRY(sara_family_names(ctx, &names, ", "));
    TRY(name_list_join(ctx, &kinds, &pipelines, " or "));
    status =
        sara_fail(ctx, SARA_ERROR_INPUT, "%s: _class_name %s is not supported; expected %s (%s)",
                  file, class_name, kinds, names);
done:
    sara_free(ctx, names);
    sara_free(ctx, kinds);
    return status;
}

/* config: of a class of which there are families, but none of them */
static sara_status refuse_config(sara_context *ctx, const char *source, const char *class_name)
{
    char *names = NULL;
    sara_status status;
    TRY(sara_family_names(ctx, &names, ", "));
    status = sara_fail(ctx, SARA_ERROR_INPUT, "%s: a %s of another kind than those of %s", source,
                       class_name, names);
done:
    sara_free(ctx, names);
    return status;
}

sara_status sara_family_take(sara_context *ctx, const sara_family **out, const sara_family *family,
                             const json_t *config, const char *source)
{
    const char *what = family->unsupported ? family->unsupported(config) : NULL;
    if (what)
        return sara_fail(ctx, SARA_ERROR_INPUT, "%s: is of %s", source, what);
    *out = family;
    return SARA_OK;
}

/* Of those with the folder's index the first whose denoiser it has. *out NULL: none has it. */
static sara_status match_index(sara_context *ctx, const sara_family **out, const json_t *index,
                               const char *class_name, const char *path)
{
    const sara_network_class *class = NULL;
    char *file = NULL;
    json_t *config = NULL;
    sara_status status = SARA_OK;
    *out = NULL;
    for (int i = 0; sara_families[i] && !*out; i++) {
        const sara_family *family = sara_families[i];
        if (!family->is_index(class_name, index))
            continue;
        class = family->parts[0].class;
        sara_free(ctx, file);
        json_decref(config);
        file = NULL;
        config = NULL;
        TRY(sara_format(ctx, &file, "%s/%s/config.json", path, family->parts[0].folder));
        TRY(sara_json_load(ctx, &config, file, true));
        if (family->is_denoiser(config))
            TRY(sara_family_take(ctx, out, family, config, file));
    }
    if (class && !*out)
        TRY(refuse_config(ctx, file, class->value));
done:
    sara_free(ctx, file);
    json_decref(config);
    return status;
}

sara_status sara_family_of_folder(sara_context *ctx, const sara_family **out, json_t **out_index,
                                  const char *path)
{
    char *file = NULL;
    json_t *index = NULL;
    const char *class_name = NULL;
    sara_status status;
    *out_index = NULL;
    TRY(sara_path_join(ctx, &file, path, "model_index.json"));
    if (!sara_path_is_named(file))
        TRY(sara_fail(ctx, SARA_ERROR_INPUT,
                      "%s: no model_index.json; a diffusers folder is expected (a bare unet/ "
                      "folder goes beside one with --denoiser; train, merge, export and inspect "
                      "also take it alone with --unet-only)",
                      path));
    TRY(sara_json_load(ctx, &index, file, true));
    if (!json_is_object(index))
        TRY(sara_fail(ctx, SARA_ERROR_INPUT, "%s: expected an object", file));
    const sara_config config = {ctx, index, file};
    TRY(sara_config_string(&config, &class_name, "_class_name", sara_families[0]->pipeline));
    TRY(match_index(ctx, out, index, class_name, path));
    if (!*out)
        TRY(refuse_index(ctx, file, class_name));
    *out_index = json_incref(index);
done:
    json_decref(index);
    sara_free(ctx, file);
    return status;
}

/* ----------------------------------------------------------------------------- a denoiser alone */

sara_status sara_family_of_config(sara_context *ctx, const sara_family **out, const json_t *config,
                                  const char *source)
{
    char *names = NULL;
    const char *kind = json_string_value(json_object_get(config, "_class_name"));
    const char *known = NULL;
    name_list classes = {.count = 0};
    sara_status status;
    for (int i = 0; sara_families[i]; i++) {
        const sara_family *family = sara_families[i];
        const char *value = family->parts[0].class->value;
        name_list_add(&classes, value);
        if (kind && strcmp(kind, value) != 0)
            continue;
        known = value;
        if (!family->is_denoiser(config))
            continue;
        return sara_family_take(ctx, out, family, config, source);
    }
    if (known)
        TRY(refuse_config(ctx, source, known));
    TRY(name_list_join(ctx, &names, &classes, "\" or \""));
    status = sara_fail(ctx, SARA_ERROR_INPUT, "%s: _class_name: \"%s\", expected \"%s\"", source,
                       kind ? kind : "", names);
done:
    sara_free(ctx, names);
    return status;
}

sara_status sara_family_of_shape(sara_context *ctx, const sara_family **out,
                                 sara_component *component, const char *name)
{
    char *names = NULL;
    name_list shapes = {.count = 0};
    sara_status status;
    for (int i = 0; sara_families[i]; i++) {
        const sara_network_class *class = sara_families[i]->parts[0].class;
        for (const sara_network_shape *s = class->shapes; s && s->name; s++)
            name_list_add(&shapes, s->name);
        status = sara_network_shape_of(ctx, component, class, name);
        if (status == SARA_OK && sara_families[i]->is_denoiser(component->config)) {
            *out = sara_families[i];
            return SARA_OK;
        }
        sara_component_close(component);
        if (status == SARA_ERROR_MEMORY)
            return status;
    }
    TRY(name_list_join(ctx, &names, &shapes, " or "));
    status = sara_fail(ctx, SARA_ERROR_USAGE, "--shape %.100s: expected %s", name, names);
done:
    sara_free(ctx, names);
    return status;
}

const sara_family *sara_family_of_target(const char *target)
{
    for (int i = 0; sara_families[i]; i++)
        if (strcmp(sara_families[i]->target, target) == 0)
            return sara_families[i];
    return NULL;
}

sara_status sara_family_targets(sara_context *ctx, char **out, const sara_family *family)
{
    name_list targets = {.count = 0};
    for (int i = 0; sara_families[i]; i++)
        if (!family || family == sara_families[i])
            name_list_add(&targets, sara_families[i]->target);
    return name_list_join(ctx, out, &targets, " or ");
}

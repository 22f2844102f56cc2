#include "models/single_file.h"

#include <ctype.h>
#include <stdlib.h>

#define MOST_NUMBER 1000 /* in names that are understood */

/* ----------------------------------------------------------------------------------- its names */

const char *sara_single_name(const sara_single_part *part, const char *name, sara_name *flat)
{
    size_t prefix = strlen(part->prefix), stem = strlen(part->stem);
    bool inside =
        strncmp(name, part->prefix, prefix) == 0 && strncmp(name + prefix, part->stem, stem) == 0;
    if (!inside || !part->shape.flat)
        return inside ? name + prefix + stem : NULL;
    return sara_ldm_unflatten(flat, name + prefix) ? flat->text : NULL;
}

const sara_tensor_info *sara_single_find(const sara_single_file *single,
                                         const sara_single_part *part, const char *name)
{
    const sara_name flat = sara_ldm_flatten(name);
    const sara_name whole =
        sara_name_of("%s%s%s", part->prefix, part->stem, part->shape.flat ? flat.text : name);
    return sara_safetensors_find(single->file, whole.text);
}

int sara_single_count(const sara_single_file *single, const sara_single_part *part,
                      const char *start)
{
    size_t length = strlen(start);
    long most = 0;
    sara_name flat;
    for (size_t i = 0; i < sara_safetensors_count(single->file); i++) {
        const char *name =
            sara_single_name(part, sara_safetensors_at(single->file, i)->name, &flat);
        char *end = NULL;
        if (!name || strncmp(name, start, length) != 0 || !isdigit((unsigned char)name[length]))
            continue;
        long number = strtol(name + length, &end, 10);
        if (*end == '.' && number >= most && number < MOST_NUMBER)
            most = number + 1;
    }
    return (int)most;
}

bool sara_single_has(const sara_single_file *single, const sara_single_part *part,
                     const char *start)
{
    sara_name flat;
    for (size_t i = 0; i < sara_safetensors_count(single->file); i++) {
        const char *name =
            sara_single_name(part, sara_safetensors_at(single->file, i)->name, &flat);
        if (name && strncmp(name, start, strlen(start)) == 0)
            return true;
    }
    return false;
}

bool sara_single_find_place(const sara_single_file *single, sara_single_part *part,
                            const sara_single_place *places)
{
    for (; places && places->prefix; places++) {
        const char *const *starts = part->class->single->starts(places->names);
        part->prefix = places->prefix;
        part->stem = places->stem;
        part->shape = (sara_ldm_shape){.part = places->names, .flat = places->flat};
        if (sara_single_has(single, part, starts[0]) || sara_single_has(single, part, starts[1]))
            return true;
    }
    part->prefix = NULL;
    return false;
}

/* ------------------------------------------------------------------------- what shapes tell */

sara_status sara_single_dim(const sara_single_file *single, const sara_single_part *part,
                            int64_t *out, int rank, int index, sara_name name)
{
    static const char *const parts[] = {[SARA_LDM_UNET] = "U-Net",
                                        [SARA_LDM_VAE] = "VAE",
                                        [SARA_LDM_CLIP] = "CLIP text encoder",
                                        [SARA_LDM_OPEN_CLIP] = "OpenCLIP text encoder",
                                        [SARA_LDM_MMDIT] = "transformer",
                                        [SARA_LDM_T5] = "T5 text encoder"};
    const sara_tensor_info *info = sara_single_find(single, part, name.text);
    sara_shape_text shape;
    if (!info)
        return sara_fail(single->ctx, SARA_ERROR_INPUT, "%s: no tensor %s%s%s in its %s",
                         single->path, part->prefix, part->stem, name.text,
                         parts[part->shape.part]);
    if (info->shape.rank != rank)
        return sara_fail(single->ctx, SARA_ERROR_INPUT,
                         "%s: tensor %s: shape %s, expected %d dimensions", single->path,
                         info->name, sara_shape_format(&shape, &info->shape), rank);
    *out = info->shape.dims[index];
    return SARA_OK;
}

sara_name sara_single_first(const sara_single_file *single, const sara_single_part *part,
                            const char *start, int number, int count, const char *end)
{
    for (int i = 0; i < count; i++) {
        const sara_name name = sara_name_of("%s%d%s", start, number + i, end);
        if (sara_single_find(single, part, name.text))
            return name;
    }
    return sara_name_of("%s%d%s", start, number, end);
}

int sara_single_clamp(int count, int most)
{
    return count < 1 ? 1 : count > most ? most : count;
}

json_t *sara_single_integers(const int64_t *values, int count)
{
    json_t *list = json_array();
    for (int i = 0; i < count; i++)
        json_array_append_new(list, json_integer(values[i]));
    return list;
}

json_t *sara_single_kinds(const sara_ldm_shape *shape, const char *without, const char *with,
                          bool reversed)
{
    json_t *list = json_array();
    for (int i = 0; i < shape->levels; i++) {
        int level = reversed ? shape->levels - 1 - i : i;
        json_array_append_new(list, json_string(shape->attention[level] ? with : without));
    }
    return list;
}

sara_status sara_single_made(const sara_single_file *single, json_t *made, json_t **out)
{
    *out = made;
    return made ? SARA_OK
                : sara_fail(single->ctx, SARA_ERROR_MEMORY, "%s: out of memory: config",
                            single->path);
}

/* ----------------------------------------------------------------------------------- the config */

sara_status sara_single_choose_config(sara_single_file *single, sara_single_part *part,
                                      const char *model_config)
{
    sara_context *ctx = single->ctx;
    sara_name key = sara_name_of("sara.config.%s", part->name);
    const char *text = sara_safetensors_metadata(single->file, key.text);
    char *folder = NULL;
    sara_status status;
    if (model_config) {
        TRY(sara_path_join(ctx, &folder, model_config, part->name));
        TRY(sara_path_join(ctx, &part->source, folder, "config.json"));
        TRY(sara_json_load(ctx, &part->config, part->source, true));
    } else if (text) {
        TRY(sara_format(ctx, &part->source, "%s: metadata %s", single->path, key.text));
        TRY(sara_json_parse(ctx, &part->config, text, strlen(text), part->source, true));
    } else {
        TRY(sara_format(ctx, &part->source, "%s: %s", single->path, part->name));
        status = part->class->single->derive(single, part, &part->config);
        if (status == SARA_ERROR_INPUT && part != single->parts)
            status = sara_strdup(ctx, &part->fault, sara_context_error(ctx));
        part->derived = part->config != NULL;
    }
done:
    sara_free(ctx, folder);
    return status;
}

/* ------------------------------------------------------------------------------------ interface */

sara_status sara_single_open(sara_context *ctx, sara_single_file **out, const char *path)
{
    sara_single_file *single = NULL;
    sara_status status;
    *out = NULL;
    TRY(sara_alloc_zero(ctx, &single, 1, sizeof(*single)));
    single->ctx = ctx;
    TRY(sara_strdup(ctx, &single->path, path));
    TRY(sara_safetensors_open(ctx, &single->file, path));
    *out = single;
    single = NULL;
done:
    sara_single_close(single);
    return status;
}

void sara_single_part_clear(sara_context *ctx, sara_single_part *part)
{
    json_decref(part->config);
    sara_free(ctx, part->source);
    sara_free(ctx, part->fault);
    *part = (sara_single_part){.name = NULL};
}

void sara_single_close(sara_single_file *single)
{
    if (!single)
        return;
    for (int i = 0; i < SARA_MOST_PARTS; i++)
        sara_single_part_clear(single->ctx, &single->parts[i]);
    sara_safetensors_close(single->file);
    sara_free(single->ctx, single->path);
    sara_free(single->ctx, single);
}

sara_status sara_single_component(const sara_single_file *single, sara_component *out, int index)
{
    const sara_single_part *part = &single->parts[index];
    sara_status status;
    *out = (sara_component){.ctx = single->ctx};
    if (!part->prefix)
        return sara_fail(single->ctx, SARA_ERROR_INPUT, "%s: holds no %s", single->path,
                         part->class->title);
    if (part->source)
        TRY(sara_strdup(single->ctx, &out->source, part->source));
    if (part->fault)
        TRY(sara_strdup(single->ctx, &out->fault, part->fault));
    TRY(sara_strdup(single->ctx, &out->path, single->path));
    out->config = json_incref(part->config);
    out->prefix = part->diffusers ? NULL : part->prefix;
    out->shape = part->shape;
done:
    return status;
}

/* Writing a diffusers folder: the denoiser and what adapters change from memory, everything else
 * from the source. */
#include "models/t5.h"
#include "pipeline/save.h"

#include <sys/stat.h>

#define DEEPEST_FOLDER 8

static sara_status write_list(const sara_save_list *list, const char *folder, const char *stem)
{
    const sara_metadata format = {"format", "pt"};
    sara_context *ctx = list->ctx;
    char *name = NULL, *path = NULL;
    sara_status status;
    TRY(sara_save_check_interrupted(ctx));
    TRY(sara_format(ctx, &name, "%s.safetensors", stem));
    TRY(sara_path_join(ctx, &path, folder, name));
    TRY(sara_save_list_write(list, path, &format, 1));
done:
    sara_free(ctx, name);
    sara_free(ctx, path);
    return status;
}

static sara_status save_denoiser(sara_context *ctx, const char *folder, const sara_model *model,
                                 const sara_dtype *dtype)
{
    sara_params *params = &model->denoiser->params;
    sara_save_list list;
    sara_status status;
    sara_save_list_init(&list, ctx);
    TRY(sara_model_need_changed(model, 0));
    for (size_t i = 0; i < sara_params_all(params); i++)
        TRY(sara_save_list_param(&list, NULL, NULL, &params->items[i], dtype));
    TRY(write_list(&list, folder, model->denoiser->class->stem));
done:
    sara_save_list_free(&list);
    return status;
}

/* What single files hold once more. */
static bool is_repeated(const sara_network_class *class, const sara_weights *weights,
                        const sara_tensor_info *info)
{
    return class == &sara_t5_class && strcmp(info->name, SARA_T5_TOKENS_AGAIN) == 0 &&
           sara_weights_find(weights, SARA_T5_TOKENS);
}

/* The component's own tensors, those that sara does not use among them, in one file, with what
 * adapters change. */
static sara_status save_component(sara_context *ctx, const char *to, const sara_model *model,
                                  int part, const sara_dtype *dtype)
{
    const sara_family_part *record = &model->family->parts[part];
    sara_component component;
    sara_weights *weights = NULL;
    sara_save_list list;
    char *folder = NULL;
    sara_status status;
    sara_save_list_init(&list, ctx);
    list.applied = model->parts[part].applied;
    TRY(sara_model_need_changed(model, part));
    TRY(sara_model_component(model, &component, part));
    TRY(sara_component_weights(&component, &weights));
    TRY(sara_save_list_keep(&list, weights));
    for (size_t i = 0; i < sara_weights_count(weights); i++) {
        const sara_tensor_info *info = sara_weights_at(weights, i);
        if (!is_repeated(record->class, weights, info))
            TRY(sara_save_list_weight(&list, NULL, NULL, weights, info, dtype));
    }
    TRY(sara_path_join(ctx, &folder, to, record->folder));
    TRY(write_list(&list, folder, record->class->stem));
done:
    sara_save_list_free(&list);
    sara_component_close(&component);
    sara_free(ctx, folder);
    return status;
}

/* ------------------------------------------------------------------------------ from a folder */

/* Weights under any name: what is written anew, or would no longer be the model's. */
static bool is_weights(const char *name)
{
    static const char *const endings[] = {".safetensors", ".bin", ".ckpt", ".pt",  ".pth",
                                          ".msgpack",     ".h5",  ".onnx", ".gguf"};
    for (size_t i = 0; i < sizeof(endings) / sizeof(*endings); i++)
        if (sara_text_ends_with(name, endings[i]))
            return true;
    /* An index, whose variant stands before or after that word. */
    return strstr(name, ".index.") && (strstr(name, ".safetensors.") || strstr(name, ".bin."));
}

/* What is written anew; the folders of others (safety checker, ...) keep their weights. */
static bool is_component(const sara_family *family, const char *name)
{
    for (int i = 0; family && i < family->part_count; i++)
        if (strcmp(name, family->parts[i].folder) == 0)
            return true;
    return false;
}

/* Not a link that leads nowhere, a FIFO or the like, of which the model needs none. */
static bool is_file(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0 && S_ISREG(info.st_mode);
}

/* A link back to the folder, or to one above it, has no end. */
static sara_status check_no_circle(sara_context *ctx, const char *link, const char *folder)
{
    bool circle;
    sara_status status;
    TRY(sara_path_is_within(ctx, &circle, folder, link));
    if (circle)
        status = sara_fail(ctx, SARA_ERROR_INPUT,
                           "%s: a link back to a folder that it lies in: it cannot be copied; "
                           "remove it",
                           link);
done:
    return status;
}

/* What is written has no variants: a file that stands for the plain one gets its name.
 * *out: sara_free() */
static sara_status name_carried(sara_context *ctx, char **out, const char *from, const char *name,
                                const char *variant)
{
    const sara_name ending = sara_name_of(".%s.safetensors", variant ? variant : "");
    char *plain = NULL;
    sara_status status;
    *out = NULL;
    if (variant && sara_text_ends_with(name, ending.text)) {
        int stem = (int)(strlen(name) - strlen(ending.text));
        TRY(sara_format(ctx, &plain, "%s/%.*s.safetensors", from, stem, name));
        if (!sara_path_is_named(plain))
            TRY(sara_format(ctx, out, "%.*s.safetensors", stem, name));
    }
    if (!*out)
        TRY(sara_strdup(ctx, out, name));
done:
    sara_free(ctx, plain);
    return status;
}

typedef struct carrying {
    sara_context *ctx;
    const sara_family *family; /* of a model's folder; NULL: of another */
    const char *variant;       /* NULL: none */
} carrying;

static sara_status carry_file(const carrying *c, const char *to, const char *from, const char *name,
                              bool keep_weights)
{
    char *source = NULL, *target = NULL, *new_name = NULL;
    sara_status status;
    TRY(sara_path_join(c->ctx, &source, from, name));
    if (!is_file(source)) {
        sara_log(c->ctx, SARA_LOG_WARNING, "%s: is no file; it is not carried along", source);
    } else if (keep_weights || !is_weights(name)) {
        TRY(name_carried(c->ctx, &new_name, from, name, keep_weights ? c->variant : NULL));
        TRY(sara_path_join(c->ctx, &target, to, new_name));
        TRY(sara_file_copy(c->ctx, source, target));
    }
done:
    sara_free(c->ctx, source);
    sara_free(c->ctx, target);
    sara_free(c->ctx, new_name);
    return status;
}

/* Copies the tree but for hidden entries, following links; weights only where keep_weights. */
static sara_status carry_along(const carrying *c, const char *to, const char *from, int depth,
                               bool keep_weights)
{
    sara_context *ctx = c->ctx;
    char **names = NULL, *source = NULL, *target = NULL;
    size_t count = 0;
    sara_status status;
    if (depth > DEEPEST_FOLDER)
        return sara_fail(ctx, SARA_ERROR_INPUT, "%s: folders more than %d deep", from,
                         DEEPEST_FOLDER);
    TRY(sara_directory_make(ctx, to));
    TRY(sara_directory_list(ctx, &names, &count, from));
    for (size_t i = 0; i < count; i++) {
        if (names[i][0] == '.')
            continue;
        TRY(sara_save_check_interrupted(ctx));
        TRY(sara_path_join(ctx, &source, from, names[i]));
        TRY(sara_path_join(ctx, &target, to, names[i]));
        if (sara_path_is_directory(source)) {
            TRY(check_no_circle(ctx, source, from));
            bool keep = depth > 0 ? keep_weights : !is_component(c->family, names[i]);
            TRY(carry_along(c, target, source, depth + 1, keep));
        } else {
            TRY(carry_file(c, to, from, names[i], keep_weights));
        }
        sara_free(ctx, source);
        sara_free(ctx, target);
        source = target = NULL;
    }
done:
    sara_free(ctx, source);
    sara_free(ctx, target);
    sara_directory_free(ctx, names, count);
    return status;
}

/* -------------------------------------------------------------------------- from a single file */

static sara_status folder_write_json(sara_context *ctx, const char *folder, const char *name,
                                     const json_t *object)
{
    return sara_json_save(ctx, folder, name, object, JSON_INDENT(2) | JSON_SORT_KEYS);
}

/* index[name] = [library, class] */
static int set_entry(json_t *index, const char *name, const char *library, const char *class)
{
    return json_object_set_new(index, name, json_pack("[s,s]", library, class));
}

static sara_status write_index(sara_context *ctx, const char *to, const sara_model *model)
{
    const char *kind = json_string_value(json_object_get(model->scheduler_json, "_class_name"));
    const sara_family *family = model->family;
    const char *rest = family->index ? family->index : "{}";
    json_t *index = NULL;
    sara_status status;
    TRY(sara_json_parse(ctx, &index, rest, strlen(rest), family->product, false));
    int failed = json_object_set_new(index, "_class_name", json_string(family->pipeline)) |
                 json_object_set_new(index, "_diffusers_version", json_string("0.27.0")) |
                 set_entry(index, "scheduler", "diffusers", kind ? kind : "DDIMScheduler");
    for (int i = 0; i < family->part_count; i++) {
        const sara_family_part *part = &family->parts[i];
        failed |= set_entry(index, part->folder, part->class->library, part->class->name);
        if (part->tokenizer)
            failed |= set_entry(index, part->tokenizer, "transformers",
                                part->t5_tokenizer ? "T5TokenizerFast" : "CLIPTokenizer");
    }
    TRY(failed ? sara_fail(ctx, SARA_ERROR_MEMORY, "%s: out of memory: model_index.json", to)
               : folder_write_json(ctx, to, "model_index.json", index));
done:
    json_decref(index);
    return status;
}

static sara_status write_scheduler(sara_context *ctx, const char *to, const sara_model *model)
{
    char *folder = NULL;
    sara_status status;
    TRY(sara_path_join(ctx, &folder, to, "scheduler"));
    TRY(folder_write_json(ctx, folder, "scheduler_config.json", model->scheduler_json));
done:
    sara_free(ctx, folder);
    return status;
}

static sara_status write_part_config(sara_context *ctx, const char *to, const sara_model *model,
                                     int part)
{
    sara_component component;
    char *folder = NULL, *path = NULL;
    sara_status status;
    TRY(sara_model_component(model, &component, part));
    TRY(sara_path_join(ctx, &folder, to, model->family->parts[part].folder));
    if (component.stem) { /* as it is written there */
        TRY(sara_directory_make(ctx, folder));
        TRY(sara_path_join(ctx, &path, folder, "config.json"));
        TRY(sara_file_copy(ctx, component.source, path));
    } else {
        TRY(folder_write_json(ctx, folder, "config.json", component.config));
    }
done:
    sara_component_close(&component);
    sara_free(ctx, path);
    sara_free(ctx, folder);
    return status;
}

static sara_status write_tokenizer(sara_context *ctx, const char *to, const sara_model *model,
                                   int part)
{
    const char *name = model->family->parts[part].tokenizer;
    const char *from = model->parts[part].tokenizer_path;
    char *folder = NULL;
    sara_status status = SARA_OK;
    if (!name)
        return SARA_OK;
    TRY(sara_path_join(ctx, &folder, to, name));
    if (from)
        TRY(carry_along(&(carrying){.ctx = ctx}, folder, from, 1, false));
    else
        TRY(sara_tokenizer_save_builtin(ctx, folder, model->family->parts[part].second_padding));
done:
    sara_free(ctx, folder);
    return status;
}

static sara_status write_configs(sara_context *ctx, const char *to, const sara_model *model)
{
    sara_status status = SARA_OK;
    for (int i = 0; i < model->family->part_count; i++) {
        TRY(write_part_config(ctx, to, model, i));
        TRY(write_tokenizer(ctx, to, model, i));
    }
    TRY(write_scheduler(ctx, to, model));
    TRY(write_index(ctx, to, model));
done:
    return status;
}

/* ---------------------------------------------------------------------------------- the folder */

/* A denoiser alone is written as a bare folder of its own. */
static sara_status save_alone(sara_context *ctx, const char *to, const sara_model *model,
                              const sara_dtype *dtype)
{
    const carrying c = {ctx, model->family, model->variant};
    sara_component component = {.ctx = ctx};
    sara_status status;
    if (!model->single) {
        TRY(carry_along(&c, to, model->path, 0, false));
    } else {
        TRY(sara_model_component(model, &component, 0));
        TRY(folder_write_json(ctx, to, "config.json", component.config));
    }
    TRY(save_denoiser(ctx, to, model, dtype));
done:
    sara_component_close(&component);
    return status;
}

sara_status sara_save_folder(sara_context *ctx, const char *to, const sara_model *model,
                             const sara_dtype *dtype)
{
    const carrying c = {ctx, model->family, model->variant};
    char *denoiser = NULL;
    sara_status status;
    if (model->denoiser_only)
        return save_alone(ctx, to, model, dtype);
    TRY(model->single ? write_configs(ctx, to, model) : carry_along(&c, to, model->path, 0, false));
    for (int i = 0; i < model->family->part_count && !model->single; i++)
        if (i == 0 ? model->parts[0].elsewhere != NULL
                   : model->vae_path && sara_model_is_vae(model, i))
            TRY(write_part_config(ctx, to, model, i));
    if (model->scheduler_changed)
        TRY(write_scheduler(ctx, to, model));
    TRY(sara_path_join(ctx, &denoiser, to, model->family->parts[0].folder));
    TRY(save_denoiser(ctx, denoiser, model, dtype));
    for (int i = 1; i < model->family->part_count; i++)
        TRY(save_component(ctx, to, model, i, dtype));
done:
    sara_free(ctx, denoiser);
    return status;
}

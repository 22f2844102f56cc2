#include "pipeline/adapter_kind.h"

const sara_adapter_kind *const sara_adapter_kinds[] = {
    &sara_adapter_kind_beside,    &sara_adapter_kind_own,  &sara_adapter_kind_shira,
    &sara_adapter_kind_embedding, &sara_adapter_kind_lora, NULL};

#define CONFIG  "adapter_config.json"
#define WEIGHTS "adapter_model.safetensors"
#define PICKLED "adapter_model.bin"
#define LORA    "pytorch_lora_weights.safetensors"

static sara_status source_has(sara_context *ctx, char **path, bool *there, const char *folder,
                              const char *name)
{
    sara_status status;
    sara_free(ctx, *path);
    *path = NULL;
    TRY(sara_path_join(ctx, path, folder, name));
    *there = sara_path_is_named(*path);
done:
    return status;
}

/* *out: the weights in the folder, sara_free(). */
static sara_status find_in_folder(sara_context *ctx, char **out, const char *folder)
{
    static const char *const names[] = {WEIGHTS, LORA};
    char *path = NULL;
    bool there = false;
    sara_status status = SARA_OK;
    for (int i = 0; i < 2 && !there; i++)
        TRY(source_has(ctx, &path, &there, folder, names[i]));
    if (there) {
        *out = path;
        return SARA_OK;
    }
    TRY(source_has(ctx, &path, &there, folder, PICKLED));
    status = there
                 ? sara_fail(
                       ctx, SARA_ERROR_INPUT,
                       "%s: a pickled file, which may run code when it is read; save it as " WEIGHTS
                       " (save_pretrained)",
                       path)
                 : sara_fail(ctx, SARA_ERROR_INPUT,
                             "%s: a folder without " WEIGHTS " or " LORA ": no adapter", folder);
done:
    sara_free(ctx, path);
    return status;
}

/* Beside PEFT's weights, or in the folder that was named. */
static sara_status read_config(sara_adapter_source *source, const char *file)
{
    const char *slash = strrchr(file, '/'), *name = slash ? slash + 1 : file;
    char *folder = NULL;
    bool there;
    sara_status status;
    if (strcmp(name, WEIGHTS) != 0)
        return SARA_OK;
    TRY(sara_format(source->ctx, &folder, "%.*s", slash ? (int)(slash - file) : 1,
                    slash ? file : "."));
    TRY(source_has(source->ctx, &source->config_path, &there, folder, CONFIG));
    if (there)
        TRY(sara_json_load(source->ctx, &source->config, source->config_path, true));
done:
    sara_free(source->ctx, folder);
    return status;
}

static sara_status source_find_kind(sara_adapter_source *source)
{
    const json_t *type = json_object_get(source->config, "peft_type");
    for (size_t i = 0; sara_adapter_kinds[i] && !source->kind; i++)
        if (sara_adapter_kinds[i]->is(source))
            source->kind = sara_adapter_kinds[i];
    if (!source->kind && json_is_string(type))
        return sara_fail(source->ctx, SARA_ERROR_INPUT,
                         "%s: peft_type %.60s, which is not supported", source->config_path,
                         json_string_value(type));
    if (!source->kind && sara_safetensors_count(source->file) == 0 &&
        !sara_safetensors_metadata(source->file, "sara.format"))
        return sara_fail(source->ctx, SARA_ERROR_INPUT, "%s: holds no tensors: no adapter",
                         source->path);
    if (!source->kind)
        source->kind = &sara_adapter_kind_own; /* which tells what is missing */
    return SARA_OK;
}

sara_status sara_adapter_source_open(sara_context *ctx, sara_adapter_source *out, const char *path)
{
    char *found = NULL;
    sara_status status;
    *out = (sara_adapter_source){.ctx = ctx};
    TRY(sara_strdup(ctx, &out->path, path));
    TRY(sara_path_is_directory(path) ? find_in_folder(ctx, &found, path)
                                     : sara_strdup(ctx, &found, path));
    TRY(sara_safetensors_open(ctx, &out->file, found));
    TRY(read_config(out, found));
    TRY(source_find_kind(out));
done:
    sara_free(ctx, found);
    return status;
}

void sara_adapter_source_close(sara_adapter_source *source)
{
    sara_safetensors_close(source->file);
    json_decref(source->config);
    sara_free(source->ctx, source->config_path);
    sara_free(source->ctx, source->path);
    memset(source, 0, sizeof(*source));
}

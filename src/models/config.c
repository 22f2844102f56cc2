#include "models/config.h"

#include <stdlib.h>

sara_status sara_model_config_of(sara_context *ctx, sara_model_config *out,
                                 const sara_component *component, const char *key,
                                 const char *expected)
{
    sara_model_config config = {.object = component->config, .path = component->source};
    const char *kind;
    sara_status status = SARA_OK;
    memset(out, 0, sizeof(*out));
    if (component->fault)
        return sara_fail(ctx, SARA_ERROR_INPUT, "%s", component->fault);
    if (!json_is_object(config.object))
        return sara_fail(ctx, SARA_ERROR_INPUT, "%s: not a JSON object", config.path);
    config.fields = (sara_config){ctx, config.object, config.path};
    TRY(sara_config_string(&config.fields, &kind, key, expected));
    if (strcmp(kind, expected) != 0)
        status = sara_fail(ctx, SARA_ERROR_INPUT, "%s: %s: \"%s\", expected \"%s\"", config.path,
                           key, kind, expected);
    else
        *out = config;
done:
    return status;
}

/* *out: the value at key as JSON text, of the C library's malloc. */
static sara_status text_of(const sara_model_config *config, char **out, const char *key)
{
    *out = sara_json_dump(json_object_get(config->object, key),
                      JSON_ENCODE_ANY | JSON_COMPACT | JSON_SORT_KEYS);
    if (*out)
        return SARA_OK;
    return sara_fail(config->fields.ctx, SARA_ERROR_MEMORY, "%s: %s: out of memory", config->path,
                     key);
}

sara_status sara_model_config_refuse(const sara_model_config *config, const char *key,
                                     const char *reason)
{
    char *text = NULL;
    sara_status status;
    if (!json_object_get(config->object, key))
        return sara_fail(config->fields.ctx, SARA_ERROR_INPUT, "%s: %s: not given: %s",
                         config->path, key, reason);
    status = text_of(config, &text, key);
    if (status == SARA_OK)
        status = sara_fail(config->fields.ctx, SARA_ERROR_INPUT, "%s: %s: %.200s: %s", config->path,
                           key, text, reason);
    free(text);
    return status;
}

static bool is_one_of(const char *text, const char *const values[3])
{
    for (int i = 0; i < 3 && values[i]; i++)
        if (strcmp(text, values[i]) == 0)
            return true;
    return false;
}

sara_status sara_model_config_check(const sara_model_config *config, const sara_supported *table)
{
    char *text = NULL;
    sara_status status = SARA_OK;
    for (; table->key; table++) {
        if (!json_object_get(config->object, table->key))
            continue;
        TRY(text_of(config, &text, table->key));
        if (!is_one_of(text, table->values)) {
            status = sara_fail(config->fields.ctx, SARA_ERROR_INPUT, "%s: %s: %.200s, expected %s",
                               config->path, table->key, text, table->values[0]);
            goto done;
        }
        free(text);
        text = NULL;
    }
done:
    free(text);
    return status;
}

sara_status sara_model_config_types(const sara_model_config *config, bool *is_second, int count,
                                    const char *key, const char *first, const char *second)
{
    const json_t *list = json_object_get(config->object, key);
    if (!list)
        return sara_fail(config->fields.ctx, SARA_ERROR_INPUT, "%s: %s is missing", config->path,
                         key);
    if (!json_is_array(list) || json_array_size(list) != (size_t)count)
        return sara_model_config_refuse(config, key,
                                        "expected as many names as block_out_channels");
    for (int i = 0; i < count; i++) {
        const char *type = json_string_value(json_array_get(list, (size_t)i));
        is_second[i] = type && strcmp(type, second) == 0;
        if (!type || (!is_second[i] && strcmp(type, first) != 0))
            return sara_model_config_refuse(config, key, "holds a block that is not supported");
    }
    return SARA_OK;
}

sara_status sara_model_config_groups(const sara_model_config *config, const int64_t *channels,
                                     int count, int64_t groups)
{
    for (int i = 0; i < count; i++)
        if (channels[i] % groups != 0)
            return sara_fail(config->fields.ctx, SARA_ERROR_INPUT,
                             "%s: block_out_channels[%d] %lld is not a multiple of "
                             "norm_num_groups %lld",
                             config->path, i, (long long)channels[i], (long long)groups);
    return SARA_OK;
}

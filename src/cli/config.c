/* Options from a JSON or TOML file. */
#include "text.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

static int number_text(char *out, size_t size, const json_t *value)
{
    return json_is_integer(value)
               ? snprintf(out, size, "%lld", (long long)json_integer_value(value))
               : snprintf(out, size, "%.17g", json_real_value(value));
}

static int config_set_text(cli *c, const cli_command *command, const char *key, const char *text,
                           cli_config_fn set)
{
    text = text_keep(c, text);
    return text ? set(c, command, key, text) : cli_fail(c, SARA_ERROR_MEMORY, "out of memory");
}

static int take_value(cli *c, const cli_command *command, const char *key, const json_t *value,
                      cli_config_fn set)
{
    char number[40];
    const char *text = number;
    if (json_is_string(value))
        text = json_string_value(value);
    else if (json_is_number(value))
        number_text(number, sizeof(number), value);
    else if (json_is_boolean(value))
        text = json_is_true(value) ? "true" : "false";
    else
        return cli_fail(c, SARA_ERROR_INPUT, "%s: expected a string, a number or a boolean", key);
    return config_set_text(c, command, key, text, set);
}

/* All of a list are numbers: they are one value, "512,768". */
static bool is_of_numbers(const json_t *list)
{
    bool numbers = json_array_size(list) > 0;
    for (size_t i = 0; numbers && i < json_array_size(list); i++)
        numbers = json_is_number(json_array_get(list, i));
    return numbers;
}

static int config_take_numbers(cli *c, const cli_command *command, const char *key,
                               const json_t *list, cli_config_fn set)
{
    char text[128];
    size_t used = 0;
    for (size_t i = 0; i < json_array_size(list); i++) {
        used += (size_t)snprintf(text + used, sizeof(text) - used, "%s", i ? "," : "");
        used += (size_t)number_text(text + used, sizeof(text) - used, json_array_get(list, i));
        if (used + 2 > sizeof(text))
            return cli_fail(c, SARA_ERROR_INPUT, "%s: %zu numbers are too many", key,
                            json_array_size(list));
    }
    return config_set_text(c, command, key, text, set);
}

static int take_list(cli *c, const cli_command *command, const char *key, const json_t *list,
                     cli_config_fn set)
{
    int code = 0;
    for (size_t i = 0; code == 0 && i < json_array_size(list); i++)
        code = take_value(c, command, key, json_array_get(list, i), set);
    return code;
}

static int take_object(cli *c, const cli_command *command, json_t *root, cli_config_fn set)
{
    const char *key;
    json_t *value;
    int code = 0;
    json_object_foreach(root, key, value)
    {
        code = is_of_numbers(value)   ? config_take_numbers(c, command, key, value, set)
               : json_is_array(value) ? take_list(c, command, key, value, set)
                                      : take_value(c, command, key, value, set);
        if (code)
            break;
    }
    return code;
}

/* *root: NULL after an error, whose code is returned. */
static int load_json(cli *c, json_t **root, const char *path)
{
    json_error_t error;
    FILE *file = fopen(path, "re");
    *root = NULL;
    if (!file)
        return cli_fail(c, SARA_ERROR_IO, "--config %s: %s", path, strerror(errno));
    *root = json_loadf(file, JSON_REJECT_DUPLICATES, &error);
    int reason = ferror(file) ? errno : 0;
    fclose(file);
    if (reason)
        return cli_fail(c, SARA_ERROR_IO, "--config %s: %s", path, strerror(reason));
    if (!json_is_object(*root))
        return cli_fail(c, SARA_ERROR_INPUT, "--config %s: line %d: %s", path,
                        *root ? 1 : error.line,
                        *root ? "expected an object of options" : error.text);
    return 0;
}

/* As kohya's --config_file: what stands in tables is taken as if it stood above them. */
static int load_toml(cli *c, json_t **root, const char *path)
{
    char *text;
    const char *key;
    json_t *tables, *value;
    *root = NULL;
    const sara_status status = sara_read_toml(c->ctx, &text, path);
    if (status != SARA_OK)
        return cli_fail(c, status, "--config %s", sara_context_error(c->ctx));
    tables = json_loads(text, 0, NULL);
    sara_free(c->ctx, text);
    *root = json_object();
    int failed = !tables || !*root;
    json_object_foreach(tables, key, value) failed |= json_is_object(value)
                                                          ? json_object_update(*root, value)
                                                          : json_object_set(*root, key, value);
    json_decref(tables);
    return failed ? cli_fail(c, SARA_ERROR_MEMORY, "out of memory") : 0;
}

static bool is_toml(const char *path)
{
    const size_t length = strlen(path);
    return length > 5 && strcmp(path + length - 5, ".toml") == 0;
}

int cli_read_config(cli *c, const cli_command *command, const char *path, cli_config_fn set)
{
    json_t *root;
    int code = is_toml(path) ? load_toml(c, &root, path) : load_json(c, &root, path);
    if (code == 0) {
        char safe[1024];
        text_escape(safe, sizeof(safe), path);
        c->config = safe;
        code = take_object(c, command, root, set);
        c->config = NULL;
    }
    json_decref(root);
    return code;
}

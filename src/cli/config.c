/* Options from a JSON file. */
#include "text.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

static int take_value(cli *c, const cli_command *command, const char *key, const json_t *value,
                      cli_config_fn set)
{
    char number[40];
    const char *text = number;
    if (json_is_string(value))
        text = json_string_value(value);
    else if (json_is_integer(value))
        snprintf(number, sizeof(number), "%lld", (long long)json_integer_value(value));
    else if (json_is_real(value))
        snprintf(number, sizeof(number), "%.17g", json_real_value(value));
    else if (json_is_boolean(value))
        text = json_is_true(value) ? "true" : "false";
    else
        return cli_fail(c, SARA_ERROR_INPUT, "%s: expected a string, a number or a boolean", key);
    text = text_keep(c, text);
    return text ? set(c, command, key, text) : cli_fail(c, SARA_ERROR_MEMORY, "out of memory");
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
        code = json_is_array(value) ? take_list(c, command, key, value, set)
                                    : take_value(c, command, key, value, set);
        if (code)
            break;
    }
    return code;
}

int cli_read_config(cli *c, const cli_command *command, const char *path, cli_config_fn set)
{
    json_error_t error;
    FILE *file = fopen(path, "re");
    if (!file)
        return cli_fail(c, SARA_ERROR_IO, "--config %s: %s", path, strerror(errno));
    json_t *root = json_loadf(file, JSON_REJECT_DUPLICATES, &error);
    int reason = ferror(file) ? errno : 0;
    fclose(file);
    int code;
    if (reason) {
        code = cli_fail(c, SARA_ERROR_IO, "--config %s: %s", path, strerror(reason));
    } else if (!json_is_object(root)) {
        code = cli_fail(c, SARA_ERROR_INPUT, "--config %s: line %d: %s", path,
                        root ? 1 : error.line, root ? "expected an object of options" : error.text);
    } else {
        char safe[1024];
        text_escape(safe, sizeof(safe), path);
        c->config = safe;
        code = take_object(c, command, root, set);
        c->config = NULL;
    }
    json_decref(root);
    return code;
}

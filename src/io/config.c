#include "io/io.h"

#include <inttypes.h>
#include <stdio.h>

typedef struct value_text {
    char text[112];
} value_text;

/* What an error line says of a value. */
static const char *config_describe(value_text *out, const json_t *value)
{
    double number;
    if (json_is_string(value))
        snprintf(out->text, sizeof(out->text), "\"%.100s\"", json_string_value(value));
    else if (json_is_integer(value))
        snprintf(out->text, sizeof(out->text), "%" JSON_INTEGER_FORMAT, json_integer_value(value));
    else if (sara_json_number(&number, value))
        sara_print(out->text, sizeof(out->text), "%.17g", number);
    else
        snprintf(out->text, sizeof(out->text), "%s",
                 json_is_array(value)    ? "a list"
                 : json_is_object(value) ? "an object"
                 : json_is_true(value)   ? "true"
                 : json_is_false(value)  ? "false"
                                         : "null");
    return out->text;
}

static sara_status wrong(const sara_config *config, const char *key, const json_t *value,
                         const char *expected)
{
    value_text text;
    return sara_fail(config->ctx, SARA_ERROR_INPUT, "%s: %s: %s, expected %s", config->source, key,
                     config_describe(&text, value), expected);
}

/* *value is NULL where the field is missing or null. */
static sara_status config_find(const sara_config *config, const json_t **value, const char *key)
{
    value_text text;
    *value = NULL;
    if (!json_is_object(config->object))
        return sara_fail(config->ctx, SARA_ERROR_INPUT, "%s: %s, expected an object",
                         config->source, config_describe(&text, config->object));
    *value = json_object_get(config->object, key);
    if (json_is_null(*value))
        *value = NULL;
    return SARA_OK;
}

/* *out is set only on success. */
static sara_status take_int(const sara_config *config, int64_t *out, const char *key,
                            const json_t *value, int64_t low, int64_t high)
{
    char expected[80];
    int64_t number = json_is_integer(value) ? (int64_t)json_integer_value(value) : 0;
    if (!json_is_integer(value) || number < low || number > high) {
        snprintf(expected, sizeof(expected), "an integer in [%" PRId64 ", %" PRId64 "]", low, high);
        return wrong(config, key, value, expected);
    }
    *out = number;
    return SARA_OK;
}

sara_status sara_config_int(const sara_config *config, int64_t *out, const char *key,
                            int64_t fallback, int64_t low, int64_t high)
{
    const json_t *value;
    sara_status status;
    TRY(config_find(config, &value, key));
    if (value)
        TRY(take_int(config, out, key, value, low, high));
    else
        *out = fallback;
done:
    return status;
}

sara_status sara_config_double(const sara_config *config, double *out, const char *key,
                               double fallback, double low, double high)
{
    const json_t *value;
    double number = 0;
    char expected[80];
    sara_status status;
    TRY(config_find(config, &value, key));
    if (!value) {
        *out = fallback;
    } else if (!sara_json_number(&number, value) || !(number >= low && number <= high)) {
        sara_print(expected, sizeof(expected), "a number in [%.17g, %.17g]", low, high);
        status = wrong(config, key, value, expected);
    } else {
        *out = number;
    }
done:
    return status;
}

sara_status sara_config_bool(const sara_config *config, bool *out, const char *key, bool fallback)
{
    const json_t *value;
    sara_status status;
    TRY(config_find(config, &value, key));
    if (value && !json_is_boolean(value))
        status = wrong(config, key, value, "true or false");
    else
        *out = value ? json_is_true(value) : fallback;
done:
    return status;
}

sara_status sara_config_string(const sara_config *config, const char **out, const char *key,
                               const char *fallback)
{
    const json_t *value;
    sara_status status;
    TRY(config_find(config, &value, key));
    if (value && !json_is_string(value))
        status = wrong(config, key, value, "a string");
    else
        *out = value ? json_string_value(value) : fallback;
done:
    return status;
}

static sara_status check_length(const sara_config *config, const char *key, size_t length,
                                int expected, int max)
{
    if (expected > 0 && length != (size_t)expected)
        return sara_fail(config->ctx, SARA_ERROR_INPUT, "%s: %s: a list of %zu, expected of %d",
                         config->source, key, length, expected);
    if (length > (size_t)max)
        return sara_fail(config->ctx, SARA_ERROR_INPUT,
                         "%s: %s: a list of %zu, expected of at most %d", config->source, key,
                         length, max);
    return SARA_OK;
}

sara_status sara_config_ints(const sara_config *config, int64_t *out, int *count, const char *key,
                             int expected, int max, int64_t low, int64_t high)
{
    const json_t *value;
    int length = 0;
    sara_status status;
    *count = 0;
    TRY(config_find(config, &value, key));
    if (json_is_array(value)) {
        TRY(check_length(config, key, json_array_size(value), expected, max));
        length = (int)json_array_size(value);
        for (int i = 0; i < length; i++)
            TRY(take_int(config, &out[i], key, json_array_get(value, (size_t)i), low, high));
    } else if (value) {
        length = expected > 0 ? expected : 1;
        TRY(check_length(config, key, (size_t)length, expected, max));
        for (int i = 0; i < length; i++)
            TRY(take_int(config, &out[i], key, value, low, high));
    }
    *count = length;
done:
    return status;
}

/* What PEFT's configs say of a LoRA's layers. */
#include "pipeline/lora.h"

#include <math.h>
#include <regex.h>

#define MOST_RANK       1e6
#define MOST_ALPHA      1e9
#define LONGEST_PATTERN 500

static const json_t *lora_setting(const sara_lora_config *config, const char *key)
{
    return json_object_get(config->object, sara_name_of("%s%s", config->prefix, key).text);
}

static sara_status lora_number(const sara_lora_config *config, double *out, const char *key,
                               double fallback, double most)
{
    const sara_config read = {config->ctx, config->object, config->source};
    return sara_config_double(&read, out, sara_name_of("%s%s", config->prefix, key).text, fallback,
                              -most, most);
}

/* Initialisations that change the base: what the file holds is of another model. */
static sara_status check_initialisation(const sara_lora_config *config)
{
    static const char *const others[] = {"pissa", "olora", "loftq", "corda"};
    const char *name = json_string_value(lora_setting(config, "init_lora_weights"));
    for (size_t i = 0; name && i < sizeof(others) / sizeof(*others); i++)
        if (strncmp(name, others[i], strlen(others[i])) == 0)
            return sara_fail(
                config->ctx, SARA_ERROR_INPUT,
                "%s: init_lora_weights is %.60s, which changes the base too: have PEFT "
                "convert it to a LoRA (path_initial_model_for_weight_conversion)",
                config->source, name);
    return SARA_OK;
}

/* What a setting may not be; null where PEFT writes that of it. */
typedef enum unwanted { WANTS_OBJECT, WANTS_NOTHING, WANTS_NO_NULL } unwanted;

static bool is_unwanted(const json_t *value, unwanted kind)
{
    if (kind == WANTS_NO_NULL)
        return json_is_null(value);
    if (kind == WANTS_OBJECT)
        return value && !json_is_null(value) && !json_is_object(value);
    return json_is_true(value) || json_array_size(value) > 0;
}

static sara_status check_settings(const sara_lora_config *config)
{
    static const struct {
        const char *key;
        unwanted kind;
        const char *fault;
    } settings[] = {
        {"peft_type", WANTS_NO_NULL, "is null, expected LORA"},
        {"lora_alpha", WANTS_NO_NULL, "is null, expected a number"},
        {"rank_pattern", WANTS_OBJECT, "expected an object"},
        {"alpha_pattern", WANTS_OBJECT, "expected an object"},
        {"lora_bias", WANTS_NOTHING, "is true: a LoRA with biases is not supported"},
        {"modules_to_save", WANTS_NOTHING,
         "holds something: a LoRA with whole modules is not supported"},
        {"layer_replication", WANTS_NOTHING,
         "holds something: a LoRA of repeated layers is not supported"},
    };
    for (size_t i = 0; i < sizeof(settings) / sizeof(*settings); i++)
        if (is_unwanted(lora_setting(config, settings[i].key), settings[i].kind))
            return sara_fail(config->ctx, SARA_ERROR_INPUT, "%s: %s %s", config->source,
                             settings[i].key, settings[i].fault);
    return SARA_OK;
}

sara_status sara_lora_config_check(const sara_lora_config *config)
{
    const char *bias;
    sara_status status;
    if (!config->object)
        return SARA_OK;
    TRY(check_initialisation(config));
    bias = json_string_value(lora_setting(config, "bias"));
    if (bias && strcmp(bias, "none") != 0)
        return sara_fail(config->ctx, SARA_ERROR_INPUT,
                         "%s: bias is %.60s, expected none: a LoRA with trained biases is not "
                         "supported",
                         config->source, bias);
    TRY(check_settings(config));
done:
    return status;
}

sara_status sara_lora_config_plain(const sara_lora_config *config, const char *name)
{
    if (!json_is_true(lora_setting(config, "use_dora")))
        return SARA_OK;
    return sara_fail(config->ctx, SARA_ERROR_INPUT,
                     "%s: use_dora is true, but the layer of %.200s has no lora_magnitude_vector",
                     config->source, name);
}

/* --------------------------------------------------------------------------------- the patterns */

/* A pattern without operators: the end of the name, from a dot on, where a dot stands for any
 * character. */
static bool ends_as(const char *layer, const char *pattern)
{
    size_t length = strlen(layer), tail = strlen(pattern);
    const char *end = layer + length - tail;
    if (length < tail || (length > tail && end[-1] != '.'))
        return false;
    for (size_t i = 0; i < tail; i++)
        if (pattern[i] != '.' && pattern[i] != end[i])
            return false;
    return true;
}

/* Python's regular expression as POSIX has it; what has another meaning there, or takes long to
 * compile, is refused. */
static sara_status translate_pattern(const sara_lora_config *config, sara_buffer *out,
                                     const char *pattern)
{
    sara_status status;
    TRY(sara_buffer_put(out, "^(.*\\.)?("));
    for (const char *at = pattern; *at; at++) {
        bool digit = at[0] == '\\' && at[1] == 'd';
        bool word = at[0] == '\\' && strchr("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMN"
                                            "OPQRSTUVWXYZ",
                                            at[1]);
        if ((word && !digit) || *at == '{' || (at[0] == '(' && at[1] == '?') ||
            at - pattern > LONGEST_PATTERN)
            return sara_fail(config->ctx, SARA_ERROR_INPUT,
                             "%s: the pattern \"%.200s\" is not supported at \"%.20s\"",
                             config->source, pattern, at);
        if (digit || *at == '\\') {
            TRY(sara_buffer_put(out, digit ? "[0-9]" : "\\"));
            if (!digit && at[1])
                TRY(sara_buffer_put_char(out, at[1]));
            at += at[1] != '\0';
        } else {
            TRY(sara_buffer_put_char(out, *at));
        }
    }
    TRY(sara_buffer_put(out, ")$"));
done:
    return status;
}

static sara_status matches_pattern(const sara_lora_config *config, bool *out, const char *layer,
                                   const char *pattern)
{
    sara_buffer text = {.ctx = config->ctx};
    regex_t compiled;
    sara_status status;
    *out = ends_as(layer, pattern);
    if (!strpbrk(pattern, "^$*+?()[]{}|\\"))
        return SARA_OK;
    TRY(translate_pattern(config, &text, pattern));
    if (regcomp(&compiled, text.data, REG_EXTENDED | REG_NOSUB) != 0) {
        status = sara_fail(config->ctx, SARA_ERROR_INPUT, "%s: \"%.200s\" is no pattern",
                           config->source, pattern);
        goto done;
    }
    *out = regexec(&compiled, layer, 0, NULL, 0) == 0;
    regfree(&compiled);
done:
    sara_buffer_free(&text);
    return status;
}

/* The first pattern that matches has the value, as in PEFT. */
static sara_status find_in_patterns(const sara_lora_config *config, double *value, const char *key,
                                    const char *layer)
{
    /* Iterating does not change the object. */
    json_t *patterns = (json_t *)(uintptr_t)lora_setting(config, key), *item;
    const char *pattern;
    bool found = false;
    sara_status status = SARA_OK;
    json_object_foreach(patterns, pattern, item)
    {
        TRY(matches_pattern(config, &found, layer, pattern));
        if (!found)
            continue;
        if (!sara_json_number(value, item) || !(fabs(*value) <= MOST_ALPHA))
            return sara_fail(config->ctx, SARA_ERROR_INPUT, "%s: %s: %.200s: expected a number",
                             config->source, key, pattern);
        break;
    }
done:
    return status;
}

sara_status sara_lora_config_scale(const sara_lora_config *config, double *scale, const char *layer,
                                   int64_t rank)
{
    const sara_config read = {config->ctx, config->object, config->source};
    double r, alpha;
    bool rslora;
    sara_status status;
    *scale = 1;
    if (!config->object)
        return SARA_OK;
    TRY(lora_number(config, &r, "r", (double)rank, MOST_RANK));
    TRY(find_in_patterns(config, &r, "rank_pattern", layer));
    if (r != (double)rank)
        return sara_fail(config->ctx, SARA_ERROR_INPUT,
                         "%s: %.200s: rank %g, but its factors have %lld", config->source, layer, r,
                         (long long)rank);
    TRY(lora_number(config, &alpha, "lora_alpha", (double)rank, MOST_ALPHA));
    TRY(find_in_patterns(config, &alpha, "alpha_pattern", layer));
    TRY(sara_config_bool(&read, &rslora, sara_name_of("%suse_rslora", config->prefix).text, false));
    *scale = alpha / (rslora ? sqrt((double)rank) : (double)rank);
done:
    return status;
}

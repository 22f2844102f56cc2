/* Reading a model's config.json: what is supported, and refusing the rest by name and value. */
#ifndef SARA_MODELS_CONFIG_H
#define SARA_MODELS_CONFIG_H

#include "models/models.h"

#define SARA_MAX_CHANNELS 65536

/* Borrowed from a component. */
typedef struct sara_model_config {
    sara_config fields; /* for sara_config_int() and its like */
    const json_t *object;
    const char *path; /* for errors */
} sara_model_config;

/* key is the field that names the kind of model, expected its only value; the field may be
 * missing. */
SARA_NODISCARD sara_status sara_model_config_of(sara_context *ctx, sara_model_config *out,
                                                const sara_component *component, const char *key,
                                                const char *expected);

/* An option of which only these values are supported, as JSON texts; it may be missing. */
typedef struct sara_supported {
    const char *key;
    const char *values[3];
} sara_supported;
/* table ends with a NULL key. */
SARA_NODISCARD sara_status sara_model_config_check(const sara_model_config *config,
                                                   const sara_supported *table);
/* SARA_ERROR_INPUT: "PATH: key: VALUE: reason" with the value as JSON. */
SARA_NODISCARD sara_status sara_model_config_refuse(const sara_model_config *config,
                                                    const char *key, const char *reason);
/* The list at key holds `count` strings, each first or second; is_second[i] tells which. A missing
 * list is an error. */
SARA_NODISCARD sara_status sara_model_config_types(const sara_model_config *config, bool *is_second,
                                                   int count, const char *key, const char *first,
                                                   const char *second);
/* Every entry of channels [count] must be a multiple of groups. */
SARA_NODISCARD sara_status sara_model_config_groups(const sara_model_config *config,
                                                    const int64_t *channels, int count,
                                                    int64_t groups);

#endif

/* The training options from their table: set by name, as JSON, within their ranges. */
#include "train/options_table.h"

#include <errno.h>
#include <stdlib.h>

static const sara_options_type train_options_type = SARA_OPTIONS_TYPE(sara_train_options, profile);

static void set_defaults(sara_train_options *options)
{
    memset(options, 0, sizeof(*options));
    options->size = sizeof(*options);
    options->caption_column = "text";
    options->method = "sara";
    options->mask = "smallest";
    options->adapter_scale = 0.1;
    options->lambda_rank = 5e-4;
    options->progressive_iter = -1;
    options->train_batch_size = 4;
    options->gradient_accumulation_steps = 1;
    options->weight_dtype = "fp32";
    options->encoder_dtype = "auto";
    options->lr_scheduler = "cosine";
    options->mixed_precision = "no";
    options->lr_num_cycles = 1;
    options->lr_power = 1.0;
    options->adam_beta1 = 0.9;
    options->adam_beta2 = 0.999;
    options->adam_epsilon = 1e-8;
    options->adam_weight_decay = 1e-2;
    options->max_grad_norm = 1.0;
    options->validation_steps = 500;
    options->validation_guidance_scale = SARA_OF_MODEL;
    options->checkpointing_steps = 500;
    options->checkpoints_total_limit = 3;
    options->seed = 42;
    options->logit_std = 1;
    options->mode_scale = 1.29;
    options->min_bucket_reso = 256;
    options->max_bucket_reso = 1024;
    options->bucket_reso_steps = 64;
    options->caption_separator = ",";
    options->prior_loss_weight = 1.0;
}

void sara_train_options_init_sized(sara_train_options *options, size_t size)
{
    sara_train_options defaults;
    set_defaults(&defaults);
    sara_options_init(options, size, &defaults, &train_options_type);
}

sara_status sara_train_options_read(sara_context *ctx, sara_train_options *out,
                                    const sara_train_options *given)
{
    set_defaults(out);
    return sara_options_read(ctx, out, &train_options_type, given);
}

void sara_train_options_sides(const sara_train_options *options, int *width, int *height)
{
    *width = options->resolution;
    *height = options->resolution_height ? options->resolution_height : options->resolution;
}

sara_model_options sara_train_model_options(const sara_train_options *o)
{
    return (sara_model_options){.size = sizeof(sara_model_options),
                                .variant = o->variant,
                                .prediction_type = o->prediction_type,
                                .model_config = o->model_config,
                                .tokenizer = o->tokenizer,
                                .vae = o->vae,
                                .use_ema_weights = o->use_ema_weights,
                                .weight_dtype = o->weight_dtype,
                                .encoder_dtype = o->encoder_dtype,
                                .device = o->device,
                                .no_t5 = o->no_t5};
}

const sara_option_info *sara_train_option_at(size_t index)
{
    return index < sara_train_option_count ? &sara_train_option_table[index].info : NULL;
}

static bool same_name(const char *a, const char *b)
{
    for (; *a && *b; a++, b++)
        if ((*a == '-' ? '_' : *a) != (*b == '-' ? '_' : *b))
            return false;
    return *a == *b;
}

/* Other trainers' names of the same things. */
static const struct {
    const char *theirs, *ours;
} aliases[] = {
    {"instance_data_dir", "train_data_dir"},
    {"reg_data_dir", "class_data_dir"},
    {"flip_aug", "random_flip"},
    {"validation_prompts", "validation_prompt"},
    {"resume", "resume_from_checkpoint"},
    {"save_every_n_steps", "checkpointing_steps"},
    {"sample_every_n_steps", "validation_steps"},
    {"max_train_epochs", "num_train_epochs"},
    {"network_weights", "adapter"},
    {"network_dim", "rank"},
    {"network_alpha", "lora_alpha"},
    {"caption_extention", "caption_extension"},
};

static const option *find_option(const char *name)
{
    for (size_t i = 0; i < sizeof(aliases) / sizeof(*aliases); i++)
        if (same_name(aliases[i].theirs, name))
            name = aliases[i].ours;
    for (size_t i = 0; i < sara_train_option_count; i++)
        if (same_name(sara_train_option_table[i].info.name, name))
            return &sara_train_option_table[i];
    return NULL;
}

const sara_option_info *sara_train_option_find(const char *name)
{
    const option *o = find_option(name);
    return o ? &o->info : NULL;
}

static const char *get_text(const sara_train_options *options, const option *o)
{
    const char *field = (const char *)options + o->offset;
    return *(const char *const *)(const void *)field;
}

static double get_number(const sara_train_options *options, const option *o)
{
    const char *field = (const char *)options + o->offset;
    switch (o->kind) {
    case OPTION_INT:
        return *(const int *)(const void *)field;
    case OPTION_INT64:
        return (double)*(const int64_t *)(const void *)field;
    case OPTION_DOUBLE:
        return *(const double *)(const void *)field;
    default:
        return 0;
    }
}

static sara_status out_of_range(sara_context *ctx, const option *o, const char *value)
{
    char low[32];
    sara_print(low, sizeof(low), o->low <= SARA_OPTION_TINY && o->low > 0 ? "more than 0" : "%.15g",
               o->low);
    return sara_fail(ctx, SARA_ERROR_USAGE, "--%s %s: expected %s%s to %.15g", o->info.name, value,
                     o->kind == OPTION_DOUBLE ? "a number, " : "a whole number, ", low, o->high);
}

static bool in_range(const option *o, double value)
{
    return value >= o->low && value <= o->high;
}

/* Whether the calling program's options have the field. */
static bool has_field(const sara_train_options *options, size_t offset)
{
    return offset < (options->size ? options->size : train_options_type.first_size);
}

static sara_status built_before(sara_context *ctx, const option *o)
{
    return sara_fail(ctx, SARA_ERROR_USAGE,
                     "--%s: the calling program was built for an earlier version, whose options "
                     "lack it",
                     o->info.name);
}

static sara_status set_number(sara_context *ctx, void *field, const option *o, const char *value)
{
    char *end = NULL;
    errno = 0;
    if (o->kind == OPTION_DOUBLE) {
        double number = sara_parse_double(value, &end);
        if (end == value || *end || errno || !in_range(o, number))
            return out_of_range(ctx, o, value);
        *(double *)field = number;
        return SARA_OK;
    }
    long long number = strtoll(value, &end, 10);
    if (end == value || *end || errno || !in_range(o, (double)number))
        return out_of_range(ctx, o, value);
    if (o->kind == OPTION_INT)
        *(int *)field = (int)number;
    else
        *(int64_t *)field = number;
    return SARA_OK;
}

static sara_status refuse_sides(sara_context *ctx, const option *o, const char *value)
{
    return sara_fail(ctx, SARA_ERROR_USAGE,
                     "--%s %s: expected one whole number or two, width,height, %.15g to %.15g",
                     o->info.name, value, o->low, o->high);
}

/* "512" or "512,768"; equal ones are a square's. */
static sara_status set_size_option(sara_context *ctx, sara_train_options *options, const option *o,
                                   const char *value)
{
    char *end = NULL;
    errno = 0;
    const long long width = strtoll(value, &end, 10);
    long long height = width;
    const bool two = end > value && *end == ',';
    if (two) {
        const char *second = end + 1;
        height = strtoll(second, &end, 10);
        end = end > second ? end : (char *)(uintptr_t)value;
    }
    if (end == value || *end || errno || !in_range(o, (double)width) ||
        !in_range(o, (double)height))
        return refuse_sides(ctx, o, value);
    if (height != width && !has_field(options, offsetof(sara_train_options, resolution_height)))
        return built_before(ctx, o);
    options->resolution = (int)width;
    if (has_field(options, offsetof(sara_train_options, resolution_height)))
        options->resolution_height = height == width ? 0 : (int)height;
    return SARA_OK;
}

/* A negative one is drawn when the run starts. */
static sara_status set_seed_option(sara_context *ctx, sara_train_options *options, const option *o,
                                   const char *value)
{
    char *end = NULL;
    errno = 0;
    bool negative = strchr(value, '-') != NULL;
    long long below = negative ? strtoll(value, &end, 10) : 0;
    unsigned long long number = negative ? 0 : strtoull(value, &end, 10);
    if (end == value || *end || errno)
        return sara_fail(ctx, SARA_ERROR_USAGE,
                         "--%s %s: expected a whole number, 0 to 2^64-1, or -1: drawn",
                         o->info.name, value);
    options->draw_seed = below < 0;
    if (!options->draw_seed)
        options->seed = number;
    return SARA_OK;
}

static sara_status options_set_switch(sara_context *ctx, bool *field, const option *o,
                                      const char *value)
{
    bool on = !value || strcmp(value, "true") == 0 || strcmp(value, "1") == 0;
    if (!on && strcmp(value, "false") != 0 && strcmp(value, "0") != 0)
        return sara_fail(ctx, SARA_ERROR_USAGE, "--%s %s: expected true or false", o->info.name,
                         value);
    *field = on;
    return SARA_OK;
}

static sara_status add_prompt(sara_context *ctx, sara_train_options *options, const char *value)
{
    if (options->validation_prompt_count == SARA_MAX_PROMPTS)
        return sara_fail(ctx, SARA_ERROR_USAGE, "--validation_prompt %s: at most %d prompts", value,
                         SARA_MAX_PROMPTS);
    options->validation_prompts[options->validation_prompt_count++] = value;
    return SARA_OK;
}

sara_status sara_train_options_set(sara_context *ctx, sara_train_options *options, const char *name,
                                   const char *value)
{
    const option *o = find_option(name);
    if (!o)
        return sara_fail(ctx, SARA_ERROR_USAGE, "--%s: no such option", name);
    void *field = (char *)options + o->offset;
    if (!has_field(options, o->offset))
        return built_before(ctx, o);
    if (!value && o->kind != OPTION_SWITCH)
        return sara_fail(ctx, SARA_ERROR_USAGE, "--%s: a value is missing", o->info.name);
    switch (o->kind) {
    case OPTION_STRING:
        *(const char **)field = value;
        return SARA_OK;
    case OPTION_SWITCH:
        return options_set_switch(ctx, field, o, value);
    case OPTION_PROMPTS:
        return add_prompt(ctx, options, value);
    case OPTION_SIZE:
        return set_size_option(ctx, options, o, value);
    default:
        while (*value && strchr(" \t\n\v\f\r", *value))
            value++;
        return o->kind == OPTION_UINT64 ? set_seed_option(ctx, options, o, value)
                                        : set_number(ctx, field, o, value);
    }
}

/* ---------------------------------------------------------------------------------------- json */

static json_t *field_json(const sara_train_options *options, const option *o)
{
    const char *field = (const char *)options + o->offset;
    const char *text;
    char number[32];
    int width, height;
    switch (o->kind) {
    case OPTION_SIZE: /* of a square as one number */
        sara_train_options_sides(options, &width, &height);
        snprintf(number, sizeof(number), "%d,%d", width, height);
        return width == height ? json_integer(width) : json_string(number);
    case OPTION_STRING:
        text = get_text(options, o);
        return text ? json_string(text) : json_null();
    case OPTION_SWITCH:
        return json_boolean(*(const bool *)field);
    case OPTION_DOUBLE:
        return json_real(get_number(options, o));
    case OPTION_UINT64: /* beyond a JSON integer's range: as text */
        snprintf(number, sizeof(number), "%llu",
                 (unsigned long long)*(const uint64_t *)(const void *)field);
        return json_string(number);
    default:
        return json_integer((json_int_t)get_number(options, o));
    }
}

/* A value as the command line takes it. */
static sara_status value_text(sara_context *ctx, char **out, const json_t *value)
{
    char number[32];
    if (json_is_string(value))
        return sara_strdup(ctx, out, json_string_value(value));
    if (json_is_boolean(value))
        return sara_strdup(ctx, out, json_is_true(value) ? "true" : "false");
    sara_print(number, sizeof(number), "%.9g", json_number_value(value));
    return sara_strdup(ctx, out, number);
}

sara_status sara_train_option_given(sara_context *ctx, char **value,
                                    const sara_train_options *options, const char *name)
{
    const option *o = find_option(name);
    sara_train_options defaults;
    sara_status status = SARA_OK;
    set_defaults(&defaults);
    json_t *now = field_json(options, o), *automatic = field_json(&defaults, o);
    *value = NULL;
    if (!now || !automatic)
        TRY(sara_fail(ctx, SARA_ERROR_MEMORY, "out of memory: options"));
    if (!json_equal(now, automatic))
        TRY(value_text(ctx, value, now));
done:
    json_decref(now);
    json_decref(automatic);
    return status;
}

sara_option_part sara_train_option_part(const char *name)
{
    const option *o = find_option(name);
    return o ? o->part : SARA_PART_GIVEN;
}

sara_status sara_train_options_json(sara_context *ctx, json_t **out,
                                    const sara_train_options *options)
{
    *out = json_object();
    sara_train_options defaults;
    set_defaults(&defaults);
    for (size_t i = 0; *out && i < sara_train_option_count; i++) {
        const option *o = &sara_train_option_table[i];
        json_t *value = o->part == SARA_PART_NO ? NULL : field_json(options, o);
        json_t *automatic = o->part == SARA_PART_CHOSEN ? field_json(&defaults, o) : NULL;
        const bool silent = o->part == SARA_PART_NO || (automatic && json_equal(value, automatic));
        json_decref(automatic);
        if (silent) {
            json_decref(value);
        } else if (json_object_set_new(*out, o->info.name, value) != 0) {
            json_decref(*out);
            *out = NULL;
        }
    }
    return *out ? SARA_OK : sara_fail(ctx, SARA_ERROR_MEMORY, "out of memory: options");
}

/* --------------------------------------------------------------------------------------- check */

static sara_status check_ranges(sara_context *ctx, const sara_train_options *options)
{
    for (size_t i = 0; i < sara_train_option_count; i++) {
        const option *o = &sara_train_option_table[i];
        char text[40];
        if (o->kind != OPTION_INT && o->kind != OPTION_INT64 && o->kind != OPTION_DOUBLE)
            continue;
        double value = get_number(options, o);
        if ((value >= o->low && value <= o->high) || value == o->automatic)
            continue;
        sara_print(text, sizeof(text), "%.15g", value);
        return out_of_range(ctx, o, text);
    }
    return SARA_OK;
}

/* As --resolution has it. */
static sara_status check_resolution(sara_context *ctx, const sara_train_options *options)
{
    const option *o = find_option("resolution");
    int width, height;
    sara_train_options_sides(options, &width, &height);
    const bool fit = width ? in_range(o, width) && in_range(o, height) : height == 0;
    return fit ? SARA_OK : refuse_sides(ctx, o, sara_name_of("%d,%d", width, height).text);
}

static bool is_utf8(const char *text)
{
    json_t *string = json_string(text);
    bool valid = string != NULL;
    json_decref(string);
    return valid;
}

/* Texts that a program may have set wrongly; on the command line only the second can happen. */
static sara_status check_texts(sara_context *ctx, const sara_train_options *options)
{
    for (size_t i = 0; i < sara_train_option_count; i++) {
        const option *o = &sara_train_option_table[i];
        const char *text = o->kind == OPTION_STRING ? get_text(options, o) : NULL;
        if (text && o->part != SARA_PART_NO && !is_utf8(text))
            return sara_fail(ctx, SARA_ERROR_USAGE, "--%s %s: is no valid UTF-8", o->info.name,
                             text);
    }
    return SARA_OK;
}

sara_status sara_train_options_check_values(sara_context *ctx, const sara_train_options *options)
{
    sara_status status;
    TRY(check_ranges(ctx, options));
    TRY(check_resolution(ctx, options));
    TRY(check_texts(ctx, options));
done:
    return status;
}

/* The training options: one table for the command line, JSON files, ranges and run manifests. */
#include "train/train.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>

typedef enum option_kind {
    OPTION_STRING,
    OPTION_INT,
    OPTION_INT64,
    OPTION_UINT64,
    OPTION_DOUBLE,
    OPTION_SWITCH,
    OPTION_PROMPTS
} option_kind;

typedef struct option {
    sara_option_info info;
    option_kind kind;
    size_t offset;
    double low, high; /* of what a user may give */
    double automatic; /* the value that stands for "not given"; NaN: none */
    sara_option_part part;
} option;

#define FIELD(name) offsetof(sara_train_options, name)
#define TEXT(field, metavar, part, help)                                                           \
    {                                                                                              \
        {#field, metavar, help}, OPTION_STRING, FIELD(field), 0, 0, NAN, SARA_PART_##part          \
    }
#define NUMBER(kind, field, low, high, automatic, part, help)                                      \
    {                                                                                              \
        {#field, "N", help}, kind, FIELD(field), low, high, automatic, SARA_PART_##part            \
    }
#define SWITCH(field, part, help)                                                                  \
    {                                                                                              \
        {#field, NULL, help}, OPTION_SWITCH, FIELD(field), 0, 0, NAN, SARA_PART_##part             \
    }
#define LARGE 9007199254740992.0 /* 2^53 */
#define TINY  1e-30

static const option options_table[] = {
    TEXT(pretrained_model_name_or_path, "PATH", NO,
         "the base: a diffusers folder or a .safetensors file"),
    TEXT(unet_only, "DIR", NO, "a bare unet/ folder instead (with --replay)"),
    TEXT(variant, "NAME", NO, "weight files' variant, e.g. fp16"),
    TEXT(model_config, "DIR", NO, "for a file: a diffusers folder with its configs"),
    TEXT(tokenizer, "DIR", NO, "for a file: a tokenizer/ folder"),
    TEXT(vae, "PATH", NO, "another VAE: a diffusers folder or a .safetensors file"),
    SWITCH(use_ema_weights, NO, "of a file: the averages of its U-Net (model_ema.)"),
    TEXT(train_data_dir, "DIR", NO, "images; captions: metadata.jsonl/.csv, files, N_name/"),
    TEXT(replay, "FILE", NO, "micro-batches from a safetensors file instead of images"),
    TEXT(output_dir, "DIR", NO, "the run folder"),
    TEXT(caption_column, "NAME", GIVEN, "metadata's column of the caption (text)"),
    TEXT(caption_extension, "EXT", NO, "of caption files beside images (.txt or .caption)"),
    TEXT(caption_prefix, "TEXT", GIVEN, "put before each caption, e.g. \"ink style, \""),
    TEXT(instance_prompt, "TEXT", GIVEN, "one caption for all images"),
    NUMBER(OPTION_INT, resolution, 8, 8192, 0, GIVEN,
           "side of the images, a multiple of 8 (the model's)"),
    SWITCH(center_crop, GIVEN, "crop the centre instead of a random place"),
    SWITCH(random_flip, GIVEN, "flip images left-right at random"),
    TEXT(method, "NAME", GIVEN, "sara, full, lora, dora, adaptformer, ltsft, shira (sara)"),
    TEXT(adapter, "FILE[:X]", NO, "train on from this adapter, at strength X (1)"),
    TEXT(mask, "NAME", GIVEN, "smallest, largest, random, gradient, lift (smallest)"),
    NUMBER(OPTION_INT, mask_steps, 1, 1000000, 0, RESOLVED,
           "micro-batches of --mask gradient (64)"),
    NUMBER(OPTION_INT, rank, 1, 65536, 0, RESOLVED, "of lora, dora, shira (4); --mask lift (128)"),
    NUMBER(OPTION_DOUBLE, lora_alpha, TINY, 1e9, 0, RESOLVED,
           "the change's scale times rank (rank)"),
    TEXT(lora_targets, "WHICH", RESOLVED,
         "layers: attention, linear, all (attention; shira: linear)"),
    TEXT(save_as, "FORMAT", RESOLVED, "the LoRA's file: kohya, peft (kohya)"),
    NUMBER(OPTION_INT, adapter_width, 1, 65536, 0, RESOLVED, "of AdaptFormer's bottleneck (64)"),
    NUMBER(OPTION_DOUBLE, adapter_scale, TINY, 1e6, NAN, RESOLVED, "of AdaptFormer's branch (0.1)"),
    NUMBER(OPTION_INT64, ltsft_steps, 1, LARGE, 0, RESOLVED,
           "of LT-SFT's first phase (half of all steps)"),
    NUMBER(OPTION_DOUBLE, threshold, TINY, 1e30, 0, DERIVED, "train the entries with |p| below it"),
    TEXT(trainable, "BUDGET", RESOLVED, "5.8%, 20M, 100%; 1, 1.0: one (5.8%, rank 4, width 64)"),
    NUMBER(OPTION_DOUBLE, learning_rate, TINY, 1e3, 0, DERIVED,
           "(sara: 1e-3 exp(-350 threshold); full: 1e-5; else 1e-4)"),
    NUMBER(OPTION_DOUBLE, lambda_rank, 0, 1e6, NAN, GIVEN, "weight of the low-rank term (5e-4)"),
    NUMBER(OPTION_INT64, max_train_steps, 1, LARGE, 0, RESOLVED, "optimiser steps (5000)"),
    NUMBER(OPTION_INT64, num_train_epochs, 1, LARGE, 0, RESOLVED, "passes over the images instead"),
    NUMBER(OPTION_INT64, progressive_iter, 0, LARGE, -1, RESOLVED,
           "reselect after so many steps; 0: never (half of all)"),
    NUMBER(OPTION_INT, train_batch_size, 1, 4096, NAN, GIVEN, "images a micro-batch (4)"),
    NUMBER(OPTION_INT, gradient_accumulation_steps, 1, 65536, NAN, GIVEN,
           "micro-batches an optimiser step (1)"),
    SWITCH(gradient_checkpointing, NO, "recompute activations: less memory, more time"),
    NUMBER(OPTION_INT, gradient_checkpointing_levels, 1, SARA_MAX_LEVELS, 0, NO,
           "recompute those of the N largest resolutions alone (all)"),
    TEXT(mixed_precision, "TYPE", GIVEN, "no; bf16: layers multiply bf16 (needs AVX512-BF16) (no)"),
    TEXT(weight_dtype, "TYPE", RESOLVED, "in memory: fp32, fp16, bf16; auto: the file's (fp32)"),
    TEXT(lr_scheduler, "NAME", GIVEN,
         "cosine (default), constant, constant_with_warmup, linear, cosine_with_restarts, "
         "polynomial"),
    NUMBER(OPTION_INT64, lr_warmup_steps, 0, LARGE, NAN, GIVEN, "(0)"),
    NUMBER(OPTION_INT, lr_num_cycles, 1, 1000000, NAN, GIVEN, "of cosine_with_restarts (1)"),
    NUMBER(OPTION_DOUBLE, lr_power, 0, 1000, NAN, GIVEN, "of polynomial (1.0)"),
    NUMBER(OPTION_DOUBLE, adam_beta1, 0, 0.999999999, NAN, GIVEN, "(0.9)"),
    NUMBER(OPTION_DOUBLE, adam_beta2, 0, 0.999999999, NAN, GIVEN, "(0.999)"),
    NUMBER(OPTION_DOUBLE, adam_epsilon, TINY, 1, NAN, GIVEN, "(1e-8)"),
    NUMBER(OPTION_DOUBLE, adam_weight_decay, 0, 1000, NAN, GIVEN, "(1e-2)"),
    NUMBER(OPTION_DOUBLE, max_grad_norm, 0, 1e30, NAN, GIVEN, "clip gradients; 0: never (1.0)"),
    TEXT(prediction_type, "TYPE", RESOLVED,
         "epsilon, v_prediction, sample, flow_prediction (model's)"),
    {{"validation_prompt", "TEXT", "draw it every --validation_steps; repeatable"},
     OPTION_PROMPTS,
     FIELD(validation_prompts),
     0,
     0,
     NAN,
     SARA_PART_NO},
    NUMBER(OPTION_INT64, validation_steps, 1, LARGE, NAN, NO, "(500)"),
    NUMBER(OPTION_DOUBLE, validation_guidance_scale, 0, 1000, SARA_OF_MODEL, NO,
           "(the model's: 7.0)"),
    SWITCH(no_prompt_weights, NO, "(a), (a:1.4), [a] in validation prompts are plain text"),
    SWITCH(long_prompt, NO, "validation prompts of any length in chunks; else cut"),
    NUMBER(OPTION_INT64, checkpointing_steps, 1, LARGE, NAN, NO, "save to resume from (500)"),
    NUMBER(OPTION_INT, checkpoints_total_limit, 0, 1000000, NAN, NO, "keep so many; 0: all (3)"),
    TEXT(resume_from_checkpoint, "PATH", NO, "latest, or a checkpoint folder"),
    NUMBER(OPTION_UINT64, seed, 0, 18446744073709551615.0, NAN, GIVEN, "-1: drawn and told (42)"),
    TEXT(profile, "FILE.json", NO, "trace of the first five steps for chrome://tracing"),
    TEXT(device, "NAME", NO, "where to compute: cpu (cpu)"),
};
#define OPTION_COUNT (sizeof(options_table) / sizeof(*options_table))

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

const sara_option_info *sara_train_option_at(size_t index)
{
    return index < OPTION_COUNT ? &options_table[index].info : NULL;
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
    for (size_t i = 0; i < OPTION_COUNT; i++)
        if (same_name(options_table[i].info.name, name))
            return &options_table[i];
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
    sara_print(low, sizeof(low), o->low <= TINY && o->low > 0 ? "more than 0" : "%.15g", o->low);
    return sara_fail(ctx, SARA_ERROR_USAGE, "--%s %s: expected %s%s to %.15g", o->info.name, value,
                     o->kind == OPTION_DOUBLE ? "a number, " : "a whole number, ", low, o->high);
}

static sara_status set_number(sara_context *ctx, void *field, const option *o, const char *value)
{
    char *end = NULL;
    errno = 0;
    if (o->kind == OPTION_DOUBLE) {
        double number = sara_parse_double(value, &end);
        if (end == value || *end || errno || !(number >= o->low && number <= o->high))
            return out_of_range(ctx, o, value);
        *(double *)field = number;
        return SARA_OK;
    }
    long long number = strtoll(value, &end, 10);
    if (end == value || *end || errno || (double)number < o->low || (double)number > o->high)
        return out_of_range(ctx, o, value);
    if (o->kind == OPTION_INT)
        *(int *)field = (int)number;
    else
        *(int64_t *)field = number;
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
    if (o->offset >= (options->size ? options->size : train_options_type.first_size))
        return sara_fail(ctx, SARA_ERROR_USAGE,
                         "--%s: the calling program was built for an earlier version, whose "
                         "options lack it",
                         o->info.name);
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
    switch (o->kind) {
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
    for (size_t i = 0; *out && i < OPTION_COUNT; i++)
        if (options_table[i].part != SARA_PART_NO &&
            json_object_set_new(*out, options_table[i].info.name,
                                field_json(options, &options_table[i])) != 0) {
            json_decref(*out);
            *out = NULL;
        }
    return *out ? SARA_OK : sara_fail(ctx, SARA_ERROR_MEMORY, "out of memory: options");
}

/* --------------------------------------------------------------------------------------- check */

static sara_status check_ranges(sara_context *ctx, const sara_train_options *options)
{
    for (size_t i = 0; i < OPTION_COUNT; i++) {
        const option *o = &options_table[i];
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
    for (size_t i = 0; i < OPTION_COUNT; i++) {
        const option *o = &options_table[i];
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
    TRY(check_texts(ctx, options));
done:
    return status;
}

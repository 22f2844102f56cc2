/* kohya's files of several data sets. */
#include "data/data_inner.h"

#include "data/toml.h"

#include <stdlib.h>

#define MOST_CONFIG ((size_t)16 << 20)
#define MOST_COUNT  1000000

typedef enum data_level { LEVEL_GENERAL = 1, LEVEL_SET = 2, LEVEL_SUBSET = 4 } data_level;

typedef enum data_key_kind {
    KEY_INT,
    KEY_INT64,
    KEY_DOUBLE,
    KEY_BOOL,
    KEY_TEXT,
    KEY_SIZE /* one number or [width, height] */
} data_key_kind;

/* A key, where it may stand, and which field it gives. */
typedef struct data_key {
    const char *name;
    data_key_kind kind;
    unsigned levels;
    bool of_set; /* else of the subset */
    size_t offset;
    double low, high;
} data_key;

#define ALL_LEVELS (LEVEL_GENERAL | LEVEL_SET | LEVEL_SUBSET)
#define SET_KEY(name, kind, field, low, high)                                                      \
    {                                                                                              \
        name, kind, LEVEL_GENERAL | LEVEL_SET, true, offsetof(sara_image_set, field), low, high    \
    }
#define SUBSET_KEY(name, kind, levels, field, low, high)                                           \
    {                                                                                              \
        name, kind, levels, false, offsetof(sara_subset, field), low, high                         \
    }

static const data_key data_keys[] = {
    SET_KEY("batch_size", KEY_INT, batch_size, 1, 4096),
    SET_KEY("resolution", KEY_SIZE, buckets, 8, 8192),
    SET_KEY("enable_bucket", KEY_BOOL, buckets.enabled, 0, 0),
    SET_KEY("bucket_no_upscale", KEY_BOOL, buckets.no_upscale, 0, 0),
    SET_KEY("min_bucket_reso", KEY_INT, buckets.least, 8, 8192),
    SET_KEY("max_bucket_reso", KEY_INT, buckets.most, 8, 8192),
    SET_KEY("bucket_reso_steps", KEY_INT, buckets.steps, 1, 8192),
    SUBSET_KEY("image_dir", KEY_TEXT, LEVEL_SUBSET, image_dir, 0, 0),
    SUBSET_KEY("is_reg", KEY_BOOL, LEVEL_SUBSET, is_reg, 0, 0),
    SUBSET_KEY("alpha_mask", KEY_BOOL, LEVEL_SUBSET, alpha_mask, 0, 0),
    SUBSET_KEY("conditioning_data_dir", KEY_TEXT, LEVEL_SUBSET, conditioning_data_dir, 0, 0),
    SUBSET_KEY("num_repeats", KEY_INT64, ALL_LEVELS, num_repeats, 1, MOST_COUNT),
    SUBSET_KEY("class_tokens", KEY_TEXT, ALL_LEVELS, class_tokens, 0, 0),
    SUBSET_KEY("caption_extension", KEY_TEXT, ALL_LEVELS, caption_extension, 0, 0),
    SUBSET_KEY("flip_aug", KEY_BOOL, ALL_LEVELS, flip_aug, 0, 0),
    SUBSET_KEY("color_aug", KEY_BOOL, ALL_LEVELS, color_aug, 0, 0),
    SUBSET_KEY("random_crop", KEY_BOOL, ALL_LEVELS, random_crop, 0, 0),
    SUBSET_KEY("shuffle_caption", KEY_BOOL, ALL_LEVELS, captions.shuffle, 0, 0),
    SUBSET_KEY("enable_wildcard", KEY_BOOL, ALL_LEVELS, captions.wildcard, 0, 0),
    SUBSET_KEY("keep_tokens", KEY_INT64, ALL_LEVELS, captions.keep_tokens, 0, MOST_COUNT),
    SUBSET_KEY("keep_tokens_separator", KEY_TEXT, ALL_LEVELS, captions.keep_tokens_separator, 0, 0),
    SUBSET_KEY("secondary_separator", KEY_TEXT, ALL_LEVELS, captions.secondary_separator, 0, 0),
    SUBSET_KEY("caption_separator", KEY_TEXT, ALL_LEVELS, captions.separator, 0, 0),
    SUBSET_KEY("caption_prefix", KEY_TEXT, ALL_LEVELS, captions.prefix, 0, 0),
    SUBSET_KEY("caption_suffix", KEY_TEXT, ALL_LEVELS, captions.suffix, 0, 0),
    SUBSET_KEY("caption_dropout_rate", KEY_DOUBLE, ALL_LEVELS, captions.dropout_rate, 0, 1),
    SUBSET_KEY("caption_tag_dropout_rate", KEY_DOUBLE, ALL_LEVELS, captions.tag_dropout_rate, 0, 1),
    SUBSET_KEY("caption_dropout_every_n_epochs", KEY_INT64, ALL_LEVELS,
               captions.dropout_every_n_epochs, 0, MOST_COUNT),
};
#define KEY_COUNT (sizeof(data_keys) / sizeof(*data_keys))

typedef struct config_reader {
    sara_context *ctx;
    const char *path;
    sara_data_config *out;
} config_reader;

/* --------------------------------------------------------------------------------------- values */

static sara_status set_data_size(const sara_config *config, sara_bucket_options *field,
                                 const data_key *key)
{
    int64_t sides[2];
    int count;
    sara_status status;
    TRY(sara_config_ints(config, sides, &count, key->name, 2, 2, (int64_t)key->low,
                         (int64_t)key->high));
    field->width = (int)sides[0];
    field->height = (int)sides[1];
done:
    return status;
}

static sara_status set_data_number(const sara_config *config, void *field, const data_key *key)
{
    int64_t number;
    sara_status status;
    if (key->kind == KEY_DOUBLE)
        return sara_config_double(config, field, key->name, 0, key->low, key->high);
    TRY(sara_config_int(config, &number, key->name, 0, (int64_t)key->low, (int64_t)key->high));
    if (key->kind == KEY_INT)
        *(int *)field = (int)number;
    else
        *(int64_t *)field = number;
done:
    return status;
}

/* The key's value, which is there, into its field of the set or subset. */
static sara_status set_data_field(config_reader *r, const sara_config *config, void *structure,
                                  const data_key *key)
{
    void *field = (char *)structure + key->offset;
    const char *text;
    sara_status status;
    switch (key->kind) {
    case KEY_TEXT:
        TRY(sara_config_string(config, &text, key->name, NULL));
        TRY(sara_arena_strdup(&r->out->arena, (const char **)field, text));
        break;
    case KEY_BOOL:
        TRY(sara_config_bool(config, field, key->name, false));
        break;
    case KEY_SIZE:
        TRY(set_data_size(config, field, key));
        break;
    default:
        TRY(set_data_number(config, field, key));
    }
done:
    return status;
}

/* What the table of a level gives to the set, the subset or, with structure NULL, nobody. */
static sara_status take_data_table(config_reader *r, const json_t *object, const char *where,
                                   bool of_set, void *structure)
{
    char *source = NULL;
    sara_status status;
    TRY(sara_format(r->ctx, &source, "%s: %s", r->path, where));
    const sara_config config = {r->ctx, object, source};
    for (size_t i = 0; i < KEY_COUNT; i++)
        if (data_keys[i].of_set == of_set && json_object_get(object, data_keys[i].name))
            TRY(set_data_field(r, &config, structure, &data_keys[i]));
done:
    sara_free(r->ctx, source);
    return status;
}

/* ----------------------------------------------------------------------------------------- keys */

static sara_status refuse_data_key(config_reader *r, const char *where, const char *key)
{
    static const struct {
        const char *key, *instead;
    } others[] = {
        {"metadata_file", "captions come from files beside the images, or from metadata.jsonl or "
                          "metadata.csv in image_dir"},
        {"cache_info", "images are looked at anew; leave it out"},
        {"face_crop_aug_range", "crop the images before"},
        {"token_warmup_min", "leave it out"},
        {"token_warmup_step", "leave it out"},
        {"network_multiplier", "leave it out"},
        {"resize_interpolation", "images are resized by Lanczos; leave it out"},
        {"custom_attributes", "leave it out"},
        {"validation_split", "leave it out"},
        {"validation_seed", "leave it out"},
    };
    for (size_t i = 0; i < sizeof(others) / sizeof(*others); i++)
        if (strcmp(key, others[i].key) == 0)
            return sara_fail(r->ctx, SARA_ERROR_INPUT, "%s: %s: %s: sara does not have it: %s",
                             r->path, where, key, others[i].instead);
    for (size_t i = 0; i < KEY_COUNT; i++)
        if (strcmp(key, data_keys[i].name) == 0)
            return sara_fail(r->ctx, SARA_ERROR_INPUT, "%s: %s: %s: belongs into %s", r->path,
                             where, key,
                             data_keys[i].levels & LEVEL_SET ? "[[datasets]] or [general]"
                                                             : "[[datasets.subsets]]");
    return sara_fail(r->ctx, SARA_ERROR_INPUT, "%s: %s: %s: no such key (docs/formats.md has all)",
                     r->path, where, key);
}

static sara_status check_data_keys(config_reader *r, const json_t *object, const char *where,
                                   data_level level, const char *list)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)object, key, value)
    {
        bool known = list && strcmp(key, list) == 0;
        for (size_t i = 0; !known && i < KEY_COUNT; i++)
            known = strcmp(key, data_keys[i].name) == 0 && (data_keys[i].levels & level);
        if (!known)
            return refuse_data_key(r, where, key);
    }
    return SARA_OK;
}

/* The list of tables under the last part of `key`. */
static sara_status find_data_list(config_reader *r, const json_t **out, const json_t *object,
                                  const char *where, const char *key)
{
    const char *dot = strrchr(key, '.');
    *out = json_object_get(object, dot ? dot + 1 : key);
    bool good = json_array_size(*out) > 0;
    for (size_t i = 0; good && i < json_array_size(*out); i++)
        good = json_is_object(json_array_get(*out, i));
    if (good)
        return SARA_OK;
    return sara_fail(r->ctx, SARA_ERROR_INPUT, "%s: %s: expected at least one [[%s]]", r->path,
                     where, key);
}

/* -------------------------------------------------------------------------------------- reading */

static sara_status check_data_subset(config_reader *r, const char *where, const sara_subset *subset)
{
    if (!subset->image_dir || !*subset->image_dir)
        return sara_fail(r->ctx, SARA_ERROR_INPUT, "%s: %s: image_dir is missing", r->path, where);
    if (!*subset->captions.separator)
        return sara_fail(r->ctx, SARA_ERROR_INPUT, "%s: %s: caption_separator is empty", r->path,
                         where);
    if (subset->alpha_mask && subset->conditioning_data_dir)
        return sara_fail(r->ctx, SARA_ERROR_INPUT,
                         "%s: %s: alpha_mask and conditioning_data_dir: choose one", r->path,
                         where);
    return SARA_OK;
}

/* levels: the general table, the set's and the subset's own. */
static sara_status read_data_subset(config_reader *r, const json_t *levels[3], const char *where,
                                    const sara_subset *defaults)
{
    static const char *const names[] = {"general", "datasets"};
    sara_subset *subset = &r->out->subsets[r->out->subset_count++];
    sara_status status = SARA_OK;
    *subset = *defaults;
    subset->set = r->out->set_count - 1;
    TRY(check_data_keys(r, levels[2], where, LEVEL_SUBSET, NULL));
    for (size_t i = 0; i < 3; i++)
        if (levels[i])
            TRY(take_data_table(r, levels[i], i < 2 ? names[i] : where, false, subset));
    TRY(check_data_subset(r, where, subset));
done:
    return status;
}

static sara_status read_data_set(config_reader *r, const json_t *general, const json_t *object,
                                 size_t index, const sara_image_set *set, const sara_subset *subset)
{
    sara_image_set *own = &r->out->sets[r->out->set_count++];
    const sara_name where = sara_name_of("datasets[%zu]", index);
    const json_t *list;
    sara_status status;
    *own = *set;
    TRY(check_data_keys(r, object, where.text, LEVEL_SET | LEVEL_GENERAL, "subsets"));
    if (general)
        TRY(take_data_table(r, general, "general", true, own));
    TRY(take_data_table(r, object, where.text, true, own));
    TRY(find_data_list(r, &list, object, where.text, "datasets.subsets"));
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *levels[3] = {general, object, json_array_get(list, i)};
        const sara_name at = sara_name_of("datasets[%zu].subsets[%zu]", index, i);
        TRY(read_data_subset(r, levels, at.text, subset));
    }
done:
    return status;
}

static sara_status read_data_document(config_reader *r, json_t *root, const sara_image_set *set,
                                      const sara_subset *subset)
{
    const json_t *general = json_object_get(root, "general"), *list, *subsets;
    const char *key;
    json_t *value;
    size_t count = 0;
    sara_status status;
    json_object_foreach(
        root, key,
        value) if (strcmp(key, "general") &&
                   strcmp(key, "datasets")) return sara_fail(r->ctx, SARA_ERROR_INPUT,
                                                             "%s: %s: no such table; expected "
                                                             "[general] and [[datasets]]",
                                                             r->path, key);
    if (general && !json_is_object(general))
        return sara_fail(r->ctx, SARA_ERROR_INPUT, "%s: general: expected a table", r->path);
    TRY(find_data_list(r, &list, root, "no data set", "datasets"));
    if (general)
        TRY(check_data_keys(r, general, "general", LEVEL_GENERAL, NULL));
    for (size_t i = 0; i < json_array_size(list); i++) {
        subsets = json_object_get(json_array_get(list, i), "subsets");
        count += json_array_size(subsets);
    }
    TRY(sara_arena_alloc(&r->out->arena, &r->out->sets, json_array_size(list),
                         sizeof(*r->out->sets)));
    TRY(sara_arena_alloc(&r->out->arena, &r->out->subsets, count, sizeof(*r->out->subsets)));
    for (size_t i = 0; i < json_array_size(list); i++)
        TRY(read_data_set(r, general, json_array_get(list, i), i, set, subset));
done:
    return status;
}

sara_status sara_read_toml(sara_context *ctx, char **json, const char *path)
{
    char *text = NULL, *made = NULL, why[256];
    size_t size;
    sara_status status;
    *json = NULL;
    TRY(sara_file_read(ctx, &text, &size, path, MOST_CONFIG));
    made = sara_toml_to_json(text, size, why, sizeof(why));
    TRY(made ? sara_strdup(ctx, json, made)
             : sara_fail(ctx, SARA_ERROR_INPUT, "%s: %s", path, why));
done:
    free(made);
    sara_free(ctx, text);
    return status;
}

static sara_status load_toml_config(sara_context *ctx, json_t **out, const char *path)
{
    char *json = NULL;
    sara_status status;
    TRY(sara_read_toml(ctx, &json, path));
    TRY(sara_json_parse(ctx, out, json, strlen(json), path, false));
done:
    sara_free(ctx, json);
    return status;
}

static bool is_json_file(const char *path)
{
    const char *dot = strrchr(path, '.');
    return dot && sara_text_same(dot, ".json");
}

sara_status sara_data_config_read(sara_context *ctx, sara_data_config *out, const char *path,
                                  const sara_image_set *set, const sara_subset *subset)
{
    config_reader r = {ctx, path, out};
    json_t *root = NULL;
    sara_status status;
    *out = (sara_data_config){0};
    sara_arena_init(&out->arena, ctx);
    TRY(is_json_file(path) ? sara_json_load(ctx, &root, path, false)
                           : load_toml_config(ctx, &root, path));
    if (!json_is_object(root))
        TRY(sara_fail(ctx, SARA_ERROR_INPUT, "%s: expected [general] and [[datasets]]", path));
    TRY(read_data_document(&r, root, set, subset));
done:
    json_decref(root);
    return status;
}

void sara_data_config_free(sara_data_config *config)
{
    sara_arena_free(&config->arena);
    *config = (sara_data_config){0};
}

/* -------------------------------------------------------------------------------------- hashing */

static sara_status hash_data_field(sara_sha256 *hash, const void *structure, const data_key *key)
{
    static const size_t sizes[] = {sizeof(int), sizeof(int64_t), sizeof(double), sizeof(bool),
                                   0,           2 * sizeof(int)};
    const void *field = (const char *)structure + key->offset;
    const char *text;
    sara_status status;
    TRY(sara_sha256_add(hash, key->name, strlen(key->name) + 1));
    if (key->kind != KEY_TEXT)
        return sara_sha256_add(hash, field, sizes[key->kind]);
    text = *(const char *const *)field;
    text = text ? text : "";
    TRY(sara_sha256_add(hash, text, strlen(text) + 1));
done:
    return status;
}

static bool is_place(const data_key *key)
{
    return strcmp(key->name, "image_dir") == 0 || strcmp(key->name, "conditioning_data_dir") == 0;
}

sara_status sara_data_hash_config(sara_sha256 *hash, const sara_data_config *config)
{
    sara_status status = SARA_OK;
    for (size_t i = 0; i < config->subset_count; i++)
        for (size_t k = 0; k < KEY_COUNT; k++) {
            const sara_subset *subset = &config->subsets[i];
            const void *structure = data_keys[k].of_set ? (const void *)&config->sets[subset->set]
                                                        : (const void *)subset;
            if (!is_place(&data_keys[k]))
                TRY(hash_data_field(hash, structure, &data_keys[k]));
        }
done:
    return status;
}

/* The comparison's JSON file: what it may hold, and all that can be told before anything runs. */
#include "compare/compare.h"

#include "eval/eval.h"

#include <stdlib.h>
#include <unistd.h>

static const sara_options_type compare_options_type =
    SARA_OPTIONS_TYPE(sara_compare_options, strengths);

void sara_compare_options_init_sized(sara_compare_options *options, size_t size)
{
    sara_compare_options defaults = {.size = sizeof(defaults)};
    sara_options_init(options, size, &defaults, &compare_options_type);
}

static bool is_known(const char *key, const char *const *known)
{
    for (; *known; known++)
        if (strcmp(key, *known) == 0)
            return true;
    return false;
}

sara_status sara_compare_check_keys(const sara_comparison *c, const json_t *object,
                                    const char *where, const char *const *known)
{
    const char *key;
    json_t *value;
    if (!json_is_object(object))
        return sara_fail(c->ctx, SARA_ERROR_INPUT, "%s: %s: expected an object", c->source, where);
    json_object_foreach((json_t *)(uintptr_t)object, key, value)
    {
        if (!is_known(key, known))
            return sara_fail(c->ctx, SARA_ERROR_INPUT,
                             "%s: %s: %s: no such key; see docs/comparison.md", c->source, where,
                             key);
    }
    return SARA_OK;
}

sara_status sara_compare_check_name(const sara_comparison *c, const char *where, const char *name)
{
    static const char allowed[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._+%- ";
    size_t length = strlen(name);
    if (length > 0 && length <= 100 && strspn(name, allowed) == length && name[0] != '.' &&
        name[0] != ' ' && name[length - 1] != ' ')
        return SARA_OK;
    return sara_fail(c->ctx, SARA_ERROR_INPUT,
                     "%s: %s: name \"%s\": is a folder's too: expected 1 to 100 letters, digits "
                     "and ._+%%-, spaces within, no point at its beginning",
                     c->source, where, name);
}

/* A string that has to be there and is not empty. */
static sara_status need_string(const sara_comparison *c, const char **out, const json_t *object,
                               const char *where, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    if (!text || !*text)
        return sara_fail(c->ctx, SARA_ERROR_INPUT, "%s: %s: %s %s", c->source, where, key,
                         json_object_get(object, key) ? "is no text" : "is missing");
    *out = text;
    return SARA_OK;
}

static sara_status need_folder(const sara_comparison *c, const char **out, const json_t *object,
                               const char *where, const char *key)
{
    sara_status status;
    TRY(need_string(c, out, object, where, key));
    if (!sara_path_is_directory(*out))
        status = sara_fail(c->ctx, SARA_ERROR_INPUT, "%s: %s: %s %s: is no folder", c->source,
                           where, key, *out);
done:
    return status;
}

sara_status sara_compare_prompts(sara_comparison *c, const char ***out, size_t *count,
                                 const char *path)
{
    return sara_evaluation_prompts(c->ctx, &c->arena, out, count, path);
}

static sara_status need_prompts(sara_comparison *c, const char **out, const json_t *object,
                                const char *where, const char *key)
{
    const char **lines;
    size_t count;
    sara_status status;
    TRY(need_string(c, out, object, where, key));
    status = sara_compare_prompts(c, &lines, &count, *out);
    if (status != SARA_OK) {
        char *prefix = NULL;
        if (sara_format(c->ctx, &prefix, "%s: %s: %s", c->source, where, key) == SARA_OK)
            status = sara_fail_in(c->ctx, status, prefix);
        sara_free(c->ctx, prefix);
    } else if (count < 2) {
        status = sara_fail(c->ctx, SARA_ERROR_INPUT,
                           "%s: %s: %s %s: has 1 prompt, and FID is of at least two pictures",
                           c->source, where, key, *out);
    }
done:
    return status;
}

/* But for spaces around them, which tokenizers pass over. */
static bool says_the_same(const char *a, const char *b)
{
    static const char spaces[] = " \t";
    a += strspn(a, spaces);
    b += strspn(b, spaces);
    size_t length = 0;
    while (a[length] && a[length] == b[length])
        length++;
    return !a[length + strspn(a + length, spaces)] && !b[length + strspn(b + length, spaces)];
}

/* Learning rates are chosen on prompts that the table does not use. key: of the table's. */
static sara_status check_apart(sara_comparison *c, const sara_compare_data *data, const char *key,
                               const char *path)
{
    const char **prompts, **tuning;
    size_t count, tuning_count;
    sara_status status;
    TRY(sara_compare_prompts(c, &prompts, &count, path));
    TRY(sara_compare_prompts(c, &tuning, &tuning_count, data->tuning));
    for (size_t i = 0; i < count; i++)
        for (size_t j = 0; j < tuning_count; j++)
            if (says_the_same(prompts[i], tuning[j]))
                TRY(sara_fail(c->ctx, SARA_ERROR_INPUT,
                              "%s: data %s: %s %s and tuning_prompts %s both have \"%s\": "
                              "learning rates are chosen on prompts that the table does not use",
                              c->source, data->name, key, path, data->tuning, prompts[i]));
done:
    return status;
}

/* Without a prefix the base's own prompts would be the same pictures as well. */
static sara_status check_all_apart(sara_comparison *c, const sara_compare_data *data)
{
    sara_status status;
    TRY(check_apart(c, data, "prompts", data->prompts));
    if (data->prefix && *data->prefix)
        return SARA_OK;
    TRY(check_apart(c, data, "base_prompts", c->base_prompts));
    if (c->neutral_prompts)
        TRY(check_apart(c, data, "neutral_prompts", c->neutral_prompts));
done:
    return status;
}

/* How many there are to train on; captions are the runs' affair. */
static sara_status count_images(sara_comparison *c, sara_compare_data *data)
{
    const sara_dataset_options options = {.folder = data->folder,
                                          .instance_prompt = "-",
                                          .captions_aside = true,
                                          .output_dir = c->output};
    const sara_name where = sara_name_of("data %s: train_data_dir", data->name);
    sara_dataset dataset = {0};
    sara_status status = sara_dataset_scan(c->ctx, &dataset, &options);
    data->images = dataset.count;
    sara_dataset_free(&dataset);
    if (status != SARA_OK) {
        status = sara_fail_in(c->ctx, status, where.text);
        status = sara_fail_in(c->ctx, status, c->source);
    }
    return status;
}

static sara_status read_data(sara_comparison *c, sara_compare_data *data, const json_t *object,
                             size_t index)
{
    static const char *const known[] = {"name",           "train_data_dir", "references", "prompts",
                                        "tuning_prompts", "caption_prefix", NULL};
    const sara_name where = sara_name_of("data[%zu]", index);
    const json_t *prefix = json_object_get(object, "caption_prefix");
    sara_status status;
    TRY(sara_compare_check_keys(c, object, where.text, known));
    TRY(need_string(c, &data->name, object, where.text, "name"));
    TRY(sara_compare_check_name(c, where.text, data->name));
    for (size_t i = 0; i < index; i++)
        if (strcmp(c->data[i].name, data->name) == 0)
            TRY(sara_fail(c->ctx, SARA_ERROR_INPUT,
                          "%s: data[%zu] and data[%zu]: both are named %s", c->source, i, index,
                          data->name));
    TRY(need_folder(c, &data->folder, object, where.text, "train_data_dir"));
    TRY(count_images(c, data));
    TRY(need_folder(c, &data->references, object, where.text, "references"));
    TRY(need_prompts(c, &data->prompts, object, where.text, "prompts"));
    TRY(need_prompts(c, &data->tuning, object, where.text, "tuning_prompts"));
    data->prefix = json_string_value(prefix);
    if (prefix && !data->prefix)
        TRY(sara_fail(c->ctx, SARA_ERROR_INPUT, "%s: %s: caption_prefix is no text", c->source,
                      where.text));
    TRY(check_all_apart(c, data));
done:
    return status;
}

static sara_status read_data_sets(sara_comparison *c)
{
    const json_t *list = json_object_get(c->config, "data");
    size_t count = json_array_size(list);
    sara_status status;
    if (count == 0)
        return sara_fail(c->ctx, SARA_ERROR_INPUT,
                         "%s: data: expected a list of at least one data set", c->source);
    TRY(sara_arena_alloc(&c->arena, &c->data, count, sizeof(*c->data)));
    for (; c->data_count < count; c->data_count++)
        TRY(read_data(c, &c->data[c->data_count], json_array_get(list, c->data_count),
                      c->data_count));
done:
    return status;
}

static sara_status read_seeds(sara_comparison *c)
{
    const json_t *list = json_object_get(c->config, "seeds");
    size_t count = json_array_size(list);
    sara_status status;
    if (count == 0 || count > SARA_MOST_SEEDS)
        return sara_fail(c->ctx, SARA_ERROR_INPUT,
                         "%s: seeds: %zu of them, expected a list of 1 to %d whole numbers",
                         c->source, count, SARA_MOST_SEEDS);
    TRY(sara_arena_alloc(&c->arena, &c->seeds, count, sizeof(*c->seeds)));
    for (size_t i = 0; i < count; i++) {
        const json_t *seed = json_array_get(list, i);
        if (!json_is_integer(seed) || json_integer_value(seed) < 0)
            TRY(sara_fail(c->ctx, SARA_ERROR_INPUT,
                          "%s: seeds[%zu]: expected a whole number, at least 0", c->source, i));
        c->seeds[i] = (uint64_t)json_integer_value(seed);
        for (size_t j = 0; j < i; j++)
            if (c->seeds[j] == c->seeds[i])
                TRY(sara_fail(c->ctx, SARA_ERROR_INPUT,
                              "%s: seeds[%zu] and seeds[%zu]: both are %llu", c->source, j, i,
                              (unsigned long long)c->seeds[i]));
    }
    c->seed_count = count;
done:
    return status;
}

static sara_status read_choice(sara_comparison *c)
{
    const sara_config config = {c->ctx, c->config, c->source};
    int64_t pictures;
    sara_status status;
    TRY(sara_config_string(&config, &c->choose_by, "choose_by", "vlhi"));
    if (strcmp(c->choose_by, "vlhi") != 0 && strcmp(c->choose_by, "fid") != 0 &&
        strcmp(c->choose_by, "clip_score") != 0)
        TRY(sara_fail(c->ctx, SARA_ERROR_INPUT,
                      "%s: choose_by %s: expected vlhi, fid or clip_score", c->source,
                      c->choose_by));
    TRY(sara_config_string(&config, &c->strengths_row, "strengths_row", NULL));
    TRY(sara_config_int(&config, &pictures, "pictures", 6, 0, 64));
    c->pictures = (int)pictures;
done:
    return status;
}

static sara_status check_strengths_row(const sara_comparison *c)
{
    if (!c->strengths_row)
        return SARA_OK;
    for (size_t i = 0; i < c->row_count; i++)
        if (strcmp(c->rows[i].name, c->strengths_row) == 0)
            return SARA_OK;
    return sara_fail(c->ctx, SARA_ERROR_INPUT, "%s: strengths_row %s: no row is named so",
                     c->source, c->strengths_row);
}

/* Without slashes at its end, by which it would be another folder to what has its name. */
static sara_status read_output(sara_comparison *c, const char *given)
{
    char *path = NULL;
    sara_status status;
    if (!given)
        TRY(need_string(c, &given, c->config, "the file", "output_dir"));
    size_t length = strlen(given);
    while (length > 1 && given[length - 1] == '/')
        length--;
    TRY(sara_arena_alloc(&c->arena, &path, length + 1, 1));
    memcpy(path, given, length);
    path[length] = '\0';
    c->output = path;
done:
    return status;
}

/* Where the folder is one that cannot be read, what reads it says so. */
static sara_status read_sides(sara_comparison *c)
{
    sara_status status = SARA_OK;
    if (sara_path_is_directory(c->model))
        status = sara_folder_sides(c->ctx, &c->sides, c->model);
    return status == SARA_ERROR_MEMORY ? status : SARA_OK;
}

static sara_status read_top(sara_comparison *c, const sara_compare_options *options)
{
    static const char *const known[] = {"model",
                                        "output_dir",
                                        "data",
                                        "seeds",
                                        "train",
                                        "rows",
                                        "learning_rates",
                                        "eval",
                                        "choose_by",
                                        "base_prompts",
                                        "neutral_prompts",
                                        "pictures",
                                        "cost",
                                        "strengths_row",
                                        NULL};
    sara_status status;
    TRY(sara_compare_check_keys(c, c->config, "the file", known));
    TRY(need_string(c, &c->model, c->config, "the file", "model"));
    if (!sara_path_exists(c->model))
        TRY(sara_fail(c->ctx, SARA_ERROR_INPUT, "%s: model %s: is not there", c->source, c->model));
    TRY(read_output(c, options->output_dir));
    TRY(need_prompts(c, &c->base_prompts, c->config, "the file", "base_prompts"));
    if (json_object_get(c->config, "neutral_prompts"))
        TRY(need_prompts(c, &c->neutral_prompts, c->config, "the file", "neutral_prompts"));
    c->train = json_object_get(c->config, "train");
    if (c->train && !json_is_object(c->train))
        TRY(sara_fail(c->ctx, SARA_ERROR_INPUT, "%s: train: expected an object", c->source));
    TRY(read_choice(c));
    TRY(read_sides(c));
    TRY(sara_compare_read_eval(c));
    TRY(read_data_sets(c));
    TRY(read_seeds(c));
    TRY(sara_compare_read_rows(c));
    TRY(check_strengths_row(c));
    TRY(sara_compare_read_cost(c));
    TRY(sara_compare_read_strengths(c, options->strengths));
    TRY(sara_compare_check_options(c));
done:
    return status;
}

sara_status sara_comparison_open(sara_context *ctx, sara_comparison *c,
                                 const sara_compare_options *given)
{
    sara_compare_options options = {.size = sizeof(options)};
    sara_status status;
    *c = (sara_comparison){.ctx = ctx, .lock = -1, .children = -1};
    sara_arena_init(&c->arena, ctx);
    TRY(sara_options_read(ctx, &options, &compare_options_type, given));
    if (!options.config)
        TRY(sara_fail(ctx, SARA_ERROR_USAGE, "--config is missing: name the comparison's file"));
    if (!options.program || access(options.program, X_OK) != 0)
        TRY(sara_fail(ctx, SARA_ERROR_USAGE, "%s: is no program that can be run",
                      options.program ? options.program : "sara_compare_options.program"));
    c->source = options.config;
    c->program = options.program;
    c->dry_run = options.dry_run;
    c->with_cost = options.cost;
    TRY(sara_json_load(ctx, &c->config, options.config, false));
    TRY(read_top(c, &options));
done:
    return status;
}

void sara_comparison_free(sara_comparison *c)
{
    sara_compare_unlock(c);
    for (size_t i = 0; i < c->row_count; i++)
        json_decref(c->rows[i].options);
    json_decref(c->config);
    sara_arena_free(&c->arena);
}

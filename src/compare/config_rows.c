/* Rows of a comparison: names, learning rates, the tables they stand in, training options. */
#include "compare/compare.h"

#include "train/train.h"

#include <math.h>
#include <stdlib.h>

/* What a comparison gives each run itself, and where. */
static const struct {
    const char *option, *where;
} given_elsewhere[] = {
    {"pretrained_model_name_or_path", "model"},
    {"unet_only", "model"},
    {"train_data_dir", "data"},
    {"replay", "data"},
    {"caption_prefix", "data"},
    {"output_dir", "output_dir"},
    {"seed", "seeds"},
    {"learning_rate", "learning_rates"},
    {"resume_from_checkpoint", "the command, which always goes on"},
    {"profile", "sara train"},
    {"adapter", "sara train"},
};

static bool is_row_key(const char *key)
{
    return strcmp(key, "name") == 0 || strcmp(key, "groups") == 0 ||
           strcmp(key, "learning_rates") == 0;
}

/* The proper name of a training option that a row may set; NULL after an error. */
static sara_status find_row_option(const sara_comparison *c, const char **out, const char *where,
                                   const char *key)
{
    const sara_option_info *info = sara_train_option_find(key);
    if (!info)
        return sara_fail(c->ctx, SARA_ERROR_INPUT,
                         "%s: %s: %s: no such key, nor a training option; see sara train --help",
                         c->source, where, key);
    for (size_t i = 0; i < sizeof(given_elsewhere) / sizeof(*given_elsewhere); i++)
        if (strcmp(info->name, given_elsewhere[i].option) == 0)
            return sara_fail(c->ctx, SARA_ERROR_INPUT, "%s: %s: %s: is given by %s", c->source,
                             where, key, given_elsewhere[i].where);
    *out = info->name;
    return SARA_OK;
}

sara_status sara_compare_text(sara_comparison *c, const char **out, const json_t *value,
                              const char *where)
{
    char *text = NULL;
    sara_status status = SARA_OK;
    if (json_is_string(value))
        return sara_arena_strdup(&c->arena, out, json_string_value(value));
    if (!json_is_number(value) && !json_is_boolean(value))
        return sara_fail(c->ctx, SARA_ERROR_INPUT,
                         "%s: %s: expected a text, a number or true or false", c->source, where);
    text = sara_json_dump(value, JSON_ENCODE_ANY);
    if (!text)
        return sara_fail(c->ctx, SARA_ERROR_MEMORY, "out of memory: %s", c->source);
    status = sara_arena_strdup(&c->arena, out, text);
    free(text);
    return status;
}

/* The common options that go with the row's method, then the row's own. */
static sara_status merge_options(sara_comparison *c, sara_compare_row *row, const json_t *own,
                                 const char *where, bool common)
{
    const char *key, *name = NULL;
    json_t *value;
    sara_status status = SARA_OK;
    json_object_foreach((json_t *)(uintptr_t)own, key, value)
    {
        if (!common && is_row_key(key))
            continue;
        TRY(find_row_option(c, &name, where, key));
        if (!sara_train_option_goes_with(name, row->method)) {
            if (common)
                continue;
            TRY(sara_fail(c->ctx, SARA_ERROR_INPUT, "%s: %s: %s: does not go with method %s",
                          c->source, where, key, row->method));
        }
        if (json_object_set(row->options, name, value) != 0)
            TRY(sara_fail(c->ctx, SARA_ERROR_MEMORY, "out of memory: %s", c->source));
    }
done:
    return status;
}

static sara_status check_rates(const sara_comparison *c, const sara_compare_row *row)
{
    size_t count = json_array_size(row->rates);
    if (count < SARA_LEAST_RATES)
        return sara_fail(c->ctx, SARA_ERROR_INPUT,
                         "%s: row %s: learning_rates: %zu of them, expected at least %d: each row "
                         "is tried with a grid, so that none is put at a disadvantage",
                         c->source, row->name, count, SARA_LEAST_RATES);
    for (size_t i = 0; i < count; i++) {
        double rate = json_number_value(json_array_get(row->rates, i));
        if (!(rate > 0 && rate <= 1e3))
            return sara_fail(c->ctx, SARA_ERROR_INPUT,
                             "%s: row %s: learning_rates[%zu]: expected a number, more than 0 to "
                             "1000",
                             c->source, row->name, i);
        const double before = json_number_value(json_array_get(row->rates, i - 1));
        if (i > 0 && !(rate > before * (1 + 1e-6))) /* folders have them in ten digits */
            return sara_fail(c->ctx, SARA_ERROR_INPUT,
                             "%s: row %s: learning_rates[%zu]: expected more than the one before",
                             c->source, row->name, i);
    }
    return SARA_OK;
}

static sara_status name_group(sara_comparison *c, const char *name)
{
    for (size_t i = 0; i < c->group_count; i++)
        if (strcmp(c->groups[i], name) == 0)
            return SARA_OK;
    c->groups[c->group_count++] = name;
    return SARA_OK;
}

static sara_status read_groups(sara_comparison *c, sara_compare_row *row, const json_t *list)
{
    size_t count = list ? json_array_size(list) : 1;
    sara_status status;
    TRY(sara_arena_alloc(&c->arena, &row->groups, count, sizeof(*row->groups)));
    row->group_count = count;
    if (count == 0)
        TRY(sara_fail(c->ctx, SARA_ERROR_INPUT, "%s: row %s: groups: expected a list of names",
                      c->source, row->name));
    for (size_t i = 0; i < count; i++) {
        row->groups[i] = list ? json_string_value(json_array_get(list, i)) : "methods";
        if (!row->groups[i])
            TRY(sara_fail(c->ctx, SARA_ERROR_INPUT, "%s: row %s: groups[%zu]: is no text",
                          c->source, row->name, i));
        TRY(sara_compare_check_name(c, "groups", row->groups[i]));
        TRY(name_group(c, row->groups[i]));
    }
done:
    return status;
}

static const char *text_at(const json_t *object, const char *key)
{
    return json_string_value(json_object_get(object, key));
}

/* NULL: there is none. */
static sara_status method_in(const sara_comparison *c, const char **out, const json_t *object,
                             const char *where)
{
    const json_t *value = json_object_get(object, "method");
    *out = json_string_value(value);
    return !value || *out
               ? SARA_OK
               : sara_fail(c->ctx, SARA_ERROR_INPUT, "%s: %s: method is no text", c->source, where);
}

static sara_status check_row_name(const sara_comparison *c, const sara_compare_row *row,
                                  const char *where)
{
    sara_status status;
    if (!row->name)
        return sara_fail(c->ctx, SARA_ERROR_INPUT, "%s: %s: name is missing", c->source, where);
    TRY(sara_compare_check_name(c, where, row->name));
    for (const sara_compare_row *other = c->rows; other < row; other++)
        if (strcmp(other->name, row->name) == 0)
            TRY(sara_fail(c->ctx, SARA_ERROR_INPUT, "%s: two rows are named %s", c->source,
                          row->name));
    if (strcmp(row->name, "base") == 0)
        status = sara_fail(c->ctx, SARA_ERROR_INPUT,
                           "%s: %s: name base: is the untouched base's row, which is always there",
                           c->source, where);
done:
    return status;
}

static sara_status read_row(sara_comparison *c, const json_t *object, size_t index)
{
    const sara_name where = sara_name_of("rows[%zu]", index);
    sara_compare_row *row = &c->rows[index];
    const char *own, *common;
    sara_status status;
    *row = (sara_compare_row){.name = text_at(object, "name"), .options = json_object()};
    c->row_count = index + 1;
    if (!row->options)
        TRY(sara_fail(c->ctx, SARA_ERROR_MEMORY, "out of memory: %s", c->source));
    TRY(check_row_name(c, row, where.text));
    TRY(method_in(c, &own, object, sara_name_of("row %s", row->name).text));
    TRY(method_in(c, &common, c->train, "train"));
    row->method = own ? own : common ? common : "sara";
    if (!sara_train_option_goes_with("method", row->method))
        TRY(sara_fail(c->ctx, SARA_ERROR_INPUT, "%s: row %s: method %s: no such method", c->source,
                      row->name, row->method));
    row->rates = json_object_get(object, "learning_rates");
    if (!row->rates)
        row->rates = json_object_get(c->config, "learning_rates");
    TRY(check_rates(c, row));
    TRY(read_groups(c, row, json_object_get(object, "groups")));
    TRY(merge_options(c, row, c->train, "train", true));
    TRY(merge_options(c, row, object, sara_name_of("row %s", row->name).text, false));
done:
    return status;
}

sara_status sara_compare_read_rows(sara_comparison *c)
{
    const json_t *list = json_object_get(c->config, "rows");
    size_t count = json_array_size(list), groups = count;
    sara_status status;
    if (count == 0)
        return sara_fail(c->ctx, SARA_ERROR_INPUT, "%s: rows: expected a list of at least one row",
                         c->source);
    for (size_t i = 0; i < count; i++)
        groups += json_array_size(json_object_get(json_array_get(list, i), "groups"));
    TRY(sara_arena_alloc(&c->arena, &c->groups, groups, sizeof(*c->groups)));
    TRY(sara_arena_alloc(&c->arena, &c->rows, count, sizeof(*c->rows)));
    for (size_t i = 0; i < count; i++)
        TRY(read_row(c, json_array_get(list, i), i));
done:
    return status;
}

/* --------------------------------------------------------------------------- options of a run */

sara_status sara_compare_train_config(sara_comparison *c, json_t **out, const sara_compare_row *row,
                                      const sara_compare_data *data, double rate, uint64_t seed,
                                      const char *run)
{
    json_t *config = json_deep_copy(row->options);
    sara_status status = SARA_OK;
    if (!config ||
        json_object_set_new(config, "pretrained_model_name_or_path", json_string(c->model)) ||
        json_object_set_new(config, "train_data_dir", json_string(data->folder)) ||
        (data->prefix &&
         json_object_set_new(config, "caption_prefix", json_string(data->prefix))) ||
        json_object_set_new(config, "output_dir", json_string(run)) ||
        json_object_set_new(config, "learning_rate", json_real(rate)) ||
        json_object_set_new(config, "seed", json_integer((json_int_t)seed)) ||
        (!json_object_get(config, "checkpoints_total_limit") &&
         json_object_set_new(config, "checkpoints_total_limit", json_integer(1))) ||
        json_object_set_new(config, "resume_from_checkpoint", json_string("latest"))) {
        json_decref(config);
        config = NULL;
        status = sara_fail(c->ctx, SARA_ERROR_MEMORY, "out of memory: %s", c->source);
    }
    *out = config;
    return status;
}

static sara_status check_run_options(sara_comparison *c, sara_compare_row *row)
{
    const double rate = json_number_value(json_array_get(row->rates, 0));
    sara_train_options options;
    json_t *config = NULL, *value;
    const char *key, *text;
    sara_status status;
    sara_train_options_init(&options);
    TRY(sara_compare_train_config(c, &config, row, &c->data[0], rate, c->seeds[0], "run"));
    json_object_foreach(config, key, value)
    {
        TRY(sara_compare_text(c, &text, value, sara_name_of("row %s: %s", row->name, key).text));
        TRY(sara_train_options_set(c->ctx, &options, key, text));
    }
    TRY(sara_train_options_check(c->ctx, &options));
    sara_train_options_sides(&options, &row->width, &row->height);
    if (c->sides.unit && row->width && !options.vae)
        TRY(sara_picture_sides_check(c->ctx, &c->sides, row->width, row->height, "resolution"));
done:
    json_decref(config);
    return status;
}

sara_status sara_compare_check_options(sara_comparison *c)
{
    for (size_t i = 0; i < c->row_count; i++) {
        sara_compare_row *row = &c->rows[i];
        sara_status status = check_run_options(c, row);
        if (status == SARA_ERROR_USAGE) {
            sara_name where = sara_name_of("row %s", row->name);
            status = sara_fail_in(c->ctx, SARA_ERROR_INPUT, where.text);
            status = sara_fail_in(c->ctx, status, c->source);
        }
        if (status != SARA_OK)
            return status;
    }
    return SARA_OK;
}

/* Tables of a comparison, for the page and for Markdown. */
#include "compare/tables.h"

#include <math.h>

#define MOST_COLUMNS 24

/* ------------------------------------------------------------------------------ what is in them */

static const json_t *table_entry(const json_t *row, size_t data)
{
    return json_array_get(json_object_get(row, "data"), data);
}

/* "mean" and "deviation" of a number, or of VLHI in a group. data SIZE_MAX: the mean of all. */
static const json_t *summary_of(const json_t *row, size_t data, const char *name)
{
    const char *key = data == SIZE_MAX ? "mean" : "summary";
    const json_t *where = data == SIZE_MAX ? row : table_entry(row, data);
    return json_object_get(json_object_get(where, key), name);
}

static const json_t *vlhi_in(const json_t *row, size_t data, const char *group)
{
    const json_t *where = data == SIZE_MAX ? json_object_get(row, "mean") : table_entry(row, data);
    return json_object_get(json_object_get(where, "vlhi"), group);
}

double sara_compare_number(const json_t *summary, const char *field)
{
    double number;
    return sara_json_number(&number, json_object_get(summary, field)) ? number : NAN;
}

double sara_compare_mean(const json_t *row, size_t data, const char *name)
{
    return sara_compare_number(summary_of(row, data, name), "mean");
}

double sara_compare_spread(const json_t *row, size_t data, const char *name)
{
    return sara_compare_number(summary_of(row, data, name), "deviation");
}

sara_status sara_compare_words(sara_comparison *c, const char **out, const char *format, ...)
{
    va_list args, again;
    char *text = NULL;
    sara_status status;
    va_start(args, format);
    va_copy(again, args);
    const int length = sara_print_args(NULL, 0, format, args);
    TRY(sara_arena_alloc(&c->arena, &text, length > 0 ? (size_t)length + 1 : 1, 1));
    sara_print_args(text, length > 0 ? (size_t)length + 1 : 1, format, again);
    *out = text;
done:
    va_end(again);
    va_end(args);
    return status;
}

/* Which network a measure is of, as the base's own evaluation tells it. */
const char *sara_compare_convention(const json_t *result, const sara_metric *metric)
{
    const json_t *rows[] = {json_object_get(result, "base"),
                            json_array_get(json_object_get(result, "rows"), 0)};
    for (size_t i = 0; i < 2; i++) {
        const json_t *seed = json_array_get(json_object_get(table_entry(rows[i], 0), "seeds"), 0);
        const json_t *record = json_object_get(seed, metric->part);
        if (!record)
            record = json_object_get(seed, "forgetting");
        const json_t *value = json_object_get(json_object_get(record, "report"), metric->key);
        const char *name = json_string_value(json_object_get(value, "convention"));
        if (!name)
            name = json_string_value(json_object_get(value, "backbone"));
        if (name)
            return name;
    }
    return NULL;
}

/* ------------------------------------------------------------------------------------ one table */

typedef struct table_maker {
    sara_comparison *c;
    const json_t *result;
    const char *group;
    size_t data;                              /* SIZE_MAX: the means over all */
    const sara_metric *metrics[MOST_COLUMNS]; /* NULL: VLHI */
    size_t metric_count;
    bool has_failures; /* a last column tells them */
} table_maker;

static bool has_numbers(const table_maker *m, const char *name)
{
    const json_t *rows = json_object_get(m->result, "rows");
    if (isfinite(sara_compare_mean(json_object_get(m->result, "base"), m->data, name)))
        return true;
    for (size_t i = 0; i < json_array_size(rows); i++)
        if (isfinite(sara_compare_mean(json_array_get(rows, i), m->data, name)))
            return true;
    return false;
}

static void choose_metrics(table_maker *m)
{
    m->metric_count = 0;
    for (size_t i = 0; i < sara_compare_metric_count; i++) {
        if (has_numbers(m, sara_compare_metrics[i].name))
            m->metrics[m->metric_count++] = &sara_compare_metrics[i];
        if (strcmp(sara_compare_metrics[i].name, "clip_score") == 0)
            m->metrics[m->metric_count++] = NULL;
    }
}

static sara_status set_columns(const table_maker *m, sara_column *columns)
{
    sara_status status;
    *columns++ = (sara_column){.name = "row"};
    *columns++ = (sara_column){.name = "learning rate"};
    for (size_t i = 0; i < m->metric_count; i++, columns++) {
        const sara_metric *metric = m->metrics[i];
        if (!metric) {
            *columns = (sara_column){.name = "VLHI", .better = SARA_BETTER_HIGH, .digits = 2};
            continue;
        }
        const char *name = sara_compare_convention(m->result, metric);
        *columns = (sara_column){.name = metric->title,
                                 .unit = metric->unit,
                                 .better = (sara_better)metric->better,
                                 .digits = metric->digits};
        if (name)
            TRY(sara_compare_words(m->c, &columns->name, "%s (%s)", metric->title, name));
    }
    if (m->has_failures)
        *columns = (sara_column){.name = "told"};
    status = SARA_OK;
done:
    return status;
}

/* The first failure among the processes of a seed, or of a learning rate; NULL: all went well. */
static const json_t *first_failure(const json_t *of)
{
    static const char *const parts[] = {"train", "tuning", "adaptation", "forgetting", "drift"};
    for (size_t i = 0; i < sizeof(parts) / sizeof(*parts); i++)
        if (sara_record_error(json_object_get(of, parts[i])))
            return json_object_get(of, parts[i]);
    return NULL;
}

static sara_status tell_failure(sara_comparison *c, const char **out, const json_t *failure)
{
    return sara_compare_words(c, out, "failed (exit code %lld): %s",
                              (long long)json_integer_value(json_object_get(failure, "exit_code")),
                              sara_record_error(failure));
}

/* What a row's numbers lack, and which seed; *out NULL: nothing. */
static sara_status told_in(const table_maker *m, const char **out, const json_t *row, size_t data)
{
    const json_t *entry = table_entry(row, data), *seeds = json_object_get(entry, "seeds"),
                 *failure = first_failure(json_array_get(json_object_get(entry, "grid"), 0));
    sara_status status = SARA_OK;
    *out = NULL;
    if (failure && !json_object_get(entry, "learning_rate"))
        return tell_failure(m->c, out, failure);
    for (size_t i = 0; i < json_array_size(seeds) && !*out; i++) {
        const json_t *seed = json_array_get(seeds, i);
        failure = first_failure(seed);
        if (!failure)
            continue;
        TRY(tell_failure(m->c, out, failure));
        TRY(sara_compare_words(m->c, out, "seed %lld %s",
                               (long long)json_integer_value(json_object_get(seed, "seed")), *out));
    }
done:
    return status;
}

/* Of the means: in the first data set in which anything failed. */
static sara_status told_of(const table_maker *m, const char **out, const json_t *row)
{
    sara_status status = SARA_OK;
    if (m->data != SIZE_MAX)
        return told_in(m, out, row, m->data);
    *out = NULL;
    for (size_t d = 0; d < m->c->data_count && !*out; d++) {
        TRY(told_in(m, out, row, d));
        if (*out)
            TRY(sara_compare_words(m->c, out, "%s: %s", m->c->data[d].name, *out));
    }
done:
    return status;
}

static void put_number(const table_maker *m, sara_cell *cell, const json_t *row,
                       const sara_metric *metric, bool is_base)
{
    const json_t *summary =
        metric ? summary_of(row, m->data, metric->name) : vlhi_in(row, m->data, m->group);
    const double scale = metric ? metric->scale : 1;
    *cell = (sara_cell){.value = scale * sara_compare_number(summary, "mean"),
                        .spread = scale * sara_compare_number(summary, "deviation"),
                        .beside = is_base};
    if (metric && strcmp(metric->name, "entries") == 0)
        cell->spread = NAN;
}

/* A rate at its grid's edge is told: the row might do better beyond. */
static sara_status rate_cell(const table_maker *m, sara_cell *cell, const json_t *row)
{
    const json_t *entry = table_entry(row, m->data),
                 *rate = json_object_get(entry, "learning_rate");
    const bool edge = json_is_true(json_object_get(entry, "at_edge"));
    *cell = (sara_cell){.text = "–"};
    return rate ? sara_compare_words(m->c, &cell->text, "%.3g%s", json_number_value(rate),
                                     edge ? " (edge)" : "")
                : SARA_OK;
}

static sara_status put_row(const table_maker *m, sara_cell *cells, const json_t *row, bool is_base)
{
    sara_status status;
    *cells++ = (sara_cell){.text = json_string_value(json_object_get(row, "name"))};
    TRY(rate_cell(m, cells++, row));
    for (size_t i = 0; i < m->metric_count; i++)
        put_number(m, cells++, row, m->metrics[i], is_base);
    if (!m->has_failures)
        goto done;
    TRY(told_of(m, &cells->text, row));
    if (!cells->text)
        cells->text = "";
done:
    return status;
}

static sara_status look_for_failures(table_maker *m)
{
    const json_t *rows = json_object_get(m->result, "rows");
    const char *told;
    sara_status status = SARA_OK;
    for (size_t i = 0; i < json_array_size(rows); i++) {
        const json_t *row = json_array_get(rows, i);
        TRY(told_of(m, &told, row));
        m->has_failures = m->has_failures || (told && sara_compare_in_group(row, m->group));
    }
done:
    return status;
}

sara_status sara_compare_table(sara_comparison *c, sara_table *out, const json_t *result,
                               const char *group, size_t data)
{
    const json_t *rows = json_object_get(result, "rows");
    table_maker m = {.c = c, .result = result, .group = group, .data = data};
    sara_column *columns;
    sara_cell *cells;
    size_t width, count = 1;
    sara_status status;
    choose_metrics(&m);
    TRY(look_for_failures(&m));
    width = m.metric_count + 2 + m.has_failures;
    TRY(sara_arena_alloc(&c->arena, &columns, width, sizeof(*columns)));
    TRY(sara_arena_alloc(&c->arena, &cells, width * (json_array_size(rows) + 1), sizeof(*cells)));
    TRY(set_columns(&m, columns));
    TRY(put_row(&m, cells, json_object_get(result, "base"), true));
    for (size_t i = 0; i < json_array_size(rows); i++)
        if (sara_compare_in_group(json_array_get(rows, i), group))
            TRY(put_row(&m, cells + width * count++, json_array_get(rows, i), false));
    *out =
        (sara_table){.columns = columns, .column_count = width, .cells = cells, .row_count = count};
    TRY(sara_compare_words(c, &out->caption, "%s: %s", group,
                           data == SIZE_MAX ? "means over the data sets" : c->data[data].name));
done:
    return status;
}

/* ------------------------------------------------------------------------------- learning rates */

static sara_status put_grid_row(sara_comparison *c, sara_cell *cells, const json_t *row,
                                const json_t *entry, const json_t *of)
{
    const json_t *report = json_object_get(json_object_get(of, "tuning"), "report");
    const double rate = json_number_value(json_object_get(of, "learning_rate"));
    const bool best = json_number_value(json_object_get(entry, "learning_rate")) == rate;
    const json_t *failure = first_failure(of);
    sara_status status;
    cells[0] = (sara_cell){.text = json_string_value(json_object_get(row, "name"))};
    TRY(sara_compare_words(c, &cells[1].text, "%.3g", rate));
    cells[2] = (sara_cell){.value = sara_compare_number(json_object_get(report, "fid"), "value"),
                           .spread = NAN};
    cells[3] = (sara_cell){
        .value = sara_compare_number(json_object_get(report, "clip_score"), "mean"), .spread = NAN};
    cells[4] = (sara_cell){.value = sara_compare_number(of, "score"), .spread = NAN};
    cells[5] = (sara_cell){.text = best ? "taken" : ""};
    if (failure)
        TRY(tell_failure(c, &cells[5].text, failure));
done:
    return status;
}

sara_status sara_compare_grid_table(sara_comparison *c, sara_table *out, const json_t *result,
                                    size_t data)
{
    static const sara_column usual[] = {
        {.name = "row"},
        {.name = "learning rate"},
        {.name = "FID", .digits = 2},
        {.name = "CLIP score", .digits = 2},
        {.name = "score", .digits = 3},
        {.name = "told"},
    };
    const size_t width = sizeof(usual) / sizeof(*usual);
    const json_t *rows = json_object_get(result, "rows");
    const char *fid = sara_compare_convention(result, sara_compare_metric_named("fid"));
    size_t count = 0;
    sara_column *columns;
    sara_cell *cells;
    sara_status status;
    TRY(sara_arena_alloc(&c->arena, &columns, width, sizeof(*columns)));
    memcpy(columns, usual, sizeof(usual));
    if (fid)
        TRY(sara_compare_words(c, &columns[2].name, "FID (%s)", fid));
    for (size_t i = 0; i < c->row_count; i++)
        count += json_array_size(c->rows[i].rates);
    TRY(sara_arena_alloc(&c->arena, &cells, width * count, sizeof(*cells)));
    memset(cells, 0, width * count * sizeof(*cells));
    count = 0;
    for (size_t i = 0; i < json_array_size(rows); i++) {
        const json_t *row = json_array_get(rows, i), *entry = table_entry(row, data);
        const json_t *grid = json_object_get(entry, "grid");
        for (size_t j = 0; j < json_array_size(grid); j++)
            TRY(put_grid_row(c, cells + width * count++, row, entry, json_array_get(grid, j)));
    }
    *out =
        (sara_table){.columns = columns, .column_count = width, .cells = cells, .row_count = count};
    status = sara_compare_words(c, &out->caption, "%s: on its tuning prompts, with seed %llu",
                                c->data[data].name, (unsigned long long)c->seeds[0]);
done:
    return status;
}

/* ------------------------------------------------------------------------------------- Markdown */

static sara_status put_tables(sara_comparison *c, sara_buffer *out, const json_t *result,
                              const char *group)
{
    sara_table table;
    sara_status status = SARA_OK;
    for (size_t d = 0; d < c->data_count; d++) {
        TRY(sara_compare_table(c, &table, result, group, d));
        TRY(sara_table_markdown(out, &table));
        TRY(sara_buffer_put(out, "\n"));
    }
    if (c->data_count > 1) {
        TRY(sara_compare_table(c, &table, result, group, SIZE_MAX));
        TRY(sara_table_markdown(out, &table));
        TRY(sara_buffer_put(out, "\n"));
    }
done:
    return status;
}

sara_status sara_compare_note(sara_comparison *c, const char **out)
{
    char seeds[128] = "Of one seed.";
    if (c->seed_count > 1)
        sara_print(seeds, sizeof(seeds),
                   "Means over %zu seeds, ± the standard deviation; VLHI's is that of single "
                   "seeds.",
                   c->seed_count);
    return sara_compare_words(
        c, out,
        "%s VLHI is over this table's rows, without the untouched base. Learning rates are the "
        "best of each row's grid by %s on tuning prompts, which the table does not use.",
        seeds, c->choose_by);
}

sara_status sara_compare_markdown(sara_comparison *c, const json_t *result)
{
    sara_buffer out = {.ctx = c->ctx};
    const char *note;
    char *path = NULL;
    sara_table table;
    sara_status status;
    TRY(sara_buffer_put(&out, "# Comparison\n\n"));
    TRY(sara_compare_note(c, &note));
    TRY(sara_buffer_put(&out, note));
    TRY(sara_buffer_put(&out, "\n\n"));
    for (size_t g = 0; g < c->group_count; g++)
        TRY(put_tables(c, &out, result, c->groups[g]));
    TRY(sara_buffer_put(&out, "## Learning rates\n\n"));
    for (size_t d = 0; d < c->data_count; d++) {
        TRY(sara_compare_grid_table(c, &table, result, d));
        TRY(sara_table_markdown(&out, &table));
        TRY(sara_buffer_put(&out, "\n"));
    }
    if (json_object_get(result, "cost")) {
        TRY(sara_buffer_put(&out, "## Cost\n\n"));
        TRY(sara_compare_cost_table(c, &table, json_object_get(result, "cost")));
        TRY(sara_table_markdown(&out, &table));
    }
    TRY(sara_path_join(c->ctx, &path, c->output, "table.md"));
    status = sara_file_write(c->ctx, path, out.data, out.length);
done:
    sara_free(c->ctx, path);
    sara_buffer_free(&out);
    return status;
}

/* report.html of a comparison. */
#include "compare/tables.h"

#include <stdlib.h>

static sara_status put_group(sara_comparison *c, sara_page *page, const json_t *result,
                             const char *group)
{
    sara_table table;
    sara_status status;
    TRY(sara_page_heading(page, group));
    for (size_t d = 0; d < c->data_count; d++) {
        TRY(sara_compare_table(c, &table, result, group, d));
        TRY(sara_page_table(page, &table));
    }
    if (c->data_count > 1) {
        TRY(sara_compare_table(c, &table, result, group, SIZE_MAX));
        TRY(sara_page_table(page, &table));
    }
    for (size_t d = 0; d < c->data_count; d++)
        TRY(sara_compare_pareto(c, page, result, group, d));
    for (size_t d = 0; d < c->data_count; d++) {
        TRY(sara_compare_pictures(c, page, result, group, d, false));
        TRY(sara_compare_pictures(c, page, result, group, d, true));
    }
done:
    return status;
}

static sara_status put_rates(sara_comparison *c, sara_page *page, const json_t *result)
{
    sara_table table;
    sara_status status;
    TRY(sara_page_heading(page, "Learning rates"));
    for (size_t g = 0; g < c->group_count; g++)
        for (size_t d = 0; d < c->data_count; d++)
            TRY(sara_compare_rates_plot(c, page, result, c->groups[g], d));
    TRY(sara_page_fold_begin(page, "Every rate that was tried"));
    for (size_t d = 0; d < c->data_count; d++) {
        TRY(sara_compare_grid_table(c, &table, result, d));
        TRY(sara_page_table(page, &table));
    }
    TRY(sara_page_fold_end(page));
done:
    return status;
}

/* --------------------------------------------------------------------------- settings, commands */

typedef struct pairs {
    sara_comparison *c;
    sara_cell *cells; /* [count][2] */
    size_t count, capacity;
} pairs;

static sara_status page_pair(pairs *p, const char *name, const char *text)
{
    sara_status status;
    TRY(sara_grow(p->c->ctx, &p->cells, &p->capacity, 2 * (p->count + 1), sizeof(*p->cells)));
    p->cells[2 * p->count] = (sara_cell){.text = name};
    p->cells[2 * p->count++ + 1] = (sara_cell){.text = text};
done:
    return status;
}

static sara_status page_value(pairs *p, const char *name, const json_t *value)
{
    char *text = sara_json_dump(value, JSON_ENCODE_ANY | JSON_PRESERVE_ORDER);
    const char *kept;
    sara_status status;
    if (!text)
        return sara_fail(p->c->ctx, SARA_ERROR_MEMORY, "out of memory: report.html");
    TRY(sara_arena_strdup(&p->c->arena, &kept,
                          json_is_string(value) ? json_string_value(value) : text));
    status = page_pair(p, name, kept);
done:
    free(text);
    return status;
}

static sara_status put_pairs(sara_page *page, pairs *p, const char *summary, const char *first,
                             const char *second)
{
    const sara_column columns[] = {{.name = first}, {.name = second}};
    const sara_table table = {
        .columns = columns, .column_count = 2, .cells = p->cells, .row_count = p->count};
    sara_status status;
    TRY(sara_page_fold_begin(page, summary));
    TRY(sara_page_table(page, &table));
    TRY(sara_page_fold_end(page));
    p->count = 0;
done:
    return status;
}

static sara_status put_compare_settings(sara_comparison *c, sara_page *page, const json_t *result)
{
    const json_t *rows = json_object_get(result, "rows");
    pairs p = {.c = c};
    const char *key;
    json_t *value;
    sara_status status = SARA_OK;
    json_object_foreach(c->config, key, value)
    {
        if (strcmp(key, "rows") != 0)
            TRY(page_value(&p, key, value));
    }
    TRY(put_pairs(page, &p, "Settings", "key", "value"));
    for (size_t i = 0; i < json_array_size(rows); i++) {
        const json_t *row = json_array_get(rows, i);
        TRY(page_value(&p, json_string_value(json_object_get(row, "name")),
                       json_object_get(row, "options")));
    }
    TRY(put_pairs(page, &p, "Options of each row", "row", "training options"));
done:
    sara_free(c->ctx, p.cells);
    return status;
}

/* Runs of the tables, with the commands that make them again. */
static sara_status put_commands(sara_comparison *c, sara_page *page, const json_t *result)
{
    const json_t *rows = json_object_get(result, "rows");
    json_t *entry;
    pairs p = {.c = c};
    size_t index;
    sara_status status = SARA_OK;
    for (size_t i = 0; i < json_array_size(rows); i++)
        json_array_foreach(json_object_get(json_array_get(rows, i), "data"), index, entry)
        {
            const json_t *seeds = json_object_get(entry, "seeds");
            for (size_t s = 0; s < json_array_size(seeds); s++) {
                const char *folder =
                    json_string_value(json_object_get(json_array_get(seeds, s), "folder"));
                const char *command;
                TRY(sara_compare_words(c, &command, "sara train --config '%s/%s/run.json'",
                                       c->output, folder));
                TRY(page_pair(&p, folder, command));
            }
        }
    TRY(put_pairs(page, &p, "Runs", "folder", "command"));
done:
    sara_free(c->ctx, p.cells);
    return status;
}

sara_status sara_compare_page(sara_comparison *c, const json_t *result)
{
    sara_page page = {.ctx = c->ctx};
    const char *note;
    char *path = NULL;
    sara_status status;
    TRY(sara_page_begin(&page, c->ctx, "Comparison"));
    TRY(sara_compare_note(c, &note));
    TRY(sara_page_paragraph(&page, note));
    for (size_t g = 0; g < c->group_count; g++)
        TRY(put_group(c, &page, result, c->groups[g]));
    TRY(put_rates(c, &page, result));
    if (json_object_get(result, "cost"))
        TRY(sara_compare_cost_page(c, &page, json_object_get(result, "cost")));
    if (json_object_get(result, "strengths"))
        TRY(sara_compare_strengths_page(c, &page, json_object_get(result, "strengths")));
    TRY(put_compare_settings(c, &page, result));
    TRY(put_commands(c, &page, result));
    TRY(sara_path_join(c->ctx, &path, c->output, "report.html"));
    status = sara_page_write(&page, path);
done:
    sara_free(c->ctx, path);
    sara_page_free(&page);
    return status;
}

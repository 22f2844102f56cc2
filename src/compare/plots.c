/* Plots and pictures of a comparison's page. */
#include "compare/tables.h"

#include <math.h>

/* ----------------------------------------------------------------------- forgetting, adaptation */

typedef struct pareto {
    double *x, *y, *size, *spread, *spread_x;
    const char **labels;
    size_t count;
} pareto;

static sara_status pareto_points(sara_comparison *c, pareto *p, const json_t *result,
                                 const char *group, size_t data)
{
    const json_t *rows = json_object_get(result, "rows");
    const size_t count = json_array_size(rows);
    double *arrays;
    sara_status status;
    *p = (pareto){0};
    TRY(sara_arena_alloc(&c->arena, &arrays, 5 * count, sizeof(*arrays)));
    TRY(sara_arena_alloc(&c->arena, &p->labels, count, sizeof(*p->labels)));
    p->x = arrays;
    p->y = arrays + count;
    p->size = arrays + 2 * count;
    p->spread = arrays + 3 * count;
    p->spread_x = arrays + 4 * count;
    for (size_t i = 0; i < count; i++) {
        const json_t *row = json_array_get(rows, i);
        if (!sara_compare_in_group(row, group))
            continue;
        p->x[p->count] = sara_compare_mean(row, data, "drift");
        p->y[p->count] = sara_compare_mean(row, data, "fid");
        p->size[p->count] = sara_compare_mean(row, data, "entries");
        p->spread[p->count] = sara_compare_spread(row, data, "fid");
        p->spread_x[p->count] = sara_compare_spread(row, data, "drift");
        p->labels[p->count++] = json_string_value(json_object_get(row, "name"));
    }
done:
    return status;
}

static sara_status metric_label(sara_comparison *c, const char **out, const json_t *result,
                                const char *name, const char *what)
{
    const sara_metric *metric = sara_compare_metric_named(name);
    const char *convention = sara_compare_convention(result, metric);
    return sara_compare_words(c, out, "%s: %s (%s)", what, metric->title,
                              convention ? convention : "–");
}

sara_status sara_compare_pareto(sara_comparison *c, sara_page *page, const json_t *result,
                                const char *group, size_t data)
{
    pareto p;
    sara_plot plot = {.alt = "Each row a mark: to the left what forgets less, below what has "
                             "learned more; marks' areas are the trained entries.",
                      .x = {.better = SARA_BETTER_LOW, .zero = true},
                      .y = {.better = SARA_BETTER_LOW},
                      .size_name = "trained entries",
                      .series_count = 1};
    sara_status status;
    TRY(pareto_points(c, &p, result, group, data));
    const sara_series series = {.name = NULL,
                                .mark = SARA_MARK_POINT,
                                .x = p.x,
                                .y = p.y,
                                .size = p.size,
                                .spread = c->seed_count > 1 ? p.spread : NULL,
                                .spread_x = c->seed_count > 1 ? p.spread_x : NULL,
                                .labels = p.labels,
                                .count = p.count};
    plot.series = &series;
    TRY(metric_label(c, &plot.x.label, result, "drift", "forgetting"));
    TRY(metric_label(c, &plot.y.label, result, "fid", "adaptation"));
    TRY(sara_compare_words(c, &plot.title, "Forgetting against adaptation: %s, %s", group,
                           c->data[data].name));
    status = sara_page_plot(page, &plot);
done:
    return status;
}

/* ------------------------------------------------------------------------------- learning rates */

static sara_status rate_series(sara_comparison *c, sara_series *out, const json_t *row, size_t data)
{
    const json_t *entry = json_array_get(json_object_get(row, "data"), data),
                 *grid = json_object_get(entry, "grid");
    const size_t count = json_array_size(grid);
    double *x, *y;
    sara_status status;
    TRY(sara_arena_alloc(&c->arena, &x, count, sizeof(*x)));
    TRY(sara_arena_alloc(&c->arena, &y, count, sizeof(*y)));
    for (size_t i = 0; i < count; i++) {
        const json_t *of = json_array_get(grid, i),
                     *report = json_object_get(json_object_get(of, "tuning"), "report");
        x[i] = json_number_value(json_object_get(of, "learning_rate"));
        y[i] = sara_compare_number(json_object_get(report, "fid"), "value");
    }
    *out = (sara_series){.name = json_string_value(json_object_get(row, "name")),
                         .mark = SARA_MARK_LINE,
                         .x = x,
                         .y = y,
                         .count = count};
done:
    return status;
}

sara_status sara_compare_rates_plot(sara_comparison *c, sara_page *page, const json_t *result,
                                    const char *group, size_t data)
{
    const json_t *rows = json_object_get(result, "rows");
    sara_plot plot = {.alt =
                          "FID on the tuning prompts against the learning rate, a line each row.",
                      .x = {.label = "learning rate", .log = true}};
    sara_series *series;
    sara_status status;
    TRY(sara_arena_alloc(&c->arena, &series, json_array_size(rows), sizeof(*series)));
    for (size_t i = 0; i < json_array_size(rows); i++)
        if (sara_compare_in_group(json_array_get(rows, i), group))
            TRY(rate_series(c, &series[plot.series_count++], json_array_get(rows, i), data));
    plot.series = series;
    TRY(metric_label(c, &plot.y.label, result, "fid", "tuning prompts"));
    TRY(sara_compare_words(c, &plot.title, "Learning rates: %s, %s", group, c->data[data].name));
    status = sara_page_plot(page, &plot);
done:
    return status;
}

/* ------------------------------------------------------------------------------------- pictures */

/* The folder that a job keeps its pictures in: of the base, or of a row's first seed. */
static sara_status picture_folder(sara_comparison *c, const char **out, const json_t *row,
                                  size_t data, const char *part)
{
    const json_t *entry = json_array_get(json_object_get(row, "data"), data),
                 *seed = json_array_get(json_object_get(entry, "seeds"), 0);
    const char *folder = json_string_value(json_object_get(seed, "folder"));
    const bool of_data = strcmp(part, "adaptation") == 0;
    if (folder)
        return sara_compare_words(c, out, "%s/%s/%s", c->output, folder, part);
    if (json_object_get(seed, "seed") || !seed)
        return sara_compare_words(c, out, "%s", "");
    return sara_compare_words(c, out, "%s/base/%s%s", c->output, of_data ? "data " : part,
                              of_data ? c->data[data].name : "");
}

static sara_status put_picture_row(sara_comparison *c, const char **paths, const json_t *row,
                                   size_t data, const char *part, size_t count)
{
    const json_t *entry = json_array_get(json_object_get(row, "data"), data),
                 *seed = json_array_get(json_object_get(entry, "seeds"), 0),
                 *report = json_object_get(json_object_get(seed, part), "report"),
                 *names = json_object_get(report, "names");
    const char *folder;
    sara_status status;
    TRY(picture_folder(c, &folder, row, data, part));
    for (size_t i = 0; i < count; i++) {
        const char *name = json_string_value(json_array_get(names, i));
        paths[i] = NULL;
        if (name && *folder && !strchr(name, '/'))
            TRY(sara_compare_words(c, &paths[i], "%s/%s", folder, name));
    }
done:
    return status;
}

sara_status sara_compare_pictures(sara_comparison *c, sara_page *page, const json_t *result,
                                  const char *group, size_t data, bool forgetting)
{
    const json_t *rows = json_object_get(result, "rows");
    const char **prompts, **paths, **labels, *part = forgetting ? "forgetting" : "adaptation";
    sara_picture_grid grid = {.corner = "row"};
    size_t count;
    sara_status status;
    TRY(sara_compare_prompts(c, &prompts, &count,
                             forgetting ? c->base_prompts : c->data[data].prompts));
    grid.column_count = count < (size_t)c->pictures ? count : (size_t)c->pictures;
    TRY(sara_arena_alloc(&c->arena, &paths, (json_array_size(rows) + 1) * grid.column_count + 1,
                         sizeof(*paths)));
    TRY(sara_arena_alloc(&c->arena, &labels, json_array_size(rows) + 1, sizeof(*labels)));
    for (size_t i = 0; i <= json_array_size(rows); i++) {
        const json_t *row = i ? json_array_get(rows, i - 1) : json_object_get(result, "base");
        if (i && !sara_compare_in_group(row, group))
            continue;
        labels[grid.row_count] = json_string_value(json_object_get(row, "name"));
        TRY(put_picture_row(c, paths + grid.row_count++ * grid.column_count, row, data, part,
                            grid.column_count));
    }
    grid.columns = prompts;
    grid.rows = labels;
    grid.paths = paths;
    TRY(sara_compare_words(c, &grid.caption, "%s, %s: %s, seed %llu", group, c->data[data].name,
                           forgetting ? "the base's own prompts, without the prefix"
                                      : "prompts of the style",
                           (unsigned long long)c->seeds[0]));
    if (grid.column_count)
        status = sara_page_pictures(page, &grid);
done:
    return status;
}

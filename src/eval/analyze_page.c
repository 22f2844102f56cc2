/* An analysis as a page. */
#include "eval/analyze.h"
#include "report/report.h"

#include <math.h>

#define ANALYSIS_SERIES (1 + SARA_ANALYSIS_BUDGETS) /* all entries, and what each budget selects */

static const sara_axis magnitude_axis = {.label = "|p|", .log = true};

static sara_status put_magnitudes(sara_page *page, const sara_analysis *a,
                                  const sara_analysis_group *g, const char *title)
{
    double x[SARA_ANALYSIS_BINS], y[SARA_ANALYSIS_BINS];
    sara_series series = {.mark = SARA_MARK_BAR, .x = x, .y = y};
    sara_rule rules[SARA_ANALYSIS_THRESHOLDS];
    sara_plot plot = {.title = title,
                      .x = magnitude_axis,
                      .y = {.label = "entries"},
                      .series = &series,
                      .series_count = 1,
                      .rules = rules,
                      .rule_count = SARA_ANALYSIS_BUDGETS};
    int first = 0, last = SARA_ANALYSIS_BINS;
    while (first < last - 1 && g->histogram[first] == 0)
        first++;
    while (last > first + 1 && g->histogram[last - 1] == 0)
        last--;
    for (int bin = first; bin < last; bin++) {
        x[series.count] = sqrt(sara_analysis_edge(bin) * sara_analysis_edge(bin + 1));
        y[series.count++] = (double)g->histogram[bin];
    }
    for (int i = 0; i < SARA_ANALYSIS_BUDGETS; i++)
        rules[i] = (sara_rule){a->thresholds[i], sara_analysis_names[i]};
    const sara_name alt = sara_name_of(
        "How many of %lld entries have which magnitude; lines show what budgets select below.",
        (long long)g->count);
    plot.alt = alt.text;
    return sara_page_plot(page, &plot);
}

/* --------------------------------------------------------------------------------- distribution */

static double analysis_normal(double x, double deviation)
{
    return exp(-x * x / (2 * deviation * deviation)) / (deviation * sqrt(2 * M_PI));
}

static sara_status put_distribution(sara_page *page, const sara_analysis *a)
{
    const sara_analysis_group *g = &a->whole;
    double deviation = sara_analysis_deviation(g), width = 10 * deviation / SARA_ANALYSIS_PARTS;
    double x[SARA_ANALYSIS_PARTS], y[SARA_ANALYSIS_PARTS], fit[SARA_ANALYSIS_PARTS];
    const sara_series series[] = {
        {.name = "entries", .mark = SARA_MARK_BAR, .x = x, .y = y, .count = SARA_ANALYSIS_PARTS},
        {.name = "Gaussian of the same mean and deviation",
         .x = x,
         .y = fit,
         .count = SARA_ANALYSIS_PARTS}};
    const sara_plot plot = {.title = "Values and the Gaussian that fits them",
                            .alt = "A histogram of the entries with the Gaussian's curve over it.",
                            .x = {.label = "p"},
                            .y = {.label = "entries"},
                            .series = series,
                            .series_count = 2};
    for (int i = 0; i < SARA_ANALYSIS_PARTS; i++) {
        double away = (i + 0.5) * width - 5 * deviation;
        x[i] = g->mean + away;
        y[i] = (double)a->parts[i];
        fit[i] = (double)g->count * width * analysis_normal(away, deviation);
    }
    return sara_page_plot(page, &plot);
}

static sara_status put_fit(sara_page *page, const sara_analysis_group *g)
{
    double d = sara_analysis_deviation(g) * sqrt(2), share = (double)g->within / (double)g->count;
    double normal = 0.5 * (erf((1e-3 - g->mean) / d) - erf((-1e-3 - g->mean) / d));
    const sara_name text = sara_name_of(
        "%lld entries: mean %.3g, standard deviation %.4g, excess kurtosis %.3g (a Gaussian: 0). "
        "|p| < 1e-3: %.2f %%; ",
        (long long)g->count, g->mean, sara_analysis_deviation(g), sara_analysis_kurtosis(g),
        100 * share);
    const sara_name more = sara_name_of("of the Gaussian %.2f %%.", 100 * normal);
    sara_buffer all = {.ctx = page->ctx};
    sara_status status;
    TRY(sara_buffer_put(&all, text.text));
    TRY(sara_buffer_put(&all, more.text));
    TRY(sara_page_paragraph(page, all.data));
done:
    sara_buffer_free(&all);
    return status;
}

static sara_status put_thresholds(sara_page *page, const sara_analysis *a)
{
    const sara_column columns[] = {{.name = "budget or threshold"},
                                   {"|p| below", NULL, 0, 7},
                                   {.name = "entries"},
                                   {"share", "%", 0, 2}};
    sara_cell cells[SARA_ANALYSIS_THRESHOLDS][4];
    for (int i = 0; i < SARA_ANALYSIS_THRESHOLDS; i++) {
        double selected = (double)a->whole.selected[i];
        cells[i][0] = SARA_CELL_TEXT(sara_analysis_names[i]);
        cells[i][1] = SARA_CELL_NUMBER(a->thresholds[i]);
        cells[i][2] = SARA_CELL_NUMBER(selected);
        cells[i][3] = SARA_CELL_NUMBER(100 * selected / (double)a->whole.count);
    }
    return sara_page_table(page, &(sara_table){"What is trained: entries of magnitudes below.",
                                               columns, 4, cells[0], SARA_ANALYSIS_THRESHOLDS});
}

/* --------------------------------------------------------------------------------------- groups */

static sara_status put_group_table(sara_page *page, const sara_analysis_group **groups, int count,
                                   const char *what)
{
    const sara_column columns[] = {{.name = what},
                                   {.name = "tensors"},
                                   {.name = "entries"},
                                   {"mean |p|", NULL, 0, 6},
                                   {"mean", NULL, 0, 6},
                                   {"deviation", NULL, 0, 6},
                                   {"excess kurtosis", NULL, 0, 2},
                                   {"of them at 0.6 %", "%", 0, 2},
                                   {"at 2.3 %", "%", 0, 2},
                                   {"at 5.8 %", "%", 0, 2}};
    enum { COLUMNS = sizeof(columns) / sizeof(*columns) };
    sara_cell *cells = NULL;
    sara_status status;
    TRY(sara_alloc(page->ctx, &cells, (size_t)count * COLUMNS, sizeof(*cells)));
    for (int i = 0; i < count; i++) {
        const sara_analysis_group *g = groups[i];
        const double numbers[] = {
            (double)g->tensors,         (double)g->count,         g->magnitude, g->mean,
            sara_analysis_deviation(g), sara_analysis_kurtosis(g)};
        sara_cell *row = cells + (size_t)i * COLUMNS;
        *row = SARA_CELL_TEXT(g->name.text);
        for (int j = 0; j < 6; j++)
            row[1 + j] = SARA_CELL_NUMBER(numbers[j]);
        for (int j = 0; j < SARA_ANALYSIS_BUDGETS; j++)
            row[7 + j] = SARA_CELL_NUMBER(100 * (double)g->selected[j] / (double)g->count);
    }
    TRY(sara_page_table(page, &(sara_table){NULL, columns, COLUMNS, cells, (size_t)count}));
done:
    sara_free(page->ctx, cells);
    return status;
}

/* How all entries, and those that each budget selects, are spread over the groups. */
static sara_status put_group_bars(sara_page *page, const sara_analysis *a,
                                  const sara_analysis_group **groups, int count, const char *what)
{
    double shares[ANALYSIS_SERIES][SARA_MAX_BLOCKS], places[SARA_MAX_BLOCKS];
    const char *names[SARA_MAX_BLOCKS];
    sara_series series[ANALYSIS_SERIES];
    const sara_name title = sara_name_of("Where the selected entries are, by %s", what);
    for (int s = 0; s < ANALYSIS_SERIES; s++) {
        double all = (double)(s ? a->whole.selected[s - 1] : a->whole.count);
        series[s] = (sara_series){.name = s ? sara_analysis_names[s - 1] : "all entries",
                                  .mark = SARA_MARK_BAR,
                                  .x = shares[s],
                                  .y = places,
                                  .count = (size_t)count};
        for (int i = 0; i < count; i++) {
            places[i] = i;
            names[i] = groups[i]->name.text;
            shares[s][i] = 100 * (double)(s ? groups[i]->selected[s - 1] : groups[i]->count) / all;
        }
    }
    return sara_page_plot(
        page, &(sara_plot){.title = title.text,
                           .alt = "Bars: which share of all entries, and of those that each budget "
                                  "selects, lies where.",
                           .x = {.label = "share, %"},
                           .y = {.label = what, .names = names, .name_count = (size_t)count},
                           .series = series,
                           .series_count = ANALYSIS_SERIES});
}

static sara_status put_groups(sara_page *page, const sara_analysis *a,
                              const sara_analysis_group *list, int size, const char *what)
{
    const sara_analysis_group *groups[SARA_MAX_BLOCKS];
    const int count = sara_analysis_used(groups, list, size);
    sara_status status;
    TRY(sara_page_heading(page, sara_name_of("By %s", what).text));
    TRY(put_group_table(page, groups, count, what));
    TRY(put_group_bars(page, a, groups, count, what));
    TRY(sara_page_fold_begin(page, "Magnitudes of each"));
    for (int i = 0; i < count; i++)
        TRY(put_magnitudes(page, a, groups[i], groups[i]->name.text));
    TRY(sara_page_fold_end(page));
done:
    return status;
}

sara_status sara_analysis_page(sara_context *ctx, const sara_analysis *a, const char *path)
{
    sara_page page;
    sara_status status;
    TRY(sara_page_begin(&page, ctx, sara_name_of("Entries of the %s", a->title).text));
    TRY(put_fit(&page, &a->whole));
    TRY(put_magnitudes(&page, a, &a->whole, "Magnitudes"));
    TRY(put_distribution(&page, a));
    TRY(put_thresholds(&page, a));
    TRY(put_groups(&page, a, a->kinds, SARA_MAX_KINDS, "kind of layer"));
    TRY(put_groups(&page, a, a->blocks, SARA_MAX_BLOCKS, "block"));
    TRY(sara_page_write(&page, path));
done:
    sara_page_free(&page);
    return status;
}

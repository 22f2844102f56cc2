/* What of a comparison's result is written: tables, plots, pictures. Strings are in its arena. */
#ifndef SARA_COMPARE_TABLES_H
#define SARA_COMPARE_TABLES_H

#include "compare/compare.h"
#include "report/report.h"

/* As sara_print() makes them, of any length. */
SARA_NODISCARD sara_status sara_compare_words(sara_comparison *c, const char **out,
                                              const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* NaN: it is not there. */
double sara_compare_number(const json_t *summary, const char *field);
/* Of a row and a data set, SIZE_MAX: of the means over all. NaN: not there. */
double sara_compare_mean(const json_t *row, size_t data, const char *name);
double sara_compare_spread(const json_t *row, size_t data, const char *name);
/* "clip", "dino": what a measure is taken of; NULL: of nothing to choose. */
const char *sara_compare_convention(const json_t *result, const sara_metric *metric);
/* The base and a group's rows. data SIZE_MAX: means over the data sets. */
SARA_NODISCARD sara_status sara_compare_table(sara_comparison *c, sara_table *out,
                                              const json_t *result, const char *group, size_t data);
SARA_NODISCARD sara_status sara_compare_grid_table(sara_comparison *c, sara_table *out,
                                                   const json_t *result, size_t data);
/* What the tables' numbers are. */
SARA_NODISCARD sara_status sara_compare_note(sara_comparison *c, const char **out);
/* Of a group's rows and a data set. */
SARA_NODISCARD sara_status sara_compare_pareto(sara_comparison *c, sara_page *page,
                                               const json_t *result, const char *group,
                                               size_t data);
SARA_NODISCARD sara_status sara_compare_rates_plot(sara_comparison *c, sara_page *page,
                                                   const json_t *result, const char *group,
                                                   size_t data);
/* Of the first prompts, by the base and each row; forgetting: of the base's own prompts. */
SARA_NODISCARD sara_status sara_compare_pictures(sara_comparison *c, sara_page *page,
                                                 const json_t *result, const char *group,
                                                 size_t data, bool forgetting);
SARA_NODISCARD sara_status sara_compare_cost_table(sara_comparison *c, sara_table *out,
                                                   const json_t *list);
/* Of "cost" and "strengths" of the result. */
SARA_NODISCARD sara_status sara_compare_cost_page(sara_comparison *c, sara_page *page,
                                                  const json_t *list);
SARA_NODISCARD sara_status sara_compare_strengths_page(sara_comparison *c, sara_page *page,
                                                       const json_t *list);
/* table.md and report.html in the output folder. */
SARA_NODISCARD sara_status sara_compare_markdown(sara_comparison *c, const json_t *result);
SARA_NODISCARD sara_status sara_compare_page(sara_comparison *c, const json_t *result);

#endif

/* An analysis as JSON: numbers alone. */
#include "eval/analyze.h"

#include <math.h>
#include <stdlib.h>

static json_t *number_or_null(double value)
{
    return isfinite(value) ? json_real(value) : json_null();
}

static json_t *counts_json(const int64_t *counts, int count)
{
    json_t *list = json_array();
    for (int i = 0; i < count; i++)
        if (json_array_append_new(list, json_integer(counts[i])) != 0) {
            json_decref(list);
            return NULL;
        }
    return list;
}

static json_t *group_json(const sara_analysis_group *g)
{
    return json_pack(
        "{s:s*,s:I,s:I,s:o,s:o,s:o,s:o,s:I,s:o,s:o}", "name", *g->name.text ? g->name.text : NULL,
        "tensors", (json_int_t)g->tensors, "entries", (json_int_t)g->count, "mean",
        number_or_null(g->mean), "mean_magnitude", number_or_null(g->magnitude), "deviation",
        number_or_null(sara_analysis_deviation(g)), "excess_kurtosis",
        number_or_null(sara_analysis_kurtosis(g)), "within_1e-3", (json_int_t)g->within, "selected",
        counts_json(g->selected, SARA_ANALYSIS_THRESHOLDS), "histogram",
        counts_json(g->histogram, SARA_ANALYSIS_BINS));
}

static json_t *groups_json(const sara_analysis_group *groups, int count)
{
    json_t *list = json_array();
    for (int i = 0; i < count; i++)
        if (groups[i].count > 0 && json_array_append_new(list, group_json(&groups[i])) != 0) {
            json_decref(list);
            return NULL;
        }
    return list;
}

static json_t *thresholds_json(const sara_analysis *analysis)
{
    json_t *list = json_array();
    for (int i = 0; i < SARA_ANALYSIS_THRESHOLDS; i++)
        if (json_array_append_new(list, json_pack("{s:s,s:f}", "name", sara_analysis_names[i],
                                                  "threshold", analysis->thresholds[i])) != 0) {
            json_decref(list);
            return NULL;
        }
    return list;
}

static json_t *edges_json(void)
{
    json_t *list = json_array();
    for (int i = 0; i <= SARA_ANALYSIS_BINS; i++)
        if (json_array_append_new(list, json_real(sara_analysis_edge(i))) != 0) {
            json_decref(list);
            return NULL;
        }
    return list;
}

sara_status sara_analysis_json(sara_context *ctx, char **out, const sara_analysis *analysis)
{
    json_t *object =
        json_pack("{s:s,s:o,s:o,s:o,s:o,s:o,s:o}", "denoiser", analysis->title, "thresholds",
                  thresholds_json(analysis), "whole", group_json(&analysis->whole), "kinds",
                  groups_json(analysis->kinds, SARA_MAX_KINDS), "blocks",
                  groups_json(analysis->blocks, SARA_MAX_BLOCKS), "histogram_edges", edges_json(),
                  "distribution", counts_json(analysis->parts, SARA_ANALYSIS_PARTS));
    char *text = object ? sara_json_dump(object, JSON_INDENT(1)) : NULL;
    sara_status status = text ? sara_strdup(ctx, out, text)
                              : sara_fail(ctx, SARA_ERROR_MEMORY, "out of memory: an analysis");
    json_decref(object);
    free(text);
    return status;
}

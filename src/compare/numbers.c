/* Numbers of a comparison's table: of each seed, their mean and spread, VLHI. */
#include "compare/compare.h"

#include "report/report.h"

#include <math.h>

const sara_metric sara_compare_metrics[] = {
    {"entries", NULL, "trained", "train", "entries", NULL, SARA_BETTER_NONE, 0, 1},
    {"fid", NULL, "FID", "adaptation", "fid", "value", SARA_BETTER_LOW, 2, 1},
    {"kid", NULL, "1000 KID", "adaptation", "kid", "mean", SARA_BETTER_LOW, 2, 1e3},
    {"clip_score", NULL, "CLIP", "adaptation", "clip_score", "mean", SARA_BETTER_HIGH, 2, 1},
    {"base_clip_score", NULL, "base CLIP", "forgetting", "clip_score", "mean", SARA_BETTER_HIGH, 2,
     1},
    {"base_fid", NULL, "base FID", "forgetting", "fid", "value", SARA_BETTER_LOW, 2, 1},
    {"drift", NULL, "drift", "drift", "drift", "mean", SARA_BETTER_LOW, 4, 1},
    {"result_bytes", "MB", "file", "train", "result_bytes", NULL, SARA_BETTER_LOW, 2, 1e-6},
    {"peak_bytes", "MiB", "memory", "train", "peak_bytes", NULL, SARA_BETTER_LOW, 0, 1.0 / 1048576},
    {"seconds_per_step", "s", "a step", "train", "seconds_per_step", NULL, SARA_BETTER_LOW, 3, 1},
};
const size_t sara_compare_metric_count =
    sizeof(sara_compare_metrics) / sizeof(*sara_compare_metrics);

const sara_metric *sara_compare_metric_named(const char *name)
{
    const sara_metric *metric = sara_compare_metrics;
    while (strcmp(metric->name, name) != 0)
        metric++;
    return metric;
}

double sara_metric_of(const sara_metric *metric, const json_t *seed)
{
    const json_t *record = json_object_get(seed, metric->part), *value;
    double number;
    if (!record && strcmp(metric->part, "drift") == 0) /* without neutral prompts */
        record = json_object_get(seed, "forgetting");
    if (sara_record_error(record))
        return NAN;
    if (metric->field)
        record = json_object_get(record, "report");
    value = json_object_get(record, metric->key);
    if (metric->field)
        value = json_object_get(value, metric->field);
    return sara_json_number(&number, value) ? number : NAN;
}

/* Mean and deviation (of n - 1) over the values that are there. */
static json_t *mean_json(const double *values, size_t count)
{
    double sum = 0, squares = 0;
    size_t found = 0;
    for (size_t i = 0; i < count; i++)
        if (isfinite(values[i])) {
            sum += values[i];
            found++;
        }
    if (found == 0)
        return json_null();
    const double mean = sum / (double)found;
    for (size_t i = 0; i < count; i++)
        if (isfinite(values[i]))
            squares += (values[i] - mean) * (values[i] - mean);
    if (found == 1)
        return json_pack("{s:f, s:i}", "mean", mean, "count", 1);
    return json_pack("{s:f, s:f, s:I}", "mean", mean, "deviation",
                     sqrt(squares / (double)(found - 1)), "count", (json_int_t)found);
}

/* "summary" of one row and data set. */
static sara_status summarize_seeds(sara_comparison *c, json_t *entry)
{
    const json_t *seeds = json_object_get(entry, "seeds");
    const size_t count = json_array_size(seeds);
    json_t *summary = json_object();
    double *values = NULL;
    sara_status status;
    TRY(sara_compare_put(c, entry, "summary", summary));
    TRY(sara_alloc(c->ctx, &values, count + 1, sizeof(*values)));
    for (size_t m = 0; m < sara_compare_metric_count; m++) {
        for (size_t i = 0; i < count; i++)
            values[i] = sara_metric_of(&sara_compare_metrics[m], json_array_get(seeds, i));
        TRY(sara_compare_put(c, summary, sara_compare_metrics[m].name, mean_json(values, count)));
    }
done:
    sara_free(c->ctx, values);
    return status;
}

/* Mean over the data sets, where each has a value. */
static sara_status summarize_data(sara_comparison *c, json_t *row)
{
    const json_t *list = json_object_get(row, "data");
    const size_t count = json_array_size(list);
    json_t *mean = json_object();
    sara_status status;
    TRY(sara_compare_put(c, row, "mean", mean));
    for (size_t m = 0; m < sara_compare_metric_count; m++) {
        const char *name = sara_compare_metrics[m].name;
        double sum = 0, value;
        for (size_t i = 0; i < count; i++) {
            const json_t *summary = json_object_get(json_array_get(list, i), "summary");
            if (!sara_json_number(&value, json_object_get(json_object_get(summary, name), "mean")))
                value = NAN;
            sum += value;
        }
        TRY(sara_compare_put(c, mean, name,
                             isfinite(sum) && count
                                 ? json_pack("{s:f}", "mean", sum / (double)count)
                                 : json_null()));
    }
done:
    return status;
}

/* ----------------------------------------------------------------------------------------- VLHI */

/* Of which numbers: the means over data set `data`'s seeds, its seed `seed` alone, or the means
 * over the data sets. */
typedef struct vlhi_of {
    size_t data, seed; /* SIZE_MAX: of all */
} vlhi_of;

static double number_of(const json_t *row, const vlhi_of *of, const char *name)
{
    const json_t *entry, *found;
    double number = NAN;
    if (of->data == SIZE_MAX) {
        found = json_object_get(json_object_get(row, "mean"), name);
    } else {
        entry = json_array_get(json_object_get(row, "data"), of->data);
        if (of->seed != SIZE_MAX) {
            const json_t *seed = json_array_get(json_object_get(entry, "seeds"), of->seed);
            return sara_metric_of(sara_compare_metric_named(name), seed);
        }
        found = json_object_get(json_object_get(entry, "summary"), name);
    }
    return sara_json_number(&number, json_object_get(found, "mean")) ? number : NAN;
}

bool sara_compare_in_group(const json_t *row, const char *group)
{
    const json_t *groups = json_object_get(row, "groups");
    for (size_t i = 0; i < json_array_size(groups); i++)
        if (strcmp(json_string_value(json_array_get(groups, i)), group) == 0)
            return true;
    return false;
}

/* vlhi [rows]: NaN of rows that are not in the group. */
static sara_status vlhi_of_group(sara_comparison *c, double *vlhi, const json_t *rows,
                                 const char *group, const vlhi_of *of)
{
    const size_t count = json_array_size(rows);
    double *fid = NULL, *clip = NULL;
    sara_status status;
    TRY(sara_alloc(c->ctx, &fid, count, sizeof(*fid)));
    TRY(sara_alloc(c->ctx, &clip, count, sizeof(*clip)));
    for (size_t i = 0; i < count; i++) {
        const json_t *row = json_array_get(rows, i);
        const bool in = sara_compare_in_group(row, group);
        fid[i] = in ? number_of(row, of, "fid") : NAN;
        clip[i] = in ? number_of(row, of, "clip_score") : NAN;
        if (!isfinite(fid[i]) || !isfinite(clip[i])) /* it is no part of the others' range */
            fid[i] = clip[i] = NAN;
    }
    sara_vlhi(vlhi, fid, clip, count);
done:
    sara_free(c->ctx, fid);
    sara_free(c->ctx, clip);
    return status;
}

/* The object at key, made where there is none. */
static sara_status object_at(const sara_comparison *c, json_t **out, json_t *object,
                             const char *key)
{
    *out = json_object_get(object, key);
    if (*out)
        return SARA_OK;
    *out = json_object();
    return sara_compare_put(c, object, key, *out);
}

/* Its value from the means; its spread over the VLHIs of the single seeds. spread [seeds][rows] */
static sara_status set_vlhi(sara_comparison *c, json_t *where, const char *group, double value,
                            const double *spread, size_t row, size_t rows)
{
    double values[SARA_MOST_SEEDS];
    const size_t count = spread ? c->seed_count : 0;
    json_t *object, *vlhi, *over_seeds = NULL;
    sara_status status = SARA_OK;
    if (!isfinite(value))
        return SARA_OK;
    for (size_t i = 0; i < count; i++)
        values[i] = spread[i * rows + row];
    TRY(object_at(c, &vlhi, where, "vlhi"));
    object = json_pack("{s:f}", "mean", value);
    TRY(sara_compare_put(c, vlhi, group, object));
    over_seeds = mean_json(values, count);
    const json_t *deviation = json_object_get(over_seeds, "deviation");
    if (deviation)
        status = sara_compare_put(c, object, "deviation", json_real(json_number_value(deviation)));
done:
    json_decref(over_seeds);
    return status;
}

static sara_status vlhi_of_data(sara_comparison *c, json_t *rows, const char *group, size_t data)
{
    const size_t count = json_array_size(rows);
    double *mean = NULL, *single = NULL;
    vlhi_of of = {data, SIZE_MAX};
    sara_status status;
    TRY(sara_alloc(c->ctx, &mean, count, sizeof(*mean)));
    TRY(sara_alloc(c->ctx, &single, c->seed_count * count, sizeof(*single)));
    TRY(vlhi_of_group(c, mean, rows, group, &of));
    for (of.seed = 0; data != SIZE_MAX && of.seed < c->seed_count; of.seed++)
        TRY(vlhi_of_group(c, single + of.seed * count, rows, group, &of));
    for (size_t i = 0; i < count; i++) {
        json_t *row = json_array_get(rows, i);
        json_t *where = data == SIZE_MAX ? json_object_get(row, "mean")
                                         : json_array_get(json_object_get(row, "data"), data);
        TRY(set_vlhi(c, where, group, mean[i], data == SIZE_MAX ? NULL : single, i, count));
    }
done:
    sara_free(c->ctx, mean);
    sara_free(c->ctx, single);
    return status;
}

/* ----------------------------------------------------------------------------------------- rows */

static sara_status summarize_row(sara_comparison *c, json_t *row)
{
    json_t *list = json_object_get(row, "data"), *entry;
    size_t index;
    sara_status status = SARA_OK;
    json_array_foreach(list, index, entry)
    {
        TRY(summarize_seeds(c, entry));
    }
    TRY(summarize_data(c, row));
done:
    return status;
}

sara_status sara_compare_summarize(sara_comparison *c, json_t *result)
{
    json_t *rows = json_object_get(result, "rows"), *row;
    size_t index;
    sara_status status;
    TRY(summarize_row(c, json_object_get(result, "base")));
    json_array_foreach(rows, index, row)
    {
        TRY(summarize_row(c, row));
    }
    for (size_t g = 0; g < c->group_count; g++) {
        for (size_t d = 0; d < c->data_count; d++)
            TRY(vlhi_of_data(c, rows, c->groups[g], d));
        TRY(vlhi_of_data(c, rows, c->groups[g], SIZE_MAX));
    }
done:
    return status;
}

/* What the features of an evaluation come to. */
#include "eval/eval.h"

#include <math.h>

#define KID_SEED 42

/* JSON has no NaN. */
static json_t *measure_json(double value)
{
    return isfinite(value) ? json_real(value) : json_null();
}

static double mean_number(const double *values, int64_t count)
{
    double sum = 0;
    for (int64_t i = 0; i < count; i++)
        sum += values[i];
    return sum / (double)count;
}

static json_t *measures_json(const double *values, int64_t count)
{
    json_t *list = json_array();
    for (int64_t i = 0; i < count; i++)
        json_array_append_new(list, measure_json(values[i]));
    return list;
}

/* report[key] = value, which it takes. */
static sara_status put(const sara_evaluation *e, json_t *report, const char *key, json_t *value)
{
    return json_object_set_new(report, key, value) == 0
               ? SARA_OK
               : sara_fail(e->ctx, SARA_ERROR_MEMORY, "out of memory: the report");
}

static const sara_features *of(const sara_evaluation *e, sara_eval_by by, sara_eval_set set)
{
    return &e->features[by][set];
}

/* ----------------------------------------------------------------------------- CLIP's and drift */

static sara_status report_scores(const sara_evaluation *e, json_t *report)
{
    const sara_features *pictures = of(e, SARA_BY_CLIP, SARA_SET_PICTURES);
    double *each = NULL;
    sara_status status = SARA_OK;
    if (!e->texts.values)
        return SARA_OK;
    TRY(sara_alloc(e->ctx, &each, e->count, sizeof(*each)));
    TRY(sara_paired_cosine(e->ctx, each, pictures, &e->texts));
    double cosine = mean_number(each, pictures->count);
    for (int64_t i = 0; i < pictures->count; i++)
        each[i] *= e->backbones[SARA_BY_CLIP]->logit_scale;
    TRY(put(e, report, "clip_score",
            json_pack("{s:o,s:o}", "mean", measure_json(mean_number(each, pictures->count)), "each",
                      measures_json(each, pictures->count))));
    TRY(put(e, report, "clip_cosine", measure_json(cosine)));
done:
    sara_free(e->ctx, each);
    return status;
}

static sara_status report_drift(const sara_evaluation *e, json_t *report)
{
    const sara_features *after, *before;
    const char *name;
    double *each = NULL;
    sara_status status = SARA_OK;
    if (e->drift == SARA_BACKBONES)
        return SARA_OK;
    after = of(e, e->drift, SARA_SET_PICTURES);
    before = of(e, e->drift, SARA_SET_BEFORE);
    sara_evaluation_backbone(e, e->drift, &name);
    TRY(sara_alloc(e->ctx, &each, e->count, sizeof(*each)));
    TRY(sara_paired_cosine(e->ctx, each, after, before));
    for (int64_t i = 0; i < after->count; i++)
        each[i] = 1 - each[i];
    TRY(put(e, report, "drift",
            json_pack("{s:s,s:o,s:o}", "backbone", name, "mean",
                      measure_json(mean_number(each, after->count)), "each",
                      measures_json(each, after->count))));
done:
    sara_free(e->ctx, each);
    return status;
}

/* -------------------------------------------------------------------------------- of references */

static int64_t subset_size(const sara_evaluation *e, const sara_features *a, const sara_features *b)
{
    int64_t smaller = a->count < b->count ? a->count : b->count;
    return e->options.kid_subset_size < smaller ? e->options.kid_subset_size : smaller;
}

/* One subset of all is the same whenever it is drawn. */
static int64_t subset_count(const sara_evaluation *e, const sara_features *a,
                            const sara_features *b)
{
    int64_t size = subset_size(e, a, b);
    return size == a->count && size == b->count ? 1 : e->options.kid_subsets;
}

sara_status sara_evaluation_distance(const sara_evaluation *e, double *fid, double *kid_mean,
                                     double *kid_deviation, const sara_features *a,
                                     const sara_features *b)
{
    sara_status status;
    TRY(sara_fid(e->ctx, fid, a, b));
    TRY(sara_kid(e->ctx, kid_mean, kid_deviation, a, b, subset_size(e, a, b), subset_count(e, a, b),
                 KID_SEED));
done:
    return status;
}

static sara_status report_fid(const sara_evaluation *e, json_t *report)
{
    const sara_features *a, *b;
    double fid, mean, deviation;
    sara_status status;
    if (e->fid == SARA_BACKBONES)
        return SARA_OK;
    a = of(e, e->fid, SARA_SET_PICTURES);
    b = of(e, e->fid, SARA_SET_REFERENCES);
    TRY(sara_evaluation_distance(e, &fid, &mean, &deviation, a, b));
    TRY(put(e, report, "fid",
            json_pack("{s:s,s:o}", "convention", e->convention, "value", measure_json(fid))));
    TRY(put(e, report, "kid",
            json_pack("{s:s,s:o,s:o,s:I,s:I}", "convention", e->convention, "mean",
                      measure_json(mean), "deviation", measure_json(deviation), "subset_size",
                      (json_int_t)subset_size(e, a, b), "subsets",
                      (json_int_t)subset_count(e, a, b))));
done:
    return status;
}

typedef sara_status (*set_measure)(sara_context *ctx, double *out, const sara_features *a,
                                   const sara_features *b);

static sara_status report_set(const sara_evaluation *e, json_t *report, const char *name,
                              const char *key, sara_eval_by by, set_measure measure)
{
    double value;
    sara_status status = SARA_OK;
    if (!of(e, by, SARA_SET_REFERENCES)->values)
        return SARA_OK;
    TRY(measure(e->ctx, &value, of(e, by, SARA_SET_PICTURES), of(e, by, SARA_SET_REFERENCES)));
    TRY(put(e, report, name, json_pack("{s:o}", key, measure_json(value))));
done:
    return status;
}

/* ---------------------------------------------------------------------------------------- whole */

static sara_status add_name(const sara_evaluation *e, json_t *list, const char *name)
{
    json_t *text;
    sara_status status;
    TRY(sara_json_text(e->ctx, &text, name));
    if (json_array_append_new(list, text) != 0)
        status = sara_fail(e->ctx, SARA_ERROR_MEMORY, "out of memory: the report");
done:
    return status;
}

/* As many as there are measures of each. */
static sara_status report_names(const sara_evaluation *e, json_t *report)
{
    json_t *list = json_array();
    sara_status status = put(e, report, "names", list);
    for (size_t i = 0; status == SARA_OK && i < e->count; i++)
        status = add_name(e, list, e->pictures[i].name);
    return status;
}

sara_status sara_evaluation_report(sara_evaluation *e, json_t **out)
{
    json_t *report = json_object();
    sara_status status;
    TRY(put(e, report, "images", json_integer((json_int_t)e->count)));
    if (e->references)
        TRY(put(e, report, "references", json_integer((json_int_t)e->reference_count)));
    TRY(report_scores(e, report));
    TRY(report_fid(e, report));
    TRY(report_set(e, report, "cmmd", "value", SARA_BY_CLIP, sara_cmmd));
    TRY(report_set(e, report, "clip_i", "mean", SARA_BY_CLIP, sara_similarity));
    TRY(report_set(e, report, "dino", "mean", SARA_BY_DINO, sara_similarity));
    TRY(report_drift(e, report));
    TRY(report_names(e, report));
    *out = report;
    report = NULL;
done:
    json_decref(report);
    return status;
}

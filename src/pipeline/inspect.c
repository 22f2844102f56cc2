/* What a model consists of, and what each budget would train. */
#include "pipeline/pipeline.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static void inspect_describe(sara_component_report *out, const sara_family_part *part,
                             const sara_params *params)
{
    bool mixed = false;
    memset(out, 0, sizeof(*out));
    snprintf(out->name, sizeof(out->name), "%s", part->folder);
    snprintf(out->class_name, sizeof(out->class_name), "%s", part->class->name);
    out->tensors = (int64_t)params->count;
    out->parameters = sara_params_entries(params);
    for (size_t i = 0; i < params->count; i++)
        mixed |= params->items[i].stored != params->items[0].stored;
    snprintf(out->dtype, sizeof(out->dtype), "%s",
             mixed           ? "mixed"
             : params->count ? sara_dtype_name(params->items[0].stored)
                             : "");
}

static void add_components(sara_model_report *report, const sara_model *model)
{
    for (int i = 0; i < model->family->part_count; i++)
        if (model->parts[i].network)
            inspect_describe(&report->components[report->component_count++],
                             &model->family->parts[i], &model->parts[i].network->params);
}

static void inspect_add_kind(sara_model_report *report, const sara_model *model)
{
    sara_prediction type = model->scheduler.prediction_type;
    snprintf(report->denoiser, sizeof(report->denoiser), "%s", model->denoiser->class->title);
    snprintf(report->architecture, sizeof(report->architecture), "%s",
             sara_model_architecture(model, type == SARA_PREDICT_V));
    if (model->has_scheduler)
        snprintf(report->prediction_type, sizeof(report->prediction_type), "%s",
                 sara_prediction_name(type));
}

static int histogram_bin(float magnitude)
{
    if (!(magnitude > 0))
        return 0;
    double bin = floor(log10((double)magnitude) * 4.0 + 20.0);
    return bin < 0 ? 0 : bin >= SARA_HISTOGRAM_BINS ? SARA_HISTOGRAM_BINS - 1 : (int)bin;
}

static void inspect_count_block(sara_model_report *report, const float *values, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        float magnitude = fabsf(values[i]);
        report->histogram[histogram_bin(magnitude)]++;
        for (int t = report->threshold_count - 1; t >= 0; t--) {
            if (!(magnitude < (float)report->thresholds[t]))
                break;
            report->selected[t]++;
        }
    }
}

static sara_status count_entries(sara_context *ctx, sara_model_report *report,
                                 const sara_params *params)
{
    float buffer[SARA_PARAM_BLOCK];
    sara_status status = SARA_OK;
    for (size_t i = 0; i < params->count; i++) {
        const sara_param *param = &params->items[i];
        size_t count = (size_t)sara_shape_count(&param->value.shape);
        sara_param copy;
        TRY(sara_param_read(ctx, &copy, param));
        for (size_t at = 0, part; at < count; at += part) {
            part = sara_param_part(count, at);
            inspect_count_block(report, sara_param_block(&copy, buffer, at, part), part);
        }
        sara_param_read_end(ctx, &copy, param);
    }
done:
    return status;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

sara_status sara_model_inspect_sized(sara_context *ctx, sara_model_report *report,
                                     size_t report_size, const sara_model *model)
{
    /* The paper's thresholds (its table 8), and those of its budgets (5M, 20M, 50M of 860M). */
    static const double round_values[] = {2e-4, 8e-4, 2e-3, 5e-3, 1e-2, 5e-2, 1e-1};
    static const double fractions[] = {0.006, 0.023, 0.058, 0.10, 0.20, 0.50};
    const sara_params *params = &model->denoiser->params;
    sara_model_report result = {0};
    sara_base base;
    sara_status status;
    TRY(sara_model_need_part(model, 0)); /* it is gone over again and again */
    add_components(&result, model);
    inspect_add_kind(&result, model);
    for (size_t i = 0; i < sizeof(round_values) / sizeof(*round_values); i++)
        result.thresholds[result.threshold_count++] = round_values[i];
    for (size_t i = 0; i < sizeof(fractions) / sizeof(*fractions); i++) {
        sara_budget budget = {SARA_BUDGET_FRACTION, fractions[i]};
        TRY(sara_model_tell_not_finite(
            model,
            sara_budget_resolve(ctx, &result.thresholds[result.threshold_count], params, &budget)));
        result.threshold_count++;
    }
    qsort(result.thresholds, (size_t)result.threshold_count, sizeof(double), by_value);
    TRY(count_entries(ctx, &result, params));
    TRY(sara_model_read_base(ctx, &base, model));
    memcpy(result.base_sha256, base.sha256, sizeof(result.base_sha256));
    snprintf(result.base_precision, sizeof(result.base_precision), "%s",
             sara_precision_name(base.precision));
    sara_sized_write(report, report_size, &result, sizeof(result));
done:
    return status;
}

/* report.html: what came of a run, its curves, its pictures and its settings. */
#include "train/report.h"

#include <math.h>

#define SMOOTHED 0.05 /* of all steps, around each point */

/* ------------------------------------------------------------------------------------- summary */

static sara_status put_result(sara_buffer *text, const sara_run *run, const char *result)
{
    char *path = NULL;
    int64_t bytes = 0;
    sara_status status;
    TRY(sara_path_join(run->ctx, &path, run->folder, result));
    if (!sara_path_exists(path))
        goto done;
    TRY(sara_path_bytes(run->ctx, &bytes, path));
    double kib = (double)bytes / 1024;
    TRY(sara_put_format(text, kib < 999.5 ? "; %.100s, %.1f KiB" : "; %.100s, %.1f MiB", result,
                        kib < 999.5 ? kib : kib / 1024));
done:
    sara_free(run->ctx, path);
    return status;
}

static sara_status put_summary(sara_page *page, const sara_run *run, const sara_run_facts *facts,
                               const sara_run_curves *curves)
{
    const json_t *identity = facts->identity;
    const char *method = json_string_value(json_object_get(identity, "method"));
    double of = json_number_value(json_object_get(identity, "parameters"));
    double trained = json_number_value(json_object_get(identity, "selected"));
    sara_buffer text = {.ctx = run->ctx};
    sara_status status;
    TRY(sara_put_format(&text, "%.100s: %lld steps", method ? method : "Training",
                        (long long)curves->steps));
    if (curves->skipped)
        TRY(sara_put_format(&text, " (%lld more were not finite and were skipped)",
                            (long long)curves->skipped));
    if (of > 0)
        TRY(sara_put_format(&text, ", %.0f entries trained (%.3g %% of %.0f)", trained,
                            100 * trained / of, of));
    if (curves->steps > 0)
        TRY(sara_put_format(&text, ", %.3f s a step", curves->seconds / (double)curves->steps));
    TRY(facts->result ? put_result(&text, run, facts->result) : SARA_OK);
    TRY(sara_buffer_put_char(&text, '.'));
    TRY(sara_page_paragraph(page, text.data));
done:
    sara_buffer_free(&text);
    return status;
}

/* -------------------------------------------------------------------------------------- curves */

typedef struct curve_arrays {
    double raw_x[2 * SARA_CURVE_STRETCHES], raw_y[2 * SARA_CURVE_STRETCHES];
    double x[SARA_CURVE_STRETCHES], y[SARA_CURVE_STRETCHES];
    double x2[SARA_CURVE_STRETCHES], y2[SARA_CURVE_STRETCHES];
} curve_arrays;

typedef struct curve_plot {
    const char *title, *label;
    const sara_curve *curve;
    const char *name;         /* of its line beside another's */
    const sara_curve *second; /* NULL: none */
    const char *second_name;
    bool noisy, zero;
} curve_plot;

/* Of `count` means: what stands behind or beside their line, and the line; their number. */
static size_t fill_series(sara_series series[2], curve_arrays *a, const curve_plot *c, size_t count)
{
    sara_mark mark = count == 1 ? SARA_MARK_POINT : SARA_MARK_LINE;
    sara_series line = {.x = a->x, .y = a->y, .count = count, .mark = mark, .name = c->name};
    if (c->noisy && count > 1) {
        size_t raw = sara_curve_raw(c->curve, a->raw_x, a->raw_y);
        line.name = "mean of the steps around";
        series[0] = (sara_series){
            .x = a->raw_x, .y = a->raw_y, .count = raw, .faint = true, .name = "single steps"};
    } else if (c->second) {
        size_t second = sara_curve_smooth(c->second, a->x2, a->y2, 0);
        series[0] = (sara_series){
            .x = a->x2, .y = a->y2, .count = second, .mark = mark, .name = c->second_name};
    } else {
        series[0] = line;
        return 1;
    }
    series[1] = line;
    return 2;
}

static sara_status put_curve(sara_page *page, const sara_run_curves *curves, curve_arrays *a,
                             const curve_plot *c)
{
    size_t count = sara_curve_smooth(c->curve, a->x, a->y, c->noisy ? SMOOTHED : 0);
    sara_series series[2];
    sara_rule rules[SARA_REPORT_RESELECTIONS];
    if (count == 0)
        return SARA_OK;
    for (size_t i = 0; i < curves->reselections; i++)
        rules[i] = (sara_rule){curves->reselected[i], "reselection"};
    const sara_name alt = sara_name_of("%s over %lld steps, from %.4g to %.4g.", c->title,
                                       (long long)c->curve->points, a->y[0], a->y[count - 1]);
    const sara_plot plot = {.title = c->title,
                            .alt = alt.text,
                            .x = {.label = "step", .whole = true},
                            .y = {.label = c->label, .zero = c->zero},
                            .series = series,
                            .series_count = fill_series(series, a, c, count),
                            .rules = rules,
                            .rule_count = curves->reselections};
    return sara_page_plot(page, &plot);
}

static sara_status put_curves(sara_page *page, const sara_run_curves *curves)
{
    const curve_plot plots[] = {
        {"Loss", "loss", &curves->loss, .noisy = true},
        {"Learning rate", "learning rate", &curves->rate, .zero = true},
        {"Norm of the gradient, before clipping", "L2 norm", &curves->grad_norm, .noisy = true},
        {"Low-rank term", "loss", &curves->rank_loss, .noisy = true},
        {"Drift: entries that stayed or became small", "share", &curves->small_still_small,
         "small, still small", &curves->large_now_small, "large, now small", .zero = true}};
    curve_arrays *arrays = NULL;
    sara_status status;
    TRY(sara_alloc(page->ctx, &arrays, 1, sizeof(*arrays)));
    TRY(sara_page_heading(page, "Curves"));
    if (curves->loss.points == 0)
        TRY(sara_page_paragraph(page, "The log has no steps."));
    for (size_t i = 0; i < sizeof(plots) / sizeof(*plots); i++)
        TRY(put_curve(page, curves, arrays, &plots[i]));
done:
    sara_free(page->ctx, arrays);
    return status;
}

sara_status sara_run_report(sara_run *run, const sara_run_facts *facts)
{
    sara_page page = {.ctx = run->ctx};
    sara_run_curves *curves = NULL;
    char *path = NULL;
    sara_status status;
    TRY(sara_run_read_curves(run, &curves));
    TRY(sara_page_begin(&page, run->ctx, "Training run"));
    TRY(put_summary(&page, run, facts, curves));
    TRY(put_curves(&page, curves));
    TRY(sara_report_put_pictures(&page, run, facts));
    TRY(sara_report_put_settings(&page, facts->identity));
    TRY(sara_path_join(run->ctx, &path, run->folder, "report.html"));
    TRY(sara_page_write(&page, path));
done:
    sara_free(run->ctx, path);
    sara_free(run->ctx, curves);
    sara_page_free(&page);
    return status;
}

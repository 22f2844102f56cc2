/* log.jsonl as curves, line by line. */
#include "train/report.h"

#define LINE_LIMIT 4096 /* a line that is longer is none of the log's */

static void add_point(sara_curve *curve, const json_t *line, const char *key, double step)
{
    const json_t *value = json_object_get(line, key);
    if (json_is_number(value))
        sara_curve_add(curve, step, json_number_value(value));
}

static void note_event(sara_run_curves *curves, const json_t *line, const char *event)
{
    const json_t *before = json_object_get(line, "before_step");
    if (strcmp(event, "skipped") == 0)
        curves->skipped++;
    if (strcmp(event, "reselect") == 0 && json_is_number(before) &&
        curves->reselections < SARA_REPORT_RESELECTIONS)
        curves->reselected[curves->reselections++] = json_number_value(before);
}

static void note_line(sara_run_curves *curves, const json_t *line)
{
    const char *event = json_string_value(json_object_get(line, "event"));
    const json_t *number = json_object_get(line, "step");
    double step = json_number_value(number);
    if (event)
        note_event(curves, line, event);
    if (!json_is_integer(number))
        return;
    curves->steps++;
    curves->seconds += json_number_value(json_object_get(line, "seconds"));
    add_point(&curves->loss, line, "loss", step);
    add_point(&curves->rate, line, "lr", step);
    add_point(&curves->grad_norm, line, "grad_norm", step);
    add_point(&curves->rank_loss, line, "rank_loss", step);
    add_point(&curves->small_still_small, line, "small_still_small", step);
    add_point(&curves->large_now_small, line, "large_now_small", step);
}

sara_status sara_run_read_curves(const sara_run *run, sara_run_curves **out)
{
    char text[LINE_LIMIT];
    bool whole = true; /* the last piece read ended a line */
    sara_status status;
    FILE *file = NULL;
    *out = NULL;
    TRY(sara_alloc_zero(run->ctx, out, 1, sizeof(**out)));
    file = fopen(run->log_path, "re");
    if (!file)
        TRY(sara_fail_errno(run->ctx, run->log_path, "open"));
    while (fgets(text, sizeof(text), file)) {
        size_t length = strlen(text);
        bool begins = whole;
        json_t *line = NULL;
        whole = length > 0 && text[length - 1] == '\n';
        if (!begins || !whole)
            continue;
        status = sara_json_parse(run->ctx, &line, text, length, run->log_path, false);
        if (status == SARA_OK)
            note_line(*out, line);
        json_decref(line);
        if (status == SARA_ERROR_MEMORY)
            goto done;
        status = SARA_OK;
    }
    if (ferror(file))
        status = sara_fail_errno(run->ctx, run->log_path, "read");
done:
    if (file)
        fclose(file);
    return status;
}

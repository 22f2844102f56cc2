/* log.jsonl: one line for each optimiser step, and events. */
#include "train/train.h"

#include <stdlib.h>
#include <unistd.h>

typedef struct log_cut {
    size_t kept;   /* bytes */
    int64_t last;  /* step of the last line that has one */
    int64_t skips; /* events of skipped steps after it */
} log_cut;

/* What one line says; a line that was cut by a kill is none. */
static sara_status read_line(sara_context *ctx, const char *text, size_t size, int64_t *step,
                             bool *skipped)
{
    json_t *line = NULL;
    sara_status status;
    *step = -1;
    *skipped = false;
    TRY(sara_json_parse(ctx, &line, text, size, "log.jsonl", false));
    const json_t *number = json_object_get(line, "step");
    const char *event = json_string_value(json_object_get(line, "event"));
    if (json_is_integer(number))
        *step = json_integer_value(number);
    *skipped = event && strcmp(event, "skipped") == 0;
done:
    json_decref(line);
    return status;
}

/* The part of the log up to optimiser step `step` and, after its line, `skips` skipped steps. */
static sara_status find_cut(sara_context *ctx, log_cut *cut, const char *text, size_t size,
                            int64_t step, int64_t skips)
{
    sara_status status = SARA_OK;
    for (size_t start = 0, end; start < size; start = end) {
        const char *newline = memchr(text + start, '\n', size - start);
        int64_t number;
        bool skipped;
        if (!newline)
            break;
        end = (size_t)(newline - text) + 1;
        status = read_line(ctx, text + start, end - start, &number, &skipped);
        if (status == SARA_ERROR_MEMORY)
            return status;
        if (status != SARA_OK || number > step)
            break;
        if (number >= 0)
            *cut = (log_cut){end, number, 0};
        else if (skipped && cut->last == step && cut->skips < skips)
            *cut = (log_cut){end, step, cut->skips + 1};
    }
    return SARA_OK;
}

static sara_status cut_log(sara_run *run, int64_t step, int64_t skips)
{
    char *text = NULL;
    size_t size = 0;
    log_cut cut = {0};
    sara_status status = SARA_OK;
    if (!sara_path_exists(run->log_path))
        goto done;
    TRY(sara_file_read(run->ctx, &text, &size, run->log_path, (size_t)1 << 32));
    TRY(find_cut(run->ctx, &cut, text, size, step, skips));
    if (cut.last < step)
        sara_log(run->ctx, SARA_LOG_WARNING, "%s: ends at step %lld, the run goes on after %lld",
                 run->log_path, (long long)cut.last, (long long)step);
    if (cut.kept < size)
        TRY(sara_file_write(run->ctx, run->log_path, text, cut.kept));
done:
    sara_free(run->ctx, text);
    return status;
}

sara_status sara_run_log_open(sara_run *run, int64_t step, int64_t skips)
{
    sara_status status;
    TRY(cut_log(run, step, skips));
    run->log = fopen(run->log_path, "ae");
    if (!run->log)
        status = sara_fail_errno(run->ctx, run->log_path, "open");
done:
    return status;
}

sara_status sara_run_log(sara_run *run, json_t *object)
{
    char *text =
        sara_json_dump(object, JSON_COMPACT | JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(17));
    sara_status status = SARA_OK;
    json_decref(object);
    if (!text)
        return sara_fail(run->ctx, SARA_ERROR_MEMORY, "out of memory: a line of %s", run->log_path);
    if (fprintf(run->log, "%s\n", text) < 0 || fflush(run->log) != 0)
        status = sara_fail_errno(run->ctx, run->log_path, "write");
    free(text);
    return status;
}

sara_status sara_run_log_sync(sara_run *run)
{
    return fsync(fileno(run->log)) == 0 ? SARA_OK
                                        : sara_fail_errno(run->ctx, run->log_path, "fsync");
}

/* One training run as a job, and what is read of it: its result, time and memory. */
#include "compare/compare.h"

#include <math.h>
#include <stdlib.h>

sara_status sara_compare_run_folder(sara_comparison *c, const char **out,
                                    const sara_compare_row *row, const sara_compare_data *data,
                                    double rate, uint64_t seed)
{
    char *path = NULL, digits[40];
    sara_status status;
    sara_print(digits, sizeof(digits), "%.10g", rate);
    TRY(sara_format(c->ctx, &path, "runs/%s/%s/lr-%s-seed-%llu", row->name, data->name, digits,
                    (unsigned long long)seed));
    status = sara_arena_strdup(&c->arena, out, path);
done:
    sara_free(c->ctx, path);
    return status;
}

/* ----------------------------------------------------------------------------- what it has left */

/* The text after `beginning` of the last line that begins so; in the arena, NULL: none does. */
static sara_status last_line(sara_job *job, const char **out, char *text, const char *beginning)
{
    const size_t length = strlen(beginning);
    const char *found = NULL;
    size_t size = 0;
    for (const char *line = text; line; line = strchr(line, '\n')) {
        line += *line == '\n';
        if (strncmp(line, beginning, length) == 0) {
            found = line + length;
            size = strcspn(found, "\n");
        }
        if (!*line)
            break;
    }
    char *copy = NULL;
    sara_status status;
    *out = NULL;
    if (!found)
        return SARA_OK;
    TRY(sara_format(job->comparison->ctx, &copy, "%.*s", (int)size, found));
    status = sara_arena_strdup(&job->comparison->arena, out, copy);
done:
    sara_free(job->comparison->ctx, copy);
    return status;
}

/* "N of M parameters trained" */
static int64_t entries_told(const char *text)
{
    const char *at = strstr(text, " parameters trained");
    while (at && at > text && at[-1] != '\n')
        at--;
    return at ? strtoll(at, NULL, 10) : 0;
}

static int by_seconds(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double sara_compare_median(double *values, size_t count)
{
    if (count == 0)
        return NAN;
    qsort(values, count, sizeof(*values), by_seconds);
    return count % 2 ? values[count / 2] : (values[count / 2 - 1] + values[count / 2]) / 2;
}

/* Without the first tenth, at most five, in which caches are filled. */
static double median_later(double *seconds, size_t count)
{
    size_t skipped = count / 10 < 5 ? count / 10 : 5;
    if (count > 1 && skipped == 0)
        skipped = 1;
    return sara_compare_median(seconds + skipped, count - skipped);
}

/* Seconds of each step that the log has. A line that a kill has cut is none. */
static sara_status read_seconds(sara_context *ctx, double *out, const char *path)
{
    char *text = NULL, *line, *state = NULL;
    double *seconds = NULL;
    size_t size, count = 0, capacity = 0;
    sara_status status;
    TRY(sara_file_read(ctx, &text, &size, path, (size_t)1 << 32));
    for (line = strtok_r(text, "\n", &state); line; line = strtok_r(NULL, "\n", &state)) {
        json_t *object = NULL;
        status = sara_json_parse(ctx, &object, line, strlen(line), path, false);
        const json_t *number = json_object_get(object, "seconds");
        if (json_is_number(number) && json_object_get(object, "step")) {
            status = sara_grow(ctx, &seconds, &capacity, count + 1, sizeof(*seconds));
            if (status == SARA_OK)
                seconds[count++] = json_number_value(number);
        }
        json_decref(object);
        if (status == SARA_ERROR_MEMORY)
            goto done;
    }
    status = SARA_OK;
    *out = count ? median_later(seconds, count) : NAN;
done:
    sara_free(ctx, seconds);
    sara_free(ctx, text);
    return status;
}

/* Checkpoints are for going on; what is finished needs none. */
static sara_status remove_checkpoints(sara_context *ctx, const char *run)
{
    char **names = NULL, *path = NULL;
    size_t count = 0;
    sara_status status = SARA_OK;
    if (!sara_path_is_directory(run))
        return SARA_OK;
    TRY(sara_directory_list(ctx, &names, &count, run));
    for (size_t i = 0; i < count; i++) {
        if (strncmp(names[i], "checkpoint-", 11) != 0)
            continue;
        TRY(sara_path_join(ctx, &path, run, names[i]));
        TRY(sara_directory_remove(ctx, path));
        sara_free(ctx, path);
        path = NULL;
    }
done:
    sara_free(ctx, path);
    sara_directory_free(ctx, names, count);
    return status;
}

/* The result's place is kept without the output folder's, which may be moved. */
static sara_status add_result(sara_job *job, json_t *record, const char *result, bool whole,
                              int64_t entries)
{
    const size_t length = strlen(job->comparison->output);
    sara_context *ctx = job->comparison->ctx;
    const char *log;
    double seconds;
    int64_t bytes = 0;
    sara_status status;
    TRY(sara_path_bytes(ctx, &bytes, result));
    TRY(sara_job_path(job, &log, "/log.jsonl"));
    TRY(read_seconds(ctx, &seconds, log));
    if (strncmp(result, job->comparison->output, length) == 0 && result[length] == '/')
        result += length + 1;
    if (json_object_set_new(record, "entries", json_integer(entries)) ||
        json_object_set_new(record, whole ? "weights" : "adapter", json_string(result)) ||
        json_object_set_new(record, "result_bytes", json_integer(bytes)) ||
        (isfinite(seconds) && json_object_set_new(record, "seconds_per_step", json_real(seconds))))
        status = sara_fail(ctx, SARA_ERROR_MEMORY, "out of memory: %s", job->folder);
done:
    return status;
}

/* What `sara train` prints at its end: where its result is, and how much it trained. */
static sara_status collect_training(sara_job *job, json_t *record)
{
    sara_context *ctx = job->comparison->ctx;
    const char *path, *adapter = NULL, *weights = NULL;
    char *text = NULL;
    size_t size;
    sara_status status;
    TRY(sara_job_path(job, &path, ".out"));
    TRY(sara_file_read(ctx, &text, &size, path, (size_t)1 << 26));
    TRY(last_line(job, &adapter, text, "adapter: "));
    TRY(last_line(job, &weights, text, "weights: "));
    if (!adapter && !weights)
        TRY(sara_fail(ctx, SARA_ERROR_INPUT, "%s: does not tell the run's result", path));
    TRY(add_result(job, record, weights ? weights : adapter, weights != NULL, entries_told(text)));
done:
    sara_free(ctx, text);
    return status;
}

/* ------------------------------------------------------------------------------------- going on */

/* A run that began with other options is not thrown away, nor mixed with this one. */
static sara_status check_begun(sara_comparison *c, const sara_job *job, const char *path,
                               const json_t *config)
{
    json_t *begun = NULL, *value;
    const char *key, *before, *now;
    sara_status status = SARA_OK;
    if (!sara_path_exists(path))
        return SARA_OK;
    TRY(sara_json_load(c->ctx, &begun, path, false));
    for (int turn = 0; turn < 2; turn++)
        json_object_foreach((json_t *)(uintptr_t)(turn ? begun : config), key, value)
        {
            const json_t *a = json_object_get(begun, key), *b = json_object_get(config, key);
            if (strcmp(key, "output_dir") == 0 || (a && b && json_equal(a, b)))
                continue;
            before = now = "none";
            if (a)
                TRY(sara_compare_text(c, &before, a, key));
            if (b)
                TRY(sara_compare_text(c, &now, b, key));
            TRY(sara_fail(c->ctx, SARA_ERROR_USAGE,
                          "%s: was begun with %s %s, the config has %s; remove that folder or name "
                          "another output_dir",
                          job->folder, key, before, now));
        }
done:
    json_decref(begun);
    return status;
}

static sara_status begin_training(sara_comparison *c, sara_job *job, json_t **config,
                                  const char **path, const sara_compare_row *row,
                                  const sara_compare_data *data, double rate, uint64_t seed)
{
    const char *folder, *run, **inputs;
    sara_status status;
    *config = NULL;
    TRY(sara_compare_run_folder(c, &folder, row, data, rate, seed));
    TRY(sara_job_begin(c, job, "train", "run", folder));
    TRY(sara_job_path(job, &run, ""));
    TRY(sara_job_path(job, path, ".json"));
    TRY(sara_compare_train_config(c, config, row, data, rate, seed, run));
    TRY(sara_job_add(job, "--config", *path));
    TRY(sara_arena_alloc(&c->arena, &inputs, 2, sizeof(*inputs)));
    inputs[0] = c->model;
    inputs[1] = data->folder;
    job->inputs = inputs;
    job->input_count = 2;
    job->config = *config;
    job->collect = collect_training;
    TRY(check_begun(c, job, *path, *config));
done:
    return status;
}

/* Its options as a file, anew where the output folder has been moved. */
static sara_status write_run_config(sara_comparison *c, const sara_job *job, const char *path,
                                    const json_t *config)
{
    json_t *there = NULL;
    sara_status status = SARA_OK;
    if (sara_path_exists(path))
        TRY(sara_json_load(c->ctx, &there, path, false));
    if (!there || !json_equal(there, config))
        status = sara_json_save(c->ctx, job->folder, "run.json", config, JSON_INDENT(1));
done:
    json_decref(there);
    return status;
}

sara_status sara_compare_train(sara_comparison *c, json_t **record, const sara_compare_row *row,
                               const sara_compare_data *data, double rate, uint64_t seed)
{
    sara_job job;
    json_t *config = NULL;
    const char *path, *run;
    sara_status status;
    *record = NULL;
    TRY(begin_training(c, &job, &config, &path, row, data, rate, seed));
    TRY(write_run_config(c, &job, path, config));
    TRY(sara_job_run(&job, record));
    TRY(sara_job_path(&job, &run, ""));
    if (!sara_record_error(*record))
        TRY(remove_checkpoints(c->ctx, run));
done:
    if (status != SARA_OK) {
        json_decref(*record);
        *record = NULL;
    }
    json_decref(config);
    return status;
}

/* A finished run has no checkpoints any more, so that it could not go on with other pictures. */
static sara_status check_finished(sara_comparison *c, sara_job *job)
{
    json_t *record = NULL;
    const char *path, *kept;
    char hash[65];
    sara_status status;
    TRY(sara_job_path(job, &path, ".done.json"));
    if (!sara_path_exists(path))
        goto done;
    status = sara_json_load(c->ctx, &record, path, false);
    if (status == SARA_ERROR_INPUT) { /* damaged: made anew */
        status = SARA_OK;
        goto done;
    }
    TRY(status);
    TRY(sara_job_hash(job, hash));
    kept = json_string_value(json_object_get(record, "hash"));
    if (!sara_record_error(record) && kept && strcmp(kept, hash) != 0)
        status =
            sara_fail(c->ctx, SARA_ERROR_USAGE,
                      "%s: was trained before files of %s or %s changed; remove that folder or "
                      "name another output_dir",
                      job->folder, job->inputs[0], job->inputs[1]);
done:
    json_decref(record);
    return status;
}

static sara_status check_run(sara_comparison *c, const sara_compare_row *row,
                             const sara_compare_data *data, double rate, uint64_t seed)
{
    sara_job job;
    json_t *config = NULL;
    const char *path;
    sara_status status;
    TRY(begin_training(c, &job, &config, &path, row, data, rate, seed));
    status = check_finished(c, &job);
done:
    json_decref(config);
    return status;
}

sara_status sara_compare_check_runs(sara_comparison *c)
{
    sara_status status = SARA_OK;
    for (size_t r = 0; r < c->row_count; r++)
        for (size_t d = 0; d < c->data_count; d++)
            for (size_t s = 0; s < c->seed_count; s++)
                for (size_t i = 0; i < json_array_size(c->rows[r].rates); i++)
                    TRY(check_run(c, &c->rows[r], &c->data[d],
                                  json_number_value(json_array_get(c->rows[r].rates, i)),
                                  c->seeds[s]));
done:
    return status;
}

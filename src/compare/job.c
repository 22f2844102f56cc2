/* A process whose result is kept, so that it is run once whatever ends the comparison. */
#include "compare/compare.h"

#include <math.h>
#include <stdlib.h>
#include <sys/stat.h>

/* ----------------------------------------------------------------------------------- arguments */

static sara_status push_argument(sara_job *job, const char *text)
{
    sara_arena *arena = &job->comparison->arena;
    const char **longer;
    sara_status status;
    if (job->argc + 1 >= job->capacity) { /* the shorter list stays in the arena */
        job->capacity = job->capacity ? 2 * job->capacity : 32;
        TRY(sara_arena_alloc(arena, &longer, job->capacity, sizeof(*longer)));
        if (job->argc)
            memcpy(longer, job->argv, job->argc * sizeof(*longer));
        job->argv = longer;
    }
    TRY(sara_arena_strdup(arena, &job->argv[job->argc], text));
    job->argv[++job->argc] = NULL;
done:
    return status;
}

sara_status sara_job_begin(sara_comparison *c, sara_job *job, const char *command, const char *name,
                           const char *folder)
{
    char threads[16], *path = NULL;
    sara_status status;
    *job = (sara_job){.comparison = c, .name = name};
    TRY(sara_path_join(c->ctx, &path, c->output, folder));
    TRY(sara_arena_strdup(&c->arena, &job->folder, path));
    TRY(push_argument(job, c->program));
    TRY(push_argument(job, command));
    sara_print(threads, sizeof(threads), "%d", sara_threads(c->ctx));
    TRY(sara_job_add(job, "--threads", threads));
done:
    sara_free(c->ctx, path);
    return status;
}

sara_status sara_job_add(sara_job *job, const char *option, const char *value)
{
    sara_status status;
    TRY(push_argument(job, option));
    if (value)
        TRY(push_argument(job, value));
done:
    return status;
}

sara_status sara_job_number(sara_job *job, const char *option, double value)
{
    char text[40];
    sara_print(text, sizeof(text), "%.17g", value);
    return sara_job_add(job, option, text);
}

sara_status sara_job_path(sara_job *job, const char **out, const char *ending)
{
    char *path = NULL;
    sara_status status;
    TRY(sara_format(job->comparison->ctx, &path, "%s/%s%s", job->folder, job->name, ending));
    status = sara_arena_strdup(&job->comparison->arena, out, path);
done:
    sara_free(job->comparison->ctx, path);
    return status;
}

/* ------------------------------------------------------------------- what the result depends on */

/* Names and sizes of what is in a folder but for the output and what is hidden (caches, which runs
 * fill), a file's size: contents that change with the same sizes are not seen, but neither are
 * copies and checkouts taken for changes. */
static sara_status add_stamp(const sara_comparison *c, sara_sha256 *hash, const char *path,
                             int depth)
{
    sara_context *ctx = c->ctx;
    char **names = NULL, *inner = NULL, size[32];
    size_t count = 0;
    struct stat info;
    sara_status status = SARA_OK;
    if (stat(path, &info) != 0)
        return SARA_OK; /* the process tells */
    if (!S_ISDIR(info.st_mode)) {
        sara_print(size, sizeof(size), "%lld;", (long long)info.st_size);
        return sara_sha256_add(hash, size, strlen(size));
    }
    if (depth == 0 || sara_path_is_same(path, c->output))
        return SARA_OK;
    TRY(sara_directory_list(ctx, &names, &count, path));
    for (size_t i = 0; i < count; i++) {
        if (names[i][0] == '.')
            continue;
        TRY(sara_path_join(ctx, &inner, path, names[i]));
        TRY(sara_sha256_add(hash, names[i], strlen(names[i]) + 1));
        TRY(add_stamp(c, hash, inner, depth - 1));
        sara_free(ctx, inner);
        inner = NULL;
    }
done:
    sara_free(ctx, inner);
    sara_directory_free(ctx, names, count);
    return status;
}

/* Small files, as prompts, by their content. */
static sara_status add_input(const sara_comparison *c, sara_sha256 *hash, const char *path)
{
    struct stat info;
    char digits[65];
    sara_status status;
    if (stat(path, &info) != 0 || !S_ISREG(info.st_mode) || info.st_size > (off_t)1 << 20)
        return add_stamp(c, hash, path, 8);
    TRY(sara_sha256_file(c->ctx, digits, path));
    status = sara_sha256_add(hash, digits, 64);
done:
    return status;
}

/* Of an argument what is within the output folder has no name of that: it may be moved. The program
 * and the number of threads decide nothing. */
static sara_status add_argument(sara_job *job, sara_sha256 *hash, const char *text)
{
    size_t length = strlen(job->comparison->output);
    if (strncmp(text, job->comparison->output, length) == 0 && text[length] == '/')
        text += length;
    return sara_sha256_add(hash, text, strlen(text) + 1);
}

static sara_status add_job_config(sara_job *job, sara_sha256 *hash)
{
    json_t *config = json_deep_copy(job->config);
    char *text = NULL;
    sara_status status;
    if (config)
        json_object_del(config, "output_dir");
    text = config ? sara_json_dump(config, JSON_COMPACT | JSON_SORT_KEYS) : NULL;
    status = text ? sara_sha256_add(hash, text, strlen(text))
                  : sara_fail(job->comparison->ctx, SARA_ERROR_MEMORY, "out of memory: options");
    free(text);
    json_decref(config);
    return status;
}

sara_status sara_job_hash(sara_job *job, char out[65])
{
    sara_sha256 *hash = NULL;
    sara_status status;
    TRY(sara_sha256_new(job->comparison->ctx, &hash));
    for (size_t i = 1; i < job->argc; i++)
        if (strcmp(job->argv[i], "--threads") == 0)
            i++;
        else
            TRY(add_argument(job, hash, job->argv[i]));
    for (size_t i = 0; i < job->input_count; i++)
        TRY(add_input(job->comparison, hash, job->inputs[i]));
    if (job->after)
        TRY(sara_sha256_add(hash, job->after, strlen(job->after)));
    if (job->config)
        TRY(add_job_config(job, hash));
    TRY(sara_sha256_end(&hash, out));
done:
    sara_sha256_abort(&hash);
    return status;
}

/* -------------------------------------------------------------------------------------- records */

const char *sara_record_error(const json_t *record)
{
    return json_string_value(json_object_get(record, "error"));
}

/* One that diverged would do so again; other failures may have been the disk's or the memory's. */
static bool is_kept(const json_t *record, const char *hash)
{
    const char *kept = json_string_value(json_object_get(record, "hash"));
    json_int_t code = json_integer_value(json_object_get(record, "exit_code"));
    return kept && strcmp(kept, hash) == 0 && (code == 0 || code == SARA_ERROR_DIVERGED) &&
           !(code == 0 && sara_record_error(record));
}

/* *record: NULL where there is none that holds. */
static sara_status load_record(sara_job *job, json_t **record, const char *hash)
{
    const char *path;
    sara_status status;
    *record = NULL;
    TRY(sara_job_path(job, &path, ".done.json"));
    if (!sara_path_exists(path))
        goto done;
    status = sara_json_load(job->comparison->ctx, record, path, false);
    if (status == SARA_ERROR_INPUT) /* damaged: made anew */
        status = SARA_OK;
    if (*record && !is_kept(*record, hash)) {
        json_decref(*record);
        *record = NULL;
    }
done:
    return status;
}

/* The last line of what a process wrote to its error stream, the program's own if there is one. */
static sara_status read_error(sara_job *job, const char **out, const char *path, int code)
{
    char *text = NULL, *line, *state = NULL;
    size_t size;
    sara_name fallback = sara_name_of(code > 128 ? "ended by signal %d" : "exit code %d",
                                      code > 128 ? code - 128 : code);
    const char *found = fallback.text;
    bool own = false;
    sara_status status = sara_file_read(job->comparison->ctx, &text, &size, path, (size_t)1 << 26);
    if (status == SARA_ERROR_MEMORY)
        return status;
    for (line = text ? strtok_r(text, "\r\n", &state) : NULL; line;
         line = strtok_r(NULL, "\r\n", &state)) {
        bool is_own = strncmp(line, "sara ", 5) == 0;
        if ((is_own || !own) && sara_text_is_utf8(line, strlen(line)))
            found = line;
        own = own || is_own;
    }
    status = sara_arena_strdup(&job->comparison->arena, out, found);
    sara_free(job->comparison->ctx, text);
    return status;
}

static json_t *command_json(const sara_job *job)
{
    json_t *list = json_array();
    for (size_t i = 0; list && i < job->argc; i++)
        if (json_array_append_new(list, json_string(job->argv[i])) != 0) {
            json_decref(list);
            list = NULL;
        }
    return list;
}

static sara_status make_record(sara_job *job, json_t **out, const char *hash,
                               const sara_child *child, const char *err_path)
{
    const char *error = NULL;
    json_t *command = command_json(job);
    sara_status status;
    *out = command ? json_pack("{s:s, s:o, s:i, s:f, s:I}", "hash", hash, "command", command,
                               "exit_code", child->exit_code, "seconds", child->seconds,
                               "peak_bytes", (json_int_t)child->peak_bytes)
                   : NULL;
    if (!*out)
        return sara_fail(job->comparison->ctx, SARA_ERROR_MEMORY, "out of memory: %s", job->folder);
    if (child->exit_code == 0 && job->collect) {
        status = job->collect(job, *out);
        if (status == SARA_OK || status == SARA_ERROR_MEMORY)
            return status;
        error = sara_context_error(job->comparison->ctx);
    } else if (child->exit_code != 0) {
        TRY(read_error(job, &error, err_path, child->exit_code));
    }
    status = SARA_OK;
    if (error && json_object_set_new(*out, "error", json_string(error)) != 0)
        status =
            sara_fail(job->comparison->ctx, SARA_ERROR_MEMORY, "out of memory: %s", job->folder);
done:
    return status;
}

/* ------------------------------------------------------------------------------------- running */

/* What is left of one kind, each taking as long as those did that were run. */
static double time_left(const struct sara_compare_time *t)
{
    double left = t->planned > t->done ? (double)(t->planned - t->done) : 0;
    return t->ran ? left * t->seconds / (double)t->ran : 0;
}

/* child NULL: its record was there. */
static void report_job(sara_job *job, const sara_child *child)
{
    sara_comparison *c = job->comparison;
    struct sara_compare_time *t = job->config ? &c->training : &c->drawing;
    if (job->untimed)
        return;
    t->done++;
    if (child) {
        t->ran++;
        t->seconds += child->seconds;
    }
    const int64_t done = c->training.done + c->drawing.done,
                  planned = c->training.planned + c->drawing.planned;
    const double seconds = c->training.seconds + c->drawing.seconds;
    const sara_progress progress = {
        .phase = "compare",
        .step = done,
        .total = planned > done ? planned : done,
        .loss = NAN,
        .learning_rate = NAN,
        .steps_per_second = seconds > 0 ? (double)(c->training.ran + c->drawing.ran) / seconds : 0,
        .seconds_left = time_left(&c->training) + time_left(&c->drawing)};
    sara_report_progress(c->ctx, &progress);
}

static sara_status run_process(sara_job *job, json_t **record, const char *hash)
{
    sara_comparison *c = job->comparison;
    const char *out_path, *err_path;
    sara_child child;
    char *name = NULL;
    sara_status status;
    TRY(sara_directory_make(c->ctx, job->folder));
    TRY(sara_job_path(job, &out_path, ".out"));
    TRY(sara_job_path(job, &err_path, ".err"));
    if (job->output && sara_path_is_named(job->output))
        TRY(sara_directory_remove(c->ctx, job->output));
    if (job->makes_output)
        TRY(sara_directory_make(c->ctx, job->output));
    TRY(sara_compare_spawn(c, &child, job->argv, out_path, err_path));
    TRY(make_record(job, record, hash, &child, err_path));
    if (sara_record_error(*record))
        sara_log(c->ctx, SARA_LOG_WARNING, "%s: %s: %s", job->folder, job->name,
                 sara_record_error(*record));
    TRY(sara_format(c->ctx, &name, "%s.done.json", job->name));
    TRY(sara_json_save(c->ctx, job->folder, name, *record, JSON_INDENT(1)));
    report_job(job, &child);
done:
    sara_free(c->ctx, name);
    return status;
}

sara_status sara_job_run(sara_job *job, json_t **record)
{
    char hash[65];
    sara_status status;
    *record = NULL;
    TRY(sara_job_hash(job, hash));
    TRY(load_record(job, record, hash));
    if (*record)
        report_job(job, NULL);
    else
        TRY(run_process(job, record, hash));
done:
    if (status != SARA_OK) {
        json_decref(*record);
        *record = NULL;
    }
    return status;
}

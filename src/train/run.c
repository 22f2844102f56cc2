/* The run folder: made, locked, cleared of what a killed run left half-written. */
#include "train/method.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

static sara_status try_lock(sara_run *run)
{
    run->lock = open(run->lock_path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (run->lock < 0)
        return sara_fail_errno(run->ctx, run->lock_path, "open");
    if (flock(run->lock, LOCK_EX | LOCK_NB) == 0)
        return SARA_OK;
    sara_status status =
        errno == EWOULDBLOCK
            ? sara_fail(run->ctx, SARA_ERROR_IO,
                        "%s: another run is writing here; wait for it or name another --output_dir",
                        run->folder)
            : sara_fail_errno(run->ctx, run->lock_path, "lock");
    close(run->lock);
    run->lock = -1;
    return status;
}

static sara_status take_lock(sara_run *run)
{
    sara_status status;
    TRY(try_lock(run));
    while (!sara_file_is_at(run->lock, run->lock_path)) { /* whose name a closing run removes */
        close(run->lock);
        TRY(try_lock(run));
    }
done:
    return status;
}

/* Hidden names are what was being written or pruned when a run was killed. */
static bool is_remains(const char *name)
{
    return strncmp(name, ".checkpoint-", 12) == 0 || strncmp(name, ".sara-", 6) == 0;
}

static sara_status clear_remains(sara_run *run, const char *folder)
{
    char **names = NULL, *path = NULL;
    size_t count = 0;
    sara_status status;
    TRY(sara_directory_list(run->ctx, &names, &count, folder));
    for (size_t i = 0; i < count; i++) {
        if (!is_remains(names[i]))
            continue;
        TRY(sara_path_join(run->ctx, &path, folder, names[i]));
        if (sara_path_is_directory(path) && !sara_path_is_link(path))
            status = sara_directory_remove(run->ctx, path);
        else if (unlink(path) != 0)
            status = sara_fail_errno(run->ctx, path, "cannot remove");
        if (status == SARA_ERROR_MEMORY)
            goto done;
        if (status != SARA_OK)
            sara_log(run->ctx, SARA_LOG_WARNING, "what an earlier run left stays: %s",
                     sara_context_error(run->ctx));
        status = SARA_OK;
        sara_free(run->ctx, path);
        path = NULL;
    }
done:
    sara_free(run->ctx, path);
    sara_directory_free(run->ctx, names, count);
    return status;
}

/* Length of what is left of a path without its last name, or 0. */
static size_t length_of_parent(const char *path, size_t length)
{
    while (length > 0 && path[length - 1] == '/')
        length--;
    while (length > 0 && path[length - 1] != '/')
        length--;
    while (length > 0 && path[length - 1] == '/')
        length--;
    return length;
}

/* Length of the beginning of a path that is there already. */
static size_t length_there(char *path)
{
    size_t whole = strlen(path), length = whole;
    while (length > 0 && !sara_path_exists(path)) {
        length = length_of_parent(path, length);
        if (length > 0)
            path[length] = '\0';
    }
    for (size_t i = length; i < whole; i++)
        path[i] = path[i] ? path[i] : '/';
    return length;
}

/* Of the folders that were made those that nothing was written to. */
static void remove_made(sara_run *run)
{
    size_t length = strlen(run->folder);
    while (length > run->there && rmdir(run->folder) == 0) {
        length = length_of_parent(run->folder, length);
        run->folder[length] = '\0';
    }
}

sara_status sara_run_check_file(const sara_run *run, const char *name)
{
    sara_writer *writer = NULL;
    char *path = NULL;
    sara_status status;
    TRY(sara_path_join(run->ctx, &path, run->folder, name));
    TRY(sara_writer_open(run->ctx, &writer, path));
done:
    sara_writer_abort(&writer);
    sara_free(run->ctx, path);
    return status;
}

static sara_status check_places(const sara_run *run, const char *samples)
{
    sara_status status;
    TRY(sara_run_check_file(run, "report.html"));
    TRY(sara_run_check_file(run, "log.jsonl"));
    if (sara_path_exists(run->log_path) && access(run->log_path, W_OK) != 0)
        TRY(sara_fail_errno(run->ctx, run->log_path, "cannot write"));
    if (sara_path_exists(samples) && !sara_path_is_directory(samples))
        TRY(sara_fail(run->ctx, SARA_ERROR_IO,
                      "%s: is no folder, and pictures of validation prompts go there", samples));
done:
    return status;
}

sara_status sara_run_open(sara_context *ctx, sara_run *run, const char *folder)
{
    char *samples = NULL;
    sara_status status;
    *run = (sara_run){.ctx = ctx, .lock = -1};
    TRY(sara_strdup(ctx, &run->folder, folder));
    run->there = length_there(run->folder);
    TRY(sara_directory_make(ctx, folder));
    TRY(sara_path_join(ctx, &run->log_path, folder, "log.jsonl"));
    TRY(sara_path_join(ctx, &run->lock_path, folder, ".lock"));
    TRY(take_lock(run));
    TRY(clear_remains(run, folder));
    TRY(sara_path_join(ctx, &samples, folder, "samples"));
    TRY(check_places(run, samples));
    if (sara_path_is_directory(samples))
        TRY(clear_remains(run, samples));
done:
    sara_free(ctx, samples);
    if (status != SARA_OK)
        sara_run_close(run);
    return status;
}

void sara_run_close(sara_run *run)
{
    if (run->log)
        fclose(run->log);
    sara_run_events_close(run);
    if (run->lock >= 0) {
        unlink(run->lock_path);
        close(run->lock); /* gives the lock back */
    }
    if (run->folder)
        remove_made(run);
    sara_free(run->ctx, run->folder);
    sara_free(run->ctx, run->log_path);
    sara_free(run->ctx, run->lock_path);
    *run = (sara_run){.ctx = run->ctx, .lock = -1};
}

bool sara_run_has(const sara_run *run, const char *name)
{
    char *path = NULL;
    bool has = sara_path_join(run->ctx, &path, run->folder, name) == SARA_OK &&
               sara_path_exists(path);
    sara_free(run->ctx, path);
    return has;
}

/* A log without a line is that of a run that failed before its first step. */
static bool is_trace(const sara_run *run, const char *name)
{
    struct stat info;
    if (strcmp(name, "log.jsonl") == 0)
        return stat(run->log_path, &info) != 0 || info.st_size > 0;
    for (size_t i = 0; sara_method_at(i); i++) { /* folders may be anybody's */
        const char *file = sara_method_at(i)->result;
        if (file && strcmp(name, file) == 0)
            return true;
    }
    return sara_checkpoint_number(name) >= 0;
}

sara_status sara_run_is_new(const sara_run *run, bool *out)
{
    char **names = NULL;
    size_t count = 0;
    sara_status status;
    TRY(sara_directory_list(run->ctx, &names, &count, run->folder));
    *out = true;
    for (size_t i = 0; i < count; i++)
        *out = *out && !is_trace(run, names[i]);
done:
    sara_directory_free(run->ctx, names, count);
    return status;
}

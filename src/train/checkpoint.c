/* checkpoint-N folders. One is written under a hidden name, synced, and renamed: it is whole or not
 * there. */
#include "train/checkpoint.h"
#include "train/trainer.h"

#include <stdlib.h>
#include <sys/stat.h>

/* --------------------------------------------------------------------------------------- names */

int64_t sara_checkpoint_number(const char *name)
{
    static const char prefix[] = "checkpoint-";
    const size_t length = sizeof(prefix) - 1;
    size_t digits = strncmp(name, prefix, length) == 0 ? strspn(name + length, "0123456789") : 0;
    if (digits == 0 || digits > 18 || name[length + digits] != '\0')
        return -1;
    return strtoll(name + length, NULL, 10);
}

static int by_number(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

/* Numbers of the checkpoints, ascending; sara_free(). */
static sara_status list_checkpoints(sara_run *run, int64_t **out, size_t *count)
{
    char **names = NULL;
    size_t name_count = 0;
    sara_status status;
    *out = NULL;
    *count = 0;
    TRY(sara_directory_list(run->ctx, &names, &name_count, run->folder));
    TRY(sara_alloc(run->ctx, out, name_count, sizeof(**out)));
    for (size_t i = 0; i < name_count; i++)
        if (sara_checkpoint_number(names[i]) >= 0)
            (*out)[(*count)++] = sara_checkpoint_number(names[i]);
    if (*count)
        qsort(*out, *count, sizeof(**out), by_number);
done:
    sara_directory_free(run->ctx, names, name_count);
    return status;
}

static sara_status checkpoint_path(sara_run *run, char **out, int64_t number, const char *dot,
                                   const char *suffix)
{
    return sara_format(run->ctx, out, "%s/%scheckpoint-%lld%s", run->folder, dot, (long long)number,
                       suffix);
}

/* -------------------------------------------------------------------------------------- saving */

/* Renamed first: what is half removed is no checkpoint. */
static sara_status remove_checkpoint(sara_run *run, int64_t number)
{
    char *path = NULL, *hidden = NULL;
    sara_status status;
    TRY(checkpoint_path(run, &path, number, "", ""));
    TRY(checkpoint_path(run, &hidden, number, ".", ".removed"));
    TRY(sara_rename_durably(run->ctx, path, hidden));
    TRY(sara_directory_remove(run->ctx, hidden));
done:
    sara_free(run->ctx, path);
    sara_free(run->ctx, hidden);
    return status;
}

/* Removes the oldest beyond the limit, never the one just written. */
static sara_status prune(sara_run *run, int64_t written, int limit)
{
    int64_t *numbers = NULL;
    size_t count = 0;
    sara_status status;
    if (limit == 0)
        return SARA_OK;
    TRY(list_checkpoints(run, &numbers, &count));
    size_t extra = count > (size_t)limit ? count - (size_t)limit : 0;
    for (size_t i = 0; i < count && extra > 0; i++) {
        if (numbers[i] == written)
            continue;
        TRY(remove_checkpoint(run, numbers[i]));
        extra--;
    }
done:
    sara_free(run->ctx, numbers);
    return status;
}

static sara_status write_files(const trainer *t, const char *folder, json_t **manifest)
{
    sara_status status;
    TRY(sara_directory_make(t->ctx, folder));
    TRY(t->method->save(t, folder));
    TRY(sara_manifest_write(t, manifest, folder));
done:
    return status;
}

/* The folder at path takes the place of the checkpoint, unless that is whole and the same: a run
 * that was resumed from an earlier step comes to it again. */
static sara_status checkpoint_publish(sara_run *run, const char *partial, int64_t number,
                                      const json_t *manifest)
{
    json_t *present = NULL;
    char *path = NULL;
    sara_status status;
    TRY(checkpoint_path(run, &path, number, "", ""));
    if (sara_path_exists(path)) {
        status = sara_manifest_read(run->ctx, &present, path);
        if (status == SARA_ERROR_MEMORY)
            goto done;
        if (status == SARA_OK && json_equal(present, manifest)) {
            status = sara_directory_remove(run->ctx, partial);
            goto done;
        }
        TRY(remove_checkpoint(run, number));
    }
    TRY(sara_rename_durably(run->ctx, partial, path));
done:
    json_decref(present);
    sara_free(run->ctx, path);
    return status;
}

sara_status sara_checkpoint_save(trainer *t)
{
    const int64_t number = t->optimizer->steps;
    sara_run *run = &t->run;
    json_t *manifest = NULL;
    char *partial = NULL;
    sara_status status;
    TRY(checkpoint_path(run, &partial, number, ".", ".partial"));
    TRY(sara_run_log_sync(run));
    TRY(write_files(t, partial, &manifest));
    TRY(checkpoint_publish(run, partial, number, manifest));
    TRY(prune(run, number, t->options.checkpoints_total_limit));
done:
    if (status != SARA_OK && partial)
        sara_directory_discard(run->ctx, partial);
    json_decref(manifest);
    sara_free(run->ctx, partial);
    return status;
}

/* ------------------------------------------------------------------------------------- loading */

/* The newest checkpoint whose files are whole; *out NULL if there is none at all. */
static sara_status find_latest(sara_run *run, char **out, json_t **manifest)
{
    int64_t *numbers = NULL;
    size_t count = 0;
    sara_status status;
    TRY(list_checkpoints(run, &numbers, &count));
    for (size_t i = count; i-- > 0;) {
        TRY(checkpoint_path(run, out, numbers[i], "", ""));
        status = sara_manifest_read(run->ctx, manifest, *out);
        if (status == SARA_OK || status == SARA_ERROR_MEMORY || status == SARA_ERROR_USAGE)
            goto done;
        sara_log(run->ctx, SARA_LOG_WARNING, "%s: damaged (%s); taking the one before", *out,
                 sara_context_error(run->ctx));
        sara_free(run->ctx, *out);
        *out = NULL;
    }
    if (count > 0)
        status = sara_fail(run->ctx, SARA_ERROR_INPUT,
                           "%s: all of its %zu checkpoints are damaged; start anew in another "
                           "--output_dir",
                           run->folder, count);
done:
    sara_free(run->ctx, numbers);
    return status;
}

/* A path, or as in diffusers the name of a checkpoint in the run folder. */
static sara_status find_named(sara_run *run, char **out, json_t **manifest, const char *which)
{
    sara_status status;
    if (!sara_path_exists(which) && sara_checkpoint_number(which) >= 0)
        TRY(sara_path_join(run->ctx, out, run->folder, which));
    else
        TRY(sara_strdup(run->ctx, out, which));
    TRY(sara_manifest_read(run->ctx, manifest, *out));
done:
    return status;
}

/* A run that goes on from another folder's checkpoint needs a folder of its own. */
static sara_status check_place(sara_run *run, const char *folder)
{
    struct stat own, other;
    char *parent = NULL;
    bool is_new;
    sara_status status;
    TRY(sara_run_is_new(run, &is_new));
    TRY(sara_path_join(run->ctx, &parent, folder, ".."));
    bool inside = stat(run->folder, &own) == 0 && stat(parent, &other) == 0 &&
                  own.st_dev == other.st_dev && own.st_ino == other.st_ino;
    if (!is_new && !inside)
        status = sara_fail(run->ctx, SARA_ERROR_USAGE,
                           "%s: is no checkpoint of %s, which holds another run already; name "
                           "another --output_dir",
                           folder, run->folder);
done:
    sara_free(run->ctx, parent);
    return status;
}

sara_status sara_checkpoint_find(sara_run *run, sara_checkpoint *out, const char *which)
{
    sara_checkpoint found = {NULL, NULL};
    sara_status status;
    *out = found;
    if (strcmp(which, "latest") == 0)
        TRY(find_latest(run, &found.folder, &found.manifest));
    else
        TRY(find_named(run, &found.folder, &found.manifest, which));
    if (found.folder) {
        TRY(check_place(run, found.folder));
        TRY(sara_manifest_complete(run->ctx, found.manifest));
    }
    *out = found;
    return SARA_OK;
done:
    sara_checkpoint_clear(run->ctx, &found);
    return status;
}

void sara_checkpoint_clear(sara_context *ctx, sara_checkpoint *checkpoint)
{
    json_decref(checkpoint->manifest);
    sara_free(ctx, checkpoint->folder);
    *checkpoint = (sara_checkpoint){NULL, NULL};
}

sara_status sara_checkpoint_count(trainer *t)
{
    const sara_config config = {t->ctx, t->checkpoint.manifest, t->checkpoint.folder};
    sara_run_state taken;
    int64_t steps, adam_steps;
    sara_status status;
    TRY(sara_config_int(&config, &steps, "steps", 0, 0, INT64_MAX));
    TRY(sara_config_int(&config, &adam_steps, "adam_steps", 0, 0, INT64_MAX));
    TRY(sara_config_int(&config, &taken.micro_batches, "micro_batches", 0, 0, INT64_MAX));
    TRY(sara_config_int(&config, &taken.skipped, "skipped", 0, 0, INT64_MAX));
    TRY(sara_config_int(&config, &taken.skipped_in_row, "skipped_in_row", 0, 0, INT64_MAX));
    status = sara_optimizer_restore(t->optimizer, steps, adam_steps);
    if (status != SARA_OK)
        return sara_fail_in(t->ctx, status, t->checkpoint.folder);
    t->state = taken;
done:
    return status;
}

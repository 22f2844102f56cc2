/* Room on the disk, known before hours of work. */
#include "train/trainer.h"

#include <sys/statvfs.h>

#define STATE_BYTES 8 /* of an entry: two moments */

uint64_t sara_disk_free(const char *folder)
{
    struct statvfs info;
    if (statvfs(folder, &info) != 0 || info.f_blocks == 0)
        return UINT64_MAX;
    uint64_t unit = info.f_frsize ? info.f_frsize : info.f_bsize;
    return info.f_bavail > UINT64_MAX / unit ? UINT64_MAX : info.f_bavail * unit;
}

sara_status sara_run_check_space(const sara_run *run, uint64_t least, uint64_t most)
{
    const uint64_t free_bytes = sara_disk_free(run->folder);
    sara_bytes_text needed, there;
    sara_bytes_format(&there, free_bytes);
    if (free_bytes < least)
        return sara_fail(run->ctx, SARA_ERROR_IO,
                         "%s: a checkpoint takes at least %s, %s are free on the disk; make room "
                         "or name another --output_dir",
                         run->folder, sara_bytes_format(&needed, least), there.text);
    if (free_bytes < most)
        sara_log(run->ctx, SARA_LOG_WARNING,
                 "%s: checkpoints and result will take at least %s, %s are free on the disk; "
                 "--checkpoints_total_limit keeps fewer",
                 run->folder, sara_bytes_format(&needed, most), there.text);
    return SARA_OK;
}

sara_status sara_trainer_check_space(const trainer *t)
{
    const sara_train_options *o = &t->options;
    int64_t left = t->steps - t->started_at, limit = o->checkpoints_total_limit;
    uint64_t result = (uint64_t)t->selected * (uint64_t)t->method->entry_bytes;
    int64_t trained = sara_trainables_total(&t->optimizer->trainables);
    uint64_t entries = (uint64_t)(trained > t->selected ? trained : t->selected);
    uint64_t checkpoint = entries * ((uint64_t)t->method->entry_bytes + STATE_BYTES);
    if (left <= 0)
        return SARA_OK;
    int64_t count = (left - 1) / o->checkpointing_steps + 1;
    if (limit && count > limit + 1)
        count = limit + 1; /* the new one is written before the oldest is removed */
    uint64_t most = result;
    for (int64_t i = 0; i < count && most < UINT64_MAX / 2; i++)
        most += checkpoint;
    return sara_run_check_space(&t->run, checkpoint, most);
}

/* LT-SFT's part of a checkpoint: all values in the first phase, an adapter in the second. */
#include "train/checkpoint.h"
#include "train/methods/ltsft.h"

bool sara_ltsft_has_kept(const trainer *t)
{
    const json_t *files = json_object_get(t->checkpoint.manifest, "files");
    return json_object_get(files, SARA_CHECKPOINT_ADAPTER) != NULL;
}

sara_status sara_ltsft_save(const trainer *t, const char *folder)
{
    return ltsft_of(t)->selected.adaptation ? sara_selective_save(t, folder)
                                            : sara_whole_save(t, folder);
}

sara_status sara_ltsft_load(trainer *t, const char *folder)
{
    return ltsft_of(t)->selected.adaptation ? sara_selective_load(t, folder)
                                            : sara_whole_load(t, folder, SARA_WHOLE_FILE);
}

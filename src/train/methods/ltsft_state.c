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
    const sara_trainables *trainables = &t->optimizer->trainables;
    char *weights = NULL;
    sara_status status;
    if (ltsft_of(t)->selected.adaptation)
        return sara_selective_save(t, folder);
    TRY(sara_path_join(t->ctx, &weights, folder, LTSFT_WEIGHTS));
    TRY(sara_model_save_denoiser(t->ctx, weights, t->model, trainables));
    TRY(sara_state_save(t->ctx, folder, trainables, NULL));
done:
    sara_free(t->ctx, weights);
    return status;
}

sara_status sara_ltsft_load(trainer *t, const char *folder)
{
    char *path = NULL;
    sara_status status;
    if (ltsft_of(t)->selected.adaptation)
        return sara_selective_load(t, folder);
    TRY(sara_path_join(t->ctx, &path, folder, LTSFT_WEIGHTS_FILE));
    TRY(sara_whole_load(t, path));
    TRY(sara_state_load(t->ctx, folder, &t->optimizer->trainables));
done:
    sara_free(t->ctx, path);
    return status;
}

/* Full fine-tuning: every entry of the denoiser is trained. */
#include "train/checkpoint.h"
#include "train/methods/methods.h"
#include "train/methods/whole.h"

/* ------------------------------------------------------------------------------ what is trained */

static sara_status full_prepare(trainer *t)
{
    return sara_whole_use(t, &t->model->denoiser->params);
}

static void full_describe(const trainer *t, sara_method_text *out)
{
    (void)t;
    snprintf(out->entries, sizeof(out->entries), "all of them");
    out->default_rate = "of full fine-tuning";
}

/* --------------------------------------------------------------------------------- checkpoints */

static sara_status full_load(trainer *t, const char *folder)
{
    return sara_whole_load(t, folder, SARA_WHOLE_FILE);
}

/* -------------------------------------------------------------------------------------- result */

/* In the folder of an earlier end of this run, which has the same config, the new weights take the
 * place of the old ones at once; what else a user has put there stays. */
static sara_status full_finish(const trainer *t)
{
    const sara_trainables *trainables = &t->optimizer->trainables;
    sara_partial partial = {.fd = -1};
    char *path = NULL;
    sara_status status;
    TRY(sara_path_join(t->ctx, &path, t->run.folder,
                       sara_method_result(t->method, t->model->family, &t->options)));
    if (sara_path_exists(path)) {
        status = sara_model_save_denoiser(t->ctx, path, t->model, trainables);
        goto done;
    }
    TRY(sara_partial_make(t->ctx, &partial, path, true));
    TRY(sara_model_save_denoiser(t->ctx, partial.path, t->model, trainables));
    TRY(sara_partial_publish(t->ctx, &partial, path));
done:
    sara_partial_discard(t->ctx, &partial);
    sara_free(t->ctx, path);
    return status;
}

const sara_method sara_method_full = {
    .name = "full",
    .title = "full fine-tuning",
    .options = (const char *const[]){"track_drift", NULL},
    .files = (const char *const[]){SARA_WHOLE_CONFIG, SARA_WHOLE_FILE, SARA_CHECKPOINT_STATE, NULL},
    .entry_bytes = sizeof(float),
    .learning_rate = 1e-5,
    .prepare = full_prepare,
    .describe = full_describe,
    .save = sara_whole_save,
    .load = full_load,
    .finish = full_finish,
};

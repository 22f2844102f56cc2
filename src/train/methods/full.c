/* Full fine-tuning: every entry of the denoiser is trained. */
#include "train/checkpoint.h"
#include "train/methods/methods.h"
#include "train/methods/whole.h"

#define WEIGHTS       "denoiser" /* a checkpoint's folder of the trained values */
#define WEIGHTS_FILE  WEIGHTS "/" SARA_DIFFUSERS_STEM ".safetensors"

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

static sara_status full_save(const trainer *t, const char *folder)
{
    const sara_trainables *trainables = &t->optimizer->trainables;
    char *weights = NULL;
    sara_status status;
    TRY(sara_path_join(t->ctx, &weights, folder, WEIGHTS));
    TRY(sara_model_save_denoiser(t->ctx, weights, t->model, trainables));
    TRY(sara_state_save(t->ctx, folder, trainables, NULL));
done:
    sara_free(t->ctx, weights);
    return status;
}

static sara_status full_load(trainer *t, const char *folder)
{
    char *path = NULL;
    sara_status status;
    TRY(sara_path_join(t->ctx, &path, folder, WEIGHTS_FILE));
    TRY(sara_whole_load(t, path));
    TRY(sara_state_load(t->ctx, folder, &t->optimizer->trainables));
done:
    sara_free(t->ctx, path);
    return status;
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
    .options = (const char *const[]){NULL},
    .files =
        (const char *const[]){WEIGHTS "/config.json", WEIGHTS_FILE, SARA_CHECKPOINT_STATE, NULL},
    .entry_bytes = sizeof(float),
    .learning_rate = 1e-5,
    .prepare = full_prepare,
    .describe = full_describe,
    .save = full_save,
    .load = full_load,
    .finish = full_finish,
};

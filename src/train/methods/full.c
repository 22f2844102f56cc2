/* Full fine-tuning: every entry of the denoiser is trained. */
#include "train/checkpoint.h"
#include "train/memory.h"
#include "train/methods/methods.h"
#include "train/trainer.h"

#define LEARNING_RATE 1e-5
#define WEIGHTS       "denoiser" /* a checkpoint's folder of the trained values */
#define WEIGHTS_FILE  WEIGHTS "/" SARA_DIFFUSERS_STEM ".safetensors"

/* ------------------------------------------------------------------------------ what is trained */

static sara_status list_parameters(const trainer *t, sara_trainable **out)
{
    const sara_params *params = &t->model->denoiser->params;
    uint64_t bytes = 0;
    sara_status status;
    for (size_t i = 0; i < params->count; i++) {
        const sara_param *param = &params->items[i];
        uint64_t count = (uint64_t)sara_shape_count(&param->value.shape);
        bytes += count * sara_trainable_entry_bytes(param, false);
    }
    TRY(sara_memory_check_trainables(t, sara_params_entries(params), bytes));
    TRY(sara_alloc_zero(t->ctx, out, params->count, sizeof(**out)));
    for (size_t i = 0; i < params->count; i++) {
        sara_param *param = &params->items[i];
        (*out)[i] = (sara_trainable){.param = param,
                                     .count = (size_t)sara_shape_count(&param->value.shape)};
    }
done:
    return status;
}

static sara_status full_prepare(trainer *t)
{
    const sara_params *params = &t->model->denoiser->params;
    sara_trainables trainables = {.ctx = t->ctx};
    sara_trainable *items = NULL;
    sara_status status;
    if (t->learning_rate <= 0)
        t->learning_rate = LEARNING_RATE;
    TRY(list_parameters(t, &items));
    TRY(sara_trainables_init(&trainables, t->ctx, items, params->count, NULL));
    items = NULL;
    TRY(sara_trainer_use(t, &trainables));
done:
    sara_trainables_free(&trainables);
    sara_free(t->ctx, items);
    return status;
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

static sara_status load_values(const sara_trainables *t, const sara_safetensors *file,
                               const sara_trainable *item)
{
    sara_tensor values = {0};
    sara_status status;
    TRY(sara_safetensors_load(file, &values, item->param->name, SARA_F32,
                              &item->param->value.shape));
    TRY(sara_trainable_write(t, item, values.data));
done:
    sara_tensor_free(t->ctx, &values);
    return status;
}

static sara_status full_load(trainer *t, const char *folder)
{
    const sara_trainables *trainables = &t->optimizer->trainables;
    sara_safetensors *file = NULL;
    char *path = NULL;
    sara_status status;
    TRY(sara_path_join(t->ctx, &path, folder, WEIGHTS_FILE));
    TRY(sara_safetensors_open(t->ctx, &file, path));
    for (size_t i = 0; i < trainables->count; i++)
        TRY(load_values(trainables, file, &trainables->items[i]));
    TRY(sara_state_load(t->ctx, folder, trainables));
done:
    sara_safetensors_close(file);
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
                       sara_method_result(t->method, t->model->family)));
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
    .files = (const char *const[]){WEIGHTS "/config.json", WEIGHTS_FILE, SARA_CHECKPOINT_STATE,
                                   NULL},
    .entry_bytes = sizeof(float),
    .prepare = full_prepare,
    .describe = full_describe,
    .save = full_save,
    .load = full_load,
    .finish = full_finish,
};

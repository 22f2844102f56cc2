/* Whole parameters that are trained. */
#include "train/methods/whole.h"

#include "train/checkpoint.h"
#include "train/memory.h"

static sara_status list_parameters(const trainer *t, sara_trainable **out,
                                   const sara_params *params)
{
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

sara_status sara_whole_use(trainer *t, const sara_params *params)
{
    sara_trainables trainables = {.ctx = t->ctx};
    sara_trainable *items = NULL;
    sara_status status;
    TRY(list_parameters(t, &items, params));
    TRY(sara_trainables_init(&trainables, t->ctx, items, params->count, NULL));
    items = NULL;
    TRY(sara_trainer_use(t, &trainables));
done:
    sara_trainables_free(&trainables);
    sara_free(t->ctx, items);
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

sara_status sara_whole_load(const trainer *t, const char *folder, const char *file)
{
    const sara_trainables *trainables = &t->optimizer->trainables;
    sara_safetensors *values = NULL;
    char *path = NULL;
    sara_status status;
    TRY(sara_path_join(t->ctx, &path, folder, file));
    TRY(sara_safetensors_open(t->ctx, &values, path));
    for (size_t i = 0; i < trainables->count; i++)
        TRY(load_values(trainables, values, &trainables->items[i]));
    TRY(sara_state_load(t->ctx, folder, trainables));
done:
    sara_safetensors_close(values);
    sara_free(t->ctx, path);
    return status;
}

sara_status sara_whole_save(const trainer *t, const char *folder)
{
    const sara_trainables *trainables = &t->optimizer->trainables;
    char *weights = NULL;
    sara_status status;
    TRY(sara_path_join(t->ctx, &weights, folder, SARA_WHOLE_FOLDER));
    TRY(sara_model_save_denoiser(t->ctx, weights, t->model, trainables));
    TRY(sara_state_save(t->ctx, folder, trainables, NULL));
done:
    sara_free(t->ctx, weights);
    return status;
}

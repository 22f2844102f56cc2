/* The denoiser alone, as trained: a component folder that diffusers loads. */
#include "pipeline/save.h"

/* Where the trained float32 values of a parameter lie, on its device; *next: of the trainables,
 * which are in the parameters' order, the first that may be its. */
static const void *trained_values(const sara_trainables *trainables, size_t *next,
                                  const sara_param *param)
{
    const sara_trainable *item = &trainables->items[*next];
    if (*next == trainables->count || item->param != param)
        return param->value.data;
    ++*next;
    return item->masters ? item->masters : param->value.data;
}

static sara_status save_weights(sara_context *ctx, const char *to, const sara_params *params,
                                const sara_trainables *trainables)
{
    const sara_metadata format = {"format", "pt"};
    const sara_dtype floats = SARA_F32;
    sara_save_list list;
    char *path = NULL;
    size_t next = 0;
    sara_status status;
    sara_save_list_init(&list, ctx);
    for (size_t i = 0; i < params->count; i++) {
        const sara_param *param = &params->items[i];
        const void *values = trained_values(trainables, &next, param);
        size_t bytes = (size_t)sara_shape_count(&param->value.shape) * sizeof(float);
        TRY(sara_save_list_fetch(&list, &values, param->device, bytes));
        TRY(sara_save_list_add(&list, param->name, SARA_F32, &param->value.shape, values));
    }
    for (size_t i = params->count; i < sara_params_all(params); i++)
        TRY(sara_save_list_param(&list, NULL, NULL, &params->items[i], &floats));
    TRY(sara_path_join(ctx, &path, to, SARA_DIFFUSERS_STEM ".safetensors"));
    TRY(sara_save_list_write(&list, path, &format, 1));
done:
    sara_save_list_free(&list);
    sara_free(ctx, path);
    return status;
}

sara_status sara_model_save_denoiser(sara_context *ctx, const char *to, const sara_model *model,
                                     const sara_trainables *trainables)
{
    sara_component component;
    char *path = NULL;
    sara_status status;
    TRY(sara_model_component(model, &component, 0));
    TRY(sara_directory_make(ctx, to));
    TRY(sara_path_join(ctx, &path, to, "config.json"));
    if (component.stem) /* as it is written there */
        TRY(sara_file_copy(ctx, component.source, path));
    else
        TRY(sara_json_save(ctx, to, "config.json", component.config,
                           JSON_INDENT(2) | JSON_SORT_KEYS));
    TRY(save_weights(ctx, to, &model->denoiser->params, trainables));
done:
    sara_component_close(&component);
    sara_free(ctx, path);
    return status;
}

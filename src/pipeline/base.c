/* What tells a model from others: its values as the file has them. */
#include "pipeline/pipeline.h"

bool sara_model_is_rounded(const sara_model *model)
{
    return sara_params_are_rounded(&model->denoiser->params);
}

sara_status sara_model_check_exact(const sara_model *model, const char *purpose)
{
    for (int i = 0; i < model->family->part_count; i++) {
        const sara_network *network = model->parts[i].network;
        if (network && sara_params_are_rounded(&network->params))
            return sara_fail(model->ctx, SARA_ERROR_USAGE,
                             "%s: was loaded with %s_dtype %s, which rounded its weights; load it "
                             "with fp32 or auto%s",
                             model->path, i == 0 ? "weight" : "encoder",
                             sara_storage_name(&network->params), purpose);
    }
    return SARA_OK;
}

typedef struct base_file {
    sara_context *ctx;
    sara_weights *weights;
} base_file;

/* The file may be another than the one that was loaded. */
static sara_status base_read_values(void *user, float *out, const sara_param *param)
{
    const base_file *file = user;
    const sara_tensor_info *info = sara_weights_find(file->weights, param->name);
    const sara_tensor_info missing = {.name = param->name};
    sara_shape_text now, loaded;
    if (info && !sara_shape_equal(&info->shape, &param->value.shape))
        return sara_fail(file->ctx, SARA_ERROR_INPUT, "%s: tensor %.200s: shape %s, expected %s",
                         sara_weights_path(file->weights), sara_weights_in_file(info)->name,
                         sara_shape_format(&now, &info->shape),
                         sara_shape_format(&loaded, &param->value.shape));
    return sara_weights_read_f32(file->weights, out, info ? info : &missing);
}

sara_status sara_network_base(sara_context *ctx, sara_base *out, const sara_network *network)
{
    base_file file = {ctx, network->weights};
    return sara_values_base(ctx, out, &network->params, base_read_values, &file);
}

static bool is_applied(const sara_model *model)
{
    return model->parts[0].applied && sara_applied_count(model->parts[0].applied) > 0;
}

sara_status sara_model_read_base(sara_context *ctx, sara_base *out, const sara_model *model)
{
    const sara_params *params = &model->denoiser->params;
    base_file file = {ctx, NULL};
    sara_component component;
    sara_status status;
    if (model->base.sha256[0]) {
        *out = model->base;
        return SARA_OK;
    }
    if (!sara_model_is_rounded(model) && !is_applied(model))
        return sara_params_base(ctx, out, params);
    TRY(sara_model_component(model, &component, 0));
    TRY(sara_component_weights(&component, &file.weights));
    TRY(sara_values_base(ctx, out, params, base_read_values, &file));
done:
    sara_component_close(&component);
    sara_weights_close(file.weights);
    return status;
}

sara_status sara_model_picture_hash(sara_context *ctx, const char **out, sara_model *model)
{
    sara_status status = SARA_OK;
    if (!model->single || model->parts[0].elsewhere)
        return sara_model_base_sha256(ctx, out, model);
    if (!model->file_sha256[0])
        status = sara_sha256_file(ctx, model->file_sha256, model->path);
    *out = model->file_sha256;
    return status;
}

sara_status sara_model_vae_hash(sara_context *ctx, const char **out, sara_model *model)
{
    sara_status status = SARA_OK;
    *out = NULL;
    if (!model->vae_file)
        return SARA_OK;
    if (!model->vae_sha256[0])
        status = sara_sha256_file(ctx, model->vae_sha256, model->vae_path);
    *out = model->vae_sha256;
    return status;
}

sara_status sara_model_base(sara_context *ctx, const sara_base **out, sara_model *model)
{
    sara_status status = SARA_OK;
    if (!model->base.sha256[0])
        status = sara_model_read_base(ctx, &model->base, model);
    *out = &model->base;
    return status;
}

sara_status sara_model_base_sha256(sara_context *ctx, const char **out, sara_model *model)
{
    const sara_base *base;
    sara_status status;
    TRY(sara_model_base(ctx, &base, model));
    *out = base->sha256;
done:
    return status;
}

#include "pipeline/metadata.h"

#include <stdio.h>

sara_status sara_metadata_list_add_model(sara_metadata_list *list, const sara_model *model,
                                         const char *kind, const char *title)
{
    const sara_denoiser_info *info = &model->denoiser->info.denoiser;
    int factor = model->vae ? model->vae->info.vae.factor : 8;
    int width = info->sample_width ? info->sample_width : model->family->sample_size;
    int height = info->sample_height ? info->sample_height : model->family->sample_size;
    bool v = model->scheduler.prediction_type == SARA_PREDICT_V;
    sara_status status;
    TRY(sara_metadata_list_add(list, "modelspec.sai_model_spec", "1.0.0"));
    TRY(sara_metadata_list_add(list, "modelspec.architecture", "%s/%s",
                               sara_model_architecture(model, v), kind));
    TRY(sara_metadata_list_add(list, "modelspec.implementation", "sara"));
    TRY(sara_metadata_list_add(list, "modelspec.title", "%s", title));
    if (sara_model_predicts(model))
        TRY(sara_metadata_list_add(list, "modelspec.prediction_type", "%s",
                                   sara_model_predicts(model)));
    TRY(sara_metadata_list_add(list, "modelspec.resolution", "%dx%d", width * factor,
                               height * factor));
done:
    return status;
}

const char *sara_model_predicts(const sara_model *model)
{
    sara_prediction type = model->scheduler.prediction_type;
    if (!model->has_scheduler || (type != SARA_PREDICT_V && type != SARA_PREDICT_EPSILON))
        return NULL;
    return type == SARA_PREDICT_V ? "v" : "epsilon";
}

const char *sara_model_architecture(const sara_model *model, bool predicts_v)
{
    return model->family->architecture[predicts_v];
}

sara_status sara_check_new_file(sara_context *ctx, const char *path)
{
    sara_writer *writer = NULL;
    if (!path || !*path)
        return sara_fail(ctx, SARA_ERROR_USAGE, "no output file given");
    if (sara_path_exists(path))
        return sara_fail(ctx, SARA_ERROR_USAGE, "%s: exists; name a new file", path);
    sara_status status = sara_writer_open(ctx, &writer, path);
    sara_writer_abort(&writer);
    return status;
}

static void note_change(void *user, const sara_param *param, uint32_t position, float original,
                        float current)
{
    bool *changed = user;
    (void)param;
    (void)position;
    *changed |= memcmp(&original, &current, sizeof(original)) != 0;
}

sara_status sara_model_is_changed(const sara_model *model, bool *changed)
{
    *changed = false;
    return sara_model_visit_changes(model, note_change, changed);
}

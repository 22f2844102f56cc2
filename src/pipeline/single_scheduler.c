/* What is not there of a single-file checkpoint or a denoiser alone: scheduler, prediction type. */
#include "pipeline/pipeline.h"

static sara_status parse_scheduler(sara_model *model, const char *text, const char *source)
{
    sara_status status;
    TRY(sara_json_parse(model->ctx, &model->scheduler_json, text, strlen(text), source, true));
    TRY(sara_scheduler_config_parse(model->ctx, &model->scheduler, model->scheduler_json, source,
                                    NULL));
done:
    return status;
}

sara_status sara_single_scheduler(sara_model *model, const sara_model_options *options)
{
    sara_context *ctx = model->ctx;
    const char *text = sara_safetensors_metadata(model->single->file, "sara.config.scheduler");
    char *folder = NULL, *file = NULL;
    sara_status status;
    if (options->model_config) {
        TRY(sara_path_join(ctx, &folder, options->model_config, "scheduler"));
        TRY(sara_path_join(ctx, &file, folder, "scheduler_config.json"));
        TRY(sara_json_load(ctx, &model->scheduler_json, file, true));
        TRY(sara_scheduler_config_parse(ctx, &model->scheduler, model->scheduler_json, file, NULL));
    } else {
        TRY(sara_format(ctx, &file, "%s: metadata sara.config.scheduler", model->path));
        TRY(parse_scheduler(model, text ? text : model->family->scheduler, file));
    }
    if (!model->denoiser_only && model->family->correct_scheduler)
        TRY(model->family->correct_scheduler(model, file));
    model->has_scheduler = true;
done:
    sara_free(ctx, folder);
    sara_free(ctx, file);
    return status;
}

sara_status sara_model_published_scheduler(sara_model *model)
{
    sara_status status;
    TRY(parse_scheduler(model, model->family->scheduler, model->family->product));
done:
    json_decref(model->scheduler_json);
    model->scheduler_json = NULL;
    return status;
}

/* ----------------------------------------------------------------------------- prediction type */

static sara_status single_choose(sara_model *model, const char *name, const char *reason)
{
    sara_status status;
    TRY(sara_scheduler_config_predict(model->ctx, &model->scheduler, name));
    name = sara_prediction_name(model->scheduler.prediction_type);
    sara_log(model->ctx, SARA_LOG_INFO, "%s: prediction type %s (%s)", model->path, name, reason);
    json_object_set_new(model->scheduler_json, "prediction_type", json_string(name));
done:
    return status;
}

static sara_status choose_by_metadata(sara_model *model, const char *name)
{
    sara_status status = single_choose(model, name, "from the file's metadata");
    char *where = NULL;
    if (status != SARA_ERROR_USAGE)
        return status;
    TRY(sara_format(model->ctx, &where, "%s: metadata modelspec.prediction_type", model->path));
    status = sara_fail_in(model->ctx, SARA_ERROR_INPUT, where);
done:
    sara_free(model->ctx, where);
    return status;
}

static sara_status single_choose_prediction(sara_model *model, const sara_model_options *options)
{
    const char *metadata =
        sara_safetensors_metadata(model->single->file, "modelspec.prediction_type");
    const char *own = sara_safetensors_metadata(model->single->file, "sara.config.scheduler");
    const char *prediction, *reason;
    sara_status status;
    if (options->prediction_type)
        return single_choose(model, options->prediction_type, "as asked for");
    if (options->model_config)
        return single_choose(model, sara_prediction_name(model->scheduler.prediction_type),
                             "from --model_config");
    if (own)
        return single_choose(model, sara_prediction_name(model->scheduler.prediction_type),
                             "from the file's metadata");
    if (metadata)
        return choose_by_metadata(model, metadata);
    TRY(model->family->guess(model, &prediction, &reason));
    TRY(single_choose(model, prediction, reason));
done:
    return status;
}

/* What was trained down to no signal is drawn from the last timestep on, where there is none. */
static sara_status choose_zero_snr(sara_model *model, const sara_model_options *options)
{
    const sara_safetensors *file = model->single->file;
    const char *marker = model->family->zero_snr_marker;
    sara_status status;
    if (!marker || !sara_safetensors_find(file, marker) || options->model_config ||
        sara_safetensors_metadata(file, "sara.config.scheduler") ||
        model->scheduler.prediction_type != SARA_PREDICT_V)
        return SARA_OK;
    if (json_object_set_new(model->scheduler_json, "rescale_betas_zero_snr", json_true()) |
        json_object_set_new(model->scheduler_json, "timestep_spacing", json_string("trailing")))
        TRY(sara_fail(model->ctx, SARA_ERROR_MEMORY, "%s: out of memory: scheduler", model->path));
    TRY(sara_scheduler_config_parse(model->ctx, &model->scheduler, model->scheduler_json,
                                    model->path, NULL));
    sara_log(model->ctx, SARA_LOG_INFO,
             "%s: a noise schedule that ends without signal (as its tensor %s says)", model->path,
             marker);
done:
    return status;
}

sara_status sara_single_prediction(sara_model *model, const sara_model_options *options)
{
    const sara_single_part *part = &model->single->parts[0];
    sara_denoiser_info *info = &model->denoiser->info.denoiser;
    int side = model->family->v_sample_size;
    sara_status status;
    TRY(single_choose_prediction(model, options));
    TRY(choose_zero_snr(model, options));
    if (part->derived && side && model->scheduler.prediction_type == SARA_PREDICT_V) {
        info->sample_height = info->sample_width = side;
        json_object_set_new(part->config, "sample_size", json_integer(side));
    }
done:
    return status;
}
